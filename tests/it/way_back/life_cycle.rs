//! What becomes of a queued downlink, and what its sender hears of it.

use std::time::Duration;

use serde_json::{Value, json};
use tti_connector::emulator::things_stack::{Class, Invalidated, Uplink};

use super::kit::{APPLICATION, Stage, name};

const UNCONFIRMED: &[(&str, &str)] = &[("Port", "1")];
const CONFIRMED: &[(&str, &str)] = &[("Port", "1"), ("Confirmed", "true")];

/// An uplink with which the device does not acknowledge what it was sent.
fn deaf() -> Uplink {
    Uplink { ack: Some(false), ..Uplink::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downlink_for_class_a_is_sent_after_the_next_uplink_and_for_class_c_at_once() {
    let stage = Stage::new().await;
    for (device, class) in [("meter", Class::A), ("valve", Class::C)] {
        stage.meet(device).await;
        stage.set_class(device, class);
        let (once, sure) = (format!("once-{device}"), format!("sure-{device}"));
        stage.send(device, &once, UNCONFIRMED, "AQ==");
        stage.completed(device).await;
        if class == Class::A {
            stage.reported(&once, &["queued"]).await;
            stage.hello(device);
        }
        let sent = stage.reported(&once, &["queued", "sent"]).await;
        assert_eq!(
            (&sent["Confirmed"], &sent["Port"], &sent["FrameCounter"]),
            (&json!(false), &json!(1), &json!(1))
        );
        stage.send(device, &sure, CONFIRMED, "AQ==");
        stage.completed(device).await;
        if class == Class::A {
            stage.hello(device);
        }
        stage.reported(&sure, &["queued", "sent"]).await;
        stage.hello(device);
        let acked = stage.reported(&sure, &["queued", "sent", "ack"]).await;
        assert_eq!((&acked["Confirmed"], &acked["FrameCounter"]), (&json!(true), &json!(2)));
    }
    assert_eq!(stage.pushed().len(), 4);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_in_between_is_told_and_the_downlink_goes_on_in_the_new_session() {
    let stage = Stage::new().await;
    stage.meet("valve").await;
    stage.send("valve", "one", CONFIRMED, "AQ==");
    stage.completed("valve").await;
    stage.send("valve", "two", UNCONFIRMED, "Ag==");
    stage.completed("valve").await;
    stage.stack().join(&name("valve"), Invalidated::Reported).expect("a device");
    for id in ["one", "two"] {
        stage.reported(id, &["queued", "invalidated"]).await;
    }
    stage.stack().invalidate(&name("valve"), Invalidated::Reported).expect("a device");
    stage.reported("two", &["queued", "invalidated", "invalidated"]).await;
    stage.hello("valve");
    stage.hello("valve");
    let all = ["queued", "invalidated", "invalidated", "sent", "ack"];
    stage.reported("one", &all).await;
    stage.reported("two", &all[..4]).await;
    assert_eq!(stage.pushed().len(), 2, "The Things Stack queued them anew by itself");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_ends_expires_and_a_later_event_is_still_told() {
    let stage = Stage::new().await;
    stage.meet("meter").await;
    stage.send("meter", "old", UNCONFIRMED, "AQ==");
    stage.reported("old", &["queued"]).await;
    stage.completed("meter").await;
    // The first look for old ones is at the start.
    let stage = stage.restart(|config| config.downlink.expiry = Duration::from_millis(1)).await;
    stage.reported("old", &["queued", "expired"]).await;
    stage.hello("meter");
    stage.reported("old", &["queued", "expired", "sent"]).await;
    stage.end().await;
}

/// All messages to the webhook about downlinks of the device so far.
fn about_downlinks(stage: &Stage) -> Vec<Value> {
    let told = stage.stack().deliveries().into_iter();
    told.filter(|told| told.kind.starts_with("downlink_")).map(|told| (*told.body).clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_out_of_order_and_repeated_are_each_told_once() {
    let stage = Stage::new().await;
    stage.meet("valve").await;
    // Nobody hears of anything while it happens.
    stage.stack().set_webhook(None).expect("none");
    stage.send("valve", "odd", CONFIRMED, "AQ==");
    stage.completed("valve").await;
    for uplink in [Uplink::default(), deaf(), Uplink::default()] {
        stage.uplink("valve", uplink);
    }
    stage.until(|| (stage.told("downlink_ack").len() == 1).then_some(())).await;
    let mut events = about_downlinks(&stage);
    assert_eq!(events.len(), 5, "queued, sent, nack, sent again, ack");
    events.reverse();
    stage.point_webhook();
    for round in 0..2 {
        for event in &events {
            assert_eq!(stage.post(event).await, 202, "round {round}");
        }
    }
    let order = ["ack", "sent", "nack", "sent", "queued"];
    stage.reported("odd", &order).await;
    stage.settled("valve").await;
    stage.reported("odd", &order).await;
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_device_or_application_moves_nothing_and_is_told_to_nobody() {
    let stage = Stage::with(|config| {
        config.downlink.complete_on = tti_connector::config::CompleteOn::Sent;
    })
    .await;
    for device in ["valve", "liar"] {
        stage.meet(device).await;
    }
    stage.send("valve", "mine", UNCONFIRMED, "AQ==");
    stage.reported("mine", &["queued"]).await;
    let ours = stage.pushed()[0]["correlation_ids"][0].clone();
    let event = |application: &str, device: &str, kind: &str, id: &Value| {
        let ids = json!({ "device_id": device, "application_ids": { "application_id": application } });
        let downlink = json!({ "f_port": 1, "f_cnt": 1, "correlation_ids": [id] });
        let inner = if kind == "downlink_failed" { json!({ "downlink": downlink }) } else { downlink };
        json!({ "end_device_ids": ids, "correlation_ids": [id], kind: inner })
    };
    let stranger = json!("tti-connector:00112233445566778899aabbccddeeff");
    for kind in ["downlink_sent", "downlink_ack", "downlink_nack", "downlink_failed", "downlink_queued"] {
        for (application, device) in [(APPLICATION, "liar"), ("elsewhere", "valve"), ("elsewhere", "liar")] {
            assert_eq!(stage.post(&event(application, device, kind, &ours)).await, 202, "{kind} of {device}");
        }
        let namesake = stage.post_as("acme.eu1.example", &event(APPLICATION, "valve", kind, &ours)).await;
        assert_eq!(namesake, 202, "{kind} of a namesake in another tenant");
        let unknown = stage.post(&event(APPLICATION, "valve", kind, &stranger)).await;
        assert_eq!(unknown, 202, "{kind} of no entry");
        assert_eq!(stage.post(&event(APPLICATION, "nobody", kind, &stranger)).await, 202, "{kind} of nobody");
    }
    stage.settled("liar").await;
    assert_eq!(stage.hub().cloud_queue("valve").len(), 1, "nobody proved that it was sent");
    stage.settled("valve").await;
    stage.reported("mine", &["queued", "sent"]).await;
    stage.completed("valve").await;
    let reports = stage.hub().all_events().into_iter();
    let reports: Vec<_> = reports.filter(|event| super::kit::property(event, "kind").is_some()).collect();
    assert_eq!(reports.len(), 2, "{reports:?}");
    stage.until_metric("downlink_forged_events 20").await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downlink_that_was_dropped_with_its_session_is_told_as_invalidated_and_expires() {
    let stage = Stage::new().await;
    stage.meet("valve").await;
    stage.send("valve", "gone", CONFIRMED, "AQ==");
    stage.completed("valve").await;
    stage.stack().join(&name("valve"), Invalidated::Dropped).expect("a device");
    stage.reported("gone", &["queued", "invalidated"]).await;
    let stage = stage.restart(|config| config.downlink.expiry = Duration::from_millis(1)).await;
    stage.reported("gone", &["queued", "invalidated", "expired"]).await;
    stage.end().await;
}
