//! What the benches share: processes under measurement, uplinks, a bare HTTP client. Linux only: reads /proc.

#![allow(dead_code, reason = "each bench uses a part")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tti-connector");
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A child that ends with the bench.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

impl Running {
    pub(crate) fn status_kb(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    /// User and system time in seconds. The kernel counts in hundredths on every common machine.
    pub(crate) fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("Linux");
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / 100.0
    }
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port()
}

pub(crate) fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// `emulate` on these ports (0: any); gives what it wrote to ready.json.
pub(crate) fn emulate(dir: &Path, amqp_port: u64, https_port: u64) -> (Running, Value) {
    emulate_all(dir, amqp_port, https_port, 0)
}

/// The same with a port for The Things Stack.
pub(crate) fn emulate_all(
    dir: &Path,
    amqp_port: u64,
    https_port: u64,
    things_stack_port: u64,
) -> (Running, Value) {
    let [amqp, https, things_stack] = [amqp_port, https_port, things_stack_port].map(|port| port.to_string());
    let mut command = Command::new(BINARY);
    command.args(["emulate", "--amqp-port", &amqp, "--https-port", &https]);
    command.args(["--things-stack-port", &things_stack]);
    command.arg("--dir").arg(dir);
    command.stdout(Stdio::null());
    let running = Running(command.spawn().expect("the emulator starts"));
    let file = dir.join("ready.json");
    wait_for("ready.json", || file.exists());
    (running, serde_json::from_slice(&std::fs::read(file).expect("readable")).expect("JSON"))
}

pub(crate) fn connect(dir: &Path, ready: &Value, webhook: u16, admin: u16) -> Running {
    connect_with(dir, ready, webhook, admin, &[])
}

