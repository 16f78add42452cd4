//! A DPS instance with one symmetric key enrollment group: who is registered, where, and what it was told to do.
//!
//! Plain data behind a lock. Knows no HTTP; time enters as calls to `finish`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use tokio::sync::watch;
use uuid::Uuid;

use super::device::{DeviceStatus, RegistryError};
use super::hub::{Hub, random_key};
use super::registration::{Calls, Failure, Refusal, Registration, RegistrationStatus};
use super::sas::{Token, TokenError};
use crate::model::Clock;

/// Operations that can be asked about; the oldest are forgotten first, as Azure does after a while.
const MAX_OPERATIONS: usize = 10_000;
/// Registrations of one instance. Azure allows 1,000,000; this bounds memory.
const MAX_REGISTRATIONS: usize = 100_000;

/// One DPS instance.
#[derive(Debug)]
pub struct Dps {
    id_scope: String,
    group_key: String,
    clock: Clock,
    retry_after_s: u32,
    hubs: Vec<Arc<Hub>>,
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    registrations: BTreeMap<String, Registration>,
    /// Operation id to registration id.
    operations: HashMap<String, String>,
    operation_order: VecDeque<String>,
    /// Registration id to its running operation.
    running: HashMap<String, String>,
    /// Hub host to its number of assignments.
    load: BTreeMap<String, usize>,
    calls: Calls,
    work: Duration,
    group_disabled: bool,
    disabled: BTreeSet<String>,
    failures: BTreeMap<String, Failure>,
    refusal: Option<Refusal>,
}

/// What a call to `register` began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Started {
    pub(super) operation_id: String,
    /// How long to work before `finish`; `None` if the work is under way already.
    pub(super) work: Option<Duration>,
}

impl Dps {
    /// An instance that assigns to `hubs`, with the assignments it had before.
    pub(super) fn new(
        (id_scope, group_key): (String, String),
        (clock, work, retry_after_s): (Clock, Duration, u32),
        hubs: Vec<Arc<Hub>>,
        registrations: Vec<Registration>,
    ) -> Self {
        let mut load = BTreeMap::new();
        for hub in registrations.iter().filter_map(|known| known.assigned_hub.as_ref()) {
            *load.entry(hub.clone()).or_default() += 1;
        }
        let registrations =
            registrations.into_iter().map(|known| (known.registration_id.clone(), known)).collect();
        let state = Mutex::new(State { registrations, load, work, ..State::default() });
        Self { id_scope, group_key, clock, retry_after_s, hubs, state, version: watch::channel(0).0 }
    }

    /// The id scope, `0ne…`.
    pub fn id_scope(&self) -> &str {
        &self.id_scope
    }

    /// The enrollment group's key, base64.
    pub fn group_key(&self) -> &str {
        &self.group_key
    }

    /// `Retry-After` of an unfinished registration, in seconds.
    pub fn retry_after_s(&self) -> u32 {
        self.retry_after_s
    }

    /// Calls since the start.
    pub fn calls(&self) -> Calls {
        self.lock().calls
    }

    /// A registration; the id's case does not matter.
    pub fn registration(&self, id: &str) -> Option<Registration> {
        self.lock().registrations.get(&id.to_ascii_lowercase()).cloned()
    }

    /// All registrations, by id.
    pub fn registrations(&self) -> Vec<Registration> {
        self.lock().registrations.values().cloned().collect()
    }

    /// Enables or disables the enrollment group: while disabled, registrations end as `disabled`.
    pub fn set_group_enabled(&self, enabled: bool) {
        self.lock().group_disabled = !enabled;
    }

    /// Enables or disables one registration.
    pub fn set_enabled(&self, id: &str, enabled: bool) {
        let (mut state, id) = (self.lock(), id.to_ascii_lowercase());
        _ = if enabled { state.disabled.remove(&id) } else { state.disabled.insert(id) };
    }

    /// Lets a registration end as `failed`, until `None`.
    pub fn set_failure(&self, id: &str, failure: Option<Failure>) {
        let (mut state, id) = (self.lock(), id.to_ascii_lowercase());
        _ = match failure {
            Some(failure) => state.failures.insert(id, failure),
            None => state.failures.remove(&id),
        };
    }

    /// Refuses every call, until `None`.
    pub fn set_refusal(&self, refusal: Option<Refusal>) {
        self.lock().refusal = refusal;
    }

    /// How long assignments that start from now on take.
    pub fn set_work(&self, work: Duration) {
        self.lock().work = work;
    }

    /// Counts a call and says whether all calls are refused just now.
    pub(super) fn count(&self, count: impl FnOnce(&mut Calls)) -> Option<Refusal> {
        let mut state = self.lock();
        count(&mut state.calls);
        state.refusal.clone()
    }

    /// Checks a device's token: made with the key derived from the group's for this registration.
    pub(super) fn verify(&self, token: &Token, id: &str) -> Result<(), TokenError> {
        let id = id.to_ascii_lowercase();
        let expected = format!("{}/registrations/{id}", self.id_scope);
        if !token.resource().eq_ignore_ascii_case(&expected) {
            return Err(TokenError::Malformed("sr is not {idScope}/registrations/{registrationId}"));
        }
        if token.policy.as_deref() != Some("registration") {
            return Err(TokenError::Malformed("skn is not registration"));
        }
        let key = derived_key(&self.group_key, &id).ok_or(TokenError::BadSignature)?;
        token.verify([key.as_str()], u64::try_from(self.clock.now_ms() / 1000).unwrap_or(0))
    }

