//! A long run: a million uplinks of a thousand devices through `run` against `emulate`, as separate processes with TLS
//! and the durable spool. Says whether the connector grows.
//!
//! `cargo bench --bench soak` (environment: `SOAK_UPLINKS`, `SOAK_DEVICES`, `SOAK_CONNECTIONS`). Linux only: reads /proc.
//! Generator, connector and emulator share the machine, so rates are lower bounds; CPU and memory are the connector's own.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_tti-connector");
const DEADLINE: Duration = Duration::from_secs(120);

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A child that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Running {
    fn status_kb(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    /// User and system time in seconds. The kernel counts in hundredths on every common machine.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("Linux");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / 100.0
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn emulate(dir: &Path) -> (Running, serde_json::Value) {
    let mut command = Command::new(BINARY);
    command
        .args(["emulate", "--amqp-port", "0", "--https-port", "0", "--dir"])
        .arg(dir)
        .stdout(Stdio::null());
    let running = Running(command.spawn().expect("the emulator starts"));
    let file = dir.join("ready.json");
    wait_for("ready.json", || file.exists());
    (running, serde_json::from_slice(&std::fs::read(file).expect("readable")).expect("JSON"))
}

fn connect(dir: &Path, ready: &serde_json::Value, webhook: u16, admin: u16) -> Running {
    let text = |name: &str| ready[name].as_str().expect("a text").to_owned();
    let mut command = Command::new(BINARY);
    command
        .arg("run")
        .current_dir(dir)
        .env("TTI_CONNECTOR__WEBHOOK__LISTEN", format!("127.0.0.1:{webhook}"))
        .env("TTI_CONNECTOR__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
        .env("TTI_CONNECTOR__SPOOL__DIRECTORY", dir.join("spool"))
        .env("TTI_CONNECTOR__AZURE__AMQP_PORT", ready["hubs"][0]["amqpPort"].to_string())
        .env("TTI_CONNECTOR__AZURE__CA_FILE", text("caFile"))
        .env("TTI_CONNECTOR__AZURE__DPS__ENDPOINT", text("dpsEndpoint"))
        .env("TTI_CONNECTOR__AZURE__DPS__ID_SCOPE", text("idScope"))
        .env("TTI_CONNECTOR__AZURE__DPS__GROUP_ENROLLMENT_KEY", text("groupEnrollmentKey"))
        // More than Azure's DPS allows a minute, so that registration is not what is measured.
        .env("TTI_CONNECTOR__DEVICES__MAX_REGISTRATIONS", "256")
        .env("TTI_CONNECTOR__LOG__LEVEL", "warn");
    let running = Running(command.spawn().expect("the connector starts"));
    wait_for("the webhook listens", || TcpStream::connect(("127.0.0.1", webhook)).is_ok());
    running
}

/// An uplink of about 1.1 kB with two gateways, as The Things Stack posts them.
fn body(device: u64, f_cnt: u64) -> String {
    format!(
        r#"{{"end_device_ids":{{"device_id":"sensor-{device:05}","application_ids":{{"application_id":"soak"}},"dev_eui":"70B3D57ED0{device:06X}","join_eui":"70B3D57ED0FFFFFF","dev_addr":"260B{device:04X}"}},"correlation_ids":["gs:uplink:01KAEXAMPLE{device:05}{f_cnt:010}"],"received_at":"2026-11-20T10:11:12.223456789Z","uplink_message":{{"session_key_id":"AYk3l2bXw1c4e7mVbJQx0A==","f_port":2,"f_cnt":{f_cnt},"frm_payload":"AWcA5wJoUA==","decoded_payload":{{"battery":3.61,"humidity":40,"temperature":23.1}},"rx_metadata":[{{"gateway_ids":{{"gateway_id":"roof-north","eui":"70B3D57ED0AA0001"}},"time":"2026-11-20T10:11:12.001Z","timestamp":2463457000,"rssi":-97,"channel_rssi":-97,"snr":8.2,"uplink_token":"Ch8KHQoRcm9vZi1ub3J0aAAAAAAAAAAA","received_at":"2026-11-20T10:11:12.051Z"}},{{"gateway_ids":{{"gateway_id":"roof-south","eui":"70B3D57ED0AA0002"}},"timestamp":63457000,"rssi":-111,"channel_rssi":-111,"snr":-2.5,"uplink_token":"Ch8KHQoRcm9vZi1zb3V0aAAAAAAAAAAA"}}],"settings":{{"data_rate":{{"lora":{{"bandwidth":125000,"spreading_factor":7,"coding_rate":"4/5"}}}},"frequency":"868100000","timestamp":2463457000}},"received_at":"2026-11-20T10:11:12.123456789Z","consumed_airtime":"0.056576s"}}}}"#
    )
}

/// Posts every `step`-th device's uplinks in order over one kept-alive connection; an answer other than 202 is tried again.
fn post(webhook: u16, first: u64, step: u64, devices: u64, uplinks: u64, posted: &AtomicU64) {
    let mut stream = TcpStream::connect(("127.0.0.1", webhook)).expect("the webhook");
    stream.set_nodelay(true).expect("a socket");
    let (mut request, mut answer) = (String::new(), vec![0; 4096]);
    for f_cnt in 1..=uplinks / devices {
        for device in (first..devices).step_by(step as usize) {
            let body = body(device, f_cnt);
            request.clear();
            write!(request, "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("a string");
            loop {
                stream.write_all(request.as_bytes()).expect("sent");
                if answered(&mut stream, &mut answer).0 == 202 {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
            }
            posted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Reads one answer; gives its status and all of it as text.
fn answered(stream: &mut TcpStream, buffer: &mut [u8]) -> (u16, String) {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).expect("an answer");
        assert!(read > 0, "the webhook hung up");
        filled += read;
        let text = String::from_utf8_lossy(&buffer[..filled]).into_owned();
        if let Some(head) = text.find("\r\n\r\n") {
            let length = text.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.trim().parse().ok()
            });
            if filled >= head + 4 + length.unwrap_or(0) {
                return (text[9..12].parse().expect("a status"), text);
            }
        }
    }
}

/// One number of the connector's metrics.
fn metric(admin: u16, name: &str) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).expect("admin listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    let text = answered(&mut stream, &mut vec![0; 64 * 1024]).1;
    let line =
        text.lines().find(|line| line.starts_with(name) && line.as_bytes().get(name.len()) == Some(&b' '));
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map_or(0, |value| value as u64)
}

fn spool_bytes(spool: &PathBuf) -> u64 {
    let files = std::fs::read_dir(spool).expect("the spool");
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

fn main() {
    let (uplinks, devices) = (from_env("SOAK_UPLINKS", 1_000_000), from_env("SOAK_DEVICES", 1_000));
    let connections = from_env("SOAK_CONNECTIONS", 64).min(devices);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (emulator, ready) = emulate(&dir.path().join("emulator"));
    let (webhook, admin) = (free_port(), free_port());
    let connector = connect(dir.path(), &ready, webhook, admin);
    let spool = dir.path().join("spool");

    let posted = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let posters: Vec<_> = (0..connections)
        .map(|first| {
            let posted = Arc::clone(&posted);
            thread::spawn(move || post(webhook, first, connections, devices, uplinks, &posted))
        })
        .collect();
    let (mut at_tenth, mut peak_spool, mut next) = (None, 0, uplinks / 10);
    println!("  uplinks  seconds    sent  waiting  RSS kB  spool kB");
    let sent = loop {
        let (done, sent) =
            (posted.load(Ordering::Relaxed), metric(admin, "tti_connector_hub_sent_messages_total"));
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
    for poster in posters {
        poster.join().expect("it posted all");
    }
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
