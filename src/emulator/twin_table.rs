//! The twins of a hub's devices, and who is told of desired properties. No sockets, no wire.
//!
//! A change and its announcement are one step, so that versions are announced in their order.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::device::Device;
use super::hub::Hub;
use super::twin::{Properties, Twin, replacing, with_version};
use super::twin_limits::{MAX_PROPERTIES, MAX_TAGS, TwinError, check_patch, check_size};

/// Changes of desired properties that wait for one device's link; one that falls further behind loses its links.
pub(super) const WAITING_UPDATES: usize = 64;

/// A change of desired properties on its way to a device.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DesiredUpdate {
    /// `$version` after the change.
    pub(super) version: u64,
    /// The merge patch with `$version` in it.
    pub(super) patch: Value,
}

/// A change from the service side.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TwinUpdate {
    /// A merge patch of tags, or with `replace` all of them. `None` leaves them alone.
    pub(super) tags: Option<Properties>,
    /// The same for desired properties.
    pub(super) desired: Option<Properties>,
    /// Whether what is not named goes.
    pub(super) replace: bool,
}

/// The table.
#[derive(Debug)]
pub(super) struct TwinTable {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    twins: BTreeMap<String, Twin>,
    listeners: BTreeMap<String, Listener>,
}

/// Where a device's updates go.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) updates: mpsc::Sender<DesiredUpdate>,
    /// Cancelled when the device has fallen too far behind.
    pub(super) overrun: CancellationToken,
}

impl TwinTable {
    /// The twins of `devices`: those `kept`, else fresh ones. Others are dropped.
    pub(super) fn restore<'a>(
        devices: impl Iterator<Item = &'a Device>,
        mut kept: BTreeMap<String, Twin>,
        now_ms: i64,
    ) -> Self {
        let twin = |device: &Device| {
            let id = device.device_id.clone();
            let twin = kept.remove(&id).unwrap_or_else(|| Twin::fresh(now_ms));
            (id, twin)
        };
        let twins = devices.map(twin).collect();
        let state = Mutex::new(State { twins, listeners: BTreeMap::new() });
        Self { state, changes: watch::channel(0).0 }
    }

    /// Gives a new device its twin.
    pub(super) fn made(&self, device_id: &str, now_ms: i64) {
        self.lock().twins.insert(device_id.to_owned(), Twin::fresh(now_ms));
        self.changed();
    }

    /// Forgets a device's twin.
    pub(super) fn gone(&self, device_id: &str) {
        let mut state = self.lock();
        state.twins.remove(device_id);
        state.listeners.remove(device_id);
        drop(state);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn twin(&self, device_id: &str) -> Result<&Twin, TwinError> {
        self.twins.get(device_id).ok_or_else(|| TwinError::NotFound(device_id.to_owned()))
    }

    /// Hands an update to the device if it listens. What it can't take any more ends its links: it has to read anew.
    fn announce(&mut self, device_id: &str, update: DesiredUpdate) {
        let Some(listener) = self.listeners.get(device_id) else { return };
        if let Err(error) = listener.updates.try_send(update) {
            if matches!(error, mpsc::error::TrySendError::Full(_)) {
                listener.overrun.cancel();
            }
            self.listeners.remove(device_id);
        }
    }
}

impl Hub {
    /// A device's twin; `None` for an unknown device.
    pub fn twin(&self, device_id: &str) -> Option<Twin> {
        self.twins.lock().twins.get(device_id).cloned()
    }

    /// Twins that were ever changed, by device id.
    pub(super) fn used_twins(&self) -> BTreeMap<String, Twin> {
        let state = self.twins.lock();
        let used = state.twins.iter().filter(|(_, twin)| !twin.is_fresh());
        used.map(|(id, twin)| (id.clone(), twin.clone())).collect()
    }

    /// Counts changes of twins since the start, from either side; devices made, deleted, and coming to listen count too.
    pub fn twin_changes(&self) -> watch::Receiver<u64> {
        self.twins.changes.subscribe()
    }

    /// Whether a device is told of changes of its desired properties.
    pub fn follows_twin(&self, device_id: &str) -> bool {
        self.twins.lock().listeners.contains_key(device_id)
    }

