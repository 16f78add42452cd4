//! Direct methods as AMQP messages: the call to the device, and its answer. Pure.

use fe2o3_amqp_types::messaging::{ApplicationProperties, Batch, Body, Data, Message, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Uuid as AmqpUuid, Value};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::incoming::body_bytes;
use crate::emulator::methods::{MAX_PAYLOAD, MethodAnswer, MethodCall, MethodError};

/// Application property of the call.
const METHOD_NAME: &str = "IoThub-methodname";
/// Application property of the answer.
const STATUS: &str = "IoThub-status";

/// A call; its id is of type uuid, as a real hub's.
pub(super) fn call(call: MethodCall) -> Message<Body<Value>> {
    let MethodCall { id, name, payload } = call;
    let mut properties = Properties::new();
    properties.correlation_id = Some(MessageId::Uuid(AmqpUuid::from(id.into_bytes())));
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(properties),
        application_properties: Some(ApplicationProperties::builder().insert(METHOD_NAME, name).build()),
        body: Body::Data(Batch::new(vec![Data(Binary::from(payload.to_vec()))])),
        footer: None,
    }
}

/// Which call is answered, and how.
pub(super) type Answered = (Uuid, Result<MethodAnswer, MethodError>);

/// Reads an answer. One whose call can be told but that can't be passed on is a `BadAnswer`.
///
/// # Errors
/// What is wrong with a message that names no call or has no status.
pub(super) fn answer(message: Message<Body<Value>>) -> Result<Answered, &'static str> {
    let id = message.properties.and_then(|properties| properties.correlation_id);
    let id = id.and_then(|id| call_id(&id)).ok_or("the correlation-id must be the call's, a uuid")?;
    let status = message.application_properties.and_then(|properties| match properties.0.get(STATUS) {
        Some(SimpleValue::Int(status)) => Some(*status),
        _ => None,
    });
    let status = status.ok_or("the application property IoThub-status must be there and of type int")?;
    let body = body_bytes(message.body).map_err(|_| "the body must be data")?;
    let payload = if body.len() > MAX_PAYLOAD {
        Err(MethodError::BadAnswer("it has more than 128 KB"))
    } else if body.iter().all(u8::is_ascii_whitespace) {
        Ok(RawValue::NULL.to_owned())
    } else {
        serde_json::from_slice(&body).map_err(|_| MethodError::BadAnswer("it is no JSON"))
    };
    Ok((id, payload.map(|payload| MethodAnswer { status, payload })))
}

/// Peers echo the uuid as such, as text, or as the 16 bytes that they took it for.
fn call_id(id: &MessageId) -> Option<Uuid> {
    match id {
        MessageId::Uuid(id) => Some(Uuid::from_bytes(*id.as_inner())),
        MessageId::String(text) => Uuid::try_parse(text).ok(),
        MessageId::Binary(bytes) => Uuid::from_slice(bytes).ok(),
        MessageId::Ulong(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::messaging::{ApplicationProperties, Body, Message, MessageId};
    use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Value};
    use uuid::Uuid;

    use super::{AmqpUuid, MAX_PAYLOAD, MethodCall, MethodError, answer, call};

    const ID: Uuid = Uuid::from_bytes([7; 16]);

    fn answering(id: MessageId, status: SimpleValue, body: &str) -> Message<Body<Value>> {
        let payload = body.to_owned().into();
        let mut message = call(MethodCall { id: ID, name: String::new(), payload });
        message.properties.as_mut().unwrap().correlation_id = Some(id);
        message.application_properties =
            Some(ApplicationProperties::builder().insert("IoThub-status", status).build());
        message
    }

    #[test]
    fn an_answer_is_found_by_the_id_in_every_type_that_peers_use() {
        for id in [
            MessageId::Uuid(AmqpUuid::from([7; 16])),
            MessageId::String(ID.to_string()),
            MessageId::Binary(Binary::from(vec![7; 16])),
        ] {
            let (found, got) = answer(answering(id, SimpleValue::Int(200), r#"{"b":1,"a":1.50}"#)).unwrap();
            let got = got.unwrap();
            assert_eq!((found, got.status), (ID, 200));
            assert_eq!(got.payload.get(), r#"{"b":1,"a":1.50}"#, "as it was written");
        }
        let id = || MessageId::Uuid(AmqpUuid::from([7; 16]));
        assert_eq!(
            answer(answering(id(), SimpleValue::Int(1), "")).unwrap().1.unwrap().payload.get(),
            "null"
        );
        assert!(answer(answering(MessageId::Ulong(7), SimpleValue::Int(1), "")).is_err());
        assert!(answer(answering(MessageId::String("x".into()), SimpleValue::Int(1), "")).is_err());
        assert!(answer(answering(id(), SimpleValue::Long(1), "")).is_err(), "SDKs send an int");
    }

    #[test]
    fn an_answer_that_cannot_be_passed_on_still_ends_its_call() {
        for (body, words) in [("{", "no JSON"), (&"1".repeat(MAX_PAYLOAD + 1), "128 KB")] {
            let id = MessageId::Uuid(AmqpUuid::from([7; 16]));
            let (_, got) = answer(answering(id, SimpleValue::Int(200), body)).unwrap();
            assert!(matches!(got, Err(MethodError::BadAnswer(text)) if text.contains(words)));
        }
    }
}
