//! Messages the hub sends: events as an Event Hub reader expects them, and replies of `$cbs` and `$management`.
//!
//! Pure.

use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{
    AmqpValue, Annotations, ApplicationProperties, Batch, Body, Data, Message, MessageAnnotations, MessageId,
    Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Timestamp, Value};

use crate::emulator::Event;

/// Annotations that only the hub may set; a device's own of these names are dropped.
const HUBS_OWN: [&str; 2] = ["x-opt-", "iothub-"];

/// An event with all annotations that Event Hub readers look for.
pub(super) fn event_message(event: Event) -> Message<Body<Value>> {
    let mut annotations = Annotations::new();
    let mut set = |name: &str, value: Value| annotations.insert(OwnedKey::from(name), value);
    for (name, text) in event.annotations {
        if !HUBS_OWN.iter().any(|prefix| name.starts_with(prefix)) || name == "iothub-interface-id" {
            set(&name, Value::String(text));
        }
    }
    set("x-opt-sequence-number", Value::Long(event.sequence_number));
    set("x-opt-offset", Value::String(event.sequence_number.to_string()));
    set("x-opt-enqueued-time", Value::Timestamp(Timestamp::from(event.enqueued_ms)));
    set("x-opt-partition-key", Value::String(event.device_id.clone()));
    set("iothub-connection-device-id", Value::String(event.device_id));
    set("iothub-connection-auth-method", Value::String(event.auth_method));
    set("iothub-connection-auth-generation-id", Value::String(event.generation_id));
    set("iothub-enqueuedtime", Value::Timestamp(Timestamp::from(event.enqueued_ms)));
    set("iothub-message-source", Value::String("Telemetry".to_owned()));

    let mut properties = Properties::new();
    properties.message_id = event.message_id.map(MessageId::String);
    properties.correlation_id = event.correlation_id.map(MessageId::String);
    properties.content_type = event.content_type.map(Symbol);
    properties.content_encoding = event.content_encoding.map(Symbol);
    let mut application = ApplicationProperties::builder();
    for (name, value) in event.properties {
        application = application.insert(name, value);
    }
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(annotations)),
        properties: Some(properties),
        application_properties: Some(application.build()),
        body: Body::Data(Batch::new(vec![Data(Binary::from(event.body.to_vec()))])),
        footer: None,
    }
}

/// A reply: `status` as AMQP int, its text, and the request's id in its own type.
pub(super) fn reply_message(
    correlation_id: Option<MessageId>,
    status: i32,
    description: &str,
    body: Value,
) -> Message<Body<Value>> {
    let mut properties = Properties::new();
    properties.correlation_id = correlation_id;
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(properties),
        application_properties: Some(
            ApplicationProperties::builder()
                .insert("status-code", status)
                .insert("status-description", description)
                .build(),
        ),
        body: Body::Value(AmqpValue(body)),
        footer: None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
    use fe2o3_amqp_types::primitives::Value;

    use super::event_message;
    use crate::emulator::Event;

    #[test]
    fn a_device_cannot_forge_what_the_hub_says_about_it() {
        let event = Event {
            sequence_number: 4,
            enqueued_ms: 5,
            device_id: "real".into(),
            generation_id: "g".into(),
            auth_method: "{}".into(),
            message_id: None,
            correlation_id: None,
            content_type: None,
            content_encoding: None,
            properties: vec![],
            annotations: vec![
                ("iothub-connection-device-id".into(), "forged".into()),
                ("iothub-connection-module-id".into(), "forged".into()),
                ("dt-subject".into(), "part".into()),
            ],
            body: Bytes::from_static(b"b"),
        };
        let annotations = event_message(event).message_annotations.unwrap().0;
        let get = |name: &str| annotations.get(&name as &dyn AnnotationKey).cloned();
        assert_eq!(get("iothub-connection-device-id"), Some(Value::String("real".into())));
        assert_eq!(get("iothub-connection-module-id"), None);
        assert_eq!(get("dt-subject"), Some(Value::String("part".into())));
        assert_eq!(get("x-opt-offset"), Some(Value::String("4".into())));
        assert_eq!(get("x-opt-sequence-number"), Some(Value::Long(4)));
    }
}
