//! Reported properties after accepted uplinks: the last one of each device, no oftener than its interval and the hub's
//! rate allow. Knows no AMQP.
//!
//! What waits is lost with a restart; the device's next uplink says it anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::reported::{patch, reported};
use crate::azure::{HubAddress, HubDevice};
use crate::iot_hub::{RetryReason, SendError};

/// Reports under way at once, over all hubs.
const MAX_AT_ONCE: usize = 32;
/// Uplinks that wait to be reported, together. Beyond it a further device waits for its next uplink.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// Devices whose last report is remembered. A further one's vanished values linger in its twin.
const MAX_REMEMBERED: usize = 100_000;
/// Pauses of a whole hub after it said that it gets too many, and that its day is used up.
const AFTER_THROTTLED: Duration = Duration::from_secs(10);
const AFTER_QUOTA: Duration = Duration::from_secs(300);
/// Pause after a report that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Where twins are.
pub trait Twins: Send + Sync + 'static {
    /// Changes reported properties; gives their new version.
    fn report(
        &self,
        device: &Arc<HubDevice>,
        patch: &Map<String, Value>,
    ) -> impl Future<Output = Result<u64, SendError>> + Send;
}

/// The reports of all devices. Clones share everything.
#[derive(Debug)]
pub struct TwinReports<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for TwinReports<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
struct Inner<T> {
    twins: T,
    min_interval: Duration,
    /// Between two reports at one hub.
    spacing: Duration,
    state: Mutex<State>,
    changed: Notify,
}

type Key = (HubAddress, Arc<str>);

#[derive(Debug, Default)]
struct State {
    devices: HashMap<Key, Slot>,
    /// In order of time; the number tells equal times apart.
    due: BTreeMap<(Instant, u64), Due>,
    numbers: u64,
    waiting_bytes: usize,
    /// When each hub takes its next report.
    hubs: HashMap<HubAddress, Instant>,
    /// Hubs that take none before then: they throttle, or their day is used up.
    resting: HashMap<HubAddress, Instant>,
}

#[derive(Debug)]
struct Due {
    key: Key,
    /// The hub's rate has been asked already.
    granted: bool,
}

#[derive(Debug)]
struct Slot {
    device: Arc<HubDevice>,
    waiting: Option<Waiting>,
    sending: bool,
    /// Not before then.
    next: Instant,
    /// What was reported last, as JSON.
    last: Box<[u8]>,
}

#[derive(Debug)]
struct Waiting {
    body: Bytes,
    received_ms: i64,
}

/// One report that may go now.
struct Start {
    key: Key,
    device: Arc<HubDevice>,
    waiting: Waiting,
    last: Box<[u8]>,
}

enum Outcome {
    Reported(Box<[u8]>),
    TryAgain(Duration),
    /// The hub does not take it; the next uplink's may be better.
    Dropped,
}

impl<T: Twins> TwinReports<T> {
    /// `max_rate`: reports a second at one hub.
    pub fn new(twins: T, min_interval: Duration, max_rate: u32) -> Self {
        let spacing = Duration::from_secs(1) / max_rate.max(1);
        let state = Mutex::new(State::default());
        Self { inner: Arc::new(Inner { twins, min_interval, spacing, state, changed: Notify::new() }) }
    }

    /// The hub accepted this uplink's telemetry; its report takes the place of one that still waits.
    pub fn note(&self, device: &Arc<HubDevice>, body: &Bytes, received_ms: i64) {
        let now = Instant::now();
        let mut state = self.inner.state();
        let free = state.waiting_bytes.saturating_add(body.len()) <= MAX_WAITING_BYTES;
        let key = (device.hub.clone(), device.device_id.clone());
        let slot = state.devices.entry(key.clone()).or_insert_with(|| Slot {
            device: device.clone(),
            waiting: None,
            sending: false,
            next: now,
            last: Box::default(),
        });
        slot.device = device.clone();
        let before = slot.waiting.as_ref().map(|waiting| waiting.body.len());
        if before.is_none() && !free {
            return;
        }
        slot.waiting = Some(Waiting { body: body.clone(), received_ms });
        let (at, sending) = (slot.next.max(now), slot.sending);
        state.waiting_bytes = (state.waiting_bytes + body.len()).saturating_sub(before.unwrap_or(0));
        if before.is_none() && !sending {
            state.schedule(at, Due { key, granted: false });
            drop(state);
            self.inner.changed.notify_one();
        }
    }

