//! The client as others see it: send one message for one device, know which hubs are up, close.
//!
//! Knows who sends, not how AMQP goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dashmap::Entry;
use futures_util::StreamExt as _;
use serde_json::{Map, Value};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::DropGuard;

use super::device::{self, DeviceSession, Slot};
use super::dial::unreachable_hub;
use super::error::{RetryReason, SendError, Trouble};
use super::event::{DeviceEvent, Links};
use super::inner::{self, Inner, by_policy, too_late, unauthorized};
use super::keeper;
use super::kept::{Kept, Request, Wish, not_among_the_links};
use super::message::encode;
use super::options::IotHubOptions;
use super::shared::Shared;
use crate::azure::{HubAddress, HubDevice, Telemetry};

/// Events that wait for their reader; beyond, links wait too.
const EVENTS_BUFFER: usize = 256;

/// Closing all sessions, and then all connections, takes no longer than this each.
const CLOSE_PATIENCE: Duration = Duration::from_secs(4);
/// After that, tasks are dropped; this is how long that may take.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Sessions closed at once.
const CLOSES_AT_ONCE: usize = 256;

/// The AMQP client to all IoT Hubs. Clones share everything; when the last is dropped, all connections end.
#[derive(Clone, Debug)]
pub struct IotHub {
    inner: Arc<Inner>,
    _stop: Arc<DropGuard>,
}

/// What is open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Connections to hubs.
    pub connections: usize,
    /// Devices with a seat on one.
    pub devices: usize,
    /// Whether any hub was ever reached.
    pub reached: bool,
    /// Devices that are to be kept open.
    pub kept: usize,
    /// Devices of these whose links are open now.
    pub attached: usize,
    /// Devices that another client with the same identity took from us more than once lately.
    pub contended: usize,
    /// Times since the start that a device was taken back from another client.
    pub takeovers: u64,
}

impl IotHub {
    /// Starts a client for telemetry alone; it connects when the first message is sent. To be called within a Tokio
    /// runtime.
    pub fn new(options: IotHubOptions) -> Self {
        Self::start(options, None)
    }

    /// Starts a client, and the way back: what comes from the hubs for the devices that are kept open. To be called
    /// within a Tokio runtime.
    ///
    /// The reader must read on: while the buffer is full, what comes in waits at the hubs.
    pub fn with_events(options: IotHubOptions) -> (Self, mpsc::Receiver<DeviceEvent>) {
        let (events, reader) = mpsc::channel(EVENTS_BUFFER);
        (Self::start(options, Some(events)), reader)
    }

    fn start(options: IotHubOptions, events: Option<mpsc::Sender<DeviceEvent>>) -> Self {
        let shared = Arc::new(Shared::new(options));
        let stop = Arc::new(shared.tasks.stop_on_drop());
        let idle = shared.options.idle_timeout;
        let inner = Arc::new(Inner::new(shared, events));
        inner.shared.tasks.spawn(inner::sweep(Arc::downgrade(&inner), idle));
        Self { inner, _stop: stop }
    }

    /// From now on keeps the device's session and these links open, through every loss. A later call for the same
    /// hub and id replaces the wish, also with another key or model: then the session is opened anew.
    /// [`Links::NONE`] ends it and gives the session back. Returns at once.
    ///
    /// Has no effect on a client without events, nor once it is closing.
    pub fn keep_open(&self, device: &Arc<HubDevice>, links: Links) {
        let inner = &self.inner;
        if inner.events.is_none() || inner.closing.load(Ordering::Relaxed) {
            return;
        }
        let wish = Wish { device: device.clone(), links };
        match inner.kept.entry((device.hub.clone(), device.device_id.clone())) {
            Entry::Occupied(entry) if !links.any() => entry.remove().end(),
            Entry::Occupied(mut entry) => {
                if !entry.get().replace(wish.clone()) {
                    entry.insert(self.keep(wish));
                }
            }
            Entry::Vacant(_) if !links.any() => {}
            Entry::Vacant(entry) => _ = entry.insert(self.keep(wish)),
        }
    }

    fn keep(&self, wish: Wish) -> Arc<Kept> {
        let kept = Arc::new(Kept::new(wish));
        let keeper = keeper::run(self.inner.clone(), kept.clone());
        self.inner.shared.tasks.spawn(self.inner.keepers.track_future(keeper));
        kept
    }

