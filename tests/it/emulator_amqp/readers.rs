//! Reading what arrived, as from an Event Hub.

use fe2o3_amqp::Session;
use fe2o3_amqp::link::Receiver;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{ApplicationProperties, Body, Message, Properties, Source};
use fe2o3_amqp_types::primitives::{OrderedMap, Symbol, Value};
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tti_connector::emulator::EVENT_HUB_NAME;

use super::kit::{Rig, condition, data, message, receiver_refusal, send, status_of, within};

async fn reader(session: &mut SessionHandle<()>, partition: usize, selector: Option<&str>) -> Receiver {
    let address =
        format!("amqps://hub.example/{EVENT_HUB_NAME}/ConsumerGroups/$Default/Partitions/{partition}");
    let name = Symbol::from("apache.org:selector-filter:string");
    let mut source = Source::builder().address(address).build();
    if let Some(selector) = selector {
        let descriptor = Descriptor::Name(name.clone());
        let filter = Value::Described(Box::new(Described { descriptor, value: Value::from(selector) }));
        source.filter.get_or_insert_with(OrderedMap::new).insert(name, filter);
    }
    let link = format!("reader-{partition}-{}", selector.unwrap_or_default());
    within(Receiver::builder().name(link).source(source).attach(session)).await.unwrap()
}

async fn next(receiver: &mut Receiver) -> (String, Message<Body<Value>>) {
    let delivery = within(receiver.recv::<Body<Value>>()).await.unwrap();
    let message = delivery.into_message();
    let body: Vec<u8> = message.body.try_as_data().unwrap().flat_map(|part| part.to_vec()).collect();
    (String::from_utf8(body).unwrap(), message)
}

/// The partition that holds events, and a hub with `count` of them: one a second.
async fn filled(count: usize) -> (Rig, usize) {
    let rig = Rig::start().await;
    rig.device("dev");
    let mut client = rig.client_of(&["dev"]).await;
    let mut sender = client.telemetry("dev").await;
    for number in 0..count {
        send(&mut sender, message(data(number.to_string()))).await.unwrap();
        rig.clock.advance(1000);
    }
    let partition = (0..4).find(|partition| rig.hub.bounds(*partition).1 > 0).unwrap();
    (rig, partition)
}

#[tokio::test]
async fn readers_start_where_their_selector_says_and_go_on_with_what_arrives() {
    let (rig, partition) = filled(5).await;
    let mut client = rig.client().await;
    assert_eq!(client.cbs.put(&rig.policy_token("service", 600)).await.0, 200);
    let third_ms = rig.hub.events(partition, 2, 1)[0].enqueued_ms;
    let mut latest =
        reader(&mut client.session, partition, Some("amqp.annotation.x-opt-offset > '@latest'")).await;
    let mut open = Vec::new();
    for (selector, first) in [
        (None, "0"),
        (Some("amqp.annotation.x-opt-offset > '-1'".to_owned()), "0"),
        (Some("amqp.annotation.x-opt-offset > '2'".to_owned()), "3"),
        (Some("amqp.annotation.x-opt-sequence-number >= '2'".to_owned()), "2"),
        (Some(format!("amqp.annotation.x-opt-enqueued-time > '{third_ms}'")), "3"),
        (Some(format!("amqp.annotation.x-opt-enqueued-time >= '{third_ms}'")), "2"),
    ] {
        let mut receiver = reader(&mut client.session, partition, selector.as_deref()).await;
        assert_eq!(next(&mut receiver).await.0, first, "{selector:?}");
        // The client's session would not survive a transfer for a link it has dropped.
        open.push(receiver);
    }
    let mut device = rig.client_of(&["dev"]).await;
    let mut sender = device.telemetry("dev").await;
    send(&mut sender, message(data("live"))).await.unwrap();
    assert_eq!(next(&mut latest).await.0, "live");
}

