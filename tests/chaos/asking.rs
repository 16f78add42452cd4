//! The service: cloud-to-device messages at a pace, and some direct methods and desired properties.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::sync::RwLock;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;
use tti_connector::emulator::{CloudMessage, Hub};

use super::cloud::{Cloud, Generation, id, now_ms};
use super::downlink_books::Asker;
use super::state::State;

/// The hub keeps fifty for a device; a service that sends more is refused.
const QUEUE: usize = 45;
/// Between two methods, and between two desired properties.
const RARELY: Duration = Duration::from_millis(1_500);
/// How long a method's caller waits.
const METHOD: Duration = Duration::from_secs(20);

/// Held for reading while something is sent, for writing while nothing may be.
pub(crate) type Gate = Arc<RwLock<()>>;

pub(crate) struct Service {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) state: Arc<State>,
    pub(crate) gate: Gate,
    /// The first so many devices are never deleted.
    pub(crate) steady: usize,
}

impl Service {
    /// Runs until `enough`, and until all calls have ended.
    pub(crate) async fn run(self, per_s: u32, enough: Arc<AtomicBool>, mut random: fastrand::Rng) {
        let (service, calls) = (Arc::new(self), TaskTracker::new());
        let mut messages = interval(Duration::from_secs_f64(1.0 / f64::from(per_s)));
        messages.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut others = interval(RARELY);
        let mut numbers = [0_u32; 3];
        while !enough.load(Ordering::Relaxed) {
            tokio::select! {
                _ = messages.tick() => service.send(&mut numbers[0], &mut random).await,
                _ = others.tick() => {
                    let device = random.usize(..service.steady);
                    calls.spawn(Arc::clone(&service).call(device, numbers[1]));
                    service.desire(random.usize(..service.steady), numbers[2]).await;
                    numbers[1] += 1;
                    numbers[2] += 1;
                }
            }
        }
        calls.close();
        calls.wait().await;
    }

    /// One message to some device that has room; none if it is not there just now.
    async fn send(&self, number: &mut u32, random: &mut fastrand::Rng) {
        let _open = self.gate.read().await;
        let device = random.usize(..self.state.devices());
        let Some(hub) = hub_of(&self.cloud.now(), device) else { return };
        // Locked while it is sent, so that a deletion sees it either in the books or not in the queue.
        let mut books = self.state.downlinks();
        if hub.cloud_queue(&id(device)).len() >= QUEUE {
            return;
        }
        let message = CloudMessage {
            message_id: Some(format!("message-{number}")),
            properties: vec![("Port".to_owned(), "10".to_owned())],
            ..CloudMessage::new(STANDARD.encode(Asker::Message.payload(*number)))
        };
        if hub.send_cloud_message(&id(device), message).is_ok() {
            books.messages.insert(*number, device);
            books.sent_ms.insert(*number, now_ms());
            *number += 1;
        }
    }

    async fn call(self: Arc<Self>, device: usize, number: u32) {
        let Some(hub) = hub_of(&self.cloud.now(), device) else { return };
        let wish = json!({"port": 11, "payload": STANDARD.encode(Asker::Method.payload(number))});
        self.state.downlinks().calls.insert(number, false);
        let answer = hub.invoke_method(&id(device), "downlink", &wish, METHOD).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            self.state.downlinks().calls.insert(number, true);
        }
    }

    async fn desire(&self, device: usize, number: u32) {
        let _open = self.gate.read().await;
        let Some(hub) = hub_of(&self.cloud.now(), device) else { return };
        let hex: String = Asker::Twin.payload(number).iter().map(|byte| format!("{byte:02x}")).collect();
        let raw = json!({"fPort": 12, "framePayload": hex, "confirmed": false, "operation": "push"});
        let mut books = self.state.downlinks();
        if hub.update_desired(&id(device), &json!({ "rawDownlink": raw })).is_ok() {
            books.desired.insert(number, device);
        }
    }
}

/// The hub that a device is at.
pub(crate) fn hub_of(now: &Generation, device: usize) -> Option<Arc<Hub>> {
    now.hubs.iter().find(|hub| hub.device(&id(device)).is_some()).cloned()
}

/// Messages that wait at the hubs for any device, by their numbers.
pub(crate) fn queued(now: &Generation, device: usize) -> Vec<u32> {
    let number = |name: Option<&str>| name?.strip_prefix("message-")?.parse().ok();
    let queues = now.hubs.iter().flat_map(|hub| hub.cloud_queue(&id(device)));
    queues.filter_map(|queued| number(queued.message.message_id.as_deref())).collect()
}
