//! `Prefer: wait=N`: the answer that waits for the hub.

use std::time::{Duration, Instant};

use serde_json::json;
use tti_connector::model::{Outcome, ParkReason};
use tti_connector::webhook::Stored;

use super::desk::{Desk, read, send, uplink};

fn sent() -> Outcome {
    Outcome::Sent { hub: "a.azure-devices.net".to_owned(), hub_device: "cellar".to_owned() }
}

#[tokio::test]
async fn the_answer_waits_for_the_hub_and_says_so() {
    let mut desk = Desk::open().await;
    for prefer in ["wait=5", "respond-async, wait=5", "Wait=\"5\"", "wait=5; foo"] {
        let request = tokio::spawn(send(desk.post(uplink(1)).header("prefer", prefer)));
        let waiter = desk.next_kept().await.waiter.expect("somebody waits");
        assert!(!request.is_finished());
        waiter.send(sent()).expect("still waiting");
        let response = request.await.expect("task");
        assert_eq!(response.headers()["preference-applied"], "wait=5", "{prefer}");
        let expected = json!({"status": "sent", "hub": "a.azure-devices.net", "device": "cellar"});
        assert_eq!(read(response).await, (200, expected), "{prefer}");
    }
}

#[tokio::test]
async fn a_parked_message_is_told_by_its_reason_and_that_it_is_kept() {
    let mut desk = Desk::open().await;
    for reason in ParkReason::ALL {
        let expected = match reason {
            ParkReason::DeviceUnknown => 404,
            ParkReason::HubIdTaken => 409,
            ParkReason::Damaged => 500,
            ParkReason::TooLarge => 413,
            ParkReason::NotConfigured | ParkReason::InvalidHubId | ParkReason::Malformed => 422,
            ParkReason::NotAssigned => 424,
            ParkReason::Unauthorized | ParkReason::Rejected => 502,
        };
        let request = tokio::spawn(send(desk.post(uplink(1)).header("prefer", "wait=9")));
        let waiter = desk.next_kept().await.waiter.expect("somebody waits");
        waiter.send(Outcome::Parked { reason, detail: "It is so.".to_owned() }).expect("still waiting");
        let (status, body) = read(request.await.expect("task")).await;
        assert_eq!(status, expected, "{reason}");
        assert_eq!(body["type"], format!("urn:tti-connector:problem:{reason}"));
        let detail = body["detail"].as_str().expect("text");
        assert!(detail.starts_with("It is so. The message is kept"), "{detail}");
        assert!(detail.contains("spool requeue"), "{detail}");
    }
    assert_eq!(desk.metric("tti_connector_webhook_stored_messages_total"), 10);
    assert!(!desk.metrics.render().contains("refused_requests_total{"), "kept is not refused");
}

#[tokio::test]
async fn when_the_time_is_over_the_outcome_is_pending_and_the_message_safe() {
    let mut desk = Desk::with(|options| options.max_wait = Duration::from_secs(1)).await;
    let began = Instant::now();
    let response = send(desk.post(uplink(1)).header("prefer", "wait=3600")).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(response.headers()["preference-applied"], "wait=1", "capped");
    assert_eq!(read(response).await, (202, json!({"status": "pending"})));
    assert_eq!(desk.next_kept().await.device.device_id(), "cellar");
}

#[tokio::test]
async fn an_intake_that_can_not_tell_ends_the_wait() {
    let mut desk = Desk::open().await;
    let request = tokio::spawn(send(desk.post(uplink(1)).header("prefer", "wait=30")));
    drop(desk.next_kept().await.waiter);
    assert_eq!(read(request.await.expect("task")).await, (202, json!({"status": "pending"})));
}

#[tokio::test]
async fn of_a_duplicate_the_known_outcome_is_told_at_once_and_an_unknown_one_awaited() {
    let mut desk = Desk::open().await;
    desk.answer(Ok(Stored::Duplicate(Some(sent()))));
    let known = send(desk.post(uplink(1)).header("prefer", "wait=30")).await;
    assert_eq!(read(known).await.0, 200);
    desk.next_kept().await;

    desk.answer(Ok(Stored::Duplicate(None)));
    let request = tokio::spawn(send(desk.post(uplink(1)).header("prefer", "wait=30")));
    desk.next_kept().await.waiter.expect("somebody waits").send(sent()).expect("still waiting");
    assert_eq!(read(request.await.expect("task")).await.0, 200);
}

#[tokio::test]
async fn what_is_no_wish_to_wait_gets_the_usual_answer() {
    let mut desk = Desk::open().await;
    for prefer in ["respond-async", "wait", "wait=soon", "wait=0", "return=minimal"] {
        let response = send(desk.post(uplink(1)).header("prefer", prefer)).await;
        assert!(response.headers().get("preference-applied").is_none(), "{prefer}");
        assert_eq!(read(response).await, (202, json!({"status": "stored"})), "{prefer}");
        assert!(desk.next_kept().await.waiter.is_none(), "{prefer}");
    }
}

#[tokio::test]
async fn a_stop_ends_the_wait_and_not_the_request() {
    let mut desk = Desk::open().await;
    let request = tokio::spawn(send(desk.post(uplink(1)).header("prefer", "wait=30")));
    let _waiter = desk.next_kept().await.waiter.expect("somebody waits");
    let began = Instant::now();
    desk.stop.cancel();
    assert_eq!(read(request.await.expect("task")).await, (202, json!({"status": "pending"})));
    assert!(began.elapsed() < Duration::from_secs(10));
    (&mut desk.server).await.expect("the server ends");
}
