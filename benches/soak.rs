//! A long run: a million uplinks of a thousand devices through `run` against `emulate`, as separate processes with TLS
//! and the durable spool. Says whether the connector grows.
//!
//! `cargo bench --bench soak` (environment: `SOAK_UPLINKS`, `SOAK_DEVICES`, `SOAK_CONNECTIONS`). Linux only: reads /proc.
//! Generator, connector and emulator share the machine, so rates are lower bounds; CPU and memory are the connector's own.

mod support;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use support::{connect, emulate, free_port, from_env, metric, post};

fn spool_bytes(spool: &PathBuf) -> u64 {
    let files = std::fs::read_dir(spool).expect("the spool");
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

fn main() {
    let (uplinks, devices) = (from_env("SOAK_UPLINKS", 1_000_000), from_env("SOAK_DEVICES", 1_000));
    let connections = from_env("SOAK_CONNECTIONS", 64).min(devices);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (emulator, ready) = emulate(&dir.path().join("emulator"), 0, 0);
    let (webhook, admin) = (free_port(), free_port());
    let connector = connect(dir.path(), &ready, webhook, admin);
    let spool = dir.path().join("spool");

    let started = Instant::now();
    let posting = post(webhook, devices, &(1..=uplinks / devices), connections);
    let (mut at_tenth, mut peak_spool, mut next) = (None, 0, uplinks / 10);
    println!("  uplinks  seconds    sent  waiting  RSS kB  spool kB");
    let sent = loop {
        let (done, sent) = (posting.posted(), metric(admin, "tti_connector_hub_sent_messages_total"));
        peak_spool = peak_spool.max(spool_bytes(&spool));
        if sent >= next.min(uplinks) {
            let rss = connector.status_kb("VmRSS");
            at_tenth.get_or_insert(rss);
            let waiting = done.saturating_sub(sent);
            println!(
                "{done:>9}  {:>7.1} {sent:>7}  {waiting:>7}  {rss:>6}  {:>8}",
                started.elapsed().as_secs_f64(),
                spool_bytes(&spool) / 1024
            );
            next += uplinks / 10;
        }
        if sent >= uplinks {
            break sent;
        }
        assert!(started.elapsed() < Duration::from_secs(3600), "{sent} of {uplinks} after an hour");
        thread::sleep(Duration::from_millis(100));
    };
    let took = started.elapsed().as_secs_f64();
    posting.finish();
    let (cpu, rss) = (connector.cpu_s(), connector.status_kb("VmRSS"));
    // The spool gives space back while it is idle.
    let mut smallest = spool_bytes(&spool);
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(200));
        smallest = smallest.min(spool_bytes(&spool));
    }
    println!("emulator CPU {:.1} us per uplink", emulator.cpu_s() * 1e6 / sent as f64);
    let tenth = at_tenth.expect("a tenth passed");
    println!(
        "\nsent {sent} in {took:.1} s: {:.0} uplinks/s with generator and emulator on the same machine",
        sent as f64 / took
    );
    println!("connector CPU {:.1} us per uplink", cpu * 1e6 / sent as f64);
    println!(
        "connector RSS {tenth} kB after a tenth, {rss} kB at the end ({:+.1} %)",
        (rss as f64 / tenth as f64 - 1.0) * 100.0
    );
    println!("spool at most {} kB, {} kB when idle", peak_spool / 1024, smallest / 1024);
}
