//! The `$cbs` node: takes put-token requests and answers each with a status.

use std::sync::Arc;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};

use super::connection::Connection;
use super::credentials::{Refusal, judge};
use super::lifelines::Way;
use super::requests::{self, Answer, Request};
use super::strikes;
use super::tokens::Scope;
use crate::emulator::FaultKind;

const TOKEN_TYPES: [&str; 2] = ["azure-devices.net:sastoken", "servicebus.windows.net:sastoken"];

/// Answers requests until the link ends.
pub(super) async fn serve(link: Receiver, connection: Arc<Connection>, session: u64) {
    let verdict = |request: &Request| {
        let (status, description) = match answer(&connection, request) {
            Ok(()) => (200, "OK".into()),
            Err(refusal) => (refusal.status, refusal.description.into()),
        };
        Answer { status, description, body: Value::Null }
    };
    let line = connection.lifelines.of_node(session, Way::CbsRequests);
    requests::serve(link, &connection.cbs_replies, session, Some(line), verdict).await;
}

fn answer(connection: &Connection, request: &Request) -> Result<(), Refusal> {
    let malformed = |text: &str| Refusal { status: 400, description: text.to_owned() };
    let grant = judge(&connection.hub, token_of(request).map_err(malformed)?)?;
    // Faults of one device meet its own tokens, those of all devices a policy's, too.
    let whose = match &grant.scope {
        Scope::Device(id) => id.as_str(),
        Scope::Hub | Scope::EventHub => "",
    };
    if let Some(fault) = connection.hub.verdict(whose, &[FaultKind::InvokeAuthError]) {
        return Err(Refusal { status: 401, description: fault.text });
    }
    strikes::token_put(connection, whose);
    if connection.put_token(grant) {
        return Ok(());
    }
    let max = connection.options.max_tokens;
    let description = format!("The maximum number of tokens per connection ({max}) has been reached.");
    Err(Refusal { status: 500, description })
}

/// The token of a well-formed put-token request; else what is wrong.
fn token_of(request: &Request) -> Result<&str, &'static str> {
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
