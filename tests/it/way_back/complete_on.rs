//! `downlink.complete_on`: a message stays at the hub until its downlink was sent, or confirmed.

use tti_connector::config::CompleteOn;
use tti_connector::emulator::Fate;
use tti_connector::emulator::things_stack::{Class, Uplink};
use tti_connector::model::Clock;

use super::kit::{Stage, name};
use crate::world::World;

const UNCONFIRMED: &[(&str, &str)] = &[("Port", "1")];
const CONFIRMED: &[(&str, &str)] = &[("Port", "1"), ("Confirmed", "true")];

async fn stage(on: CompleteOn) -> Stage {
    let stage = Stage::with(|config| config.downlink.complete_on = on).await;
    stage.meet("valve").await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sent_messages_stay_locked_side_by_side_until_each_was_sent() {
    let stage = stage(CompleteOn::Sent).await;
    for id in ["one", "two"] {
        stage.send("valve", id, CONFIRMED, "AQ==");
    }
    for id in ["one", "two"] {
        stage.reported(id, &["queued"]).await;
    }
    assert!(stage.hub().cloud_queue("valve").iter().all(|queued| queued.locked));
    stage.hello("valve");
    let one_left = || {
        let queue = stage.hub().cloud_queue("valve");
        (queue.len() == 1).then(|| queue[0].message.message_id.clone())
    };
    assert_eq!(stage.until(one_left).await.as_deref(), Some("two"));
    stage.hello("valve");
    stage.completed("valve").await;
    assert_eq!(stage.pushed().len(), 2);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_confirmed_a_message_stays_locked_until_the_device_acknowledged() {
    let stage = stage(CompleteOn::Confirmed).await;
    stage.set_class("valve", Class::C);
    stage.send("valve", "sure", CONFIRMED, "AQ==");
    stage.reported("sure", &["queued", "sent"]).await;
    stage.uplink("valve", Uplink { ack: Some(false), ..Uplink::default() });
    stage.reported("sure", &["queued", "sent", "nack", "sent"]).await;
    let waiting = stage.hub().cloud_queue("valve");
    assert!(waiting.len() == 1 && waiting[0].locked && waiting[0].delivery_count == 0, "{waiting:?}");
    stage.hello("valve");
    stage.reported("sure", &["queued", "sent", "nack", "sent", "ack"]).await;
    stage.completed("valve").await;
    // What needs no acknowledgement is done when it was sent.
    stage.send("valve", "once", UNCONFIRMED, "AQ==");
    stage.completed("valve").await;
    stage.reported("once", &["queued", "sent"]).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downlink_that_fails_rejects_the_message_with_the_reason() {
    let stage = stage(CompleteOn::Confirmed).await;
    stage.set_class("valve", Class::C);
    stage.send("valve", "lost", CONFIRMED, "AQ==");
    stage.reported("lost", &["queued", "sent"]).await;
    let unheard = Uplink { ack: Some(false), ..Uplink::default() };
    for _ in 0..8 {
        stage.uplink("valve", unheard.clone());
    }
    let letter = stage.dead("valve", "lost").await;
    let told = letter.description.expect("a description");
    assert_eq!((letter.fate, letter.queued.delivery_count), (Fate::Rejected, 0));
    assert!(told.contains("max_retries_reached"), "{told}");
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_downlink_rejects_the_message_it_came_from() {
    let stage = stage(CompleteOn::Sent).await;
    stage.send("valve", "old", UNCONFIRMED, "AQ==");
    stage.reported("old", &["queued"]).await;
    stage.send("valve", "new", &[("Port", "1"), ("Queue", "Replace")], "Ag==");
    let letter = stage.dead("valve", "old").await;
    assert_eq!(letter.description.as_deref(), Some("a later downlink replaced it in the queue"));
    assert_eq!(stage.reported("old", &["queued", "replaced"]).await["Reason"], "replaced by new");
    stage.hello("valve");
    stage.reported("new", &["queued", "sent"]).await;
    stage.until(|| stage.hub().cloud_queue("valve").is_empty().then_some(())).await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_whose_locks_run_out_come_again_and_are_completed_after_all() {
    let now_ms = i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("a time").as_millis()).expect("fits");
    let clock = Clock::manual(now_ms);
    let hubs = clock.clone();
    let world = World::with(1, |options| options.clock = hubs).await;
    let stage = Stage::on(world, |config| config.downlink.complete_on = CompleteOn::Sent).await;
    stage.meet("valve").await;
    stage.send("valve", "patient", UNCONFIRMED, "AQ==");
    stage.reported("patient", &["queued"]).await;
    for _ in 0..3 {
        clock.advance(60_000);
        // That lock is over; this is the next one.
        stage.until(|| stage.hub().cloud_queue("valve")[0].locked.then_some(())).await;
    }
    stage.hello("valve");
    stage.completed("valve").await;
    stage.reported("patient", &["queued", "sent"]).await;
    assert_eq!(stage.pushed().len(), 1, "handed out again and again, pushed once");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_survives_restarts_and_is_completed_at_once_if_it_was_sent_meanwhile() {
    let on_sent = |config: &mut tti_connector::config::Config| config.downlink.complete_on = CompleteOn::Sent;
    let stage = stage(CompleteOn::Sent).await;
    stage.send("valve", "asleep", UNCONFIRMED, "AQ==");
    stage.reported("asleep", &["queued"]).await;
    let stage = stage.restart(on_sent).await;
    stage.until(|| stage.hub().cloud_queue("valve")[0].locked.then_some(())).await;
    stage.hello("valve");
    stage.completed("valve").await;
    stage.reported("asleep", &["queued", "sent"]).await;
    assert!(stage.stack().queue(&name("valve")).is_empty());
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}
