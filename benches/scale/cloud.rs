//! The cloud's side under load: messages to devices over AMQP and calls of their methods over HTTPS, at a rate, and whether
//! each became one downlink. Knows no connector.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::arguments::Attach;
use super::book::Spread;
use super::hub::name;
use super::service::{Service, is_accepted, message};
use super::stage::Told;

const PATIENCE: Duration = Duration::from_secs(60);
/// Spreads one after the other over all devices; a prime.
const STRIDE: u32 = 7_919;

/// What is asked for, and when each was.
pub(crate) struct Cloud {
    messages: (f64, u32),
    methods: (f64, u32),
    /// Milliseconds since 1970 by number: first the messages, then the methods.
    asked_ms: Mutex<Vec<u64>>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("fits")
}

fn payload(number: u32) -> String {
    STANDARD.encode(number.to_be_bytes())
}

impl Cloud {
    pub(crate) fn new(options: &Attach, seconds: f64) -> Self {
        let of = |rate: f64| (rate, (rate * seconds) as u32);
        let (messages, methods) = (of(options.messages), of(options.methods));
        Self { messages, methods, asked_ms: Mutex::new(vec![0; (messages.1 + methods.1) as usize]) }
    }

    pub(crate) fn count(&self) -> u32 {
        self.messages.1 + self.methods.1
    }

    fn asked(&self, number: u32) {
        self.asked_ms.lock().expect("no panic")[number as usize] = now_ms();
    }

    /// Waits until each was queued.
    ///
    /// # Panics
    /// One was not, or twice.
    pub(crate) fn settle(&self, told: &Told) {
        let began = Instant::now();
        let queued = || told.downlinks.lock().expect("no panic").len();
        while queued() < self.count() as usize {
            assert!(began.elapsed() < PATIENCE, "{} of {} downlinks were queued", queued(), self.count());
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut numbers: Vec<_> =
            told.downlinks.lock().expect("no panic").iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        assert!(numbers.iter().copied().eq(0..self.count()), "a downlink was queued twice");
    }

    /// From the request to the downlink's place in The Things Stack's queue.
    pub(crate) fn latencies(&self, told: &Told) -> Spread {
        let asked = self.asked_ms.lock().expect("no panic");
        let downlinks = told.downlinks.lock().expect("no panic");
        Spread::new(downlinks.iter().map(|(number, at)| at.saturating_sub(asked[*number as usize]) * 1000))
    }
}

/// Sends the messages, each at its time.
pub(crate) async fn send(cloud: &Cloud, service: &Service, devices: u32) {
    let (rate, count) = cloud.messages;
    if count == 0 {
        return;
    }
    let mut messages = service.messages().await;
    let began = tokio::time::Instant::now();
    let mut outcomes = Vec::new();
    for number in 0..count {
        sleep_until(began + Duration::from_secs_f64(f64::from(number) / rate)).await;
        let device = name(number.wrapping_mul(STRIDE) % devices);
        cloud.asked(number);
        let message = message(&device, &number.to_string(), &payload(number));
        outcomes.push(messages.link.send_batchable(message).await.expect("sent"));
    }
    for outcome in outcomes {
        assert!(is_accepted(&outcome.await.expect("an outcome")), "the hub takes it");
    }
}

/// Calls the methods, each at its time.
pub(crate) async fn call(cloud: &Cloud, service: &Service, devices: u32) {
    let (rate, count) = cloud.methods;
    let began = tokio::time::Instant::now();
    let mut calls = JoinSet::new();
    for index in 0..count {
        sleep_until(began + Duration::from_secs_f64(f64::from(index) / rate)).await;
        let number = cloud.messages.1 + index;
        let device = name(number.wrapping_mul(STRIDE) % devices);
        cloud.asked(number);
        let service = service.clone();
        calls.spawn(async move {
            service.call(&device, "downlink", json!({ "port": 10, "payload": payload(number) })).await
        });
    }
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
    }
}
