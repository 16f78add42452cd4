//! Each answer of The Things Stack, and what the hub and the sender are told for it.

use std::time::Duration;

use tokio::time::Instant;
use tti_connector::azure::{CloudMessage, Settlement};
use tti_connector::downlink::{LOCK_MARGIN, MAX_ABANDONS, ReportState};
use tti_connector::things_stack::DownlinkState;

use super::kit::{Disk, LOCK, World, answered, entry_of, message};
use super::network::{Fault, not_now, refused, unsure};

const COMPLETE: Option<Settlement> = Some(Settlement::Complete);
const ABANDON: Option<Settlement> = Some(Settlement::Abandon);

/// The seconds after which a message is given up.
fn given_up_at(seconds: f64) {
    let expected = (LOCK - LOCK_MARGIN).as_secs_f64();
    assert!((expected..expected + 0.5).contains(&seconds), "given up after {seconds} s, not {expected} s");
}

#[tokio::test(start_paused = true)]
async fn a_message_becomes_one_downlink_under_its_own_correlation_id_and_is_completed() {
    let world = World::new();
    let connector = world.start().await;
    let (answer, seconds) = answered(connector.deliver("d-1", message(7, "5")).await).await;
    assert_eq!(answer, COMPLETE);
    assert!(seconds < 0.1, "{seconds}");
    let queued = world.network.queued();
    assert_eq!(queued.len(), 1);
    assert_eq!((queued[0].device.as_str(), queued[0].f_port), ("d-1", 5));
    assert_eq!(queued[0].correlation_ids, [entry_of("d-1", &message(7, "5")).correlation_id()]);
    assert_eq!(world.counts.of("queued:c2d"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_again_is_completed_and_not_pushed_again() {
    let world = World::new();
    let connector = world.start().await;
    for _ in 0..3 {
        assert_eq!(answered(connector.deliver("d-1", message(7, "5")).await).await.0, COMPLETE);
    }
    // The same id from another sender is another message, and so is the same one for another device.
    let other = CloudMessage { sequence_number: Some(8), ..message(7, "5") };
    assert_eq!(answered(connector.deliver("d-1", other).await).await.0, COMPLETE);
    assert_eq!(answered(connector.deliver("d-2", message(7, "5")).await).await.0, COMPLETE);
    assert_eq!(world.network.queued().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn messages_without_an_id_are_told_apart_by_their_number() {
    let world = World::new();
    let connector = world.start().await;
    for number in [1, 2, 2] {
        let nameless = CloudMessage { message_id: None, ..message(number, "5") };
        assert_eq!(answered(connector.deliver("d-1", nameless).await).await.0, COMPLETE);
    }
    assert_eq!(world.network.queued().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_message_is_rejected_and_reported_with_the_reason_under_its_own_id() {
    let world = World::new();
    let connector = world.start().await;
    for _ in 0..2 {
        let (answer, _) = answered(connector.deliver("d-1", message(7, "224")).await).await;
        let Some(Settlement::Reject { reason }) = answer else { panic!("{answer:?}") };
        assert!(reason.contains("Port") && reason.contains("224"), "{reason}");
        let reports = world.kept.reports();
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].state, reports[0].correlation.as_str()), (ReportState::Rejected, "message-7"));
        assert_eq!(reports[0].reason.as_deref(), Some(reason.as_str()));
    }
    assert_eq!(world.network.pushes_tried(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_things_stack_refuses_for_good_is_rejected_and_reported_with_its_reason() {
    for status in [400, 401, 403, 404] {
        let world = World::new();
        let connector = world.start().await;
        world.network.on_push("d-1", [refused(status), Fault::None]);
        for _ in 0..2 {
            let (answer, _) = answered(connector.deliver("d-1", message(7, "5")).await).await;
            assert_eq!(answer, Some(Settlement::Reject { reason: format!("refused with {status}") }));
        }
        let reports = world.kept.reports();
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].reason, Some(format!("refused with {status}")));
        // Rejected stays rejected, though the next push would succeed.
        assert_eq!((world.network.pushes_tried(), world.network.queued().len()), (1, 0));
        assert_eq!(world.counts.of("rejected:refused"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_tried_again_within_the_lock_and_as_late_as_asked() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [not_now(None), not_now(Some(20)), Fault::None]);
    let (answer, seconds) = answered(connector.deliver("d-1", message(7, "5")).await).await;
    assert_eq!(answer, COMPLETE);
    assert!((20.0..24.0).contains(&seconds), "{seconds}");
    assert_eq!((world.network.pushes_tried(), world.network.asked()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_lasts_is_abandoned_late_and_pushed_next_time_without_asking() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [not_now(None)]);
    let (answer, seconds) = answered(connector.deliver("d-1", message(7, "5")).await).await;
    assert_eq!(answer, ABANDON);
    given_up_at(seconds);
    // Not hammered: waits grow to 8 s.
    assert!((8..20).contains(&world.network.pushes_tried()), "{}", world.network.pushes_tried());
    assert_eq!(world.counts.of("abandoned:not_now"), 1);

    world.network.on_push("d-1", [Fault::None]);
    assert_eq!(answered(connector.deliver("d-1", message(7, "5")).await).await.0, COMPLETE);
    assert_eq!((world.network.queued().len(), world.network.asked()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn asked_to_stay_away_beyond_the_lock_a_message_is_still_abandoned_late() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [not_now(Some(3600))]);
    let (answer, seconds) = answered(connector.deliver("d-1", message(7, "5")).await).await;
    assert_eq!(answer, ABANDON);
    given_up_at(seconds);
    assert_eq!(world.network.pushes_tried(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_abandoned_often_is_left_to_its_lock_which_the_hub_does_not_count() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [not_now(None)]);
    let often = CloudMessage { delivery_count: MAX_ABANDONS, ..message(7, "5") };
    let (answer, seconds) = answered(connector.deliver("d-1", often).await).await;
    assert_eq!(answer, None);
    given_up_at(seconds);
    world.network.on_push("d-1", [Fault::None]);
    assert_eq!(answered(connector.deliver("d-1", message(7, "5")).await).await.0, COMPLETE);
    assert_eq!(world.network.queued().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_looked_for_in_the_queue_before_anything_is_pushed() {
    for (fault, pushes) in [(Fault::Loses, 1), (Fault::Fails(unsure()), 2)] {
        let world = World::new();
        let connector = world.start().await;
        world.network.on_push("d-1", [fault, Fault::None]);
        assert_eq!(answered(connector.deliver("d-1", message(7, "5")).await).await.0, COMPLETE);
        assert_eq!((world.network.queued().len(), world.network.asked()), (1, 1));
        assert_eq!(world.network.pushes_tried(), pushes);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_webhook_proves_what_a_lost_answer_did_not() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::Loses]);
    world.network.on_ask("d-1", [Fault::Fails(unsure())]);
    let answer = connector.deliver("d-1", message(7, "5")).await;
    world.network.called(4).await;
    connector.event(&world, 0, DownlinkState::Queued, None).await;
    let (answer, seconds) = answered(answer).await;
    assert_eq!(answer, COMPLETE);
    assert!(seconds < 0.1, "{seconds}");
    assert_eq!(world.network.queued().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_tell_whether_it_is_queued_it_is_never_pushed_again() {
    for ask in [Fault::Fails(unsure()), not_now(None), refused(403), refused(500)] {
        let world = World::new();
        let connector = world.start().await;
        world.network.on_push("d-1", [Fault::Loses]);
        world.network.on_ask("d-1", [ask]);
        for _ in 0..2 {
            let (answer, seconds) = answered(connector.deliver("d-1", message(7, "5")).await).await;
            assert_eq!(answer, ABANDON);
            given_up_at(seconds);
        }
        assert_eq!(world.network.pushes_tried(), 1);
        world.network.on_ask("d-1", [Fault::None]);
        assert_eq!(answered(connector.deliver("d-1", message(7, "5")).await).await.0, COMPLETE);
        assert_eq!(world.network.pushes_tried(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_vanished_after_a_lost_answer_is_rejected() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::Fails(unsure()), refused(404)]);
    world.network.on_ask("d-1", [refused(404)]);
    let (answer, _) = answered(connector.deliver("d-1", message(7, "5")).await).await;
    assert_eq!(answer, Some(Settlement::Reject { reason: "refused with 404".to_owned() }));
}

#[tokio::test(start_paused = true)]
async fn without_a_key_a_message_is_held_and_pushed_when_one_is_learnt() {
    let world = World::new();
    let connector = world.start().await;
    world.network.serve("app", false);
    let (answer, seconds) = answered(connector.deliver("d-1", message(7, "5")).await).await;
    assert_eq!((answer, world.network.pushes_tried()), (ABANDON, 0));
    given_up_at(seconds);
    assert_eq!(world.counts.of("abandoned:no_key"), 1);

    let answer = connector.deliver("d-1", message(7, "5")).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.network.serve("app", true);
    assert_eq!(answered(answer).await.0, COMPLETE);
    assert_eq!((world.network.queued().len(), world.network.asked()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pushed_or_rejected_that_the_ledger_can_not_keep() {
    for port in ["5", "224"] {
        let world = World::new();
        let connector = world.start().await;
        world.kept.set(Disk::Fails);
        let (answer, seconds) = answered(connector.deliver("d-1", message(7, port)).await).await;
        assert_eq!((answer, world.network.pushes_tried()), (ABANDON, 0));
        given_up_at(seconds);
        assert_eq!(world.counts.of("abandoned:unstored"), 1);

        let answer = connector.deliver("d-1", message(7, port)).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        world.kept.set(Disk::Works);
        let answer = answered(answer).await.0;
        assert_eq!(answer == COMPLETE, port == "5", "{answer:?}");
        assert_eq!(world.kept.reports().len(), usize::from(port != "5"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_to_the_hub_only_once_its_report_is_kept() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [refused(400)]);
    world.kept.set(Disk::FailsReports);
    assert_eq!(answered(connector.deliver("d-1", message(7, "5")).await).await.0, ABANDON);
    assert_eq!(answered(connector.deliver("d-1", message(7, "5")).await).await.0, ABANDON);
    world.kept.set(Disk::Works);
    let answer = answered(connector.deliver("d-1", message(7, "5")).await).await.0;
    assert_eq!(answer, Some(Settlement::Reject { reason: "refused with 400".to_owned() }));
    assert_eq!((world.kept.reports().len(), world.network.pushes_tried()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_lock_is_all_but_over_is_not_begun() {
    let world = World::new();
    let connector = world.start().await;
    let began = Instant::now();
    world.network.on_push("d-1", [Fault::Slow(LOCK - LOCK_MARGIN)]);
    let first = connector.deliver("d-1", message(1, "1")).await;
    let second = connector.deliver("d-1", message(2, "2")).await;
    assert_eq!(answered(first).await.0, COMPLETE);
    // Nor is it abandoned, which the hub would count.
    assert_eq!(answered(second).await.0, None);
    assert!(began.elapsed() < LOCK);
    assert_eq!(world.network.ports("d-1"), [1]);
    assert_eq!(world.counts.of("abandoned:late"), 1);
}

#[tokio::test(start_paused = true)]
async fn when_the_link_is_lost_a_waiting_message_ends_and_comes_again() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [not_now(None), Fault::None]);
    drop(connector.deliver("d-1", message(1, "1")).await);
    assert_eq!(answered(connector.deliver("d-1", message(1, "1")).await).await.0, COMPLETE);
    assert_eq!((world.network.queued().len(), world.network.asked()), (1, 0));
}
