//! One hub's state as plain data behind a lock: policies, device registry, the log of what arrived.
//!
//! Pure: no sockets, no AMQP, no HTTP. Changes that a connection must act on go out as [`HubChange`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{broadcast, watch};

use super::cloud_messages::{CloudMessages, CloudSettings};
use super::device::{Device, DeviceStatus, RegistryError};
use super::event::Event;
use super::faults::Faults;
use super::methods::MethodDesk;
use super::partition::Partition;
use super::presence::{Cut, Presence};
use super::sas::{Token, TokenError};
use super::throttle_hub::Limits;
use super::twin::Twin;
use super::twin_table::TwinTable;
use crate::model::Clock;

/// Partitions of the Event Hub-compatible endpoint, as a new IoT Hub has.
pub const PARTITIONS: usize = 4;

/// One emulated hub.
#[derive(Debug)]
pub struct Hub {
    host: String,
    clock: Clock,
    created_ms: i64,
    pub(super) limits: Limits,
    pub(super) twins: TwinTable,
    pub(super) methods: MethodDesk,
    policies: BTreeMap<&'static str, String>,
    state: Mutex<State>,
    presence: Mutex<Presence>,
    pub(super) cloud: CloudMessages,
    pub(super) faults: Faults,
    changes: broadcast::Sender<HubChange>,
    arrived: watch::Sender<u64>,
    registry_version: watch::Sender<u64>,
}

/// Azure's five default policies.
const POLICIES: [&str; 5] = ["iothubowner", "service", "device", "registryRead", "registryReadWrite"];

#[derive(Debug, Default)]
struct State {
    devices: BTreeMap<String, Device>,
    partitions: Vec<Partition>,
}

/// What open connections must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubChange {
    /// The device was deleted, disabled or got other keys: cut it off.
    DeviceLost(String),
}

impl Hub {
    /// An empty hub that answers to `host`, with Azure's five default policies and fresh random keys.
    pub fn new(host: impl Into<String>, clock: Clock) -> Self {
        Self::restore(host, clock, &BTreeMap::new(), Vec::new(), BTreeMap::new())
    }

    /// A hub with the policy keys, devices and twins it had before. Missing keys and twins are made.
    pub fn restore(
        host: impl Into<String>,
        clock: Clock,
        policy_keys: &BTreeMap<String, String>,
        devices: Vec<Device>,
        twins: BTreeMap<String, Twin>,
    ) -> Self {
        let key = |name: &str| policy_keys.get(name).cloned().unwrap_or_else(random_key);
        Self {
            host: host.into(),
            created_ms: clock.now_ms(),
            twins: TwinTable::restore(devices.iter(), twins, clock.now_ms()),
            methods: MethodDesk::default(),
            clock,
            limits: Limits::default(),
            policies: POLICIES.into_iter().map(|name| (name, key(name))).collect(),
            state: Mutex::new(State {
                devices: devices.into_iter().map(|device| (device.device_id.clone(), device)).collect(),
                partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
            }),
            presence: Mutex::default(),
            cloud: CloudMessages::default(),
            faults: Faults::default(),
            changes: broadcast::channel(1024).0,
            arrived: watch::channel(0).0,
            registry_version: watch::channel(0).0,
        }
    }

    /// The same hub, without messages, that treats them otherwise.
    #[must_use]
    pub fn with_cloud(self, settings: CloudSettings) -> Self {
        Self { cloud: CloudMessages::with(settings), ..self }
    }

    /// Its host name, without port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The time it lives in.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// When it was made, in milliseconds since 1970 UTC.
    pub(super) fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// A policy's key, base64. `None` for an unknown policy.
    pub fn policy_key(&self, policy: &str) -> Option<&str> {
        self.policies.get(policy).map(String::as_str)
    }

