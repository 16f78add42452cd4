//! Direct methods: calls come, replies go back under the same id in the same type.

use fe2o3_amqp_types::messaging::MessageId;
use fe2o3_amqp_types::primitives::{SimpleValue, Uuid};
use serde_json::json;
use tti_connector::azure::MethodReply;
use tti_connector::iot_hub::{DeviceEvent, IotHub, Links};

use super::by_key;
use super::cloud_messages::next;
use super::hub::{Seen, TestHub};
use super::inbound_hub::{data, methods_address};

const METHODS: Links = Links { methods: true, ..Links::NONE };

#[tokio::test]
async fn a_call_comes_and_its_reply_goes_back_under_its_id() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), METHODS);
    test_hub.wait_attached(&methods_address("a"), 2).await;
    let uuid = MessageId::Uuid(Uuid::from([7; 16]));
    let expected_ids = ["07070707-0707-0707-0707-070707070707", "call-1"];
    let ids = [uuid, MessageId::String("call-1".into())];
    for (number, id) in ids.into_iter().enumerate() {
        test_hub.call("a", "downlink", id.clone());
        let DeviceEvent::Method { request, reply, .. } = next(&mut events).await else { panic!("no call") };
        assert_eq!((request.id.as_str(), request.name.as_str()), (expected_ids[number], "downlink"));
        assert_eq!(&request.payload[..], b"{\"a\":1}");
        reply.send(MethodReply { status: 202, payload: json!({"queued": true}) }).unwrap();
        test_hub.wait(number + 1, |seen| matches!(seen, Seen::Came { .. })).await;
        let answer = test_hub.came(&methods_address("a")).pop().unwrap();
        assert_eq!(answer.properties.as_ref().unwrap().correlation_id, Some(id));
        let properties = answer.application_properties.as_ref().unwrap();
        assert_eq!(properties.0.get("IoThub-status"), Some(&SimpleValue::Int(202)));
        assert_eq!(data(&answer), r#"{"queued":true}"#);
    }
    let mut correlations = test_hub.seen().into_iter().filter_map(|seen| match seen {
        Seen::Attached { address, properties, .. } if address == methods_address("a") => {
            let at = properties.find("methods:").expect("no channel-correlation-id");
            Some(properties[at..at + 44].to_owned())
        }
        _ => None,
    });
    assert_eq!(correlations.next().unwrap(), correlations.next().unwrap(), "one pair, one id");
    hub.close().await;
}

#[tokio::test]
async fn a_slow_call_holds_no_other_up_and_a_dropped_one_sends_nothing() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), METHODS);
    test_hub.wait_attached(&methods_address("a"), 2).await;
    // More than may be under way at once.
    let mut slow = Vec::new();
    for number in 0..20 {
        test_hub.call("a", "m", MessageId::String(number.to_string()));
        let DeviceEvent::Method { reply, request, .. } = next(&mut events).await else { panic!("no call") };
        match number {
            0..4 => slow.push(reply),
            4..8 => drop(reply),
            _ => {
                assert_eq!(request.id, number.to_string());
                reply.send(MethodReply { status: 200, payload: json!(null) }).unwrap();
            }
        }
    }
    test_hub.wait(12, |seen| matches!(seen, Seen::Came { .. })).await;
    assert_eq!(test_hub.came(&methods_address("a")).len(), 12);
    hub.close().await;
}
