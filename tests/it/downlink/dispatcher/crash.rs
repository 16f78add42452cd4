//! A crash between any two steps: everything in memory is gone, the hub hands the message out again.

use tokio_util::sync::CancellationToken;
use tti_connector::azure::Settlement;
use tti_connector::downlink::recollect;
use tti_connector::things_stack::DownlinkState;

use super::kit::{Connector, Disk, World, answered, message};
use super::network::{Fault, unsure};

/// Where the connector is when it crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    BeforeEntry,
    AfterEntry,
    BeforePush,
    AfterPush,
    AfterQueuedEvent,
    BeforeQuestion,
    AfterCompletion,
}

const ALL: [At; 7] = [
    At::BeforeEntry,
    At::AfterEntry,
    At::BeforePush,
    At::AfterPush,
    At::AfterQueuedEvent,
    At::BeforeQuestion,
    At::AfterCompletion,
];

/// Runs until there and crashes. What does not come to pass any more (a push, when it is queued) ends in completion.
async fn run_until(world: &World, at: At) {
    let connector = world.start().await;
    let (writes, asked) = (world.kept.writes(), world.network.asked());
    let calls = world.network.pushes_tried() + asked;
    match at {
        At::BeforeEntry => world.kept.set(Disk::HangsBefore),
        At::AfterEntry => world.kept.set(Disk::HangsAfter),
        At::BeforePush => world.network.on_push("d-1", [Fault::Hangs]),
        At::AfterPush | At::AfterQueuedEvent => world.network.on_push("d-1", [Fault::HangsAfter]),
        At::BeforeQuestion => {
            world.network.on_push("d-1", [Fault::Loses]);
            world.network.on_ask("d-1", [Fault::Hangs]);
        }
        At::AfterCompletion => {}
    }
    let mut answer = connector.deliver("d-1", message(7, "5")).await;
    let there = async {
        match at {
            At::BeforeEntry | At::AfterEntry => world.kept.written(writes + 1).await,
            At::BeforePush | At::AfterPush | At::AfterQueuedEvent => push_after(world, calls).await,
            At::BeforeQuestion => world.network.asked_more_than(asked).await,
            At::AfterCompletion => std::future::pending().await,
        }
    };
    tokio::select! {
        () = there => {}
        answer = &mut answer => assert_eq!(answer, Ok(Settlement::Complete), "{at:?}"),
        // It hangs for good in an earlier step than the one meant.
        () = tokio::time::sleep(std::time::Duration::from_secs(50)) => {}
    }
    if at == At::AfterQueuedEvent && !world.network.queued().is_empty() {
        connector.event(world, 0, DownlinkState::Queued, None).await;
    }
    connector.crash().await;
    world.kept.set(Disk::Works);
    world.network.on_push("d-1", [Fault::None]);
    world.network.on_ask("d-1", [Fault::None]);
}

/// Waits for a call of The Things Stack, and lets it take effect.
async fn push_after(world: &World, calls: usize) {
    world.network.called(calls + 1).await;
    tokio::task::yield_now().await;
}

async fn redeliver(connector: &Connector) -> Option<Settlement> {
    answered(connector.deliver("d-1", message(7, "5")).await).await.0
}

#[tokio::test(start_paused = true)]
async fn however_often_and_wherever_it_crashes_there_is_one_downlink() {
    for first in ALL {
        for second in ALL {
            let world = World::new();
            run_until(&world, first).await;
            run_until(&world, second).await;
            let connector = world.start().await;
            assert_eq!(redeliver(&connector).await, Some(Settlement::Complete), "{first:?}, {second:?}");
            assert_eq!(world.network.queued().len(), 1, "{first:?}, {second:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_event_proved_before_the_crash_needs_no_question_after_it() {
    let world = World::new();
    run_until(&world, At::AfterQueuedEvent).await;
    let connector = world.start().await;
    assert_eq!(redeliver(&connector).await, Some(Settlement::Complete));
    assert_eq!((world.network.queued().len(), world.network.asked()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_on_disk_is_not_reported_twice_after_a_crash() {
    let world = World::new();
    let connector = world.start().await;
    world.kept.set(Disk::HangsAfter);
    let answer = connector.deliver("d-1", message(7, "0")).await;
    world.kept.written(1).await;
    connector.crash().await;
    drop(answer);
    world.kept.set(Disk::Works);
    let connector = world.start().await;
    let answer = answered(connector.deliver("d-1", message(7, "0")).await).await.0;
    assert!(matches!(answer, Some(Settlement::Reject { .. })), "{answer:?}");
    assert_eq!(world.kept.reports().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_a_crash_cut_off_is_looked_for_at_once_and_its_absence_believed_a_second_later() {
    for (at, seconds, asked) in [(At::AfterPush, 0.0, 1), (At::BeforePush, 1.0, 2)] {
        let world = World::new();
        run_until(&world, at).await;
        let connector = world.start().await;
        let (answer, took) = answered(connector.deliver("d-1", message(7, "5")).await).await;
        // Pauses are a little longer by chance.
        assert_eq!((answer, took.floor()), (Some(Settlement::Complete), seconds), "{at:?}");
        assert_eq!((world.network.queued().len(), world.network.asked()), (1, asked), "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_start_all_pushes_that_were_cut_off_are_looked_for_before_their_messages_come_again() {
    for (at, reports, asked_in_all) in [(At::AfterPush, 1, 1), (At::BeforePush, 0, 3)] {
        let world = World::new();
        run_until(&world, at).await;
        let connector = world.start().await;
        recollect(&world.network, &connector.ledger, CancellationToken::new()).await;
        assert_eq!((world.network.asked(), world.kept.reports().len()), (1, reports), "{at:?}");
        assert_eq!(redeliver(&connector).await, Some(Settlement::Complete), "{at:?}");
        assert_eq!((world.network.queued().len(), world.network.asked()), (1, asked_in_all), "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_looked_for_after_a_start_is_left_to_its_message() {
    let world = World::new();
    run_until(&world, At::AfterPush).await;
    let connector = world.start().await;
    world.network.serve("app", false);
    recollect(&world.network, &connector.ledger, CancellationToken::new()).await;
    assert_eq!(world.network.asked(), 0, "no key is known yet");
    world.network.serve("app", true);
    world.network.on_ask("d-1", [Fault::Fails(unsure())]);
    recollect(&world.network, &connector.ledger, CancellationToken::new()).await;
    world.network.on_ask("d-1", [Fault::None]);
    assert_eq!((world.network.asked(), world.kept.reports().len()), (1, 0));
    assert_eq!(redeliver(&connector).await, Some(Settlement::Complete));
    assert_eq!(world.network.queued().len(), 1);
}
