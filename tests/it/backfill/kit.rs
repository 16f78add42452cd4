//! What the tests of backfill share.

use std::time::Duration;

use tti_connector::app::Connector;
use tti_connector::config::Config;
use tti_connector::emulator::Event;

use crate::messages::DEADLINE;
use crate::way_back::kit::{APPLICATION, Stage, property};
use crate::world::{Poster, frame_counter};

/// Long enough that nothing is fetched before a test has said all it wants to say.
pub(super) const DELAY: Duration = Duration::from_millis(100);

/// Switches backfill on, fast.
pub(super) fn on(config: &mut Config) {
    config.things_stack.applications.get_mut(APPLICATION).expect("configured").backfill = true;
    config.backfill.delay = DELAY;
    config.backfill.rate = 1000;
}

/// A stage with it, and devices that were met.
pub(super) async fn stage(devices: &[&str]) -> Stage {
    let stage = Stage::with(on).await;
    for device in devices {
        stage.meet(device).await;
    }
    stage
}

/// Frame counters of a device's telemetry in the order of arrival, and whether they are marked.
pub(super) fn counters(stage: &Stage, device: &str) -> Vec<(u64, bool)> {
    stage.telemetry(device).iter().map(counter).collect()
}

pub(super) fn counter(event: &Event) -> (u64, bool) {
    let mark = property(event, "Backfilled");
    assert!(mark.as_deref().is_none_or(|mark| mark == "true"), "{mark:?}");
    (frame_counter(event), mark.is_some())
}

/// Waits until so much telemetry of a device is at the hub; gives its counters.
pub(super) async fn arrived(stage: &Stage, device: &str, count: usize) -> Vec<(u64, bool)> {
    stage.until(|| (stage.telemetry(device).len() >= count).then_some(())).await;
    counters(stage, device)
}

/// So many uplinks that the webhook does not get.
pub(super) fn missed(stage: &Stage, device: &str, count: u32) {
    stage.stack().set_webhook(None).expect("none is sound");
    for _ in 0..count {
        stage.hello(device);
    }
}

/// Waits until the emulated Things Stack has tried to post so many uplinks in all.
pub(super) async fn told(stage: &Stage, count: usize) {
    stage.until(|| (stage.told("uplink_message").len() >= count).then_some(())).await;
}

/// The value of a metric, named without prefix; 0 if it is not there.
pub(super) async fn metric(connector: &Connector, name: &str) -> u64 {
    let metrics = Poster::to(connector).metrics(connector).await;
    let named = |line: &str| line.strip_prefix("tti_connector_")?.strip_prefix(name)?.trim().parse().ok();
    metrics.lines().find_map(named).unwrap_or(0)
}

/// Waits until a metric has at least this value; nothing tells when they change.
pub(super) async fn until_metric(connector: &Connector, name: &str, least: u64) -> u64 {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let value = metric(connector, name).await;
        if value >= least {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "{name} is {value}, not {least}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Live ones.
pub(super) fn plain(counters: impl IntoIterator<Item = u64>) -> Vec<(u64, bool)> {
    counters.into_iter().map(|counter| (counter, false)).collect()
}

/// Backfilled ones.
pub(super) fn marked(counters: impl IntoIterator<Item = u64>) -> Vec<(u64, bool)> {
    counters.into_iter().map(|counter| (counter, true)).collect()
}
