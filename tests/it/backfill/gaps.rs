//! Gaps in frame counters while the connector runs.

use serde_json::Value;
use tti_connector::emulator::things_stack::{Invalidated, Storage, Uplink};

use super::kit::{arrived, counters, marked, metric, missed, on, plain, stage, told, until_metric};
use crate::way_back::kit::{Stage, name, property};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_webhook_missed_comes_once_marked_with_its_own_time_and_in_order() {
    let stage = stage(&["valve-1", "valve-2"]).await;
    stage.hello("valve-1");
    arrived(&stage, "valve-1", 2).await;
    missed(&stage, "valve-1", 5);
    told(&stage, 8).await;
    let stored: Vec<_> = stage.told("uplink_message").iter().map(|delivery| delivery.body.clone()).collect();
    stage.point_webhook();
    stage.hello("valve-1");
    stage.hello("valve-2");
    let seen = arrived(&stage, "valve-1", 8).await;
    assert_eq!(seen, [plain([0, 1, 7]), marked(2..=6)].concat());
    for event in stage.telemetry("valve-1").iter().filter(|event| property(event, "Backfilled").is_some()) {
        let body: Value = serde_json::from_slice(&event.body).expect("JSON");
        let of = |row: &&std::sync::Arc<Value>| {
            row["uplink_message"]["f_cnt"] == body["FrameCounter"]
                && row["end_device_ids"]["device_id"] == "valve-1"
        };
        let original = stored.iter().find(of).expect("stored")["uplink_message"]["received_at"].clone();
        let original = &original.as_str().expect("a text")[..23];
        assert_eq!(body["ReceivedAtUtc"], format!("{original}Z"));
        assert_eq!(property(event, "iothub-creation-time-utc"), Some(format!("{original}Z")));
    }
    assert_eq!(counters(&stage, "valve-2"), plain([0, 1]));
    assert_eq!(until_metric(&stage.connector, "backfill_sent_messages_total", 5).await, 5);
    assert_eq!(metric(&stage.connector, "backfill_gaps_total").await, 1);
    stage.hello("valve-1");
    assert_eq!(arrived(&stage, "valve-1", 9).await.last(), Some(&(8, false)));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_of_many_devices_are_filled_by_one_reading_of_the_application() {
    let devices: Vec<String> = (0..12).map(|n| format!("valve-{n}")).collect();
    let stage = stage(&devices.iter().map(String::as_str).collect::<Vec<_>>()).await;
    stage.stack().set_webhook(None).expect("none is sound");
    for device in &devices {
        stage.uplink(device, Uplink::default());
        stage.uplink(device, Uplink::default());
    }
    told(&stage, 36).await;
    stage.point_webhook();
    for device in &devices {
        stage.hello(device);
    }
    for device in &devices {
        assert_eq!(arrived(&stage, device, 4).await, [plain([0, 3]), marked([1, 2])].concat(), "{device}");
    }
    assert_eq!(metric(&stage.connector, "backfill_queued_messages_total").await, 24);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_stored_is_counted_as_lost_and_the_rest_comes() {
    let stage = stage(&["valve-1"]).await;
    stage.stack().set_storage(Storage { enabled: true, keep: 3 }).expect("sound");
    missed(&stage, "valve-1", 9);
    told(&stage, 10).await;
    stage.point_webhook();
    stage.hello("valve-1");
    // 1 to 9 were missed; 8, 9 and the one behind them are kept.
    until_metric(&stage.connector, "backfill_lost_messages_total{reason=\"no_longer_stored\"}", 7).await;
    assert_eq!(arrived(&stage, "valve-1", 4).await, [plain([0, 10]), marked([8, 9])].concat());
    assert_eq!(metric(&stage.connector, "backfill_lost_messages_total{reason=\"never_stored\"}").await, 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejoin_is_no_gap_but_a_gap_in_the_new_session_brings_what_was_missed_around_it() {
    let stage = stage(&["valve-1"]).await;
    missed(&stage, "valve-1", 1);
    stage.stack().join(&name("valve-1"), Invalidated::Hidden).expect("a device");
    stage.hello("valve-1");
    told(&stage, 3).await;
    stage.point_webhook();
    stage.hello("valve-1");
    // Old session: 0 came, 1 did not. New one: 0 did not, 1 came.
    assert_eq!(arrived(&stage, "valve-1", 2).await, plain([0, 1]));
    assert_eq!(metric(&stage.connector, "backfill_gaps_total").await, 0);
    missed(&stage, "valve-1", 1);
    told(&stage, 5).await;
    stage.point_webhook();
    stage.hello("valve-1");
    let seen = arrived(&stage, "valve-1", 6).await;
    assert_eq!(seen, [plain([0, 1, 3]), marked([1, 0, 2])].concat());
    assert_eq!(metric(&stage.connector, "backfill_gaps_total").await, 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_the_webhook_that_comes_later_is_recognised() {
    // Beyond the window of repeated posts, too: what was fetched is remembered much longer.
    let stage = Stage::with(|config| {
        on(config);
        config.spool.dedup_window = std::time::Duration::ZERO;
    })
    .await;
    stage.meet("valve-1").await;
    missed(&stage, "valve-1", 2);
    told(&stage, 3).await;
    let late: Vec<_> = stage.told("uplink_message").iter().map(|delivery| delivery.body.clone()).collect();
    stage.point_webhook();
    stage.hello("valve-1");
    arrived(&stage, "valve-1", 4).await;
    for body in &late {
        assert_eq!(stage.post(body).await, 202);
    }
    stage.settled("valve-1").await;
    assert_eq!(counters(&stage, "valve-1"), [plain([0, 3]), marked([1, 2]), plain([4])].concat());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_backfill_nothing_is_asked_and_nothing_comes() {
    let stage = Stage::new().await;
    stage.meet("valve-1").await;
    missed(&stage, "valve-1", 2);
    told(&stage, 3).await;
    stage.point_webhook();
    stage.hello("valve-1");
    assert_eq!(arrived(&stage, "valve-1", 2).await, plain([0, 3]));
    assert_eq!(metric(&stage.connector, "backfill_gaps_total").await, 0);
    stage.end().await;
}
