//! A telemetry delivery taken apart: one message or a batch, each as an [`Event`] with its counted size.
//!
//! Pure. Who sent it, and when, is filled in by the caller.

use bytes::Bytes;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage as _;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Batch, Body, Data, Message, Properties};
use fe2o3_amqp_types::primitives::Value;
use serde_amqp::read::SliceReader;

use super::values::{id_text, simple_text, value_text};
use crate::emulator::Event;
use crate::net::unreadable;

/// `message-format` of a batch: each data section is an encoded message (AMQP header value of Event Hubs too).
pub(super) const BATCH_FORMAT: u32 = 0x8001_3700;
/// Messages in one batch, so that a megabyte of empty ones is not blown up to a hundred times its size.
const MESSAGES_PER_BATCH: usize = 5_000;

/// Why a delivery can't be kept.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A body other than data, text or bytes.
    #[error("the body must be data sections, or a value that is a string or binary")]
    Body,
    /// A batch whose data sections are no messages, or that has none.
    #[error("message {0} of the batch is not an encoded AMQP message")]
    BatchPart(usize),
    /// More than [`MESSAGES_PER_BATCH`].
    #[error("the batch has more than {MESSAGES_PER_BATCH} messages")]
    TooMany,
}

/// The events of a delivery, and their size as IoT Hub counts it: bodies, system property values, names and values
/// of application properties and of annotations.
///
/// # Errors
/// [`Unreadable`]; then nothing of the delivery is kept.
pub(super) fn events_of(
    format: u32,
    message: Message<Body<Value>>,
) -> Result<(Vec<Event>, usize), Unreadable> {
    let messages = if format == BATCH_FORMAT { unbatched(message.body)? } else { vec![message] };
    let mut total = 0;
    let mut events = Vec::with_capacity(messages.len());
    for message in messages {
        let (event, size) = event_of(message)?;
        total += size;
        events.push(event);
    }
    Ok((events, total))
}

fn unbatched(body: Body<Value>) -> Result<Vec<Message<Body<Value>>>, Unreadable> {
    let Body::Data(parts) = body else { return Err(Unreadable::BatchPart(0)) };
    if parts.len() > MESSAGES_PER_BATCH {
        return Err(Unreadable::TooMany);
    }
    parts
        .into_iter()
        .enumerate()
        .map(|(index, Data(part))| {
            // To the guard of frames it was mere bytes.
            if unreadable(&part) {
                return Err(Unreadable::BatchPart(index));
            }
            Body::<Value>::decode_message_from_reader(SliceReader::new(&part))
                .map_err(|_| Unreadable::BatchPart(index))
        })
        .collect()
}

fn event_of(message: Message<Body<Value>>) -> Result<(Event, usize), Unreadable> {
    let body = body_bytes(message.body)?;
    let mut size = body.len();
    let properties = properties_of(message.application_properties);
    size += properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let annotations: Vec<(String, String)> = message
        .message_annotations
        .into_iter()
        .flat_map(|annotations| annotations.0)
        .filter_map(|(key, value)| match key {
            OwnedKey::Symbol(name) => value_text(&value).map(|text| (name.0, text)),
            OwnedKey::Ulong(_) => None,
        })
        .collect();
    // They are not billed, but they must not make an event larger than a reader's link takes.
    size += annotations.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>();
    let system = message.properties.unwrap_or_default();
    size += system_size(&system);
    let event = Event {
        sequence_number: 0,
        enqueued_ms: 0,
        device_id: String::new(),
        generation_id: String::new(),
        auth_method: String::new(),
        message_id: system.message_id.as_ref().map(id_text),
        correlation_id: system.correlation_id.as_ref().map(id_text),
        content_type: system.content_type.map(|symbol| symbol.0),
        content_encoding: system.content_encoding.map(|symbol| symbol.0),
        properties,
        annotations,
        body,
    };
    Ok((event, size))
}

/// Application properties as text, in the order sent.
pub(super) fn properties_of(properties: Option<ApplicationProperties>) -> Vec<(String, String)> {
    let properties = properties.into_iter().flat_map(|properties| properties.0);
    properties.map(|(name, value)| (name, simple_text(&value).unwrap_or_default())).collect()
}

/// The body's bytes.
///
/// # Errors
/// [`Unreadable::Body`].
pub(super) fn body_bytes(body: Body<Value>) -> Result<Bytes, Unreadable> {
    match body {
        Body::Data(parts) => Ok(data_bytes(parts)),
        Body::Value(AmqpValue(Value::String(text))) => Ok(Bytes::from(text)),
        Body::Value(AmqpValue(Value::Binary(bytes))) => Ok(Bytes::from(bytes.into_vec())),
        Body::Value(AmqpValue(Value::Null)) | Body::Empty => Ok(Bytes::new()),
        Body::Value(_) | Body::Sequence(_) => Err(Unreadable::Body),
    }
}

