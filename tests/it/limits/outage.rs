//! A day without the hub, on a clock that runs faster: what came in meanwhile is all kept, then drained at the tier's pace.
//!
//! 4,000 uplinks, or `TTI_OUTAGE_UPLINKS` (the day of the pass mark has 8,640,000: `benches/outage.rs`).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tti_connector::app::Connector;
use tti_connector::azure;
use tti_connector::emulator::{Tier, TierSettings};
use tti_connector::model::{Clock, EndDevice};
use tti_connector::spool::{NewRecord, Spool};

use super::{APPLICATION, all_there_once_and_in_order, make, name};
use crate::messages::{DEADLINE, uplink};
use crate::world::{Poster, World};

const DEVICES: usize = 200;
/// 600 messages a second.
const UNITS: u32 = 5;
const DAY_MS: i64 = 24 * 3_600_000;
/// Written to the spool at once.
const TOGETHER: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_day_without_the_hub_is_kept_and_drained_at_the_pace_of_the_tier() {
    let uplinks = std::env::var("TTI_OUTAGE_UPLINKS").ok().and_then(|text| text.parse().ok());
    let uplinks: usize = uplinks.unwrap_or(4_000).max(DEVICES) / DEVICES * DEVICES;
    let world = World::new(1).await;
    let hub = world.hub(0);
    make(hub, DEVICES);
    let mut config = world.config_with_policy();
    (config.azure.tier, config.azure.units) = (Some(azure::Tier::S2), UNITS);
    config.spool.max_messages = config.spool.max_messages.max(uplinks as u64);

    // The day: its uplinks come one by one, in a time of their own.
    let clock = Clock::manual(Clock::system().now_ms() - DAY_MS);
    let (spool, claim) = Spool::open(&config.spool, clock.clone()).expect("a spool");
    let began = Instant::now();
    for first in (0..uplinks).step_by(TOGETHER) {
        let together = (first..uplinks.min(first + TOGETHER)).map(|index| {
            let device = EndDevice::new("", APPLICATION, &name(index % DEVICES)).expect("valid");
            let f_cnt = u32::try_from(index / DEVICES + 1).expect("small");
            clock.advance(DAY_MS / uplinks as i64);
            spool.append(NewRecord {
                lane: device.key().into(),
                group: APPLICATION.into(),
                dedup: None,
                body: Bytes::from(uplink(APPLICATION, device.device_id(), f_cnt).to_string()),
                waiter: None,
            })
        });
        for stored in futures_util::future::join_all(together).await {
            stored.expect("stored");
        }
    }
    let stored = began.elapsed();
    drop(claim);
    spool.close().await;

    hub.set_tier(TierSettings { burst: Duration::from_secs(1), ..TierSettings::new(Tier::S2, UNITS) });
    let began = Instant::now();
    let connector = Connector::start(config).await.expect("the connector starts");
    assert_eq!(connector.spool().stats().pending, uplinks as u64, "all are kept");
    let mut arrivals = hub.arrivals();
    let all = arrivals.wait_for(|arrived| *arrived >= uplinks as u64);
    let patience = DEADLINE + Duration::from_millis(uplinks as u64 * 10);
    tokio::time::timeout(patience, all).await.expect("all drain in time").expect("the hub lives");
    let (took, traffic) = (began.elapsed(), hub.traffic());
    println!(
        "{uplinks} uplinks of a day: stored in {stored:?}, drained in {took:?}, {} throttled",
        traffic.telemetry.throttled
    );
    // A second's worth at once, then 570 a second.
    let least = Duration::from_secs_f64((uplinks as f64 / 570.0 - 1.0).max(0.0));
    assert!(took >= least.mul_f64(0.95), "{took:?}, not {least:?}: faster than the tier");
    assert_eq!((traffic.telemetry.throttled, traffic.connects.throttled, traffic.connections), (0, 0, 1));
    if uplinks <= 100_000 {
        all_there_once_and_in_order(hub, DEVICES, u32::try_from(uplinks / DEVICES).expect("small"));
    }
    assert_eq!(Poster::to(&connector).ready(&connector).await.0, 200);
    connector.stop().await;
}
