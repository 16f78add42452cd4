//! The roster: which devices' links are kept open, and which end device a hub device stands for.
//!
//! Knows no message. A device is on it from its first resolution on, if its application can send downlinks; `search`
//! finds out where lost ones went.

mod search;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::ports::{Devices, Hubs, Network};
use super::translate::Rules;
use crate::azure::{HubAddress, HubDevice};
use crate::iot_hub::Links;
use crate::model::{EndDevice, ParkReason};
use search::Searches;

/// Devices at most: what one IoT Hub holds, and what the directory keeps.
const MAX_DEVICES: usize = 1_000_000;

/// Who is kept open. Cheap to clone.
pub struct Roster<D, N, H>(Arc<Inner<D, N, H>>);

struct Inner<D, N, H> {
    devices: D,
    network: N,
    hubs: H,
    rules: Arc<Rules>,
    members: DashMap<EndDevice, Member>,
    owners: DashMap<HubKey, EndDevice>,
    /// Held by whoever changes `members` and `owners`, and while the hubs are told, so that they hear of changes in
    /// the order made. Reading needs none.
    changes: Mutex<()>,
    searches: Searches,
}

/// A hub device's name: its address and id there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct HubKey(HubAddress, Arc<str>);

impl HubKey {
    pub(super) fn of(device: &HubDevice) -> Self {
        Self(device.hub.clone(), Arc::clone(&device.device_id))
    }
}

struct Member {
    hub_device: Arc<HubDevice>,
    /// The hub refuses it; a search is under way.
    lost: bool,
}

impl<D, N, H> Clone for Roster<D, N, H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: Devices, N: Network, H: Hubs> Roster<D, N, H> {
    /// An empty roster. [`Roster::start`] fills it.
    pub fn new(devices: D, network: N, hubs: H, rules: Arc<Rules>) -> Self {
        Self(Arc::new(Inner {
            devices,
            network,
            hubs,
            rules,
            members: DashMap::new(),
            owners: DashMap::new(),
            changes: Mutex::default(),
            searches: Searches::default(),
        }))
    }

    /// Keeps open all devices that are known from before, for the applications that can send downlinks.
    pub fn start(&self) {
        let mut without_key = 0_usize;
        for (device, hub_device) in self.0.devices.known() {
            without_key += usize::from(!self.0.network.serves(device.application_id()));
            self.meet(&device, &hub_device);
        }
        info!(devices = self.len(), without_key, "Keeping the links of known devices open.");
    }

    /// A device was just resolved to this hub device. Call it for every uplink: when nothing changed, that is one
    /// look-up.
    pub fn meet(&self, device: &EndDevice, hub_device: &Arc<HubDevice>) {
        let known = self.0.members.get(device);
        if known.is_some_and(|member| Arc::ptr_eq(&member.hub_device, hub_device)) {
            return;
        }
        let wanted = self.0.wanted(device);
        if wanted.any() {
            let changes = self.0.change();
            self.0.searches.met(device);
            self.0.adopt(&changes, device, hub_device, wanted);
        }
    }

    /// A key for this application became known: its devices are kept open from now on.
    pub fn application_served(&self, application_id: &str) {
        for (device, hub_device) in self.0.devices.known() {
            if device.application_id() == application_id {
                self.meet(&device, &hub_device);
            }
        }
    }

    /// The hub refuses the device: the directory forgets what it knew, and is asked anew until it knows better or
    /// gives the device up. Then the next uplink tries again.
    pub fn lost(&self, hub_device: &HubDevice, reason: ParkReason, detail: &str) {
        let _changes = self.0.change();
        let Some(device) = self.end_device(hub_device) else { return };
        let Some(mut member) = self.0.members.get_mut(&device) else { return };
        // Told of an older key or assignment, while the hubs already try the newer one.
        if member.lost || *member.hub_device != *hub_device {
            return;
        }
        member.lost = true;
        if self.0.searches.is_given_up(&device) {
            debug!(%device, hub = %hub_device.hub, %reason, detail, "The hub still refuses the device's links.");
        } else {
            info!(%device, hub = %hub_device.hub, %reason, detail, "The hub refuses the device's links; asking anew where it lives.");
        }
        self.0.devices.lost(&device, &member.hub_device, reason);
        drop(member);
        self.0.searches.begin(device);
    }