    /// Sends reports until `stop`. Waits on: the next due time, new reports, reports that end, `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut sends: JoinSet<(Key, Waiting, Outcome)> = JoinSet::new();
        loop {
            while sends.len() < MAX_AT_ONCE {
                let Some(start) = self.inner.start(Instant::now()) else { break };
                let inner = Arc::clone(&self.inner);
                sends.spawn(async move {
                    let outcome = inner.send(&start).await;
                    (start.key, start.waiting, outcome)
                });
            }
            let due = self.inner.next_due().filter(|_| sends.len() < MAX_AT_ONCE);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = sends.join_next() => match ended {
                    Ok((key, waiting, outcome)) => self.inner.ended(&key, waiting, outcome, Instant::now()),
                    Err(error) => warn!(%error, "A twin report ended abnormally."),
                },
                () = self.inner.changed.notified() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }
}

impl<T: Twins> Inner<T> {
    async fn send(&self, start: &Start) -> Outcome {
        let device = &start.device;
        let Ok(now) = reported(&start.waiting.body, start.waiting.received_ms) else {
            return Outcome::Dropped;
        };
        let last = serde_json::from_slice(&start.last).unwrap_or_default();
        match self.twins.report(device, &patch(&last, &now)).await {
            Ok(_) => Outcome::Reported(serde_json::to_vec(&now).unwrap_or_default().into()),
            Err(SendError::Retry { reason, detail, after, .. }) => {
                let rest = match reason {
                    RetryReason::Throttled => Some(AFTER_THROTTLED),
                    RetryReason::Quota => Some(AFTER_QUOTA),
                    RetryReason::Connection
                    | RetryReason::ConnectsThrottled
                    | RetryReason::Link
                    | RetryReason::Taken
                    | RetryReason::Hub
                    | RetryReason::Timeout
                    | RetryReason::Released
                    | RetryReason::Token => None,
                };
                if let Some(rest) = rest {
                    self.state().resting.insert(device.hub.clone(), Instant::now() + rest);
                }
                let reason = reason.as_str();
                debug!(device = %device.device_id, hub = %device.hub, reason, detail, "A twin report has to wait.");
                Outcome::TryAgain(after.unwrap_or_default().max(AFTER_FAILURE))
            }
            Err(SendError::Reresolve { detail, .. } | SendError::Park { detail, .. }) => {
                debug!(device = %device.device_id, hub = %device.hub, detail, "The hub refused a twin report.");
                Outcome::Dropped
            }
        }
    }

    /// The next report that may go, if any is due and its hub takes one now.
    fn start(&self, now: Instant) -> Option<Start> {
        let mut state = self.state();
        loop {
            let due = state.due.first_entry().filter(|due| due.key().0 <= now)?.remove();
            if let Some(until) = state.resting.get(&due.key.0).copied().filter(|until| *until > now) {
                state.schedule(until, Due { granted: false, ..due });
                continue;
            }
            if !due.granted {
                let turn = state.hubs.get(&due.key.0).map_or(now, |next| now.max(*next));
                state.hubs.insert(due.key.0.clone(), turn + self.spacing);
                if turn > now {
                    state.schedule(turn, Due { granted: true, ..due });
                    continue;
                }
            }
            let State { devices, waiting_bytes, .. } = &mut *state;
            let Some(slot) = devices.get_mut(&due.key) else { continue };
            let Some(waiting) = slot.waiting.take() else { continue };
            *waiting_bytes = waiting_bytes.saturating_sub(waiting.body.len());
            slot.sending = true;
            return Some(Start {
                device: slot.device.clone(),
                last: slot.last.clone(),
                waiting,
                key: due.key,
            });
        }
    }

    fn ended(&self, key: &Key, waiting: Waiting, outcome: Outcome, now: Instant) {
        let mut state = self.state();
        let remember = state.devices.len() <= MAX_REMEMBERED;
        let Some(slot) = state.devices.get_mut(key) else { return };
        slot.sending = false;
        let mut put_back = None;
        slot.next = now
            + match outcome {
                Outcome::Reported(last) => {
                    slot.last = if remember { last } else { Box::default() };
                    self.min_interval
                }
                Outcome::TryAgain(pause) => {
                    put_back = Some(waiting).filter(|_| slot.waiting.is_none());
                    pause
                }
                Outcome::Dropped => self.min_interval,
            };
        let bytes = put_back.as_ref().map_or(0, |waiting| waiting.body.len());
        slot.waiting = put_back.or_else(|| slot.waiting.take());
        let at = slot.waiting.is_some().then_some(slot.next);
        if at.is_none() && !remember {
            state.devices.remove(key);
        }
        state.waiting_bytes += bytes;
        if let Some(at) = at {
            state.schedule(at, Due { key: key.clone(), granted: false });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.state().due.first_key_value().map(|((at, _), _)| *at)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn schedule(&mut self, at: Instant, due: Due) {
        self.numbers += 1;
        self.due.insert((at, self.numbers), due);
    }
}
