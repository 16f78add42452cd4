//! A graceful stop: nothing new, what is on its way may end, the rest comes again from the hub.

use std::time::Duration;

use tokio::time::Instant;
use tti_connector::azure::Settlement;
use tti_connector::config::CompleteOn;

use super::kit::{World, answered, message};
use super::network::{Fault, not_now};

#[tokio::test(start_paused = true)]
async fn a_push_under_way_ends_and_what_waits_comes_again() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::Slow(Duration::from_secs(3)), Fault::None]);
    world.network.on_push("d-2", [not_now(None), Fault::None]);
    let under_way = connector.deliver("d-1", message(1, "1")).await;
    let behind = connector.deliver("d-1", message(2, "2")).await;
    let in_retry = connector.deliver("d-2", message(3, "3")).await;
    world.network.called(2).await;
    connector.stop.cancel();
    let began = Instant::now();
    assert_eq!(answered(under_way).await.0, Some(Settlement::Complete));
    assert_eq!((answered(behind).await.0, answered(in_retry).await.0), (None, None));
    connector.task.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(connector.events.is_closed());

    let connector = world.start().await;
    for (device, number, port) in [("d-1", 2, "2"), ("d-2", 3, "3")] {
        let answer = answered(connector.deliver(device, message(number, port)).await).await.0;
        assert_eq!(answer, Some(Settlement::Complete));
    }
    assert_eq!((world.network.ports("d-1"), world.network.ports("d-2")), (vec![1, 2], vec![3]));
}

#[tokio::test(start_paused = true)]
async fn a_push_without_an_answer_is_given_up_when_patience_ends() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::HangsAfter, Fault::None]);
    let answer = connector.deliver("d-1", message(1, "1")).await;
    world.network.called(1).await;
    let began = Instant::now();
    connector.stop.cancel();
    connector.task.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(answered(answer).await.0, None);
    let connector = world.start().await;
    let answer = answered(connector.deliver("d-1", message(1, "1")).await).await.0;
    assert_eq!((answer, world.network.queued().len()), (Some(Settlement::Complete), 1));
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_an_event_and_calls_under_way_do_not_hold_up_a_stop_beyond_patience() {
    let world = World { complete_on: CompleteOn::Sent, ..World::new() };
    let connector = world.start().await;
    let waits = connector.deliver("d-1", message(1, "1")).await;
    world.network.called(1).await;
    world.gate.open.send_replace(false);
    let call = connector.call("d-1", "valve").await;
    world.gate.begun(1).await;
    connector.stop.cancel();
    assert_eq!(answered(waits).await, (None, 0.0));
    world.gate.open.send_replace(true);
    assert_eq!(call.await.unwrap().status, 200);
    connector.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_ends_by_itself_when_nothing_more_can_come() {
    let world = World::new();
    let connector = world.start().await;
    let answer = connector.deliver("d-1", message(1, "1")).await;
    drop(connector.events);
    assert_eq!(answered(answer).await.0, Some(Settlement::Complete));
    connector.task.await.unwrap();
}