/// The sections one after the other, copied only if there are several.
fn data_bytes(parts: Batch<Data>) -> Bytes {
    let mut parts = parts.into_iter().map(|Data(part)| part.into_vec());
    let Some(mut all) = parts.next() else { return Bytes::new() };
    for part in parts {
        all.extend_from_slice(&part);
    }
    Bytes::from(all)
}

fn system_size(system: &Properties) -> usize {
    let id = |id: &Option<_>| id.as_ref().map_or(0, |id| id_text(id).len());
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    id(&system.message_id)
        + id(&system.correlation_id)
        + system.user_id.as_ref().map_or(0, |bytes| bytes.len())
        + text(&system.to)
        + text(&system.subject)
        + text(&system.reply_to)
        + system.content_type.as_ref().map_or(0, |symbol| symbol.0.len())
        + system.content_encoding.as_ref().map_or(0, |symbol| symbol.0.len())
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::messaging::message::__private::Serializable;
    use fe2o3_amqp_types::messaging::{
        AmqpSequence, AmqpValue, ApplicationProperties, Batch, Body, Data, Message, MessageAnnotations,
        Properties,
    };
    use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Value};

    use super::{BATCH_FORMAT, MESSAGES_PER_BATCH, Unreadable, events_of};

    fn data(parts: &[&[u8]]) -> Body<Value> {
        let parts: Vec<Data> = parts.iter().map(|part| Data(Binary::from(part.to_vec()))).collect();
        Body::Data(Batch::new(parts))
    }

    fn bare(body: Body<Value>) -> Message<Body<Value>> {
        Message::builder().body(body).build()
    }

    fn encoded(message: Message<Body<Value>>) -> Vec<u8> {
        serde_amqp::to_vec(&Serializable(message)).unwrap()
    }

    #[test]
    fn bodies_of_every_accepted_kind_give_the_same_bytes() {
        for body in [
            data(&[b"hello"]),
            data(&[b"he", b"", b"llo"]),
            Body::Value(AmqpValue(Value::from("hello"))),
            Body::Value(AmqpValue(Value::Binary(Binary::from("hello")))),
        ] {
            let (events, size) = events_of(0, bare(body)).unwrap();
            assert_eq!((&events[0].body[..], size), (&b"hello"[..], 5));
        }
        assert_eq!(events_of(0, bare(Body::Empty)).unwrap().1, 0);
        for body in [
            Body::Value(AmqpValue(Value::Int(1))),
            Body::Sequence(Batch::new(vec![AmqpSequence(vec![Value::Null])])),
        ] {
            assert_eq!(events_of(0, bare(body)).unwrap_err(), Unreadable::Body);
        }
    }

    #[test]
    fn properties_and_annotations_are_kept_as_text_and_counted() {
        let message = Message::builder()
            .message_annotations(MessageAnnotations::builder().insert("dt-subject", "sensor").build())
            .properties(
                Properties::builder().message_id(12_u64).content_type(Symbol::from("text/plain")).build(),
            )
            .application_properties(
                ApplicationProperties::builder()
                    .insert("port", SimpleValue::Int(8))
                    .insert("none", SimpleValue::Null)
                    .build(),
            )
            .body(data(&[b"x"]))
            .build();
        let (events, size) = events_of(0, message).unwrap();
        let event = &events[0];
        assert_eq!(event.properties, [("port".into(), "8".into()), ("none".into(), String::new())]);
        assert_eq!(event.annotations, [("dt-subject".into(), "sensor".into())]);
        assert_eq!(event.message_id.as_deref(), Some("12"));
        let annotated = "dt-subject".len() + "sensor".len();
        assert_eq!(size, annotated + 1 + "12".len() + "text/plain".len() + "port8".len() + "none".len());
    }

    #[test]
    fn a_batch_gives_its_messages_in_order_or_none_at_all() {
        let (one, two) =
            (encoded(bare(data(&[b"1"]))), encoded(bare(Body::Value(AmqpValue(Value::from("22"))))));
        let (events, size) = events_of(BATCH_FORMAT, bare(data(&[&one, &two]))).unwrap();
        let bodies: Vec<&[u8]> = events.iter().map(|event| &event.body[..]).collect();
        assert_eq!((bodies, size), (vec![&b"1"[..], b"22"], 3));

        let broken = events_of(BATCH_FORMAT, bare(data(&[&one, b"\x00\x53"])));
        assert_eq!(broken.unwrap_err(), Unreadable::BatchPart(1));
        let no_data = events_of(BATCH_FORMAT, bare(Body::Value(AmqpValue(Value::Null))));
        assert_eq!(no_data.unwrap_err(), Unreadable::BatchPart(0));
        let many = vec![&one[..]; MESSAGES_PER_BATCH + 1];
        assert_eq!(events_of(BATCH_FORMAT, bare(data(&many))).unwrap_err(), Unreadable::TooMany);
    }
}
