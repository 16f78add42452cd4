//! Messages that are completed only when a gateway sent their downlink, or the device acknowledged it.

use tti_connector::azure::{CloudMessage, Settlement};
use tti_connector::config::CompleteOn;
use tti_connector::downlink::LOCK_MARGIN;
use tti_connector::things_stack::DownlinkState;

use super::kit::{Connector, LOCK, World, answered, message};
use super::network::Fault;

const COMPLETE: Option<Settlement> = Some(Settlement::Complete);

fn world(complete_on: CompleteOn) -> World {
    World { complete_on, ..World::new() }
}

fn confirmed(number: u64) -> CloudMessage {
    let mut message = message(number, "5");
    message.properties.push(("Confirmed".to_owned(), "true".to_owned()));
    message
}

/// The hub's lock runs out without an answer.
async fn unanswered(connector: &Connector, message: CloudMessage) {
    let (answer, seconds) = answered(connector.deliver("d-1", message).await).await;
    assert_eq!(answer, None);
    assert!(seconds >= (LOCK - LOCK_MARGIN).as_secs_f64(), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_over_many_locks_and_crashes_for_its_downlink_to_be_sent() {
    let world = world(CompleteOn::Sent);
    let connector = world.start().await;
    unanswered(&connector, message(1, "5")).await;
    unanswered(&connector, message(1, "5")).await;
    connector.crash().await;
    let connector = world.start().await;
    unanswered(&connector, message(1, "5")).await;
    let answer = connector.deliver("d-1", message(1, "5")).await;
    connector.event(&world, 0, DownlinkState::Queued, None).await;
    connector.event(&world, 0, DownlinkState::Sent, None).await;
    assert_eq!(answered(answer).await.0, COMPLETE);
    assert_eq!(world.network.queued().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_one_waits_for_the_acknowledgement_if_that_is_asked_for() {
    for (on, state, completes) in [
        (CompleteOn::Sent, DownlinkState::Sent, true),
        (CompleteOn::Confirmed, DownlinkState::Sent, false),
        (CompleteOn::Confirmed, DownlinkState::Nack, false),
        (CompleteOn::Confirmed, DownlinkState::Ack, true),
    ] {
        let world = world(on);
        let connector = world.start().await;
        let answer = connector.deliver("d-1", confirmed(1)).await;
        world.network.called(1).await;
        connector.event(&world, 0, state, None).await;
        assert_eq!(answered(answer).await.0 == COMPLETE, completes, "{on:?} {state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_one_is_completed_when_sent_also_if_the_event_comes_before_the_answer() {
    let world = world(CompleteOn::Confirmed);
    let connector = world.start().await;
    let answer = connector.deliver("d-1", message(1, "5")).await;
    world.network.called(1).await;
    connector.event(&world, 0, DownlinkState::Sent, None).await;
    assert_eq!(answered(answer).await.0, COMPLETE);

    world.network.on_push("d-2", [Fault::Slow(std::time::Duration::from_secs(1))]);
    let message = message(1, "5");
    let answer = connector.deliver("d-2", message.clone()).await;
    world.network.called(2).await;
    let ids = [super::kit::entry_of("d-2", &message).correlation_id()];
    connector.event_of("d-2", &ids, DownlinkState::Sent, None).await;
    let (answer, seconds) = answered(answer).await;
    assert_eq!(answer, COMPLETE);
    assert!(seconds < 2.0, "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_downlink_that_fails_rejects_its_message_with_the_reason() {
    let world = world(CompleteOn::Confirmed);
    let connector = world.start().await;
    let answer = connector.deliver("d-1", confirmed(1)).await;
    world.network.called(1).await;
    connector.event(&world, 0, DownlinkState::Failed, Some("ns:max_retries: too many")).await;
    let rejected = Some(Settlement::Reject { reason: "ns:max_retries: too many".to_owned() });
    assert_eq!(answered(answer).await.0, rejected);
    // And again, should the hub not have heard.
    assert_eq!(answered(connector.deliver("d-1", confirmed(1)).await).await.0, rejected);
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_message_was_completed_for_being_queued_changes_nothing_for_the_hub() {
    let world = world(CompleteOn::Queued);
    let connector = world.start().await;
    assert_eq!(answered(connector.deliver("d-1", confirmed(1)).await).await.0, COMPLETE);
    connector.event(&world, 0, DownlinkState::Failed, Some("as told")).await;
    assert_eq!(answered(connector.deliver("d-1", confirmed(1)).await).await.0, COMPLETE);
}

#[tokio::test(start_paused = true)]
async fn several_messages_of_a_device_wait_at_once_and_were_pushed_in_order() {
    let world = world(CompleteOn::Sent);
    let connector = world.start().await;
    let mut answers = Vec::new();
    for number in 1..=5 {
        answers.push(connector.deliver("d-1", message(number, &number.to_string())).await);
    }
    world.network.called(5).await;
    assert_eq!(world.network.ports("d-1"), [1, 2, 3, 4, 5]);
    for n in 0..5 {
        connector.event(&world, n, DownlinkState::Sent, None).await;
    }
    for answer in answers {
        assert_eq!(answered(answer).await.0, COMPLETE);
    }
}
