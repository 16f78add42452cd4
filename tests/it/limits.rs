//! The connector against hubs with the limits of a tier: it keeps to them, reconnects nobody, loses and disorders nothing.

mod outage;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tti_connector::app::Connector;
use tti_connector::azure;
use tti_connector::emulator::{Hub, Tier, TierSettings, Traffic};
use tti_connector::model::{Clock, Secret};

use crate::messages::{DEADLINE, uplink};
use crate::world::{Poster, World, frame_counter};

const APPLICATION: &str = "app";

fn name(device: usize) -> String {
    format!("device-{device}")
}

/// Makes devices at a hub.
fn make(hub: &Hub, devices: usize) {
    for device in 0..devices {
        hub.create_device(&name(device), None).expect("a new device");
    }
}

/// Posts uplinks with these frame counters of each device, all devices side by side.
async fn post(poster: &Poster, devices: usize, counters: std::ops::RangeInclusive<u32>) {
    let posts = (0..devices).map(async |device| {
        for f_cnt in counters.clone() {
            assert_eq!(poster.post(&uplink(APPLICATION, &name(device), f_cnt)).await, 202);
        }
    });
    futures_util::future::join_all(posts).await;
}

/// Waits until `look` finds something.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// All messages of all devices are there, each once and in its order.
fn all_there_once_and_in_order(hub: &Hub, devices: usize, last: u32) {
    let mut counters: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in hub.all_events() {
        counters.entry(event.device_id.clone()).or_default().push(frame_counter(&event));
    }
    assert_eq!(counters.len(), devices);
    for (device, counters) in counters {
        assert_eq!(counters, (1..=u64::from(last)).collect::<Vec<_>>(), "{device}");
    }
}

async fn arrived(hub: &Hub, count: u64) -> Traffic {
    let mut arrivals = hub.arrivals();
    let all = arrivals.wait_for(|arrived| *arrived >= count);
    tokio::time::timeout(DEADLINE, all).await.expect("all arrive in time").expect("the hub lives");
    hub.traffic()
}

