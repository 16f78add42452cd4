//! The `$cbs` node: takes put-token requests and answers each with a status.

use std::sync::Arc;

use fe2o3_amqp::link::{Receiver, RecvError};
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body, Message};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};

use super::connection::Connection;
use super::credentials::{Refusal, judge};
use super::outgoing::reply_message;

const TOKEN_TYPES: [&str; 2] = ["azure-devices.net:sastoken", "servicebus.windows.net:sastoken"];

/// Answers requests until the link ends.
pub(super) async fn serve(mut link: Receiver, connection: Arc<Connection>, session: u64) {
    loop {
        connection.cbs_replies.ready().await;
        let delivery = match link.recv::<Body<Value>>().await {
            Ok(delivery) => delivery,
            Err(RecvError::MessageDecode(error)) => {
                let why = Error::new(AmqpError::DecodeError, "the request can't be read".to_owned(), None);
                if link.reject(error.info, why).await.is_err() {
                    return;
                }
                continue;
            }
            Err(_) => break,
        };
        let (info, request) = delivery.into_parts();
        if link.accept(info).await.is_err() {
            return;
        }
        let verdict = answer(&connection, &request);
        let (status, description) = match &verdict {
            Ok(()) => (200, "OK"),
            Err(refusal) => (refusal.status, refusal.description.as_str()),
        };
        let properties = request.properties.unwrap_or_default();
        let reply = reply_message(properties.message_id, status, description, Value::Null);
        connection.cbs_replies.reply(session, properties.reply_to.as_deref(), reply).await;
    }
    _ = link.close().await;
}

fn answer(connection: &Connection, request: &Message<Body<Value>>) -> Result<(), Refusal> {
    let malformed = |text: &str| Refusal { status: 400, description: text.to_owned() };
    let grant = judge(&connection.hub, token_of(request).map_err(malformed)?)?;
    if connection.put_token(grant) {
        return Ok(());
    }
    let max = connection.options.max_tokens;
    let description = format!("The maximum number of tokens per connection ({max}) has been reached.");
    Err(Refusal { status: 500, description })
}

/// The token of a well-formed put-token request; else what is wrong.
fn token_of(request: &Message<Body<Value>>) -> Result<&str, &'static str> {
    let properties = request.application_properties.as_ref();
    if !text_of(properties, "operation").is_some_and(|text| text.eq_ignore_ascii_case("put-token")) {
        return Err("the operation must be put-token");
    }
    let known = |text: &str| TOKEN_TYPES.iter().any(|known| known.eq_ignore_ascii_case(text));
    if !text_of(properties, "type").is_some_and(known) {
        return Err("the type must be azure-devices.net:sastoken or servicebus.windows.net:sastoken");
    }
    if text_of(properties, "name").is_none_or(str::is_empty) {
        return Err("the name (audience) is missing");
    }
    match &request.body {
        Body::Value(AmqpValue(Value::String(token))) => Ok(token),
        Body::Value(_) | Body::Data(_) | Body::Sequence(_) | Body::Empty => {
            Err("the body must be an AMQP value with the token as a string")
        }
    }
}

/// An application property that is a string or symbol.
pub(super) fn text_of<'p>(properties: Option<&'p ApplicationProperties>, name: &str) -> Option<&'p str> {
    match properties?.0.get(name)? {
        SimpleValue::String(text) => Some(text),
        SimpleValue::Symbol(text) => Some(text.as_str()),
        _ => None,
    }
}
