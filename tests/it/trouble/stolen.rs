//! Two connectors on the same devices: no ping-pong, nothing lost, and soon alone again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tti_connector::app::Connector;

use crate::messages::{DEADLINE, uplink};
use crate::way_back::kit::{APPLICATION, Stage, config};
use crate::world::{Poster, frame_counter};

const DEVICES: [&str; 3] = ["one", "two", "three"];
/// Longer than it takes both to take the devices from one another with pauses of a second.
const FIGHT: Duration = Duration::from_secs(3);

/// A gauge of the connector's.
async fn gauge(poster: &Poster, connector: &Connector, name: &str) -> u64 {
    let text = poster.metrics(connector).await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("tti_connector_{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[tokio::test]
async fn two_connectors_on_the_same_devices_do_not_fight_for_ever_and_lose_nothing() {
    let stage = Stage::with_dps(1).await;
    let mut other = config(&stage.world);
    other.spool.directory = stage.world.dir.path().join("other-spool");
    let other = Connector::start(other).await.expect("a second connector starts");
    let (ours, theirs) = (Poster::to(&stage.connector), Poster::to(&other));

    // Odd frames go to ours, even ones to theirs, as if each had a part of the gateways.
    let began = Instant::now();
    let mut frames = 0;
    while began.elapsed() < FIGHT {
        for poster in [&ours, &theirs] {
            frames += 1;
            for device in DEVICES {
                assert_eq!(poster.post(&uplink(APPLICATION, device, frames)).await, 202);
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    let devices = DEVICES.len() as u64;
    let mut takeovers = 0;
    for (poster, connector) in [(&ours, &stage.connector), (&theirs, &other)] {
        let count = gauge(poster, connector, "device_takeovers").await;
        assert!(count <= 2 * devices, "{count} takeovers in {FIGHT:?}");
        takeovers += count;
    }
    assert!(takeovers >= devices, "nobody fought: {takeovers}");
    let alarms = gauge(&ours, &stage.connector, "contended_devices").await
        + gauge(&theirs, &other, "contended_devices").await;
    assert!(alarms >= devices, "an operator sees nothing: {alarms}");

    // The other goes away once its messages are out; ours then has the devices again, and sends what it kept.
    let of = |parity: u64| {
        let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for event in stage.hub().all_events() {
            let frame = frame_counter(&event);
            let frames = seen.entry(event.device_id).or_default();
            // What was under way when the link was taken may come twice.
            if frame % 2 == parity && !frames.contains(&frame) {
                frames.push(frame);
            }
        }
        seen
    };
    let expected =
        |parity: u64| -> Vec<u64> { (1..=u64::from(frames)).filter(|frame| frame % 2 == parity).collect() };
    let complete = |parity: u64| {
        let seen = of(parity);
        DEVICES
            .iter()
            .all(|device| seen.get(*device).is_some_and(|seen| seen.len() == expected(parity).len()))
    };
    stage.until(|| complete(0).then_some(())).await;
    other.stop().await;
    let alone = Instant::now();
    stage.until(|| complete(1).then_some(())).await;
    // The pause that ours may be in is about as long as the fight lasted.
    assert!(alone.elapsed() < DEADLINE / 2, "{:?}", alone.elapsed());
    for parity in [0, 1] {
        for (device, seen) in of(parity) {
            assert_eq!(seen, expected(parity), "in order, {device}");
        }
    }
    // What the cloud sends comes to ours, too.
    for device in DEVICES {
        stage.send(device, &format!("to-{device}"), &[("Port", "2")], "AQ==");
        stage.until(|| stage.hub().cloud_queue(device).is_empty().then_some(())).await;
    }
    stage.end().await;
}
