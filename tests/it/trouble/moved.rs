//! A hub that is gone for good: DPS gives its devices to another one, and they follow with all that waits.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tti_connector::app::Connector;
use tti_connector::emulator::{Fault, FaultKind};

use crate::messages::{DEADLINE, uplink};
use crate::way_back::kit::{APPLICATION, Stage, config, message, property};
use crate::world::{Poster, World, frame_counter};

const DEVICES: usize = 12;
/// Frames while the hubs are as they were, while one is away, and after DPS has moved its devices.
const FRAMES: [u32; 3] = [2, 4, 6];
const FOR_EVER: Duration = Duration::from_secs(3600);

fn name(device: usize) -> String {
    format!("dev-{device}")
}

/// Frames by device in the order they came to all hubs together.
fn arrived(world: &World) -> BTreeMap<String, Vec<u64>> {
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    // The first hub's come first, for it is the one that was left.
    let events = world.emulator.hubs().iter().flat_map(|hub| hub.all_events());
    for event in events.filter(|event| property(event, "kind").is_none()) {
        seen.entry(event.device_id.clone()).or_default().push(frame_counter(&event));
    }
    seen
}

/// Posts these frames of all devices.
async fn post(stage: &Stage, frames: RangeInclusive<u32>) {
    let poster = Poster::to(&stage.connector);
    for frame in frames {
        for device in 0..DEVICES {
            assert_eq!(poster.post(&uplink(APPLICATION, &name(device), frame)).await, 202);
        }
    }
}

/// Waits until so many frames of all devices arrived.
async fn until(stage: &Stage, frames: u32) {
    stage
        .until(|| {
            let seen = arrived(&stage.world);
            let has_all = |device| seen.get(&name(device)).is_some_and(|all| all.len() >= frames as usize);
            (0..DEVICES).all(has_all).then_some(())
        })
        .await;
}

/// Two hubs with devices that have sent a little; gives those of the first one, too.
async fn stage() -> (Stage, Vec<String>) {
    let world = World::new(2).await;
    let mut settings = config(&world);
    settings.azure.relocate_after = Duration::from_secs(1);
    let connector = Connector::start(settings).await.expect("the connector starts");
    let stage = Stage { world, connector };
    post(&stage, 1..=FRAMES[0]).await;
    until(&stage, FRAMES[0]).await;
    let first = stage.world.hub(0);
    let there: Vec<_> = (0..DEVICES).map(name).filter(|device| first.device(device).is_some()).collect();
    assert!(!there.is_empty() && there.len() < DEVICES, "DPS spreads them: {there:?}");
    (stage, there)
}

fn assert_complete(stage: &Stage, frames: u32) {
    let expected: Vec<u64> = (1..=u64::from(frames)).collect();
    for (device, seen) in arrived(&stage.world) {
        assert_eq!(seen, expected, "{device}");
    }
}

#[tokio::test]
async fn devices_follow_when_dps_gives_them_to_another_hub_than_the_one_that_is_gone() {
    let (stage, moving) = stage().await;
    let (first, second) = (stage.world.hub(0), stage.world.hub(1));
    first.inject(Fault::new(FaultKind::HubDown).lasting(FOR_EVER)).expect("a sound fault");
    post(&stage, FRAMES[0] + 1..=FRAMES[1]).await;
    for device in &moving {
        first.inject(Fault::new(FaultKind::HubMoved).of(device).lasting(FOR_EVER)).expect("a sound fault");
    }
    post(&stage, FRAMES[1] + 1..=FRAMES[2]).await;
    until(&stage, FRAMES[2]).await;
    assert_complete(&stage, FRAMES[2]);
    assert!(moving.iter().all(|device| second.device(device).is_some()));
    // What the cloud sends comes by the new hub.
    for device in &moving {
        let command = message(&format!("to-{device}"), &[("Port", "2")], "AQ==");
        second.send_cloud_message(device, command).expect("the hub takes it");
    }
    stage.until(|| moving.iter().all(|device| second.cloud_queue(device).is_empty()).then_some(())).await;
    stage.end().await;
}

#[tokio::test]
async fn a_hub_that_dps_still_names_is_waited_for_and_dps_asked_about_one_device_only() {
    let (stage, _) = stage().await;
    let asked = || stage.world.emulator.dps().calls().registers;
    let before = asked();
    stage.world.hub(0).inject(Fault::new(FaultKind::HubDown).lasting(FOR_EVER)).expect("a sound fault");
    post(&stage, FRAMES[0] + 1..=FRAMES[1]).await;
    let probed = async {
        while asked() == before {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, probed).await.expect("DPS is asked about a hub that is gone");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(asked(), before + 1, "one device, and then a pause");
    stage.world.hub(0).end_faults();
    until(&stage, FRAMES[1]).await;
    assert_complete(&stage, FRAMES[1]);
    stage.end().await;
}
