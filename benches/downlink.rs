//! From the cloud to The Things Stack: how long a cloud-to-device message and a direct method take, what they cost, and how
//! soon all devices are heard again after a restart. `run` against `emulate`, as separate processes with TLS and the
//! durable spool.
//!
//! `cargo bench --bench downlink` (environment: `DOWNLINK_DEVICES`, `DOWNLINK_FLAT_OUT`, `DOWNLINK_AWAY_S`). Linux only:
//! reads /proc. Service, connector and emulator share the machine. A message's time runs from the moment the service
//! hands it to its AMQP link until the emulated Things Stack has queued the downlink, in milliseconds of one clock.

#[path = "support/service.rs"]
mod service;
mod support;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use service::{Messages, Service, is_accepted, message};
use support::{Running, connect_with, emulate_all, free_port, from_env, metric, wait_for};

const SENT: &str = "tti_connector_hub_sent_messages_total";

/// What runs, and where.
struct Stage<'a> {
    dir: &'a Path,
    ready: Value,
    webhook: u16,
    admin: u16,
    devices: u64,
    http: reqwest::Client,
}

fn device(number: u64) -> String {
    format!("sensor-{number:05}")
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("fits")
}

impl Stage<'_> {
    fn things_stack(&self) -> &str {
        self.ready["thingsStackUrl"].as_str().expect("a URL")
    }

    fn connect(&self) -> Running {
        let environment = [
            ("TTI_CONNECTOR__THINGS_STACK__BASE_URL", self.things_stack()),
            (
                "TTI_CONNECTOR__THINGS_STACK__APPLICATIONS__SOAK__API_KEY",
                self.ready["thingsStackApiKey"].as_str().expect("a key"),
            ),
        ];
        connect_with(self.dir, &self.ready, self.webhook, self.admin, &environment)
    }

    /// The emulated Things Stack posts to the connector.
    async fn point_webhook(&self) {
        let webhook = json!({ "url": format!("http://127.0.0.1:{}/webhook", self.webhook) });
        let put = self.http.put(format!("{}/emulator/webhook", self.things_stack())).json(&webhook);
        assert!(put.send().await.expect("an answer").status().is_success());
    }

    /// Makes all devices known by an uplink of each over the emulated radio.
    async fn meet(&self) {
        for number in 0..self.devices {
            let device = device(number);
            let url = format!("{}/emulator/applications/soak/devices/{device}/uplink", self.things_stack());
            assert!(self.http.post(url).send().await.expect("an answer").status().is_success());
        }
        wait_for("all devices are known", || metric(self.admin, SENT) >= self.devices);
    }

    /// Pushes from a number on, at most 1,000, and their number in all.
    async fn pushes(&self, from: u64) -> (u64, Vec<Value>) {
        let url = format!("{}/emulator/pushes?from={from}", self.things_stack());
        let answer = self.http.get(url).send().await.expect("an answer");
        let mut answer: Value = answer.json().await.expect("JSON");
        let Value::Array(pushes) = answer["pushes"].take() else { panic!("no pushes") };
        (answer["pushed"].as_u64().expect("a number"), pushes)
    }

    /// Waits for so many pushes from a number on; gives the numbers in their payloads, and when each was queued.
    async fn pushed(&self, mut from: u64, count: u64) -> Vec<(usize, i64)> {
        let (end, mut found) = (Instant::now() + Duration::from_secs(300), Vec::new());
        while found.len() < count as usize {
            assert!(Instant::now() < end, "{} of {count} pushed", found.len());
            let (_, pushes) = self.pushes(from).await;
            if pushes.is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            from += pushes.len() as u64;
            for push in pushes {
                let payload = push["downlink"]["frm_payload"].as_str().expect("a payload");
                let bytes = STANDARD.decode(payload).expect("base64");
                let number = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
                found.push((number as usize, push["time_ms"].as_i64().expect("a time")));
            }
        }
        found
    }

    /// Sends messages to all devices in turn, at a rate or as fast as the hub takes them, and waits for them all.
    async fn run(
        &self,
        link: &mut Messages,
        (connector, emulator): (&Running, &Running),
        rate: u64,
        count: u64,
    ) {
        let (from, _) = self.pushes(u64::MAX).await;
        let reported = metric(self.admin, SENT) + count;
        let cpu = (connector.cpu_s(), emulator.cpu_s());
        let began = tokio::time::Instant::now();
        let (mut sent, mut outcomes) = (Vec::new(), Vec::new());
        for number in 0..count {
            if let Some(micros) = (number * 1_000_000).checked_div(rate) {
                tokio::time::sleep_until(began + Duration::from_micros(micros)).await;
            }
            let body = STANDARD.encode(u32::try_from(number).expect("fits").to_be_bytes());
            let message = message(&device(number % self.devices), &format!("{rate}-{number}"), &body);
            sent.push(now_ms());
            outcomes.push(link.link.send_batchable(message).await.expect("sent"));
        }
        for outcome in outcomes {
            assert!(is_accepted(&outcome.await.expect("an outcome")), "the hub takes it");
        }
        let accepted = began.elapsed().as_secs_f64();
        let pushed = self.pushed(from, count).await;
        let last = pushed.iter().map(|(_, at)| *at).max().expect("some");
        let took = (last - sent[0]) as f64 / 1000.0;
        let mut latencies: Vec<_> = pushed.iter().map(|(number, at)| (at - sent[*number]).max(0)).collect();
        latencies.sort_unstable();
        wait_for("the reports", || metric(self.admin, SENT) >= reported);
        let per = |before: f64, after: f64| (after - before) * 1e6 / count as f64;
        let rate = if rate == 0 { "flat out".to_owned() } else { format!("{rate}/s") };
        println!(
            "{rate:>9} {count:>9} {:>9.0}/s {:>9.0}/s {:>7} {:>7} {:>7} {:>10.0} {:>10.0}",
            count as f64 / accepted,
            count as f64 / took,
            at(&latencies, 0.5),
            at(&latencies, 0.99),
            at(&latencies, 1.0),
            per(cpu.0, connector.cpu_s()),
            per(cpu.1, emulator.cpu_s()),
        );
    }

    /// One message to each device, and when the last was queued: after this moment.
    async fn each(&self, link: &mut Messages) -> (i64, u64) {
        let (from, _) = self.pushes(u64::MAX).await;
        let began = now_ms();
        for number in 0..self.devices {
            let body = STANDARD.encode(u32::try_from(number).expect("fits").to_be_bytes());
            let outcome = link.link.send_batchable(message(&device(number), "again", &body)).await;
            let outcome = outcome.expect("sent").await.expect("an outcome");
            assert!(is_accepted(&outcome), "the hub takes it");
        }
        (began, from)
    }

    /// Waits for the downlinks of all devices; how long after a moment half of them and all of them were queued.
    async fn heard(&self, what: &str, since_ms: i64, from: u64) {
        let mut times: Vec<_> =
            self.pushed(from, self.devices).await.into_iter().map(|(_, at)| at - since_ms).collect();
        times.sort_unstable();
        println!(
            "{what}: half of {} devices after {:.1} s, all after {:.1} s",
            self.devices,
            at(&times, 0.5) as f64 / 1000.0,
            at(&times, 1.0) as f64 / 1000.0
        );
    }
}

