//! The connector was away.

use super::kit::{arrived, counters, marked, metric, on, plain, stage, until_metric};
use crate::way_back::kit::{Stage, name};
use tti_connector::emulator::things_stack::{Storage, Uplink};

#[tokio::test(flavor = "multi_thread")]
async fn what_came_while_the_connector_was_away_follows_its_start() {
    let stage = stage(&["valve-1", "valve-2"]).await;
    let meanwhile = |world: &crate::world::World| {
        let stack = world.emulator.things_stack().expect("it was asked for");
        for _ in 0..3 {
            stack.uplink(&name("valve-1"), &Uplink::default()).expect("a device");
        }
        stack.uplink(&name("valve-2"), &Uplink::default()).expect("a device");
    };
    let stage = stage.restart_after(meanwhile, on).await;
    assert_eq!(arrived(&stage, "valve-1", 4).await, [plain([0]), marked(1..=3)].concat());
    assert_eq!(arrived(&stage, "valve-2", 2).await, [plain([0]), marked([1])].concat());
    // A second start fetches the same time again, and knows all of it.
    let stage = stage.restart_after(|_| (), on).await;
    stage.hello("valve-1");
    arrived(&stage, "valve-1", 5).await;
    stage.hello("valve-1");
    assert_eq!(arrived(&stage, "valve-1", 6).await, [plain([0]), marked(1..=3), plain([4, 5])].concat());
    assert_eq!(metric(&stage.connector, "backfill_queued_messages_total").await, 0);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_while_away_is_counted_by_the_first_uplink_after_it() {
    let stage = stage(&["valve-1"]).await;
    stage.stack().set_storage(Storage { enabled: true, keep: 2 }).expect("sound");
    let meanwhile = |world: &crate::world::World| {
        let stack = world.emulator.things_stack().expect("it was asked for");
        for _ in 0..6 {
            stack.uplink(&name("valve-1"), &Uplink::default()).expect("a device");
        }
    };
    let stage = stage.restart_after(meanwhile, on).await;
    assert_eq!(arrived(&stage, "valve-1", 3).await, [plain([0]), marked([5, 6])].concat());
    stage.hello("valve-1");
    assert_eq!(arrived(&stage, "valve-1", 4).await.last(), Some(&(7, false)));
    // Of 1 to 6 the last was still kept when the gap was looked at; 5 had made room by then, but is known.
    let lost = "backfill_lost_messages_total{reason=\"no_longer_stored\"}";
    assert_eq!(until_metric(&stage.connector, lost, 4).await, 4);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_on_later_it_sends_nothing_of_the_time_before() {
    let stage = Stage::new().await;
    stage.meet("valve-1").await;
    let meanwhile = |world: &crate::world::World| {
        let stack = world.emulator.things_stack().expect("it was asked for");
        stack.uplink(&name("valve-1"), &Uplink::default()).expect("a device");
    };
    let stage = stage.restart_after(meanwhile, on).await;
    stage.hello("valve-1");
    arrived(&stage, "valve-1", 2).await;
    stage.settled("valve-1").await;
    // 1 was missed before; 0 was sent, and is not remembered.
    let stage = stage.restart_after(|_| (), on).await;
    stage.settled("valve-1").await;
    assert_eq!(counters(&stage, "valve-1"), plain([0, 2, 3, 4]));
    assert_eq!(metric(&stage.connector, "backfill_queued_messages_total").await, 0);
    stage.end().await;
}
