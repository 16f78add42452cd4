//! The client as others see it: send one message for one device, know which hubs are up, close.
//!
//! Knows who sends, not how AMQP goes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use futures_util::StreamExt as _;
use tokio::sync::{OwnedMutexGuard, broadcast};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::DropGuard;

use super::classify::{self, Class};
use super::device::{self, DeviceSession, Held, Slot, SlotRef};
use super::dial::unreachable_hub;
use super::error::{RetryReason, SendError};
use super::message::encode;
use super::options::IotHubOptions;
use super::pool::Pool;
use super::shared::Shared;
use crate::azure::{Credential, HubAddress, HubDevice, Telemetry};
use crate::model::ParkReason;

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
}

/// A hub, and the policy if one opens its connections: policy connections are apart from those for device keys.
type PoolKey = (HubAddress, Option<Credential>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    slots: DashMap<(HubAddress, Arc<str>), Slot>,
    closing: AtomicBool,
}

impl IotHub {
    /// Starts a client; it connects when the first message is sent. To be called within a Tokio runtime.
    pub fn new(options: IotHubOptions) -> Self {
        let shared = Arc::new(Shared::new(options));
        let stop = Arc::new(shared.tasks.stop_on_drop());
        let inner = Arc::new(Inner {
            shared: shared.clone(),
            pools: Mutex::default(),
            slots: DashMap::new(),
            closing: AtomicBool::new(false),
        });
        shared.tasks.spawn(sweep(Arc::downgrade(&inner), shared.options.idle_timeout));
        Self { inner, _stop: stop }
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
            let Err(failure) = session.send(&message, &pool, patience).await else { return Ok(()) };
            let stale = !opened_now || by_policy(device);
            if stale && !fresh_tried && unauthorized(&failure.error) {
                // Our token should be valid still; one fresh token tells whether it is the device.
                (reopen, fresh_tried) = (true, true);
                continue;
            }
            if failure.session_lost {
                inner.shared.tasks.spawn(device::close(held));
            }
            return Err(failure.error);
        }
    }

    /// Tells the address of each hub to which a connection has just opened, so that whoever waits can go on at once.
    /// A receiver that lags should take every hub for up.
    pub fn hub_up(&self) -> broadcast::Receiver<HubAddress> {
        self.inner.shared.hub_up.subscribe()
    }

    /// What is open now.
    pub fn status(&self) -> Status {
        let connections: Vec<_> = self.inner.pools().iter().flat_map(|pool| pool.connections()).collect();
        Status {
            connections: connections.len(),
            devices: connections.iter().map(|connection| connection.devices()).sum(),
            reached: self.inner.shared.reached(),
        }
    }

    /// Closes links, sessions and connections, in this order, within some seconds. Sends fail from now on.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.closing.store(true, Ordering::Relaxed);
        let sessions = async {
            let slots: Vec<Slot> = inner.slots.iter().map(|slot| slot.value().clone()).collect();
            futures_util::stream::iter(slots)
                .for_each_concurrent(CLOSES_AT_ONCE, async |slot| {
                    device::close(slot.lock_owned().await).await
                })
                .await;
        };
        let in_time = timeout(CLOSE_PATIENCE, sessions).await.is_ok();
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
    }
}

impl Inner {
    fn slot(&self, device: &HubDevice) -> Slot {
        let key = (device.hub.clone(), device.device_id.clone());
        if let Some(slot) = self.slots.get(&key) {
            return slot.clone();
        }
        let empty = || Arc::new(tokio::sync::Mutex::new(Held { session: None, used: Instant::now() }));
        self.slots.entry(key).or_insert_with(empty).clone()
    }

    /// Waits for the device's turn: behind earlier sends, and behind a session that opens or closes.
    async fn turn(&self, slot: &Slot, device: &HubDevice) -> Result<OwnedMutexGuard<Held>, SendError> {
        if let Ok(held) = slot.clone().try_lock_owned() {
            return Ok(held);
        }
        let options = &self.shared.options;
        timeout(options.connect_timeout + options.send_timeout, slot.clone().lock_owned())
            .await
            .map_err(|_| too_late("the device's session was busy all the time", device))
    }

    fn pool(&self, device: &HubDevice) -> Arc<Pool> {
        let policy = match &device.credential {
            policy @ Credential::Policy { .. } => Some(policy.clone()),
            Credential::Device { .. } => None,
        };
        let key: PoolKey = (device.hub.clone(), policy);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Pool::new(device.hub.clone(), key.1.clone(), self.shared.clone()));
        pools.entry(key.clone()).or_insert_with(new).clone()
    }

    fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Opens the device's session anew in a task of its own, which goes on when the caller gives up: a broken-off
    /// begin or attach would cost the connection. The task keeps the slot until it is done.
    async fn open(
        &self,
        mut held: OwnedMutexGuard<Held>,
        slot: &Slot,
        device: &Arc<HubDevice>,
        pool: &Arc<Pool>,
        fresh_policy: bool,
    ) -> Result<(OwnedMutexGuard<Held>, Result<(), SendError>), SendError> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(unreachable_hub(&"the client is closing", &device.hub));
        }
        let (shared, pool) = (self.shared.clone(), pool.clone());
        let slot = SlotRef::new(slot, &device.device_id);
        let wanted = device.clone();
        let opening = self.shared.tasks.spawn(async move {
            if let Some(old) = held.session.take() {
                old.close().await;
            }
            let opened = DeviceSession::open(&shared, &pool, wanted, slot, fresh_policy).await;
            let opened = opened.map(|session| held.session = Some(session));
            (held, opened)
        });
        let options = &self.shared.options;
        match timeout(options.connect_timeout + options.send_timeout, opening).await {
            Ok(Ok(Some(done))) => Ok(done),
            Ok(Ok(None) | Err(_)) => Err(unreachable_hub(&"the client is closing", &device.hub)),
            Err(_) => Err(too_late("the device's session did not open in time", device)),
        }
    }
}

/// Takes sessions back from devices that send nothing, forgets empty slots, closes connections without devices.
async fn sweep(inner: Weak<Inner>, idle: Duration) {
    let period = (idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(60));
    loop {
        sleep(period).await;
        let Some(inner) = inner.upgrade() else { return };
        let slots: Vec<_> =
            inner.slots.iter().map(|slot| (slot.key().clone(), slot.value().clone())).collect();
        for (key, slot) in slots {
            // Somebody is using it.
            let Ok(held) = slot.try_lock_owned() else { continue };
            if held.used.elapsed() < idle {
                continue;
            }
            if held.session.is_some() {
                inner.shared.tasks.spawn(device::close(held));
            } else {
                drop(held);
                inner.slots.remove_if(&key, |_, slot| Arc::strong_count(slot) == 1);
            }
        }
        for pool in inner.pools() {
            pool.close_empty(idle);
        }
    }
}

fn too_late(detail: &str, device: &HubDevice) -> SendError {
    classify::error(Class::Retry(RetryReason::Timeout, None, false), detail, &device.hub)
}

fn by_policy(device: &HubDevice) -> bool {
    match device.credential {
        Credential::Policy { .. } => true,
        Credential::Device { .. } => false,
    }
}

fn unauthorized(error: &SendError) -> bool {
    matches!(error, SendError::Reresolve { reason: ParkReason::Unauthorized, .. })
}