/// `run` of a binary against the emulated hub, without credentials; not started yet.
pub(crate) fn connector(binary: &Path, dir: &Path, ready: &Value, webhook: u16, admin: u16) -> Command {
    let mut command = Command::new(binary);
    command
        .arg("run")
        .current_dir(dir)
        .env("TTI_CONNECTOR__WEBHOOK__LISTEN", format!("127.0.0.1:{webhook}"))
        .env("TTI_CONNECTOR__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
        .env("TTI_CONNECTOR__SPOOL__DIRECTORY", dir.join("spool"))
        .env("TTI_CONNECTOR__AZURE__AMQP_PORT", ready["hubs"][0]["amqpPort"].to_string())
        .env("TTI_CONNECTOR__AZURE__CA_FILE", ready["caFile"].as_str().expect("a text"))
        .env("TTI_CONNECTOR__LOG__LEVEL", "warn");
    command
}

/// `run` with these environment variables besides.
pub(crate) fn connect_with(
    dir: &Path,
    ready: &Value,
    webhook: u16,
    admin: u16,
    environment: &[(&str, &str)],
) -> Running {
    let text = |name: &str| ready[name].as_str().expect("a text").to_owned();
    let mut command = connector(Path::new(BINARY), dir, ready, webhook, admin);
    command
        .env("TTI_CONNECTOR__AZURE__DPS__ENDPOINT", text("dpsEndpoint"))
        .env("TTI_CONNECTOR__AZURE__DPS__ID_SCOPE", text("idScope"))
        .env("TTI_CONNECTOR__AZURE__DPS__GROUP_ENROLLMENT_KEY", text("groupEnrollmentKey"))
        // More than Azure's DPS allows a minute, so that registration is not what is measured.
        .env("TTI_CONNECTOR__DEVICES__MAX_REGISTRATIONS", "256")
        .envs(environment.iter().copied());
    let running = Running(command.spawn().expect("the connector starts"));
    wait_for("the webhook listens", || TcpStream::connect(("127.0.0.1", webhook)).is_ok());
    running
}

/// An uplink of about 1.1 kB with two gateways, as The Things Stack posts them.
pub(crate) fn body(device: u64, f_cnt: u64) -> String {
    format!(
        r#"{{"end_device_ids":{{"device_id":"sensor-{device:05}","application_ids":{{"application_id":"soak"}},"dev_eui":"70B3D57ED0{device:06X}","join_eui":"70B3D57ED0FFFFFF","dev_addr":"260B{device:04X}"}},"correlation_ids":["gs:uplink:01KAEXAMPLE{device:05}{f_cnt:010}"],"received_at":"2026-11-20T10:11:12.223456789Z","uplink_message":{{"session_key_id":"AYk3l2bXw1c4e7mVbJQx0A==","f_port":2,"f_cnt":{f_cnt},"frm_payload":"AWcA5wJoUA==","decoded_payload":{{"battery":3.61,"humidity":40,"temperature":23.1}},"rx_metadata":[{{"gateway_ids":{{"gateway_id":"roof-north","eui":"70B3D57ED0AA0001"}},"time":"2026-11-20T10:11:12.001Z","timestamp":2463457000,"rssi":-97,"channel_rssi":-97,"snr":8.2,"uplink_token":"Ch8KHQoRcm9vZi1ub3J0aAAAAAAAAAAA","received_at":"2026-11-20T10:11:12.051Z"}},{{"gateway_ids":{{"gateway_id":"roof-south","eui":"70B3D57ED0AA0002"}},"timestamp":63457000,"rssi":-111,"channel_rssi":-111,"snr":-2.5,"uplink_token":"Ch8KHQoRcm9vZi1zb3V0aAAAAAAAAAAA"}}],"settings":{{"data_rate":{{"lora":{{"bandwidth":125000,"spreading_factor":7,"coding_rate":"4/5"}}}},"frequency":"868100000","timestamp":2463457000}},"received_at":"2026-11-20T10:11:12.123456789Z","consumed_airtime":"0.056576s"}}}}"#
    )
}

/// The request that posts an uplink.
pub(crate) fn request(device: u64, f_cnt: u64) -> String {
    let body = body(device, f_cnt);
    let length = body.len();
    format!(
        "POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Uplinks that are being posted.
pub(crate) struct Posting {
    posted: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// Posts uplinks with these counters of all devices, each device's in order, over so many kept-alive connections. What is not
/// answered 202 is tried again.
pub(crate) fn post(webhook: u16, devices: u64, counters: &RangeInclusive<u64>, connections: u64) -> Posting {
    let connections = connections.min(devices);
    let posted = Arc::new(AtomicU64::new(0));
    let threads = (0..connections)
        .map(|first| {
            let (posted, counters) = (Arc::clone(&posted), counters.clone());
            thread::spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", webhook)).expect("the webhook");
                stream.set_nodelay(true).expect("a socket");
                let mut answer = vec![0; 4096];
                for f_cnt in counters {
                    for device in (first..devices).step_by(connections as usize) {
                        let request = request(device, f_cnt);
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
            })
        })
        .collect();
    Posting { posted, threads }
}

impl Posting {
    /// So many were answered.
    pub(crate) fn posted(&self) -> u64 {
        self.posted.load(Ordering::Relaxed)
    }

    /// Waits until all were.
    pub(crate) fn finish(self) {
        for thread in self.threads {
            thread.join().expect("it posted all");
        }
    }
}

/// Reads one answer; gives its status and all of it as text.
pub(crate) fn answered(stream: &mut TcpStream, buffer: &mut [u8]) -> (u16, String) {
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

/// The connector's metrics.
pub(crate) fn metrics(admin: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).expect("admin listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    answered(&mut stream, &mut vec![0; 64 * 1024]).1
}

/// One number of them.
pub(crate) fn metric(admin: u16, name: &str) -> u64 {
    let text = metrics(admin);
    let line =
        text.lines().find(|line| line.starts_with(name) && line.as_bytes().get(name.len()) == Some(&b' '));
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map_or(0, |value| value as u64)
}