    /// Changes reported properties of a device that is kept open with its twin (`null` removes one), and gives their
    /// new version. Waits until the links are open, unless they are in trouble. May be cancelled; then it is unknown
    /// whether they changed.
    ///
    /// # Errors
    /// Says the next move, as for telemetry: [`SendError::Park`] if the twin is not among the device's links, or the
    /// hub takes no such properties.
    pub async fn report(
        &self,
        device: &Arc<HubDevice>,
        patch: &Map<String, Value>,
    ) -> Result<u64, SendError> {
        let key = (device.hub.clone(), device.device_id.clone());
        let kept = self.inner.kept.get(&key).map(|kept| kept.clone());
        let Some(kept) = kept else { return Err(not_among_the_links(device)) };
        let options = &self.inner.shared.options;
        let deadline = Instant::now() + options.connect_timeout + options.send_timeout;
        let (answer, answered) = oneshot::channel();
        let patch = Value::Object(patch.clone()).to_string().into();
        kept.ask(Request { patch, deadline, answer })?;
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(too_late("the twin's links were lost before the hub answered", device)),
            Err(_) => Err(too_late("the hub did not take the report in time", device)),
        }
    }

    /// Sends one message for one device and waits for the hub's outcome. Concurrent calls for one device are served
    /// in call order, one after the other. May be cancelled; then the outcome is unknown.
    ///
    /// # Errors
    /// Says the next move: try later, ask where the device went, or park the message.
    pub async fn send(&self, device: &Arc<HubDevice>, message: &Telemetry) -> Result<(), SendError> {
        let inner = &self.inner;
        let patience = inner.shared.options.send_timeout;
        let slot = inner.slot(device);
        let mut held = inner.turn(&slot, device).await?;
        let message = encode(message);
        let pool = inner.pool(device);
        let mut reopen = false;
        let mut fresh_tried = false;
        loop {
            let mut opened_now = false;
            if let Some(taken) = held.session.as_mut().and_then(DeviceSession::taken) {
                inner.shared.tasks.spawn(device::close(held));
                return Err(device::contested(taken, &inner.shared, device));
            }
            if reopen || !held.session.as_mut().is_some_and(|session| session.serves(device)) {
                let opening = inner.open(held, &slot, device, &pool, fresh_tried);
                let (back, opened) = opening.await?;
                held = back;
                match opened {
                    Ok(()) => opened_now = true,
                    Err(error) if !fresh_tried && by_policy(device) && unauthorized(&error) => {
                        (reopen, fresh_tried) = (true, true);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            held.used = Instant::now();
            // Opening it just now was the last thing that happened under this lock.
            let Some(session) = held.session.as_mut() else {
                return Err(unreachable_hub(&"the session was closed", &device.hub));
            };
            let Err(failure) = session.send(&message, &pool, patience).await else {
                pool.hub_works();
                return Ok(());
            };
            if matches!(failure.error, SendError::Retry { trouble: Trouble::Hub(_), .. }) {
                pool.hub_failed();
            }
            let stale = !opened_now || by_policy(device);
            if stale && !fresh_tried && unauthorized(&failure.error) {
                // Our token should be valid still; one fresh token tells whether it is the device.
                (reopen, fresh_tried) = (true, true);
                continue;
            }
            if failure.session_lost {
                inner.shared.tasks.spawn(device::close(held));
            }
            let error = if failure.session_lost { of_link(failure.error) } else { failure.error };
            return Err(device::contested(error, &inner.shared, device));
        }
    }

    /// Tells the address of each hub to which a connection has just opened, so that whoever waits can go on at once.
    /// A receiver that lags should take every hub for up.
    pub fn hub_up(&self) -> broadcast::Receiver<HubAddress> {
        self.inner.shared.hub_up.subscribe()
    }

    /// Hubs that could not be reached, or refused everybody, for at least this long, though somebody tries.
    pub fn absent(&self, at_least: Duration) -> Vec<HubAddress> {
        self.inner.absent(at_least)
    }

    /// What is open now.
    pub fn status(&self) -> Status {
        let connections: Vec<_> = self.inner.pools().iter().flat_map(|pool| pool.connections()).collect();
        Status {
            connections: connections.len(),
            devices: connections.iter().map(|connection| connection.devices()).sum(),
            reached: self.inner.shared.reached(),
            kept: self.inner.kept.len(),
            attached: self.inner.shared.attached(),
            contended: self.inner.shared.contests.contended(),
            takeovers: self.inner.shared.contests.takeovers(),
        }
    }

    /// Closes links, sessions and connections, in this order, within some seconds. Sends fail from now on.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.closing.store(true, Ordering::Relaxed);
        // They send the answers that were given already.
        inner.leaving.cancel();
        inner.keepers.close();
        let kept_in_time = timeout(CLOSE_PATIENCE, inner.keepers.wait()).await.is_ok();
        let sessions = async {
            let slots: Vec<Slot> = inner.slots.iter().map(|slot| slot.value().clone()).collect();
            futures_util::stream::iter(slots)
                .for_each_concurrent(CLOSES_AT_ONCE, async |slot| {
                    device::close(slot.lock_owned().await).await
                })
                .await;
        };
        let in_time = timeout(CLOSE_PATIENCE, sessions).await.is_ok() && kept_in_time;
        let connections = async {
            for pool in inner.pools() {
                let connections = pool.connections();
                pool.close();
                for connection in connections {
                    connection.lost().cancelled().await;
                }
            }
        };
        if timeout(CLOSE_PATIENCE, connections).await.is_err() || !in_time {
            tracing::warn!("some hub sessions did not close in time and were cut");
        }
        inner.shared.tasks.stop(STOP_PATIENCE).await;
        inner.slots.clear();
        inner.kept.clear();
    }
}

/// A limit that takes a link away is one of links, not of the day's messages.
fn of_link(mut error: SendError) -> SendError {
    if let SendError::Retry { reason, .. } = &mut error
        && *reason == RetryReason::Quota
    {
        *reason = RetryReason::Link;
    }
    error
}
