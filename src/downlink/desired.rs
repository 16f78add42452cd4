//! Desired properties: each change becomes one downlink, acknowledged as a reported property.
//!
//! One worker per hub device that has something to do; it ends when all is queued, told and acknowledged. What it knows
//! lies in the store, so a restart only needs to see all desired properties once. Knows no link.

mod ack;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(in crate::downlink) mod fuzzing;
mod inbox;
mod pending;
mod plan;
mod state;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::inbox::Inbox;
use self::worker::Worker;
use super::Ledger;
use super::ports::{Hubs, Network, Observer, Outbox, Store};
use super::translate::{Rules, is_desired_property};
use crate::azure::{Desired, DesiredScope, HubDevice};
use crate::model::EndDevice;

/// The namespace of the small state, one value per hub device.
const NAMESPACE: &str = "twin";

/// Acts on desired properties. Cheap to clone.
pub struct DesiredFlow<N, S, O, H>(Arc<Inner<N, S, O, H>>);

struct Inner<N, S, O, H> {
    parts: DesiredParts<N, S, O, H>,
    /// Devices with a worker.
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    workers: TaskTracker,
    stop: CancellationToken,
}

/// What the flow works with.
pub struct DesiredParts<N, S, O, H> {
    /// The Things Stack.
    pub network: N,
    /// Where downlinks are entered before they are pushed.
    pub ledger: Ledger<S, O>,
    /// Where it is kept which value was applied last.
    pub store: S,
    /// Where acknowledgements go.
    pub hubs: H,
    /// What properties mean.
    pub rules: Arc<Rules>,
    /// `downlink.expiry`: how long a property is tried.
    pub expiry: Duration,
    /// For how long the state is kept.
    pub clock: crate::model::Clock,
    /// Counts.
    pub observer: Arc<dyn Observer>,
}

/// Where a device's worker gets its work.
struct Slot {
    inbox: Mutex<(Inbox, Arc<HubDevice>)>,
    woken: Notify,
}

impl Slot {
    fn inbox(&self) -> MutexGuard<'_, (Inbox, Arc<HubDevice>)> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N, S, O, H> Clone for DesiredFlow<N, S, O, H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<N: Network, S: Store, O: Outbox, H: Hubs> DesiredFlow<N, S, O, H> {
    /// Joins the parts.
    pub fn new(parts: DesiredParts<N, S, O, H>) -> Self {
        Self(Arc::new(Inner {
            parts,
            slots: Mutex::default(),
            workers: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Takes in desired properties of a device, in the order its hub told them. Returns at once: the device's own worker
    /// does the rest, so that a device whose downlinks must wait hears of newer values.
    pub fn handle(&self, device: &EndDevice, hub_device: &Arc<HubDevice>, mut desired: Desired) {
        let rules = self.0.parts.rules.application(device.application_id());
        desired.properties.retain(|name, _| is_desired_property(name, rules));
        if matches!(desired.scope, DesiredScope::Patch) && desired.properties.is_empty() {
            return;
        }
        let key = key(hub_device);
        let mut slots = self.0.slots();
        if self.0.stop.is_cancelled() {
            return;
        }
        if let Some(slot) = slots.get(&key) {
            let mut inbox = slot.inbox();
            inbox.0.put(desired);
            inbox.1 = Arc::clone(hub_device);
            slot.woken.notify_one();
            return;
        }
        let mut inbox = Inbox::default();
        inbox.put(desired);
        let slot =
            Arc::new(Slot { inbox: Mutex::new((inbox, Arc::clone(hub_device))), woken: Notify::new() });
        slots.insert(key.clone(), Arc::clone(&slot));
        let worker = Worker::new(Arc::clone(&self.0), device.clone(), key, slot);
        self.0.workers.spawn(worker.run());
    }

    /// Devices whose properties are not yet queued, sent and acknowledged, for gauges.
    pub fn busy(&self) -> usize {
        self.0.slots().len()
    }

    /// Ends all workers; what they had not finished, they find again after the next start. Bounded by the time-outs of
    /// the calls under way.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.workers.close();
        self.0.workers.wait().await;
    }
}

impl<N, S, O, H> Inner<N, S, O, H> {
    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N, S, O, H> std::fmt::Debug for DesiredFlow<N, S, O, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DesiredFlow").field("busy", &self.0.slots().len()).finish_non_exhaustive()
    }
}

/// A hub device's key in the store. Hosts and ids hold no control character.
fn key(device: &HubDevice) -> String {
    format!("{}\u{1f}{}", device.hub.host, device.device_id)
}
