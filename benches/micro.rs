//! The pure parts of an uplink's way, and the spool's append, each alone: what one costs without sockets and processes.
//!
//! `cargo bench --bench micro`. The append's figure is for one record of a batch that shares its sync.

#[path = "support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use tokio::task::JoinSet;
use tti_connector::azure::{SigningKey, sas};
use tti_connector::config::{self, TelemetryFormat};
use tti_connector::model::{Clock, EndDevice};
use tti_connector::spool::{DedupKey, NewRecord, Spool};
use tti_connector::things_stack::{Envelope, Uplink};
use tti_connector::uplink::translate;

fn main() {
    divan::main();
}

fn device() -> EndDevice {
    EndDevice::new("", "soak", "sensor-00001").expect("valid")
}

/// What the webhook reads of a message.
#[divan::bench]
fn parse_envelope(bencher: Bencher) {
    let body = support::body(1, 1_000_000);
    bencher.bench(|| Envelope::parse(black_box(body.as_bytes())).expect("an uplink").kind);
}

/// By what a repeated post is recognised.
#[divan::bench]
fn dedup_key(bencher: Bencher) {
    let body = support::body(1, 1_000_000);
    let envelope = Envelope::parse(body.as_bytes()).expect("an uplink");
    let device = device();
    bencher.bench(|| envelope.dedup_key(black_box(&device), body.as_bytes()));
}

/// What the translation reads.
#[divan::bench]
fn parse_uplink(bencher: Bencher) {
    let body = support::body(1, 1_000_000);
    bencher.bench(|| Uplink::parse(black_box(body.as_bytes())).expect("an uplink").envelope.kind);
}

/// From the stored body to telemetry, reading included.
#[divan::bench(args = [TelemetryFormat::Connector, TelemetryFormat::ThingsStack, TelemetryFormat::Decoded])]
fn translate_uplink(bencher: Bencher, format: TelemetryFormat) {
    let body = support::body(1, 1_000_000);
    let device = device();
    bencher.bench(|| translate(black_box(body.as_bytes()), &device, 1_793_000_000_000, format));
}

/// A device's token.
#[divan::bench]
fn sign_token(bencher: Bencher) {
    let key = SigningKey::from_base64("c2VjcmV0IG9mIDMyIGJ5dGVzIGZvciB0aGUgYmVuY2g=").expect("base64");
    bencher.bench(|| {
        sas::sign(black_box("hub.azure-devices.net/devices/sensor-00001"), &key, 1_793_000_000, None)
    });
}

/// Durable: each resolves after its commit is synced.
#[divan::bench(args = [1, 64, 1024], sample_count = 20, sample_size = 1)]
fn append_durably(bencher: Bencher, at_once: u64) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = config::Spool {
        directory: dir.path().join("spool"),
        max_bytes: 8 << 30,
        max_messages: 5_000_000,
        dedup_window: Duration::from_secs(5400),
        parked_max_messages: 100_000,
        parked_max_bytes: 512 << 20,
        memory_bytes: 32 << 20,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (spool, _claim) = Spool::open(&config, Clock::system()).expect("a spool");
    let next = AtomicU64::new(0);
    bencher.counter(ItemsCount::new(at_once)).bench(|| {
        runtime.block_on(async {
            let mut appends = JoinSet::new();
            for number in 0..at_once {
                let spool = spool.clone();
                let unique = next.fetch_add(1, Ordering::Relaxed);
                let mut dedup = [0; 16];
                dedup[..8].copy_from_slice(&unique.to_le_bytes());
                let record = NewRecord {
                    lane: format!("\u{1f}soak\u{1f}sensor-{number:05}").into(),
                    group: "soak".into(),
                    dedup: Some(DedupKey(dedup)),
                    body: support::body(number, unique).into(),
                    waiter: None,
                };
                appends.spawn(async move { spool.append(record).await.expect("room") });
            }
            while let Some(append) = appends.join_next().await {
                append.expect("no panic");
            }
        });
    });
    runtime.block_on(spool.close());
}