    /// Which end device a hub device stands for.
    pub fn end_device(&self, hub_device: &HubDevice) -> Option<EndDevice> {
        self.0.owners.get(&HubKey::of(hub_device)).map(|owner| owner.clone())
    }

    /// How many devices are kept open or searched for.
    pub fn len(&self) -> usize {
        self.0.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.members.is_empty()
    }

    /// Searches for lost devices until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.search() => {}
        }
    }
}

impl<D: Devices, N: Network, H: Hubs> Inner<D, N, H> {
    /// The links that the device's application uses and can use.
    fn wanted(&self, device: &EndDevice) -> Links {
        let application = device.application_id();
        if self.network.serves(application) { self.rules.links(application) } else { Links::NONE }
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the device in, or its new hub device, and has that one kept open instead of the old.
    fn adopt(
        &self,
        _changes: &MutexGuard<'_, ()>,
        device: &EndDevice,
        hub_device: &Arc<HubDevice>,
        wanted: Links,
    ) {
        if self.members.len() >= MAX_DEVICES && !self.members.contains_key(device) {
            debug!(%device, "The roster is full; this device gets no downlinks.");
            return;
        }
        let key = HubKey::of(hub_device);
        if device.tenant().is_empty() && self.is_owned_with_tenant(&key, device) {
            // The name with the tenant stays, as in the directory: learnt keys are kept by it.
            return;
        }
        let previous = self.owners.insert(key.clone(), device.clone());
        if let Some(previous) = previous.filter(|previous| previous != device) {
            if !previous.is_same(device) {
                warn!(
                    %device, %previous, hub = %hub_device.hub, hub_device = %hub_device.device_id,
                    "Two end devices are one hub device; its messages go to the one that was seen last."
                );
            }
            self.members.remove(&previous);
        }
        let member = Member { hub_device: Arc::clone(hub_device), lost: false };
        if let Some(old) = self.members.insert(device.clone(), member) {
            self.part(&old.hub_device, &key);
        }
        self.hubs.keep_open(hub_device, wanted);
    }

    /// Whether the hub device is kept open for the same end device under the name with its tenant.
    fn is_owned_with_tenant(&self, key: &HubKey, device: &EndDevice) -> bool {
        let owner = self.owners.get(key).map(|owner| owner.clone());
        owner.is_some_and(|owner| owner != *device && owner.is_same(device))
    }

    /// Ends the wish for a device's earlier hub device, unless it is the same under a new key.
    fn part(&self, old: &Arc<HubDevice>, new: &HubKey) {
        let key = HubKey::of(old);
        if key != *new {
            self.owners.remove(&key);
            self.hubs.keep_open(old, Links::NONE);
        }
    }

    /// A search found the device, unless an uplink came first.
    fn found(&self, device: &EndDevice, hub_device: &Arc<HubDevice>) {
        let changes = self.change();
        if self.is_lost(device) || self.is_away(device) {
            self.adopt(&changes, device, hub_device, self.wanted(device));
        }
    }

    /// A search ended without hope, unless an uplink came first.
    fn give_up(&self, device: &EndDevice, reason: ParkReason, detail: &str) {
        let _changes = self.change();
        let Entry::Occupied(member) = self.members.entry(device.clone()) else { return };
        if !member.get().lost {
            return;
        }
        let old = member.remove();
        if self.searches.give_up(device) {
            warn!(
                %device, hub = %old.hub_device.hub, %reason, detail,
                "The device has no hub any more; it gets no downlinks until its next uplink, or one of the tries each \
                 ten to twenty minutes, finds one."
            );
        } else {
            debug!(%device, hub = %old.hub_device.hub, %reason, detail, "The device still has no hub.");
        }
        self.owners.remove(&HubKey::of(&old.hub_device));
        self.hubs.keep_open(&old.hub_device, Links::NONE);
    }

    /// Whether the device was given up, and nobody found it since.
    fn is_away(&self, device: &EndDevice) -> bool {
        self.searches.is_given_up(device) && !self.members.contains_key(device)
    }

    fn is_lost(&self, device: &EndDevice) -> bool {
        self.members.get(device).is_some_and(|member| member.lost)
    }
}

impl<D, N, H> std::fmt::Debug for Roster<D, N, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roster").field("devices", &self.0.members.len()).finish_non_exhaustive()
    }
}
