//! Cloud-to-device messages: what comes, what the answers are on the wire, and in which order.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tti_connector::azure::{CloudMessage, Settlement};
use tti_connector::iot_hub::{DeviceEvent, IotHub, Links};

use super::hub::{Seen, TestHub};
use super::inbound_hub::c2d_address;
use super::{by_key, ids, telemetry};

pub(super) const C2D: Links = Links { c2d: true, ..Links::NONE };

pub(super) async fn next(events: &mut mpsc::Receiver<DeviceEvent>) -> DeviceEvent {
    timeout(Duration::from_secs(10), events.recv()).await.expect("no event comes").unwrap()
}

/// The next event, which must be a cloud-to-device message.
pub(super) async fn next_message(
    events: &mut mpsc::Receiver<DeviceEvent>,
) -> (CloudMessage, tokio::sync::oneshot::Sender<Settlement>) {
    match next(events).await {
        DeviceEvent::CloudMessage { message, settle, .. } => (message, settle),
        other => panic!("{other:?}"),
    }
}

fn settled(seen: &Seen) -> bool {
    matches!(seen, Seen::Settled { .. })
}

#[tokio::test]
async fn a_message_comes_with_all_that_the_hub_says_of_it_without_any_telemetry() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.keep_open(&device, C2D);
    test_hub.wait_attached(&c2d_address("a"), 1).await;
    test_hub.send_c2d("a", "m1");
    let before = tokio::time::Instant::now();
    let DeviceEvent::CloudMessage { device: whose, message, locked_until, settle } = next(&mut events).await
    else {
        panic!("no message");
    };
    assert_eq!(*whose, *device);
    let lock = locked_until - before;
    assert!((Duration::from_secs(59)..=Duration::from_secs(61)).contains(&lock), "{lock:?}");
    let expected = CloudMessage {
        message_id: Some("m1".into()),
        sequence_number: Some(7),
        enqueued_ms: Some(1_700_000_000_000),
        expires_ms: Some(1_700_000_060_000),
        delivery_count: 2,
        properties: vec![("Port".into(), "12".into()), ("confirmed".into(), "true".into())],
        body: "AQI=".into(),
    };
    assert_eq!(message, expected);
    settle.send(Settlement::Complete).unwrap();
    test_hub.wait(1, settled).await;
    assert_eq!((hub.status().kept, hub.status().attached), (1, 1));
    let addresses: Vec<_> = test_hub
        .seen()
        .into_iter()
        .filter_map(|seen| match seen {
            Seen::Attached { address, properties, .. } => Some((address, properties)),
            _ => None,
        })
        .collect();
    let [(first, _), (second, properties)] = &addresses[..] else { panic!("{addresses:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("/devices/a/messages/events", &*c2d_address("a")));
    assert!(properties.contains("com.microsoft:api-version"), "{properties}");
    hub.close().await;
    assert_eq!((hub.status().kept, hub.status().attached), (0, 0));
}

#[tokio::test]
async fn each_answer_has_its_outcome_and_the_next_message_comes_only_after_it() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), C2D);
    test_hub.wait_attached(&c2d_address("a"), 1).await;
    for id in ["1", "2", "3", "4"] {
        test_hub.send_c2d("a", id);
    }
    let reason = "Port 300 is\nout of range".to_owned();
    for (number, answer) in
        [Settlement::Complete, Settlement::Abandon, Settlement::Reject { reason }].into_iter().enumerate()
    {
        let (message, settle) = next_message(&mut events).await;
        assert_eq!(message.message_id, Some((number + 1).to_string()));
        // Nothing overtakes it.
        assert!(timeout(Duration::from_millis(50), events.recv()).await.is_err());
        settle.send(answer).unwrap();
    }
    test_hub.wait(3, settled).await;
    let mut all = test_hub.settled();
    all.sort();
    assert_eq!(all, ["1 accepted", "2 released", "3 rejected: Port 300 is out of range"]);
    hub.close().await;
}

#[tokio::test]
async fn a_dropped_answer_sends_nothing_and_keeps_the_place_until_the_lock_ends() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), C2D);
    test_hub.wait_attached(&c2d_address("a"), 1).await;
    test_hub.send_c2d("a", "dropped");
    test_hub.send_c2d("a", "next");
    let (_, settle) = next_message(&mut events).await;
    drop(settle);
    assert!(timeout(Duration::from_millis(100), events.recv()).await.is_err());
    // Telemetry shows that the session is well meanwhile.
    hub.send(&by_key(&test_hub, "a"), &telemetry("t")).await.unwrap();
    assert_eq!((test_hub.settled().len(), ids(&test_hub)), (0, vec!["t".to_owned()]));
    hub.close().await;
}

#[tokio::test]
async fn more_credit_lets_more_messages_come_at_once() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.c2d_credit = 2;
    let (hub, mut events) = IotHub::with_events(options);
    hub.keep_open(&by_key(&test_hub, "a"), C2D);
    test_hub.wait_attached(&c2d_address("a"), 1).await;
    for id in ["1", "2", "3"] {
        test_hub.send_c2d("a", id);
    }
    let (_first, _keep) = next_message(&mut events).await;
    let (second, settle) = next_message(&mut events).await;
    assert_eq!(second.message_id.as_deref(), Some("2"));
    assert!(timeout(Duration::from_millis(50), events.recv()).await.is_err());
    settle.send(Settlement::Complete).unwrap();
    assert_eq!(next_message(&mut events).await.0.message_id.as_deref(), Some("3"));
    hub.close().await;
}

#[tokio::test]
async fn telemetry_flows_on_the_same_session_while_a_message_is_unanswered() {
    let test_hub = TestHub::start().await;
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.keep_open(&device, C2D);
    test_hub.wait_attached(&c2d_address("a"), 1).await;
    test_hub.send_c2d("a", "1");
    let (_, settle) = next_message(&mut events).await;
    for text in ["1", "2", "3"] {
        hub.send(&device, &telemetry(text)).await.unwrap();
    }
    assert_eq!(ids(&test_hub), ["1", "2", "3"]);
    assert_eq!(test_hub.attached("/devices/a/messages/events"), 1, "one session");
    settle.send(Settlement::Complete).unwrap();
    test_hub.wait(1, settled).await;
    hub.close().await;
}

#[tokio::test]
async fn answers_given_before_closing_reach_the_hub() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.c2d_credit = 8;
    let (hub, mut events) = IotHub::with_events(options);
    hub.keep_open(&by_key(&test_hub, "a"), C2D);
    test_hub.wait_attached(&c2d_address("a"), 1).await;
    for id in 0..8 {
        test_hub.send_c2d("a", &id.to_string());
    }
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(next_message(&mut events).await.1);
    }
    answers.into_iter().for_each(|settle| settle.send(Settlement::Complete).unwrap());
    hub.close().await;
    test_hub.wait(8, settled).await;
}