fn at(sorted: &[i64], share: f64) -> i64 {
    sorted[(share * (sorted.len() - 1) as f64) as usize]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let devices = from_env("DOWNLINK_DEVICES", 1_000);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = dir.path().join("emulator");
    let (emulator, ready) = emulate_all(&place, 0, 0, 0);
    let service = Service::of(&ready);
    let http = service.http();
    let stage = Stage { dir: dir.path(), ready, webhook: free_port(), admin: free_port(), devices, http };
    let connector = stage.connect();
    stage.point_webhook().await;
    stage.meet().await;
    let mut link = service.messages().await;
    let (since, from) = stage.each(&mut link).await;
    stage.heard("first messages", since, from).await;
    println!("connector RSS {} kB with {devices} devices kept open\n", connector.status_kb("VmRSS"));

    println!(
        "     rate  messages      taken     queued   p50 ms  p99 ms  max ms  us connector, emulator CPU a message"
    );
    for (rate, count) in [(20, 400), (100, 2_000), (0, from_env("DOWNLINK_FLAT_OUT", 20_000))] {
        stage.run(&mut link, (&connector, &emulator), rate, count).await;
    }
    println!("connector RSS {} kB", connector.status_kb("VmRSS"));

    let mut took = Vec::new();
    let payload = json!({ "port": 10, "payload": "AAAAAQ==" });
    for number in 0..300 {
        let asked = Instant::now();
        let status = service.call(&device(number % devices), "downlink", payload.clone()).await;
        assert_eq!(status, 200);
        took.push(i64::try_from(asked.elapsed().as_micros()).expect("fits"));
    }
    took.sort_unstable();
    println!(
        "\ndirect method, called to answered 200 `queued`: p50 {:.1} ms, p99 {:.1} ms\n",
        at(&took, 0.5) as f64 / 1000.0,
        at(&took, 0.99) as f64 / 1000.0
    );

    // Killed, not stopped.
    drop(connector);
    let (_, from) = stage.each(&mut link).await;
    let since = now_ms();
    let connector = stage.connect();
    stage.heard("connector killed and started", since, from).await;

    let away = from_env("DOWNLINK_AWAY_S", 60);
    drop(emulator);
    let port = |name: &str| stage.ready[name].as_u64().expect("a number");
    let ports = (stage.ready["hubs"][0]["amqpPort"].as_u64().expect("a number"), port("httpsPort"));
    let things_stack = stage.things_stack().rsplit_once(':').expect("a port").1.parse().expect("a port");
    tokio::time::sleep(Duration::from_secs(away)).await;
    _ = std::fs::remove_file(place.join("ready.json"));
    let (_emulator, _) = emulate_all(&place, ports.0, ports.1, things_stack);
    let since = now_ms();
    stage.point_webhook().await;
    let mut link = service.messages().await;
    let (_, from) = stage.each(&mut link).await;
    stage.heard(&format!("hub back after {away} s"), since, from).await;
    drop(connector);
}
