//! What the hub sends to a device, read from AMQP messages: cloud-to-device messages, method calls, twin answers. Pure.
//!
//! Lenient about the width of numbers, as servers and gateways differ; strict about what decides.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{AmqpValue, Body, Message, MessageId};
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::azure::{CloudMessage, Desired, DesiredScope, MethodRequest};

/// A message as it comes over any of a device's links.
pub(super) type Received = Message<Body<Value>>;

/// What comes over the twin's receiver.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum TwinMessage {
    /// The answer to one of our requests.
    Answer(TwinAnswer),
    /// Desired properties changed. It is no answer, so it has no correlation id.
    Changed(Bytes),
}

/// An answer over the twin's links.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TwinAnswer {
    /// Our request's correlation id.
    pub(super) id: String,
    /// HTTP's numbers; -1 if there was none.
    pub(super) status: i64,
    /// The new version of reported properties, after changing them.
    pub(super) version: Option<u64>,
    pub(super) body: Bytes,
}

/// Reads a cloud-to-device message.
///
/// # Errors
/// Its body is of a kind that IoT Hub does not send.
pub(super) fn cloud_message(message: Received) -> Result<CloudMessage, &'static str> {
    let annotation = |name| annotation(&message, name);
    let sequence_number = annotation("x-opt-sequence-number").and_then(whole_number);
    let enqueued_ms = annotation("iothub-enqueuedtime").and_then(|value| match value {
        Value::Timestamp(at) => Some(at.clone().into_inner()),
        other => whole_number(other).and_then(|ms| i64::try_from(ms).ok()),
    });
    let counted = annotation("iothub-deliverycount").and_then(whole_number);
    let delivery_count = counted.map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX));
    let (message_id, expires_ms) = match message.properties {
        Some(properties) => (
            properties.message_id.as_ref().map(id_text),
            properties.absolute_expiry_time.map(|at| at.into_inner()),
        ),
        None => (None, None),
    };
    let properties = message.application_properties.map(|all| all.0).unwrap_or_default();
    let properties = properties.into_iter().map(|(name, value)| (name, simple_text(value))).collect();
    let body = body(message.body).ok_or("the body is neither data nor text")?;
    Ok(CloudMessage {
        message_id,
        sequence_number,
        enqueued_ms,
        expires_ms,
        delivery_count,
        properties,
        body,
    })
}

/// Reads a method's call, with the id that the reply must carry in the same type.
///
/// # Errors
/// Says what is missing.
pub(super) fn method_request(message: Received) -> Result<(MessageId, MethodRequest), &'static str> {
    let id = message.properties.and_then(|properties| properties.correlation_id);
    let id = id.ok_or("the method call has no correlation-id")?;
    let properties = message.application_properties.map(|all| all.0).unwrap_or_default();
    let name = properties.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("IoThub-methodname"));
    let Some((_, SimpleValue::String(name))) = name else {
        return Err("the method call has no IoThub-methodname");
    };
    let payload = body(message.body).ok_or("the method call's body is neither data nor text")?;
    Ok((id.clone(), MethodRequest { id: id_text(&id), name, payload }))
}

/// Reads what came over the twin's receiver.
///
/// # Errors
/// It is neither an answer nor a change.
pub(super) fn twin_message(message: Received) -> Result<TwinMessage, &'static str> {
    let status = annotation(&message, "status").and_then(integer).unwrap_or(-1);
    let version = annotation(&message, "version").and_then(whole_number);
    let id = message.properties.and_then(|properties| properties.correlation_id);
    let body = body(message.body).ok_or("the twin's body is neither data nor text")?;
    Ok(match id {
        None => TwinMessage::Changed(body),
        Some(id) => TwinMessage::Answer(TwinAnswer { id: id_text(&id), status, version, body }),
    })
}

/// The answer to GET: desired and reported properties.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn whole(body: &[u8]) -> Result<Desired, &'static str> {
    let mut all: Map<String, Json> =
        serde_json::from_slice(body).map_err(|_| "the twin is no JSON object")?;
    let (version, properties) = half(all.remove("desired"))?;
    let version = version.ok_or("the twin's desired properties have no $version")?;
    let (_, reported) = half(all.remove("reported"))?;
    Ok(Desired { version, properties, scope: DesiredScope::Whole { reported } })
}

