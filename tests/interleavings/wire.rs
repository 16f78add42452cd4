//! AMQP frames on a byte stream, and the few messages that the hub reads and writes. Knows no state of anything.

use bytes::{Bytes, BytesMut};
use fe2o3_amqp::frames::amqp::{Frame, FrameBody, FrameDecoder};
use fe2o3_amqp_types::definitions::{self, ErrorCondition};
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage as _;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::performatives::Performative;
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Value};
use serde_amqp::read::SliceReader;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::codec::Decoder as _;

/// A frame with nothing in it, which only says that we are there.
pub(super) const EMPTY_FRAME: [u8; 8] = [0, 0, 0, 8, 2, 0, 0, 0];
pub(super) const HEADER: [u8; 8] = *b"AMQP\0\x01\0\0";
/// No frame of the client is longer; we said so in our Open.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// The next frame, `None` at the end of the stream.
pub(super) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
    let size = stream.read_u32().await.ok()? as usize;
    assert!((8..=MAX_FRAME_BYTES).contains(&size), "a frame of {size} bytes");
    let mut rest = BytesMut::zeroed(size - 4);
    stream.read_exact(&mut rest).await.ok()?;
    FrameDecoder {}.decode(&mut rest).unwrap()
}

/// A frame's bytes.
pub(super) fn frame(channel: u16, performative: &Performative, payload: &[u8]) -> Vec<u8> {
    let body = serde_amqp::to_vec(performative).unwrap();
    let size = u32::try_from(8 + body.len() + payload.len()).unwrap();
    let mut bytes = Vec::with_capacity(size as usize);
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&[2, 0]);
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(payload);
    bytes
}

/// What a frame is, for traces.
pub(super) fn name(body: &FrameBody) -> &'static str {
    match body {
        FrameBody::Open(_) => "Open",
        FrameBody::Begin(_) => "Begin",
        FrameBody::Attach(_) => "Attach",
        FrameBody::Flow(_) => "Flow",
        FrameBody::Transfer { .. } => "Transfer",
        FrameBody::Disposition(_) => "Disposition",
        FrameBody::Detach(_) => "Detach",
        FrameBody::End(_) => "End",
        FrameBody::Close(_) => "Close",
        FrameBody::Empty => "Empty",
    }
}

pub(super) fn error(condition: &str) -> definitions::Error {
    let condition = ErrorCondition::Custom(Symbol::from(condition));
    definitions::Error::new(condition, Some("said by the test hub".to_owned()), None)
}

/// What the hub needs to know of a message from the client.
pub(super) struct Came {
    pub(super) id: Option<MessageId>,
    pub(super) correlation: Option<MessageId>,
    /// The application property `name`: a put-token's audience.
    pub(super) audience: Option<String>,
    /// The annotation `operation`: a twin request's.
    pub(super) operation: Option<String>,
}

pub(super) fn read_message(payload: &Bytes) -> Came {
    let message = Body::<Value>::decode_message_from_reader(SliceReader::new(payload)).unwrap();
    let (id, correlation) = message.properties.map_or((None, None), |p| (p.message_id, p.correlation_id));
    let audience = message.application_properties.and_then(|properties| match properties.0.get("name") {
        Some(SimpleValue::String(text)) => Some(text.clone()),
        _ => None,
    });
    let operation = message.message_annotations.and_then(|annotations| {
        match annotations.0.get(&Symbol::from("operation") as &dyn AnnotationKey) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => None,
        }
    });
    Came { id, correlation, audience, operation }
}

/// The reply to a put-token.
pub(super) fn token_reply(request: MessageId, status: i32) -> Vec<u8> {
    let message = Message::builder()
        .properties(Properties::builder().correlation_id(request).build())
        .application_properties(
            ApplicationProperties::builder()
                .insert("status-code", SimpleValue::Int(status))
                .insert("status-description", SimpleValue::String("said by the test hub".to_owned()))
                .build(),
        )
        .value(Value::Null)
        .build();
    let message: Message<AmqpValue<Value>> = message;
    serde_amqp::to_vec(&Serializable(message)).unwrap()
}

/// The answer to a twin request: an empty twin of version 1.
pub(super) fn twin_answer(request: Option<MessageId>, operation: &str) -> Vec<u8> {
    let body =
        if operation == "GET" { r#"{"desired":{"$version":1},"reported":{"$version":1}}"# } else { "" };
    let mut properties = Properties::new();
    properties.correlation_id = request;
    data_message(
        MessageAnnotations::builder().insert("status", Value::Int(200)).build(),
        properties,
        body.as_bytes(),
    )
}

/// A cloud-to-device message.
pub(super) fn cloud_message(id: &str) -> Vec<u8> {
    let annotations = MessageAnnotations::builder()
        .insert("x-opt-sequence-number", Value::Ulong(7))
        .insert("x-opt-lock-token", Value::String("token".into()))
        .build();
    let properties = Properties::builder().message_id(id.to_owned()).build();
    data_message(annotations, properties, b"AQI=")
}

fn data_message(annotations: MessageAnnotations, properties: Properties, body: &[u8]) -> Vec<u8> {
    let message: Message<Data> = Message::builder()
        .message_annotations(annotations)
        .properties(properties)
        .data(Binary::from(body.to_vec()))
        .build();
    serde_amqp::to_vec(&Serializable(message)).unwrap()
}
