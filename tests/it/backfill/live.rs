//! Live uplinks while thousands are backfilled.
//!
//! `TTI_BACKFILL_ROWS=5000 cargo test backfill::live` is the full size.

use std::time::{Duration, Instant};

use tti_connector::backfill::Order;
use tti_connector::emulator::things_stack::Uplink;

use super::kit::{DELAY, on, until_metric};
use crate::crash::from_env;
use crate::messages::uplink;
use crate::way_back::kit::{APPLICATION, Stage, config, name};
use crate::world::Poster;

const LIVE: u32 = 60;

/// From the post to the hub's acceptance, sorted.
async fn latencies(stage: &Stage, first: u32) -> Vec<Duration> {
    let poster = Poster::to(&stage.connector);
    let mut all = Vec::new();
    for f_cnt in first..first + LIVE {
        let began = Instant::now();
        let (status, told) = poster.post_and_wait(&uplink(APPLICATION, "live", f_cnt)).await;
        assert_eq!(status, 200, "{told}");
        all.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn live_uplinks_do_not_wait_for_backfilled_ones() {
    let rows = from_env("TTI_BACKFILL_ROWS", 1500);
    let stage = Stage::with(|config| {
        on(config);
        config.backfill.rate = 500;
        // A narrow way to the hub: whoever waits in line for it waits long.
        config.uplink.max_in_flight = 8;
    })
    .await;
    for device in ["live", "old-1", "old-2", "old-3"] {
        stage.hub().create_device(device, None).expect("a new device");
    }
    stage.stack().set_webhook(None).expect("none is sound");
    for n in 0..rows {
        stage.stack().uplink(&name(&format!("old-{}", n % 3 + 1)), &Uplink::default()).expect("a device");
    }
    tokio::time::sleep(DELAY).await;
    let alone = latencies(&stage, 1).await;
    let mut settings = config(&stage.world);
    on(&mut settings);
    let order = Order {
        application: APPLICATION.to_owned(),
        device: None,
        since_ms: jiff::Timestamp::now().as_millisecond() - 3_600_000,
        until_ms: None,
        dry_run: false,
        may_double: false,
    };
    let began = Instant::now();
    let ordered = tokio::spawn(async move {
        let mut out = Vec::new();
        tti_connector::cli::backfill::run(&settings, &order, &mut out).await.map(|()| out)
    });
    until_metric(&stage.connector, "backfill_sent_messages_total", 1).await;
    let beside = latencies(&stage, 1 + LIVE).await;
    assert!(!ordered.is_finished(), "the backfill was over before the live uplinks were: too few rows");
    let out = ordered.await.expect("no panic").expect("done");
    assert!(String::from_utf8_lossy(&out).contains(&format!("{rows} on their way")), "all of them");
    assert_eq!(until_metric(&stage.connector, "backfill_sent_messages_total", rows).await, rows);
    let at = |all: &[Duration], percent: usize| all[all.len() * percent / 100];
    println!(
        "{rows} rows in {:?}; live p50 {:?} and p95 {:?} alone, {:?} and {:?} beside",
        began.elapsed(),
        at(&alone, 50),
        at(&alone, 95),
        at(&beside, 50),
        at(&beside, 95)
    );
    // Generous, as the machine is shared; a line of backfilled ones would be hundreds of messages long.
    let most = at(&alone, 95) * 5 + Duration::from_millis(250);
    assert!(at(&beside, 95) < most, "{:?} beside, {:?} alone", at(&beside, 95), at(&alone, 95));
    let gone: Vec<_> = (1..=3).map(|n| stage.telemetry(&format!("old-{n}")).len()).collect();
    assert_eq!(gone.iter().sum::<usize>() as u64, rows, "each once: {gone:?}");
    stage.end().await;
}
