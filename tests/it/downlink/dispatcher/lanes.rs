//! Lanes: a device's order, and devices that don't wait for each other.

use std::time::Duration;

use tokio::time::Instant;
use tti_connector::azure::Settlement;

use super::kit::{World, answered, hub_device, message};
use super::network::{Fault, not_now};
use tti_connector::iot_hub::DeviceEvent;

const COMPLETE: Option<Settlement> = Some(Settlement::Complete);

#[tokio::test(start_paused = true)]
async fn messages_of_a_device_are_pushed_in_their_order_whatever_fails() {
    let world = World::new();
    let connector = world.start().await;
    let faults = [
        not_now(Some(2)),
        Fault::Slow(Duration::from_secs(3)),
        Fault::Loses,
        not_now(None),
        Fault::Slow(Duration::from_secs(1)),
        Fault::None,
    ];
    world.network.on_push("d-1", faults);
    let mut answers = Vec::new();
    for number in 1..=8 {
        answers.push(connector.deliver("d-1", message(number, &number.to_string())).await);
    }
    for answer in answers {
        assert_eq!(answered(answer).await.0, COMPLETE);
    }
    assert_eq!(world.network.ports("d-1"), [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn nothing_overtakes_a_message_that_is_abandoned() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [not_now(None)]);
    let first = connector.deliver("d-1", message(1, "1")).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let second = connector.deliver("d-1", message(2, "2")).await;
    assert_eq!(answered(first).await.0, Some(Settlement::Abandon));
    // Not begun, and not counted by the hub.
    assert_eq!(answered(second).await, (None, 0.0));
    world.network.on_push("d-1", [Fault::None]);
    for number in [1, 2] {
        let port = number.to_string();
        assert_eq!(answered(connector.deliver("d-1", message(number, &port)).await).await.0, COMPLETE);
    }
    assert_eq!(world.network.ports("d-1"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_waits_delays_no_other() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [not_now(Some(3600))]);
    world.network.on_push("d-2", [Fault::Hangs]);
    let began = Instant::now();
    let mut waiting = Vec::new();
    for number in 1..=20 {
        for device in ["d-1", "d-2"] {
            waiting.push(connector.deliver(device, message(number, "1")).await);
        }
        let answer = connector.deliver("d-3", message(number, "1")).await;
        assert_eq!(answered(answer).await.0, COMPLETE);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(world.network.ports("d-3").len(), 20);
}

#[tokio::test(start_paused = true)]
async fn what_comes_beyond_a_devices_queue_is_left_to_its_lock_and_the_rest_goes_on() {
    let world = World::new();
    let connector = world.start().await;
    world.network.on_push("d-1", [Fault::Slow(Duration::from_secs(20)), Fault::None]);
    let mut answers = Vec::new();
    for number in 0..60 {
        answers.push(connector.deliver("d-1", message(number, "1")).await);
    }
    let mut completed = 0;
    for answer in answers {
        completed += usize::from(answered(answer).await.0 == COMPLETE);
    }
    // One under way, fifty behind it.
    assert_eq!((completed, world.counts.of("abandoned:overload")), (51, 9));
}

#[tokio::test(start_paused = true)]
async fn what_comes_for_a_stranger_is_left_to_the_hub() {
    let world = World::new();
    let connector = world.start().await;
    assert_eq!(answered(connector.deliver("nobody", message(1, "1")).await).await, (None, 0.0));
    let reply = connector.call("nobody", "downlink").await.await.unwrap();
    assert_eq!(reply.status, 503);
    connector.events.send(lost("nobody")).await.unwrap();
    assert_eq!(answered(connector.deliver("d-1", message(1, "1")).await).await.0, COMPLETE);
    assert!(world.directory.lost.lock().unwrap().is_empty());
}

fn lost(device: &str) -> DeviceEvent {
    let reason = tti_connector::model::ParkReason::DeviceUnknown;
    DeviceEvent::Lost { device: hub_device(device), reason, detail: "as told".to_owned() }
}
