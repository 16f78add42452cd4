//! What we send as AMQP messages, section by section as IoT Hub reads it: telemetry, method replies, twin requests. Pure.

use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Value};

use crate::azure::{MethodReply, Telemetry};

/// One Data section, message-id as string, content type and encoding as symbols, application properties as strings.
/// `to` is left out, as the link's address says it already.
pub(super) fn encode(telemetry: &Telemetry) -> Sendable<Data> {
    let mut properties = Properties::builder()
        .message_id(telemetry.message_id.clone())
        .content_type(Symbol::from("application/json"))
        .content_encoding(Symbol::from("utf-8"))
        .build();
    properties.correlation_id = telemetry.correlation_id.clone().map(MessageId::String);
    let mut application = ApplicationProperties::builder();
    for (name, value) in &telemetry.properties {
        application = application.insert((*name).to_owned(), SimpleValue::String(value.clone()));
    }
    let message = Message::builder()
        .properties(properties)
        .application_properties(application.build())
        .data(Binary::from(telemetry.body.to_vec()))
        .build();
    Sendable::from(message)
}

/// The reply to a method's call: the id as it came, also in its type; the status as AMQP int; JSON as Data.
pub(super) fn method_reply(id: MessageId, reply: &MethodReply) -> Sendable<Data> {
    let mut properties = Properties::new();
    properties.correlation_id = Some(id);
    let application =
        ApplicationProperties::builder().insert("IoThub-status", SimpleValue::Int(reply.status)).build();
    let message = Message::builder()
        .properties(properties)
        .application_properties(application)
        .data(Binary::from(reply.payload.to_string().into_bytes()))
        .build();
    Sendable::from(message)
}

/// A request over the twin's links: what to do in the annotations. A body of one blank stands for none, as Microsoft's
/// Node and C clients have it.
pub(super) fn twin_request(
    id: &str,
    operation: &str,
    resource: Option<&str>,
    body: Option<&[u8]>,
) -> Sendable<Data> {
    let mut properties = Properties::new();
    properties.correlation_id = Some(MessageId::String(id.to_owned()));
    let mut annotations =
        MessageAnnotations::builder().insert("operation", Value::String(operation.to_owned()));
    if let Some(resource) = resource {
        annotations = annotations.insert("resource", Value::String(resource.to_owned()));
    }
    let message = Message::builder()
        .message_annotations(annotations.build())
        .properties(properties)
        .data(Binary::from(body.unwrap_or(b" ").to_vec()))
        .build();
    Sendable::from(message)
}
