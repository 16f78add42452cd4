//! Telemetry as an AMQP message, section by section as IoT Hub reads it. Pure.

use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp_types::messaging::{ApplicationProperties, Data, Message, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol};

use crate::azure::Telemetry;

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
