//! Twins: desired properties are followed without gaps, reported ones are sent and their answers told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tti_connector::azure::{Desired, DesiredScope};
use tti_connector::iot_hub::{DeviceEvent, IotHub, Links, RetryReason, SendError};
use tti_connector::model::ParkReason;

use super::by_key;
use super::cloud_messages::{C2D, next};
use super::hub::TestHub;
use super::inbound_hub::{Say, TwinSays, data, default_twin, text, twin_address, twin_answer};

const TWIN: Links = Links { twin: true, ..Links::NONE };

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

async fn next_desired(events: &mut tokio::sync::mpsc::Receiver<DeviceEvent>) -> Desired {
    match next(events).await {
        DeviceEvent::Desired { desired, .. } => desired,
        other => panic!("{other:?}"),
    }
}

/// A twin whose desired properties are set by the test.
fn follow(test_hub: &TestHub, version: &Arc<Mutex<u64>>) {
    let version = version.clone();
    test_hub.on_twin(move |(operation, _)| match operation.as_str() {
        "GET" => {
            let version = *version.lock().unwrap();
            let twin = json!({
                "desired": {"n": version, "$version": version, "$metadata": {}},
                "reported": {"seen": 1, "$version": 9},
            });
            twin_answer(200, None, &twin.to_string())
        }
        other => default_twin(other),
    });
}

fn whole(version: u64) -> Desired {
    let reported = object(json!({"seen": 1}));
    let properties = object(json!({"n": version}));
    Desired { version, properties, scope: DesiredScope::Whole { reported } }
}

fn patch(version: u64) -> Desired {
    let properties = object(json!({"n": version, "old": null}));
    Desired { version, properties, scope: DesiredScope::Patch }
}

fn pushed(version: u64) -> String {
    json!({"n": version, "old": null, "$version": version}).to_string()
}

#[tokio::test]
async fn it_subscribes_gets_and_follows_and_a_gap_is_asked_for() {
    let test_hub = TestHub::start().await;
    let version = Arc::new(Mutex::new(4));
    follow(&test_hub, &version);
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), TWIN);
    assert_eq!(next_desired(&mut events).await, whole(4));
    assert_eq!(test_hub.twin_operations("a"), ["PUT", "GET"]);
    let requests = test_hub.came(&twin_address("a"));
    assert_eq!(text(&requests[0], "resource"), "/notifications/twin/properties/desired");

    for old_or_new in [3, 4, 5] {
        test_hub.change("a", &pushed(old_or_new));
    }
    assert_eq!(next_desired(&mut events).await, patch(5), "old versions are left out");
    *version.lock().unwrap() = 8;
    test_hub.change("a", &pushed(8));
    assert_eq!(next_desired(&mut events).await, whole(8));
    test_hub.change("a", &pushed(9));
    assert_eq!(next_desired(&mut events).await, patch(9));
    assert_eq!(test_hub.twin_operations("a"), ["PUT", "GET", "GET"]);

    // What was set while away is told after the next attach.
    *version.lock().unwrap() = 12;
    test_hub.say(&twin_address("a"), Say::Detach("amqp:link:detach-forced"));
    assert_eq!(next_desired(&mut events).await, whole(12));
    hub.close().await;
}

#[tokio::test]
async fn reports_go_out_and_give_their_version() {
    let test_hub = TestHub::start().await;
    let (hub, _events) = IotHub::with_events(test_hub.options());
    let device = by_key(&test_hub, "a");
    hub.keep_open(&device, TWIN);
    // Waits for the links by itself.
    let patch = object(json!({"battery": 97, "gone": null}));
    assert_eq!(hub.report(&device, &patch).await, Ok(2));
    let request = test_hub.came(&twin_address("a")).into_iter().find(|m| text(m, "operation") == "PATCH");
    let request = request.unwrap();
    assert_eq!(text(&request, "resource"), "/properties/reported");
    assert_eq!(serde_json::from_str::<Value>(&data(&request)).unwrap(), json!({"battery": 97, "gone": null}));
    hub.close().await;
}

#[tokio::test]
async fn a_report_that_fails_says_what_to_do() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.send_timeout = Duration::from_millis(300);
    let (hub, _events) = IotHub::with_events(options);
    let device = by_key(&test_hub, "a");
    let patch = object(json!({"a": 1}));
    let error = hub.report(&device, &patch).await.unwrap_err();
    assert!(matches!(error, SendError::Park { .. }) && error.to_string().contains("kept open"), "{error}");
    hub.keep_open(&device, C2D);
    let error = hub.report(&device, &patch).await.unwrap_err();
    assert!(matches!(error, SendError::Park { .. }), "{error}");

    hub.keep_open(&device, Links { twin: true, ..C2D });
    let status = Arc::new(Mutex::new(Some(400)));
    let says = status.clone();
    test_hub.on_twin(move |(operation, _)| match (operation.as_str(), *says.lock().unwrap()) {
        ("PATCH", Some(status)) => twin_answer(status, None, "no"),
        ("PATCH", None) => TwinSays::Silence,
        (other, _) => default_twin(other),
    });
    for (says, expected) in [(Some(400), ParkReason::Rejected), (Some(413), ParkReason::TooLarge)] {
        *status.lock().unwrap() = says;
        let error = hub.report(&device, &patch).await.unwrap_err();
        assert!(matches!(error, SendError::Park { reason, .. } if reason == expected), "{error}");
    }
    for (says, expected, pause) in [
        (Some(403), RetryReason::Quota, Some(Duration::from_secs(5))),
        (Some(429), RetryReason::Throttled, Some(Duration::from_secs(5))),
        (Some(500), RetryReason::Hub, None),
        (None, RetryReason::Timeout, None),
    ] {
        *status.lock().unwrap() = says;
        match hub.report(&device, &patch).await.unwrap_err() {
            SendError::Retry { reason, after, .. } => assert_eq!((reason, after), (expected, pause)),
            other => panic!("{other}"),
        }
    }
    hub.close().await;
}

#[tokio::test]
async fn a_twin_over_several_frames_comes_whole() {
    let test_hub = TestHub::start().await;
    // Frames hold 64 kB at most.
    let long = "x".repeat(150_000);
    let twin = json!({"desired": {"long": long, "$version": 1}, "reported": {"$version": 1}}).to_string();
    test_hub.on_twin(move |(operation, _)| match operation.as_str() {
        "GET" => twin_answer(200, None, &twin),
        other => default_twin(other),
    });
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), TWIN);
    let desired = next_desired(&mut events).await;
    assert_eq!(desired.properties["long"].as_str().map(str::len), Some(150_000));
    hub.close().await;
}

#[tokio::test]
async fn a_throttled_twin_is_asked_for_again_without_losing_the_links() {
    let test_hub = TestHub::start().await;
    let mut failures = 2;
    test_hub.on_twin(move |(operation, _)| match operation.as_str() {
        "GET" if failures > 0 => {
            failures -= 1;
            twin_answer(503, None, "busy")
        }
        other => default_twin(other),
    });
    let (hub, mut events) = IotHub::with_events(test_hub.options());
    hub.keep_open(&by_key(&test_hub, "a"), TWIN);
    assert_eq!(next_desired(&mut events).await.version, 1);
    assert_eq!(test_hub.twin_operations("a"), ["PUT", "GET", "GET", "GET"]);
    assert_eq!(test_hub.attached(&twin_address("a")), 2);
    hub.close().await;
}
