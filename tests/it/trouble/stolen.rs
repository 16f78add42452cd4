//! Two connectors on the same devices: no ping-pong, nothing lost, and soon alone again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tti_connector::app::Connector;

use crate::messages::{DEADLINE, uplink};
use crate::way_back::kit::{APPLICATION, Stage, config, property};
use crate::world::{Poster, World, frame_counter};

const DEVICES: [&str; 3] = ["one", "two", "three"];
/// After which times in a fight one may have taken a device back once more: the sums of the pauses.
const TAKEOVERS_AT: [u64; 5] = [1, 4, 13, 40, 121];

/// A gauge of the connector's.
async fn gauge(connector: &Connector, name: &str) -> u64 {
    let text = Poster::to(connector).metrics(connector).await;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("tti_connector_{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn most_takeovers(within: Duration) -> u64 {
    TAKEOVERS_AT.iter().filter(|at| **at <= within.as_secs()).count() as u64
}

/// Frames by device as they arrived: odd ones are ours, even ones the other connector's. What was under way when the
/// link was taken may come twice.
fn arrived(world: &World, parity: u64) -> BTreeMap<String, Vec<u64>> {
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in world.hub(0).all_events() {
        if property(&event, "kind").is_some() {
            continue;
        }
        let frame = frame_counter(&event);
        let frames = seen.entry(event.device_id).or_default();
        if frame % 2 == parity && !frames.contains(&frame) {
            frames.push(frame);
        }
    }
    seen
}

/// Waits until all of one's frames are at the hub; checks their order.
async fn all_arrived(world: &World, parity: u64, last: u32) {
    let expected: Vec<u64> = (1..=u64::from(last)).filter(|frame| frame % 2 == parity).collect();
    let mut arrivals = world.hub(0).arrivals();
    let complete = async {
        loop {
            let seen = arrived(world, parity);
            if DEVICES.iter().all(|device| seen.get(*device).is_some_and(|seen| seen.len() == expected.len()))
            {
                return seen;
            }
            arrivals.changed().await.expect("the hub lives");
        }
    };
    for (device, seen) in timeout(DEADLINE, complete).await.expect("nothing is lost") {
        assert_eq!(seen, expected, "in order, {device}");
    }
}

#[tokio::test]
async fn two_connectors_on_the_same_devices_do_not_fight_for_ever_and_lose_nothing() {
    let stage = Stage::with_dps(1).await;
    let mut other_config = config(&stage.world);
    other_config.spool.directory = stage.world.dir.path().join("other-spool");
    let other = Connector::start(other_config.clone()).await.expect("a second connector starts");
    let (ours, theirs) = (Poster::to(&stage.connector), Poster::to(&other));

    // As if each had a part of the gateways. It goes on until an operator sees that they fight.
    let devices = DEVICES.len() as u64;
    let connectors = [&stage.connector, &other];
    let began = Instant::now();
    let mut frames = 0;
    let (mut takeovers, mut alarms) = (0, 0);
    while alarms < devices {
        assert!(began.elapsed() < DEADLINE, "nobody fought: {takeovers} takeovers, {alarms} alarms");
        for poster in [&ours, &theirs] {
            frames += 1;
            for device in DEVICES {
                assert_eq!(poster.post(&uplink(APPLICATION, device, frames)).await, 202);
            }
        }
        sleep(Duration::from_millis(100)).await;
        (takeovers, alarms) = (0, 0);
        for connector in connectors {
            let count = gauge(connector, "device_takeovers").await;
            assert!(count <= devices * most_takeovers(began.elapsed()), "{count} in {:?}", began.elapsed());
            takeovers += count;
            alarms += gauge(connector, "contended_devices").await;
        }
    }
    assert!(takeovers >= devices, "{takeovers}");

    // The other goes away: soon ours has the devices again, sends what it kept, and takes what the cloud sends.
    other.stop().await;
    let alone = Instant::now();
    all_arrived(&stage.world, 1, frames).await;
    assert!(alone.elapsed() < DEADLINE / 3, "{:?}", alone.elapsed());
    for device in DEVICES {
        stage.send(device, &format!("to-{device}"), &[("Port", "2")], "AQ==");
        stage.until(|| stage.hub().cloud_queue(device).is_empty().then_some(())).await;
    }
    // Then the other is alone, with what it had kept.
    let Stage { world, connector } = stage;
    connector.stop().await;
    let other = Connector::start(other_config).await.expect("it starts again");
    all_arrived(&world, 0, frames).await;
    other.stop().await;
    world.emulator.shutdown().await;
}