/// S1's rates times `speed`, a burst of one second.
fn s1(speed: f64) -> TierSettings {
    TierSettings {
        speed,
        burst: Duration::from_secs(1),
        max_delay: Duration::from_millis(500),
        ..TierSettings::new(Tier::S1, 1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_the_configured_tier_never_has_to_throttle() {
    const DEVICES: usize = 120;
    let world = World::new(1).await;
    make(world.hub(0), DEVICES);
    // A busy machine may hold some messages back and let them go with the next ones.
    world.hub(0).set_tier(TierSettings { burst: Duration::from_secs(2), ..s1(1.0) });
    let mut config = world.config_with_policy();
    config.azure.tier = Some(azure::Tier::S1);
    let connector = Connector::start(config).await.expect("the connector starts");
    let began = Instant::now();
    post(&Poster::to(&connector), DEVICES, 1..=3).await;
    let traffic = arrived(world.hub(0), DEVICES as u64 * 3).await;
    // 360 messages: a burst of 95, then 95 a second.
    assert!(began.elapsed() >= Duration::from_millis(2_500), "{:?}", began.elapsed());
    all_there_once_and_in_order(world.hub(0), DEVICES, 3);
    assert_eq!((traffic.telemetry.throttled, traffic.connects.throttled, traffic.connections), (0, 0, 1));
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttling_hub_is_paced_down_to_without_reconnects_and_drains_when_the_limit_is_lifted() {
    // Each has one message under way: far more than the hub makes wait before it refuses.
    const DEVICES: usize = 200;
    const EACH: u32 = 5;
    let world = World::new(1).await;
    let hub = world.hub(0);
    make(hub, DEVICES);
    let connector = Connector::start(world.config_with_policy()).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    // All are connected before the limit comes.
    post(&poster, DEVICES, 1..=1).await;
    arrived(hub, DEVICES as u64).await;
    hub.set_tier(s1(1.0));
    let began = Instant::now();
    post(&poster, DEVICES, 2..=EACH).await;
    until("it throttles", async || (hub.traffic().telemetry.throttled > 0).then_some(())).await;
    sleep(Duration::from_secs(2)).await;
    let under_limit = hub.traffic();
    let passed = began.elapsed().as_secs_f64();
    let most = DEVICES as f64 + 100.0 * (passed + 1.5);
    assert!((under_limit.telemetry.accepted as f64) < most, "{under_limit:?} after {passed} s");
    let metrics = poster.metrics(&connector).await;
    assert!(metrics.contains("tti_connector_hub_pace_messages_per_second{hub=\"localhost\"}"), "{metrics}");
    hub.set_tier(TierSettings::default());
    let traffic = arrived(hub, DEVICES as u64 * u64::from(EACH)).await;
    println!(
        "throttled {} of {}, in {:?}",
        traffic.telemetry.throttled,
        DEVICES as u32 * EACH,
        began.elapsed()
    );
    all_there_once_and_in_order(hub, DEVICES, EACH);
    // Those under way while the pace was learnt, and few later.
    assert!(traffic.telemetry.throttled <= DEVICES as u64 * 2 + 30, "{traffic:?}");
    assert_eq!((traffic.connections, traffic.connects.accepted), (1, DEVICES as u64), "no reconnect");
    assert_eq!(poster.ready(&connector).await.0, 200);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_day_is_waited_for_quietly_and_all_is_sent_after_midnight() {
    const DEVICES: usize = 20;
    const EACH: u32 = 5;
    const DAY_MS: i64 = 24 * 3_600_000;
    // A second before a midnight that is over, so that tokens of the present time are valid.
    let today = Clock::system().now_ms().div_euclid(DAY_MS) * DAY_MS;
    let clock = Clock::manual(today - 1_000);
    let world = World::with(1, |options| options.clock = clock.clone()).await;
    let hub = world.hub(0);
    make(hub, DEVICES);
    hub.set_tier(TierSettings { daily_messages: Some(60), ..s1(50.0) });
    let connector = Connector::start(world.config_with_policy()).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    post(&poster, DEVICES, 1..=EACH).await;
    let used_up = "tti_connector_hub_quota_used_up{hub=\"localhost\"} 1";
    until("the quota is told", async || poster.metrics(&connector).await.contains(used_up).then_some(()))
        .await;
    sleep(Duration::from_secs(2)).await;
    let traffic = hub.traffic();
    assert_eq!((traffic.telemetry.accepted, traffic.used_today), (60, 60));
    // Each device once, as it was under way; once more if the hub's last acceptance is heard of after its first refusal; and
    // a few that asked.
    let quiet = DEVICES as u64 * 2 + 5;
    assert!(traffic.telemetry.over_quota <= quiet, "{traffic:?}");
    assert_eq!(poster.ready(&connector).await.0, 200);
    clock.advance(2_000);
    let traffic = arrived(hub, DEVICES as u64 * u64::from(EACH)).await;
    all_there_once_and_in_order(hub, DEVICES, EACH);
    assert!(traffic.telemetry.over_quota <= quiet + 3, "{traffic:?}");
    assert_eq!((traffic.connections, traffic.connects.accepted), (1, DEVICES as u64), "no reconnect");
    let back = "tti_connector_hub_quota_used_up{hub=\"localhost\"} 0";
    until("its end is told", async || poster.metrics(&connector).await.contains(back).then_some(())).await;
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_throttles_leaves_the_latency_at_another_alone() {
    const BUSY: usize = 40;
    let world = World::new(2).await;
    let (busy, quiet) = (world.hub(0), world.hub(1));
    make(busy, BUSY);
    quiet.create_device("calm", None).expect("a new device");
    let mut config = world.config_with_policy();
    let string = quiet.connection_string("iothubowner").expect("a policy");
    let azure = config.azure.applications.entry("calm".to_owned()).or_default();
    azure.iot_hub.connection_string = Some(Secret::new(string));
    let connector = Connector::start(config).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    let mut f_cnt = 0;
    let mut p99 = async || {
        let mut took = Vec::new();
        for _ in 0..60 {
            f_cnt += 1;
            let began = Instant::now();
            let (status, _) = poster.post_and_wait(&uplink("calm", "calm", f_cnt)).await;
            assert_eq!(status, 200);
            took.push(began.elapsed());
        }
        took.sort_unstable();
        took[took.len() - 1 - took.len() / 100]
    };
    // The first one opens the link.
    p99().await;
    let before = p99().await;
    busy.set_tier(TierSettings { max_delay: Duration::ZERO, ..s1(0.1) });
    post(&poster, BUSY, 1..=5).await;
    until("it throttles", async || (busy.traffic().telemetry.throttled > 0).then_some(())).await;
    let during = p99().await;
    println!("p99 at the other hub: {before:?} before, {during:?} during");
    // Neither is throttled nor waits for the other; the rest is noise of the machine.
    assert!(during <= before * 3 + Duration::from_millis(250), "{before:?} before, {during:?} during");
    assert!(busy.traffic().telemetry.accepted < 200, "it was throttled all the while");
    let (busy_traffic, calm) = (busy.traffic(), quiet.traffic());
    assert_eq!((busy_traffic.connections, calm.connections, calm.telemetry.throttled), (1, 1, 0));
    connector.stop().await;
}
