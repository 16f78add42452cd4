//! What a client holds: the one slot of each device, the pools of connections, and who is swept out when idle.
//!
//! Knows neither who sends nor what comes in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::classify::{self, Class};
use super::connects::as_connect;
use super::device::{self, DeviceSession, Held, Slot, SlotRef};
use super::dial::unreachable_hub;
use super::error::{RetryReason, SendError};
use super::event::DeviceEvent;
use super::hub::Hub;
use super::kept::Kept;
use super::pool::Pool;
use super::shared::Shared;
use crate::azure::{Credential, HubAddress, HubDevice};
use crate::model::ParkReason;

/// Sessions taken from worn connections with each sweep.
const MOVED_AT_ONCE: usize = 50;

/// A device in this process.
pub(super) type DeviceKey = (HubAddress, Arc<str>);

/// A hub, and the policy if one opens its connections: policy connections are apart from those for device keys.
type PoolKey = (HubAddress, Option<Credential>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) slots: DashMap<DeviceKey, Slot>,
    /// Devices whose links are kept open.
    pub(super) kept: DashMap<DeviceKey, Arc<Kept>>,
    /// Where what comes in goes; without, nothing is kept open.
    pub(super) events: Option<mpsc::Sender<DeviceEvent>>,
    /// Their keepers, which end on `leaving`.
    pub(super) keepers: TaskTracker,
    pub(super) leaving: CancellationToken,
    pub(super) closing: AtomicBool,
    hubs: DashMap<HubAddress, Arc<Hub>>,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
}

impl Inner {
    pub(super) fn new(shared: Arc<Shared>, events: Option<mpsc::Sender<DeviceEvent>>) -> Self {
        Self {
            shared,
            slots: DashMap::new(),
            kept: DashMap::new(),
            events,
            keepers: TaskTracker::new(),
            leaving: CancellationToken::new(),
            closing: AtomicBool::new(false),
            hubs: DashMap::new(),
            pools: Mutex::default(),
        }
    }

    pub(super) fn slot(&self, device: &HubDevice) -> Slot {
        let key = (device.hub.clone(), device.device_id.clone());
        if let Some(slot) = self.slots.get(&key) {
            return slot.clone();
        }
        let empty = || Arc::new(tokio::sync::Mutex::new(Held { session: None, used: Instant::now() }));
        self.slots.entry(key).or_insert_with(empty).clone()
    }

    /// Waits for the device's turn: behind earlier sends, and behind a session that opens or closes.
    pub(super) async fn turn(
        &self,
        slot: &Slot,
        device: &HubDevice,
    ) -> Result<OwnedMutexGuard<Held>, SendError> {
        if let Ok(held) = slot.clone().try_lock_owned() {
            return Ok(held);
        }
        let options = &self.shared.options;
        timeout(options.connect_timeout + options.send_timeout, slot.clone().lock_owned())
            .await
            .map_err(|_| too_late("the device's session was busy all the time", device))
    }

    pub(super) fn pool(&self, device: &HubDevice) -> Arc<Pool> {
        let policy = match &device.credential {
            policy @ Credential::Policy { .. } => Some(policy.clone()),
            Credential::Device { .. } => None,
        };
        let key: PoolKey = (device.hub.clone(), policy);
        let known = self.hub(&device.hub);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Pool::new(device.hub.clone(), key.1.clone(), known, self.shared.clone()));
        pools.entry(key.clone()).or_insert_with(new).clone()
    }

    /// What is known of a hub.
    pub(super) fn hub(&self, address: &HubAddress) -> Arc<Hub> {
        let new = || Arc::new(Hub::new(self.shared.options.attach_rate, self.shared.options.connect_rate));
        self.hubs.entry(address.clone()).or_insert_with(new).clone()
    }

    /// Hubs that were of no use to anybody for at least so long.
    pub(super) fn absent(&self, at_least: Duration) -> Vec<HubAddress> {
        let now = Instant::now();
        let away = |hub: &Hub| hub.absence.lasts(now).is_some_and(|lasts| lasts >= at_least);
        self.hubs.iter().filter(|hub| away(hub.value())).map(|hub| hub.key().clone()).collect()
    }

    pub(super) fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Opens the device's session anew in a task of its own, which goes on when the caller gives up: a broken-off
    /// begin or attach would cost the connection. The task keeps the slot until it is done.
    pub(super) async fn open(
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
        let (shared, pool, hub) = (self.shared.clone(), pool.clone(), self.hub(&device.hub));
        let slot = SlotRef::new(slot, &device.device_id);
        let wanted = device.clone();
        let opening = self.shared.tasks.spawn(async move {
            if let Some(old) = held.session.take() {
                old.close().await;
            }
            // While there is no connection nobody is asked, so nobody's turn is used up.
            if !pool.is_down() {
                hub.connects.first().await;
            }
            let opened = DeviceSession::open(&shared, &pool, wanted, slot, fresh_policy).await;
            hub.connects.note(opened.as_ref().map(|_| ()));
            let opened = opened.map(|session| held.session = Some(session)).map_err(as_connect);
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
pub(super) async fn sweep(inner: Weak<Inner>, idle: Duration) {
    let period = (idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(60));
    loop {
        sleep(period).await;
        let Some(inner) = inner.upgrade() else { return };
        let slots: Vec<_> =
            inner.slots.iter().map(|slot| (slot.key().clone(), slot.value().clone())).collect();
        let mut moved = 0;
        for (key, slot) in slots {
            // Somebody is using it.
            let Ok(mut held) = slot.try_lock_owned() else { continue };
            if moved < MOVED_AT_ONCE && held.session.as_ref().is_some_and(DeviceSession::should_move) {
                // It opens anew when something is to be sent; a keeper does so at once.
                inner.shared.tasks.spawn(device::close(held));
                moved += 1;
                continue;
            }
            if let Some(session) = held.session.as_mut().filter(|session| session.is_kept()) {
                if session.is_lost() {
                    if let Some(taken) = session.taken() {
                        device::contested(taken, &inner.shared, session.device());
                    }
                    inner.shared.tasks.spawn(device::close(held));
                }
                continue;
            }
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
        inner.shared.contests.sweep(Instant::now());
    }
}

pub(super) fn too_late(detail: &str, device: &HubDevice) -> SendError {
    classify::error(Class::Retry(RetryReason::Timeout, None, false), detail, &device.hub)
}

pub(super) fn by_policy(device: &HubDevice) -> bool {
    match device.credential {
        Credential::Policy { .. } => true,
        Credential::Device { .. } => false,
    }
}

pub(super) fn unauthorized(error: &SendError) -> bool {
    matches!(error, SendError::Reresolve { reason: ParkReason::Unauthorized, .. })
}
