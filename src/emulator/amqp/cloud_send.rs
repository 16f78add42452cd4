//! A service's link for cloud-to-device messages: each is put into the queue of the device it names, or rejected.

use std::sync::Arc;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp_types::definitions::{AmqpError, Error, ErrorCondition, LinkError};
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::{Symbol, Value};

use super::address::Address;
use super::connection::Connection;
use super::incoming::{body_bytes, properties_of};
use super::received::{Received, received};
use super::refusal::Refusal;
use super::values::id_text;
use crate::emulator::tier::Operation;
use crate::emulator::{CloudMessage, CloudRefusal};

/// IoT Hub's own condition for a message that can't mean anything.
const ARGUMENT_ERROR: &str = "com.microsoft:argument-error";

/// Takes messages until the link ends or the peer may no longer send.
pub(super) async fn serve(mut link: Receiver, connection: Arc<Connection>) {
    let mut expiries = connection.expiries();
    loop {
        if !connection.may_serve() {
            let text = "the token for sending expired".to_owned();
            _ = link.close_with_error(Refusal::Unauthorized(text).error()).await;
            return;
        }
        let incoming = tokio::select! {
            _ = expiries.changed() => continue,
            incoming = link.recv::<Body<Value>>() => incoming,
        };
        let delivery = match received(&mut link, incoming, "the message").await {
            Received::Message(delivery) => *delivery,
            Received::Unreadable => continue,
            Received::Gone => return,
            Received::Ended => break,
        };
        let (info, message) = delivery.into_parts();
        let kept = match read(message) {
            Ok((device_id, message)) => {
                let passed = connection.hub.pass(Operation::CloudMessage, Some(message.size())).await;
                passed
                    .map_err(|denied| Refusal::of_limit(denied).error())
                    .and_then(|()| keep(&connection, &device_id, message))
            }
            Err(error) => Err(error),
        };
        let answered = match kept {
            Ok(()) => link.accept(info).await,
            Err(error) => link.reject(info, error).await,
        };
        if answered.is_err() {
            return;
        }
    }
    _ = link.close().await;
}

fn keep(connection: &Connection, device_id: &str, message: CloudMessage) -> Result<(), Error> {
    connection.hub.send_cloud_message(device_id, message).map(|_| ()).map_err(|refusal| {
        let text = refusal.to_string();
        match refusal {
            CloudRefusal::NoDevice(_) => Error::new(AmqpError::NotFound, text, None),
            CloudRefusal::QueueFull(_) => Error::new(AmqpError::ResourceLimitExceeded, text, None),
            CloudRefusal::TooLarge(_) => Error::new(LinkError::MessageSizeExceeded, text, None),
            CloudRefusal::Tier => Error::new(AmqpError::NotAllowed, text, None),
        }
    })
}

/// The device a message is for, and the message.
fn read(message: Message<Body<Value>>) -> Result<(String, CloudMessage), Error> {
    let unusable =
        |text: String| Error::new(ErrorCondition::Custom(Symbol::from(ARGUMENT_ERROR)), text, None);
    let system = message.properties.unwrap_or_default();
    let to = system.to.unwrap_or_default();
    let Address::CloudMessages(device_id) = Address::parse(&to) else {
        return Err(unusable("the message's `to` must be /devices/{id}/messages/devicebound".to_owned()));
    };
    let body = body_bytes(message.body).map_err(|error| unusable(error.to_string()))?;
    let expires_ms = system.absolute_expiry_time.map(|time| time.milliseconds());
    let message = CloudMessage {
        message_id: system.message_id.as_ref().map(id_text),
        correlation_id: system.correlation_id.as_ref().map(id_text),
        user_id: system.user_id.map(|id| id.into_vec().into()),
        content_type: system.content_type.map(|symbol| symbol.0),
        content_encoding: system.content_encoding.map(|symbol| symbol.0),
        // .NET's first year stands for "never said".
        expires_ms: expires_ms.filter(|ms| *ms > 0),
        properties: properties_of(message.application_properties),
        body,
    };
    Ok((device_id, message))
}
