//! Telemetry links: addresses, encodings, batches, sizes.

use fe2o3_amqp::Sendable;
use fe2o3_amqp_types::messaging::message::__private::Serializable;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Batch, Body, Data, Message, MessageAnnotations, MessageId, Outcome,
    Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Timestamp, Uuid, Value};

use super::kit::{Rig, attach, condition, data, message, refusal_of, rejection, send};

const BATCH_FORMAT: u32 = 0x8001_3700;

fn batch(parts: Vec<Vec<u8>>) -> Sendable<Body<Value>> {
    let parts: Vec<Data> = parts.into_iter().map(|part| Data(Binary::from(part))).collect();
    Sendable::builder().message(message(Body::Data(Batch::new(parts)))).message_format(BATCH_FORMAT).build()
}

fn encoded(message: Message<Body<Value>>) -> Vec<u8> {
    serde_amqp::to_vec(&Serializable(message)).unwrap()
}

#[tokio::test]
async fn the_address_may_be_a_path_or_a_uri_in_any_case() {
    let rig = Rig::start().await;
    rig.device("De:v");
    let mut client = rig.client_of(&["De:v"]).await;
    for (number, address) in [
        "/devices/De:v/messages/events",
        "devices/De%3Av/messages/events",
        "amqps://hub.example/devices/De%3Av/messages/events",
        "amqps://hub.example:5671/Devices/De:v/Messages/Events",
    ]
    .into_iter()
    .enumerate()
    {
        let mut sender = attach(&mut client.session, address, address).await;
        send(&mut sender, message(data(address))).await.unwrap();
        assert_eq!(rig.events_of("De:v").len(), number + 1, "{address}");
    }
}

#[tokio::test]
async fn a_message_keeps_all_that_was_said_with_it() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    let whole = Message::builder()
        .message_annotations(MessageAnnotations::builder().insert("dt-subject", "part").build())
        .properties(
            Properties::builder()
                .message_id(MessageId::Uuid(Uuid::from([0xab; 16])))
                .correlation_id(MessageId::Ulong(5))
                .content_type(Symbol::from("application/json"))
                .content_encoding(Symbol::from("utf-8"))
                .build(),
        )
        .application_properties(
            ApplicationProperties::builder()
                .insert("text", "value")
                .insert("number", SimpleValue::Int(-3))
                .insert("flag", true)
                .insert("time", Timestamp::from(1_700_000_000_000))
                .build(),
        )
        .body(data("{}"))
        .build();
    assert!(matches!(send(&mut sender, whole).await.unwrap(), Outcome::Accepted(_)));
    let events = rig.events_of("dev");
    let event = &events[0];
    assert_eq!(event.message_id.as_deref(), Some("abababab-abab-abab-abab-abababababab"));
    assert_eq!(event.correlation_id.as_deref(), Some("5"));
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    assert_eq!(event.content_encoding.as_deref(), Some("utf-8"));
    assert_eq!(event.annotations, [("dt-subject".to_owned(), "part".to_owned())]);
    let properties: Vec<(&str, &str)> =
        event.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let time = ("time", "2023-11-14T22:13:20.000Z");
    assert_eq!(properties, [("text", "value"), ("number", "-3"), ("flag", "true"), time]);
    assert_eq!(event.generation_id, rig.hub.device("dev").unwrap().generation_id);
    let auth = r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#;
    assert_eq!(event.auth_method, auth);
}

#[tokio::test]
async fn bodies_may_be_data_text_or_bytes_and_nothing_else() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    let two = Body::Data(Batch::new(vec![Data(Binary::from("he")), Data(Binary::from("llo"))]));
    for body in [
        data("hello"),
        two,
        Body::Value(AmqpValue(Value::from("hello"))),
        Body::Value(AmqpValue(Value::Binary(Binary::from("hello")))),
    ] {
        send(&mut sender, message(body)).await.unwrap();
    }
    assert!(rig.events_of("dev").iter().all(|event| event.body == "hello"));
    let odd = send(&mut sender, message(Body::Value(AmqpValue(Value::Int(4))))).await.unwrap();
    assert_eq!(condition(&rejection(odd)), "amqp:decode-error");
    assert_eq!(rig.events_of("dev").len(), 4);
}

#[tokio::test]
async fn a_batch_has_one_outcome_and_keeps_all_or_nothing() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    let parts = (0..50).map(|number| encoded(message(data(number.to_string())))).collect();
    assert!(matches!(send(&mut sender, batch(parts)).await.unwrap(), Outcome::Accepted(_)));
    let bodies: Vec<_> = rig.events_of("dev").into_iter().map(|event| event.body).collect();
    assert_eq!(bodies, (0..50).map(|number| number.to_string()).collect::<Vec<_>>());

    let broken = batch(vec![encoded(message(data("good"))), vec![1, 2, 3]]);
    let outcome = send(&mut sender, broken).await.unwrap();
    assert_eq!(condition(&rejection(outcome)), "amqp:decode-error");
    let halves = vec![encoded(message(data(vec![b'x'; 140 * 1024]))); 2];
    let outcome = send(&mut sender, batch(halves)).await.unwrap();
    assert_eq!(condition(&rejection(outcome)), "amqp:link:message-size-exceeded");
    assert_eq!(rig.events_of("dev").len(), 50);
}

#[tokio::test]
async fn a_quarter_megabyte_is_kept_and_a_byte_more_is_rejected() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    assert_eq!(sender.max_message_size(), Some(1024 * 1024));
    let full = vec![b'x'; 256 * 1024];
    assert!(matches!(send(&mut sender, message(data(&full))).await.unwrap(), Outcome::Accepted(_)));
    let property = ApplicationProperties::builder().insert("n", "").build();
    let more = Message::builder().application_properties(property).body(data(&full)).build();
    let outcome = send(&mut sender, more).await.unwrap();
    assert_eq!(condition(&rejection(outcome)), "amqp:link:message-size-exceeded");
    assert!(matches!(send(&mut sender, message(data("on"))).await.unwrap(), Outcome::Accepted(_)));
    assert_eq!(rig.events_of("dev").len(), 2);
}

#[tokio::test]
async fn each_reason_to_refuse_a_link_has_its_condition() {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    for (address, expected, text) in [
        ("/devices/other/messages/events", "amqp:unauthorized-access", "other"),
        ("/devices/dev/twin", "amqp:invalid-field", "twin:"),
        ("/devices/dev/methods/devicebound", "amqp:invalid-field", "methods:"),
        ("/devices/dev/messages/deviceBound", "amqp:not-found", "no node"),
        ("queue", "amqp:not-found", "queue"),
        ("iothub-ehub-emulator/ConsumerGroups/a/Partitions/0", "amqp:not-found", "Partitions"),
    ] {
        let sender = attach(&mut client.session, address, address).await;
        let error = refusal_of(sender).await;
        assert_eq!(condition(&error), expected, "{address}");
        assert!(error.description.unwrap().contains(text), "{address}");
    }
    // The session has survived all that.
    let mut sender = client.telemetry("dev").await;
    assert!(matches!(send(&mut sender, message(data("x"))).await.unwrap(), Outcome::Accepted(_)));
}