    /// Starts an assignment, or joins the one under way. `None` when the instance is full.
    pub(super) fn register(&self, id: &str, payload: Option<Value>) -> Option<Started> {
        let (mut state, id) = (self.lock(), id.to_ascii_lowercase());
        if let Some(operation_id) = state.running.get(&id) {
            return Some(Started { operation_id: operation_id.clone(), work: None });
        }
        if state.registrations.len() >= MAX_REGISTRATIONS && !state.registrations.contains_key(&id) {
            return None;
        }
        let now_ms = self.clock.now_ms();
        let registration = state.registrations.entry(id.clone()).or_insert_with(|| Registration {
            registration_id: id.clone(),
            status: RegistrationStatus::Assigning,
            assigned_hub: None,
            created_ms: now_ms,
            updated_ms: now_ms,
            etag: String::new(),
            payload: None,
            failure: None,
        });
        registration.status = RegistrationStatus::Assigning;
        if payload.is_some() {
            registration.payload = payload;
        }
        let operation_id = format!("5.{}.{}", Uuid::new_v4().simple(), Uuid::new_v4());
        state.operations.insert(operation_id.clone(), id.clone());
        state.operation_order.push_back(operation_id.clone());
        if state.operation_order.len() > MAX_OPERATIONS
            && let Some(oldest) = state.operation_order.pop_front()
        {
            state.operations.remove(&oldest);
        }
        state.running.insert(id, operation_id.clone());
        Some(Started { operation_id, work: Some(state.work) })
    }

    /// Ends an assignment: keeps the hub whose registry still has the device, or takes the hub with the fewest.
    pub(super) fn finish(&self, id: &str) {
        let (mut guard, id) = (self.lock(), id.to_ascii_lowercase());
        let state = &mut *guard;
        state.running.remove(&id);
        let Some(known) = state.registrations.get(&id) else { return };
        let ending = if state.group_disabled || state.disabled.contains(&id) {
            Err((RegistrationStatus::Disabled, None))
        } else if let Some(failure) = state.failures.get(&id) {
            Err((RegistrationStatus::Failed, Some(failure.clone())))
        } else {
            self.assign(&state.load, known).map_err(|failure| (RegistrationStatus::Failed, Some(failure)))
        };
        let Some(registration) = state.registrations.get_mut(&id) else { return };
        (registration.status, registration.failure) = match ending {
            Ok(hub) => {
                *state.load.entry(hub.clone()).or_default() += 1;
                if let Some(before) = registration.assigned_hub.replace(hub)
                    && let Some(count) = state.load.get_mut(&before)
                {
                    *count -= 1;
                }
                (RegistrationStatus::Assigned, None)
            }
            Err(ending) => ending,
        };
        registration.updated_ms = self.clock.now_ms();
        registration.etag = STANDARD.encode(fastrand::u64(..).to_be_bytes());
        drop(guard);
        self.version.send_modify(|version| *version += 1);
    }

    /// The registration an operation is about. `None` if the operation is unknown or about another one.
    pub(super) fn operation(&self, id: &str, operation_id: &str) -> Option<Registration> {
        let (state, id) = (self.lock(), id.to_ascii_lowercase());
        state.operations.get(operation_id).filter(|about| **about == id)?;
        state.registrations.get(&id).cloned()
    }

    /// What is worth saving: registrations that are not being worked on.
    pub(super) fn finished(&self) -> Vec<Registration> {
        let mut all = self.registrations();
        all.retain(|registration| registration.status != RegistrationStatus::Assigning);
        all
    }

    /// Counts finished assignments since the start.
    pub(super) fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Chooses the hub and makes the device there.
    fn assign(&self, load: &BTreeMap<String, usize>, known: &Registration) -> Result<String, Failure> {
        let id = &known.registration_id;
        let kept = |hub: &&Arc<Hub>| known.assigned_hub.as_deref() == Some(hub.host());
        if let Some(hub) = self.hubs.iter().find(kept)
            && hub.device(id).is_some()
            && !hub.has_moved(id)
        {
            return Ok(hub.host().to_owned());
        }
        // Where it was does not count, and comes last among equals: a lost device may well move, as at Azure.
        let load = |hub: &&Arc<Hub>| {
            let was = kept(hub);
            (load.get(hub.host()).copied().unwrap_or(0) - usize::from(was), was)
        };
        let no_hub = || Failure { error_code: 400_207, message: "no hub is linked".to_owned() };
        let stays = |hub: &&Arc<Hub>| !hub.has_moved(id);
        let hub =
            self.hubs.iter().filter(stays).min_by_key(load).or_else(|| self.hubs.iter().min_by_key(load));
        let hub = hub.ok_or_else(no_hub)?;
        let key = derived_key(&self.group_key, id).ok_or_else(no_hub)?;
        let keys = (key, random_key());
        match hub.create_device(id, Some(keys.clone())) {
            Ok(_) => {}
            // Made by hand before: DPS takes it over and sets its key.
            Err(RegistryError::Exists(_)) => {
                let taken = hub.update_device(id, DeviceStatus::Enabled, Some(keys), None);
                taken.map_err(|error| Failure { error_code: 500_207, message: error.to_string() })?;
            }
            Err(error @ (RegistryError::NotFound(_) | RegistryError::Precondition(_))) => {
                return Err(Failure { error_code: 500_207, message: error.to_string() });
            }
        }
        Ok(hub.host().to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device's key: HMAC-SHA256 of the registration id under the group's key. `None` if that is not base64.
fn derived_key(group_key: &str, registration_id: &str) -> Option<String> {
    let key = STANDARD.decode(group_key).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(registration_id.as_bytes());
    Some(STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::derived_key;

    #[test]
    fn the_derived_key_is_the_one_azures_documentation_shows() {
        let group =
            "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
        let derived = derived_key(group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6");
        assert_eq!(derived.as_deref(), Some("Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="));
    }
}