    /// All policies: name and key.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &str)> {
        self.policies.iter().map(|(name, key)| (*name, key.as_str()))
    }

    /// `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…` of a policy.
    pub fn connection_string(&self, policy: &str) -> Option<String> {
        self.policy_key(policy)
            .map(|key| format!("HostName={};SharedAccessKeyName={policy};SharedAccessKey={key}", self.host))
    }

    /// Checks a token that is signed with one of this hub's policies.
    ///
    /// # Errors
    /// As [`Token::verify`]; an unknown policy counts as a bad signature.
    pub fn verify_policy(&self, token: &Token) -> Result<(), TokenError> {
        let key =
            token.policy.as_deref().and_then(|name| self.policy_key(name)).ok_or(TokenError::BadSignature)?;
        token.verify([key], self.now_s())
    }

    /// Checks a token for the Event Hub-compatible endpoint: signed with a policy's key as text.
    ///
    /// # Errors
    /// As [`Hub::verify_policy`].
    pub(super) fn verify_event_hub(&self, token: &Token) -> Result<(), TokenError> {
        let key =
            token.policy.as_deref().and_then(|name| self.policy_key(name)).ok_or(TokenError::BadSignature)?;
        token.verify_text(key, self.now_s())
    }

    /// Checks a token that is signed with a device's own key.
    ///
    /// # Errors
    /// As [`Token::verify`]; an unknown device counts as a bad signature, so look it up first.
    pub fn verify_device(&self, token: &Token, device_id: &str) -> Result<(), TokenError> {
        let device = self.device(device_id).ok_or(TokenError::BadSignature)?;
        token.verify([device.primary_key.as_str(), device.secondary_key.as_str()], self.now_s())
    }

    /// A registry entry.
    pub fn device(&self, device_id: &str) -> Option<Device> {
        self.lock().devices.get(device_id).cloned()
    }

    /// All entries, by id.
    pub fn devices(&self) -> Vec<Device> {
        self.lock().devices.values().cloned().collect()
    }

    /// How many entries there are.
    pub fn device_count(&self) -> usize {
        self.lock().devices.len()
    }

    /// Counts changes of the registry since the start, so that it can be saved.
    pub fn registry_version(&self) -> watch::Receiver<u64> {
        self.registry_version.subscribe()
    }

    /// Creates an enabled device. Missing keys are made.
    ///
    /// # Errors
    /// `Exists` if it is there already.
    pub fn create_device(&self, id: &str, keys: Option<(String, String)>) -> Result<Device, RegistryError> {
        self.create_device_as(id, keys, DeviceStatus::Enabled)
    }

    /// Creates a device that may be disabled from the start. Missing keys are made.
    ///
    /// # Errors
    /// `Exists` if it is there already.
    pub fn create_device_as(
        &self,
        id: &str,
        keys: Option<(String, String)>,
        status: DeviceStatus,
    ) -> Result<Device, RegistryError> {
        let mut state = self.lock();
        if state.devices.contains_key(id) {
            return Err(RegistryError::Exists(id.to_owned()));
        }
        let (primary_key, secondary_key) = keys.unwrap_or_else(|| (random_key(), random_key()));
        let device = Device {
            device_id: id.to_owned(),
            status,
            primary_key,
            secondary_key,
            generation_id: format!("{}{:06}", self.clock.now_ms(), fastrand::u32(..1_000_000)),
            etag: random_etag(),
        };
        state.devices.insert(id.to_owned(), device.clone());
        self.twins.made(id, self.clock.now_ms());
        drop(state);
        self.registry_version.send_modify(|version| *version += 1);
        Ok(device)
    }

    /// Replaces status and keys of a device; `if_match` is its etag, `None` or `*` for any.
    ///
    /// # Errors
    /// `NotFound`, or `Precondition` when the etag differs.
    pub fn update_device(
        &self,
        id: &str,
        status: DeviceStatus,
        keys: Option<(String, String)>,
        if_match: Option<&str>,
    ) -> Result<Device, RegistryError> {
        let mut state = self.lock();
        let device = state.devices.get_mut(id).ok_or_else(|| RegistryError::NotFound(id.to_owned()))?;
        if if_match.is_some_and(|etag| etag != "*" && etag != device.etag) {
            return Err(RegistryError::Precondition(id.to_owned()));
        }
        let before = device.clone();
        device.status = status;
        if let Some((primary, secondary)) = keys {
            device.primary_key = primary;
            device.secondary_key = secondary;
        }
        device.etag = random_etag();
        let lost = device.status == DeviceStatus::Disabled || device.primary_key != before.primary_key;
        let device = device.clone();
        drop(state);
        self.registry_version.send_modify(|version| *version += 1);
        if lost {
            let disabled = device.status == DeviceStatus::Disabled;
            self.cut_device(id, if disabled { Cut::Disabled } else { Cut::KeysChanged });
            _ = self.changes.send(HubChange::DeviceLost(id.to_owned()));
        }
        Ok(device)
    }

    /// Forgets a device and cuts it off.
    ///
    /// # Errors
    /// `NotFound`, or `Precondition` when the etag differs.
    pub fn delete_device(&self, id: &str, if_match: Option<&str>) -> Result<(), RegistryError> {
        let mut state = self.lock();
        let device = state.devices.get(id).ok_or_else(|| RegistryError::NotFound(id.to_owned()))?;
        if if_match.is_some_and(|etag| etag != "*" && etag != device.etag) {
            return Err(RegistryError::Precondition(id.to_owned()));
        }
        state.devices.remove(id);
        self.twins.gone(id);
        drop(state);
        self.registry_version.send_modify(|version| *version += 1);
        self.cut_device(id, Cut::Deleted);
        self.forget_cloud_messages(id);
        _ = self.changes.send(HubChange::DeviceLost(id.to_owned()));
        Ok(())
    }

    /// Keeps a telemetry message in its device's partition; fills sequence number and time.
    pub fn enqueue(&self, mut event: Event) {
        let partition = partition_of(&event.device_id);
        let mut state = self.lock();
        let partition = &mut state.partitions[partition];
        event.enqueued_ms = self.clock.now_ms();
        partition.push(event);
        drop(state);
        self.arrived.send_modify(|count| *count += 1);
    }

    /// Events of a partition from a sequence number on, at most `limit`.
    pub fn events(&self, partition: usize, from: i64, limit: usize) -> Vec<Event> {
        let state = self.lock();
        let Some(partition) = state.partitions.get(partition) else { return Vec::new() };
        partition.from(from, limit)
    }

    /// First kept and next sequence number of a partition, for `$management` and start positions.
    pub fn bounds(&self, partition: usize) -> (i64, i64) {
        self.lock().partitions.get(partition).map_or((0, 0), Partition::bounds)
    }

    /// Sequence number of the first kept event after `ms` (or at it, if `inclusive`); the next one if there is none.
    pub(super) fn first_after(&self, partition: usize, ms: i64, inclusive: bool) -> i64 {
        self.lock().partitions.get(partition).map_or(0, |partition| partition.first_after(ms, inclusive))
    }

    /// Whether a connection holds a link of this device.
    pub fn is_connected(&self, device_id: &str) -> bool {
        self.presence().is_connected(device_id)
    }

    /// Links that a device has attached since the start, those it has lost included.
    pub fn links_attached(&self, device_id: &str) -> u64 {
        self.presence().attached(device_id)
    }

    /// Gives a device to a connection; see [`Presence::claim`].
    pub(super) fn claim_device(&self, device_id: &str, connection: u64) -> watch::Receiver<Option<Cut>> {
        self.presence().claim(device_id, connection)
    }

    /// Takes a device back once a connection has no link of it any more.
    pub(super) fn release_device(&self, device_id: &str, connection: u64) {
        self.presence().release(device_id, connection);
    }

    /// Cuts a device off, wherever it is.
    pub(super) fn cut_device(&self, device_id: &str, why: Cut) {
        self.presence().cut(device_id, why);
    }

    /// Whether a connection holds a device.
    pub(super) fn holds_device(&self, device_id: &str, connection: u64) -> bool {
        self.presence().holds(device_id, connection)
    }

    /// The devices a connection holds.
    pub(super) fn devices_of(&self, connection: u64) -> Vec<String> {
        self.presence().held_by(connection)
    }

    /// Everything kept, over all partitions, in the order of arrival within each.
    pub fn all_events(&self) -> Vec<Event> {
        (0..PARTITIONS).flat_map(|partition| self.events(partition, 0, usize::MAX)).collect()
    }

    /// Counts telemetry messages since the start; changes when one arrives.
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// What connections must act on from now on.
    pub fn changes(&self) -> broadcast::Receiver<HubChange> {
        self.changes.subscribe()
    }

    fn now_s(&self) -> u64 {
        u64::try_from(self.clock.now_ms() / 1000).unwrap_or(0)
    }

    fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The partition of a device: the same for all its messages, so that readers see them in order.
fn partition_of(device_id: &str) -> usize {
    device_id.bytes().fold(5381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte)) % PARTITIONS
}

/// A fresh key as Azure makes them: 32 random bytes in base64.
pub(super) fn random_key() -> String {
    let mut key = [0; 32];
    fastrand::fill(&mut key);
    STANDARD.encode(key)
}

fn random_etag() -> String {
    STANDARD.encode(fastrand::u64(..).to_be_bytes())
}