    /// Merges `patch`, a JSON object, into the desired properties and tells the device.
    ///
    /// # Errors
    /// As [`TwinError`] says; then nothing is changed.
    pub fn update_desired(&self, device_id: &str, patch: &Value) -> Result<Twin, TwinError> {
        let update = TwinUpdate { desired: Some(object(patch)?), ..TwinUpdate::default() };
        self.update_twin(device_id, update, None)
    }

    /// Merges `patch`, a JSON object, into the tags.
    ///
    /// # Errors
    /// As [`TwinError`] says; then nothing is changed.
    pub fn update_tags(&self, device_id: &str, patch: &Value) -> Result<Twin, TwinError> {
        let update = TwinUpdate { tags: Some(object(patch)?), ..TwinUpdate::default() };
        self.update_twin(device_id, update, None)
    }

    /// Applies a change of the service side; `if_match` is the twin's etag, `None` or `*` for any.
    ///
    /// # Errors
    /// As [`TwinError`] says; then nothing is changed.
    pub(super) fn update_twin(
        &self,
        device_id: &str,
        update: TwinUpdate,
        if_match: Option<&str>,
    ) -> Result<Twin, TwinError> {
        let TwinUpdate { tags, desired, replace } = update;
        for patch in [&tags, &desired].into_iter().flatten() {
            check_patch(patch)?;
        }
        let mut state = self.twins.lock();
        let mut twin = state.twin(device_id)?.clone();
        if if_match.is_some_and(|etag| etag != "*" && etag != twin.etag()) {
            return Err(TwinError::Precondition(device_id.to_owned()));
        }
        let patch_of = |old: &Properties, new: Option<Properties>| {
            new.map(|new| if replace { replacing(old, &new) } else { new })
        };
        let tags = patch_of(&twin.tags, tags);
        let desired = patch_of(&twin.desired.properties, desired);
        twin.patch_service(tags.as_ref(), desired.as_ref(), self.clock().now_ms());
        check_size("tags", &twin.tags, MAX_TAGS)?;
        check_size("desired properties", &twin.desired.properties, MAX_PROPERTIES)?;
        state.twins.insert(device_id.to_owned(), twin.clone());
        if let Some(patch) = desired {
            let version = twin.desired.version;
            state.announce(device_id, DesiredUpdate { version, patch: with_version(patch, version) });
        }
        drop(state);
        self.twins.changed();
        Ok(twin)
    }

    /// Merges a device's patch into its reported properties; `if_version` is their `$version`, `None` for any.
    ///
    /// # Errors
    /// As [`TwinError`] says; then nothing is changed.
    pub(super) fn update_reported(
        &self,
        device_id: &str,
        patch: &Properties,
        if_version: Option<u64>,
    ) -> Result<u64, TwinError> {
        check_patch(patch)?;
        let mut state = self.twins.lock();
        let mut twin = state.twin(device_id)?.clone();
        if if_version.is_some_and(|version| version != twin.reported.version) {
            return Err(TwinError::Precondition(device_id.to_owned()));
        }
        twin.patch_reported(patch, self.clock().now_ms());
        check_size("reported properties", &twin.reported.properties, MAX_PROPERTIES)?;
        let version = twin.reported.version;
        state.twins.insert(device_id.to_owned(), twin);
        drop(state);
        self.twins.changed();
        Ok(version)
    }

    /// Sends a device's updates there from now on, instead of to where they went before.
    pub(super) fn listen_to_desired(&self, device_id: &str, listener: Listener) {
        self.twins.lock().listeners.insert(device_id.to_owned(), listener);
        self.twins.changed();
    }

    /// Sends a device's updates there no more.
    pub(super) fn ignore_desired(&self, device_id: &str, listener: &Listener) {
        let mut state = self.twins.lock();
        if state.listeners.get(device_id).is_some_and(|own| own.updates.same_channel(&listener.updates)) {
            state.listeners.remove(device_id);
        }
    }
}

fn object(patch: &Value) -> Result<Properties, TwinError> {
    match patch {
        Value::Object(object) => Ok(object.clone()),
        _ => Err(TwinError::Invalid("a patch is a JSON object".to_owned())),
    }
}