/// A pushed change of desired properties.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn patch(body: &[u8]) -> Result<Desired, &'static str> {
    let patch: Json = serde_json::from_slice(body).map_err(|_| "the change is no JSON")?;
    let (version, properties) = half(Some(patch))?;
    let version = version.ok_or("the change has no $version")?;
    Ok(Desired { version, properties, scope: DesiredScope::Patch })
}

/// Properties without their `$` names, and the version.
fn half(properties: Option<Json>) -> Result<(Option<u64>, Map<String, Json>), &'static str> {
    let mut properties = match properties {
        Some(Json::Object(properties)) => properties,
        None | Some(Json::Null) => Map::new(),
        Some(_) => return Err("the twin's properties are no JSON object"),
    };
    let version = properties.get("$version").and_then(Json::as_u64);
    properties.retain(|name, _| !name.starts_with('$'));
    Ok((version, properties))
}

/// An id as text; ours are always strings.
pub(super) fn id_text(id: &MessageId) -> String {
    match id {
        MessageId::String(text) => text.clone(),
        MessageId::Uuid(uuid) => Uuid::from_bytes(*uuid.as_inner()).to_string(),
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Binary(bytes) => STANDARD.encode(bytes),
    }
}

fn annotation<'a>(message: &'a Received, name: &'static str) -> Option<&'a Value> {
    message.message_annotations.as_ref()?.0.get(&Symbol::from(name) as &dyn AnnotationKey)
}

fn integer(value: &Value) -> Option<i64> {
    Some(match value {
        Value::Int(number) => i64::from(*number),
        Value::Long(number) => *number,
        Value::Short(number) => i64::from(*number),
        Value::Byte(number) => i64::from(*number),
        Value::Uint(number) => i64::from(*number),
        Value::Ulong(number) => i64::try_from(*number).ok()?,
        Value::Ushort(number) => i64::from(*number),
        Value::Ubyte(number) => i64::from(*number),
        _ => return None,
    })
}

fn whole_number(value: &Value) -> Option<u64> {
    match value {
        Value::Ulong(number) => Some(*number),
        other => integer(other).and_then(|number| u64::try_from(number).ok()),
    }
}

/// Data as IoT Hub sends it, of one or more sections; also text, as some gateways have it.
fn body(body: Body<Value>) -> Option<Bytes> {
    match body {
        Body::Data(sections) => {
            let mut sections = sections.into_iter().map(|data| data.0.into_vec());
            let mut all = sections.next().unwrap_or_default();
            sections.for_each(|more| all.extend(more));
            Some(Bytes::from(all))
        }
        Body::Empty | Body::Value(AmqpValue(Value::Null)) => Some(Bytes::new()),
        Body::Value(AmqpValue(Value::String(text))) => Some(Bytes::from(text)),
        Body::Value(AmqpValue(Value::Binary(bytes))) => Some(Bytes::from(bytes.into_vec())),
        Body::Value(AmqpValue(_)) | Body::Sequence(_) => None,
    }
}

fn simple_text(value: SimpleValue) -> String {
    match value {
        SimpleValue::Null => String::new(),
        SimpleValue::Bool(value) => value.to_string(),
        SimpleValue::Ubyte(value) => value.to_string(),
        SimpleValue::Ushort(value) => value.to_string(),
        SimpleValue::Uint(value) => value.to_string(),
        SimpleValue::Ulong(value) => value.to_string(),
        SimpleValue::Byte(value) => value.to_string(),
        SimpleValue::Short(value) => value.to_string(),
        SimpleValue::Int(value) => value.to_string(),
        SimpleValue::Long(value) => value.to_string(),
        SimpleValue::Float(value) => value.0.to_string(),
        SimpleValue::Double(value) => value.0.to_string(),
        SimpleValue::Char(value) => value.to_string(),
        SimpleValue::Timestamp(value) => value.into_inner().to_string(),
        SimpleValue::Uuid(value) => Uuid::from_bytes(value.into_inner()).to_string(),
        SimpleValue::Binary(value) => STANDARD.encode(value),
        SimpleValue::String(value) => value,
        SimpleValue::Symbol(value) => value.0,
        // No IoT Hub sends these.
        SimpleValue::Decimal32(_)
        | SimpleValue::Decimal64(_)
        | SimpleValue::Decimal128(_)
        | SimpleValue::Described(_) => String::new(),
    }
}