#[tokio::test]
async fn an_event_carries_the_annotations_that_readers_look_for() {
    let (rig, partition) = filled(1).await;
    let mut client = rig.client().await;
    assert_eq!(client.cbs.put(&rig.policy_token("iothubowner", 600)).await.0, 200);
    let (_, message) = next(&mut reader(&mut client.session, partition, None).await).await;
    let annotations = message.message_annotations.unwrap().0;
    let get = |name: &str| annotations.get(&name as &dyn AnnotationKey).cloned().unwrap();
    assert_eq!(get("iothub-connection-device-id"), Value::from("dev"));
    assert_eq!(get("iothub-message-source"), Value::from("Telemetry"));
    assert_eq!(get("x-opt-sequence-number"), Value::Long(0));
    assert_eq!(get("x-opt-offset"), Value::from("0"));
    for time in ["x-opt-enqueued-time", "iothub-enqueuedtime"] {
        assert!(matches!(get(time), Value::Timestamp(_)));
    }
    let generation = rig.hub.device("dev").unwrap().generation_id;
    assert_eq!(get("iothub-connection-auth-generation-id"), Value::String(generation));
    assert!(matches!(get("iothub-connection-auth-method"), Value::String(text) if text.contains("sas")));
}

#[tokio::test]
async fn only_the_service_and_owner_policies_read_and_only_as_long_as_their_token() {
    let (rig, partition) = filled(1).await;
    let mut client = rig.client_of(&["dev"]).await;
    assert_eq!(client.cbs.put(&rig.policy_token("device", 600)).await.0, 200);
    let refused = reader(&mut client.session, partition, None).await;
    assert_eq!(condition(&receiver_refusal(refused).await), "amqp:unauthorized-access");

    assert_eq!(client.cbs.put(&rig.policy_token("service", 60)).await.0, 200);
    let mut session = within(Session::begin(&mut client.connection)).await.unwrap();
    let mut receiver = reader(&mut session, partition, None).await;
    assert_eq!(next(&mut receiver).await.0, "0");
    rig.clock.advance(60_000);
    assert_eq!(condition(&receiver_refusal(receiver).await), "amqp:unauthorized-access");
}

#[tokio::test]
async fn a_partition_or_selector_that_makes_no_sense_is_refused() {
    let rig = Rig::start().await;
    let mut client = rig.client().await;
    assert_eq!(client.cbs.put(&rig.policy_token("service", 60)).await.0, 200);
    let missing = reader(&mut client.session, 4, None).await;
    assert_eq!(condition(&receiver_refusal(missing).await), "amqp:not-found");
    let odd = reader(&mut client.session, 0, Some("color = 'red'")).await;
    assert_eq!(condition(&receiver_refusal(odd).await), "amqp:invalid-field");
}

#[tokio::test]
async fn management_describes_the_hub_and_its_partitions_to_those_who_may_read() {
    let (rig, partition) = filled(3).await;
    let mut client = rig.client().await;
    let mut requests =
        within(fe2o3_amqp::link::Sender::attach(&mut client.session, "requests", "$management"))
            .await
            .unwrap();
    let mut replies = within(Receiver::attach(&mut client.session, "replies", "$management")).await.unwrap();
    let mut ask = async |kind: &str, partition: &str| {
        let properties = ApplicationProperties::builder()
            .insert("operation", "READ")
            .insert("name", EVENT_HUB_NAME)
            .insert("type", kind)
            .insert("partition", partition);
        let request = Message::builder()
            .properties(Properties::builder().message_id(1_u64).build())
            .application_properties(properties.build())
            .body(data(""))
            .build();
        within(requests.send(request)).await.unwrap();
        let reply = within(replies.recv::<Body<Value>>()).await.unwrap().into_message();
        let status = status_of(reply.application_properties.as_ref()).0;
        let map = match reply.body.try_into_value() {
            Ok(Value::Map(map)) => map,
            _ => OrderedMap::new(),
        };
        (status, map)
    };
    assert_eq!(ask("com.microsoft:eventhub", "").await.0, 401);
    assert_eq!(client.cbs.put(&rig.policy_token("service", 60)).await.0, 200);
    let (status, hub) = ask("com.microsoft:eventhub", "").await;
    assert_eq!((status, hub.get(&Value::from("partition_count"))), (200, Some(&Value::Int(4))));
    let (status, read) = ask("com.microsoft:partition", &partition.to_string()).await;
    assert_eq!(status, 200);
    assert_eq!(read.get(&Value::from("last_enqueued_sequence_number")), Some(&Value::Long(2)));
    assert_eq!(read.get(&Value::from("is_partition_empty")), Some(&Value::Bool(false)));
    assert_eq!(ask("com.microsoft:partition", "9").await.0, 404);
    assert_eq!(ask("queue", "").await.0, 400);
}
