//! A day without the hub at 100 uplinks a second: all are posted while it is away, as fast as they are taken, and drained
//! at the pace of the hub's tier once it is back. Says whether the connector keeps all, keeps to the tier, and grows.
//!
//! `cargo bench --bench outage` (environment: `OUTAGE_UPLINKS`, `OUTAGE_DEVICES`, `OUTAGE_UNITS` of an S2 hub). The day has
//! 8,640,000 uplinks; 1,000,000 are the default. Linux only: reads /proc. The connector is a process of its own; generator
//! and emulated hub share this one.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::{Running, connect_with, free_port, from_env, metric, post};
use tti_connector::emulator::{Emulator, Hub, Options, PARTITIONS, Tier};

const CONNECTIONS: u64 = 64;

/// Reads what arrives before the emulated hub lets it go, and holds it against the order sent.
#[derive(Default)]
struct Reader {
    next: [i64; PARTITIONS],
    last: HashMap<String, u64>,
    arrived: u64,
    doubled: u64,
}

impl Reader {
    fn read(&mut self, hub: &Hub) {
        for partition in 0..PARTITIONS {
            loop {
                let events = hub.events(partition, self.next[partition], 10_000);
                let (Some(first), Some(last)) = (events.first(), events.last()) else { break };
                assert_eq!(first.sequence_number, self.next[partition], "read too late");
                self.next[partition] = last.sequence_number + 1;
                for event in events {
                    let body: serde_json::Value = serde_json::from_slice(&event.body).expect("JSON");
                    let f_cnt = body["FrameCounter"].as_u64().expect("a counter");
                    let last = self.last.entry(event.device_id).or_default();
                    if f_cnt == *last {
                        self.doubled += 1;
                        continue;
                    }
                    assert_eq!(f_cnt, *last + 1, "out of order, or lost");
                    *last = f_cnt;
                    self.arrived += 1;
                }
            }
        }
    }
}

fn options(dir: &Path, amqp_port: u16, https_port: u16, units: u32) -> Options {
    Options { amqp_port, https_port, tier: Tier::S2, units, ..Options::new(dir) }
}

fn emulator(runtime: &tokio::runtime::Runtime, options: Options) -> Emulator {
    let emulator = runtime.block_on(Emulator::start(options)).expect("the emulator starts");
    emulator.ready().write(&emulator_dir(&emulator)).expect("written");
    emulator
}

fn emulator_dir(emulator: &Emulator) -> std::path::PathBuf {
    Path::new(&emulator.ready().ca_file).parent().expect("a folder").to_owned()
}

fn spool_mb(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir.join("spool")).expect("the spool");
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum::<u64>() >> 20
}

fn rss_mb(connector: &Running) -> u64 {
    connector.status_kb("VmRSS") / 1024
}

fn main() {
    let devices = from_env("OUTAGE_DEVICES", 1_000);
    let each = (from_env("OUTAGE_UPLINKS", 1_000_000) / devices).max(1);
    let units = u32::try_from(from_env("OUTAGE_UNITS", 20)).expect("a number of units");
    let uplinks = devices * each;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let hub_dir = dir.path().join("emulator");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");

    let before = emulator(&runtime, options(&hub_dir, 0, 0, units));
    let ready: serde_json::Value = serde_json::to_value(before.ready()).expect("JSON");
    let ports = (before.ready().hubs[0].amqp_port, before.ready().https_port);
    let (webhook, admin) = (free_port(), free_port());
    let units_text = units.to_string();
    let connector = connect_with(
        dir.path(),
        &ready,
        webhook,
        admin,
        &[
            ("TTI_CONNECTOR__AZURE__TIER", "s2"),
            ("TTI_CONNECTOR__AZURE__UNITS", &units_text),
            ("TTI_CONNECTOR__SPOOL__MAX_BYTES", "64 GiB"),
            ("TTI_CONNECTOR__SPOOL__MAX_MESSAGES", "20000000"),
            // The day is posted in minutes; 90 of its own have 540,000 uplinks.
            ("TTI_CONNECTOR__SPOOL__DEDUP_WINDOW", "1m"),
        ],
    );
    // Every device is known, then the hub goes away.
    let mut reader = Reader::default();
    post(webhook, devices, &(1..=1), CONNECTIONS).finish();
    while reader.arrived < devices {
        reader.read(&before.hubs()[0]);
        thread::sleep(Duration::from_millis(50));
    }
    runtime.block_on(before.shutdown());
    let at_start = rss_mb(&connector);

    let began = Instant::now();
    post(webhook, devices, &(2..=each + 1), CONNECTIONS).finish();
    let stored_in = began.elapsed().as_secs_f64();
    let at_full = rss_mb(&connector);
    println!(
        "{uplinks} uplinks stored in {stored_in:.1} s ({:.0}/s), spool {} MB, RSS {at_start} MB before, {at_full} MB now",
        uplinks as f64 / stored_in,
        spool_mb(dir.path())
    );

    let after = emulator(&runtime, options(&hub_dir, ports.0, ports.1, units));
    let hub = Arc::clone(&after.hubs()[0]);
    reader.next = [0; PARTITIONS];
    let (began, mut peak, mut next) = (Instant::now(), at_full, 0);
    let mut fastest: f64 = 0.0;
    let mut last = (Instant::now(), reader.arrived);
    println!("  drained  seconds  a second  throttled  RSS MB  spool MB");
    while reader.arrived < devices + uplinks {
        reader.read(&hub);
        let rss = rss_mb(&connector);
        peak = peak.max(rss);
        let passed = last.0.elapsed().as_secs_f64();
        if passed >= 10.0 {
            fastest = fastest.max((reader.arrived - last.1) as f64 / passed);
            last = (Instant::now(), reader.arrived);
        }
        let drained = reader.arrived - devices;
        if drained >= next {
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "{drained:>9}  {seconds:>7.1}  {:>8.0}  {:>9}  {rss:>6}  {:>8}",
                drained as f64 / seconds.max(0.001),
                hub.traffic().telemetry.throttled,
                spool_mb(dir.path())
            );
            next += (uplinks / 10).max(1);
        }
        assert!(began.elapsed() < Duration::from_secs(4 * 3600), "{drained} of {uplinks} after four hours");
        thread::sleep(Duration::from_millis(100));
    }
    let took = began.elapsed().as_secs_f64();
    let traffic = hub.traffic();
    println!(
        "\ndrained {uplinks} in {took:.1} s: {:.0} a second of {} allowed; {fastest:.0} in the fastest 10 s",
        uplinks as f64 / took,
        120 * units
    );
    println!(
        "throttled {} messages and {} connects; {} AMQP connections after the outage; {} doubled",
        traffic.telemetry.throttled, traffic.connects.throttled, traffic.connections, reader.doubled
    );
    println!(
        "in order, none lost; the connector says {} sent",
        metric(admin, "tti_connector_hub_sent_messages_total")
    );
    println!(
        "connector RSS {at_start} MB before, {at_full} MB with all in the spool, {peak} MB at most, {} MB at the end",
        rss_mb(&connector)
    );
    runtime.block_on(after.shutdown());
}
