//! Finds out who an end device is: claims its hub device, asks DPS, writes down the answer.
//!
//! Runs one resolution; `directory` sees to it that there is one per device.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::{debug, info, warn};

use super::ResolveError;
use super::claims::{ClaimKey, Claims, Granted};
use super::dps::{DpsClient, Registration};
use super::entries::{Entries, MAX_DEVICES};
use super::entry::{Entry, Known};
use super::hub_id_rule::HubIdRule;
use super::plan::Plan;
use super::routes::{DpsScope, Routes, Target};
use super::store::{Assignment, NAMESPACE, Record, Store};
use crate::azure::{ConnectionString, Credential, HubAddress, HubDevice, derive_device_key, hub_id};
use crate::model::{Clock, EndDevice, ParkReason};

/// Host names kept once and shared; there are as many as hubs.
const MAX_SHARED_HOSTS: usize = 1000;

/// The parts of a directory.
pub(super) struct Resolver {
    pub(super) routes: Routes,
    pub(super) rule: HubIdRule,
    pub(super) store: Box<dyn Store>,
    pub(super) dps: DpsClient,
    pub(super) clock: Clock,
    pub(super) assignment_ttl_ms: i64,
    pub(super) negative_ttl_ms: i64,
    pub(super) entries: Entries,
    pub(super) claims: Claims,
    pub(super) hosts: Mutex<HashSet<Arc<str>>>,
}

impl Resolver {
    /// See [`super::Directory::cached`].
    pub(super) fn cached(
        &self,
        device: &EndDevice,
        dev_eui: Option<&str>,
    ) -> Result<Option<Arc<HubDevice>>, ResolveError> {
        self.entries.with(device, |entry| entry.answer(self.clock.forward_ms(), dev_eui)).unwrap_or(Ok(None))
    }

    /// One resolution from the claim to the entry. `anew` asks DPS though its answer may be known, and leaves what is
    /// known alone if there is no better.
    pub(super) async fn resolve(
        &self,
        device: &EndDevice,
        plan: &Plan<'_>,
        anew: bool,
    ) -> Result<Arc<HubDevice>, ResolveError> {
        if self.entries.is_full_for(device) {
            return Err(retry(format!("the directory is full with {MAX_DEVICES} end devices")));
        }
        let now_ms = self.clock.forward_ms();
        let previous = self.entries.with(device, Clone::clone);
        let granted =
            self.claims.take(&plan.claim, device, now_ms).map_err(|owner| taken(&plan.hub_id, &owner))?;
        let known = match &plan.route.target {
            Target::Hub(hub) => {
                let hub_device = Arc::new(self.configured(plan, hub));
                let worthless = previous.as_ref().map_or(0, Entry::worthless);
                self.known(device, plan, hub_device, now_ms, worthless)
            }
            Target::Dps(scope) => match self.twin(&granted, previous.as_ref(), now_ms) {
                Some(twin) if !anew => twin,
                Some(_) | None => match self.register(device, plan, scope, previous.as_ref()).await {
                    Ok(known) => known,
                    Err(error) if anew => return Err(error),
                    Err(error) => return self.not_registered(device, plan, previous, error),
                },
            },
        };
        self.write_down(plan, &granted.owner, &known).await?;
        if let Some(Entry::Known(replaced)) = &previous
            && replaced.dev_eui != plan.dev_eui
        {
            self.release(device, replaced).await;
        }
        let hub_device = Arc::clone(&known.hub_device);
        self.remember(device, Entry::Known(known));
        Ok(hub_device)
    }

    /// The end device has another DevEUI now, so it is another hub device: its old one is free for others.
    async fn release(&self, device: &EndDevice, replaced: &Known) {
        let dev_eui = replaced.dev_eui.map(|dev_eui| dev_eui.to_string());
        let Ok(old) = Plan::new(&self.routes, &self.rule, device, dev_eui.as_deref()) else { return };
        if replaced.hub_device.provisioned {
            let hub_device = &replaced.hub_device;
            self.claims.release(&ClaimKey::hub_device(&hub_device.hub, &hub_device.device_id), device);
        }
        if self.claims.release(&old.claim, device)
            && let Err(error) = self.store.delete(NAMESPACE, old.claim.as_str()).await
        {
            warn!(%device, %error, "The record of a replaced device stays until it expires.");
        }
    }

    /// The same end device under its other name, with or without its tenant: DPS would say the same of it.
    fn twin(&self, granted: &Granted, previous: Option<&Entry>, now_ms: i64) -> Option<Known> {
        match previous {
            // DPS is to be asked for a reason.
            Some(Entry::Lost { .. } | Entry::Refused { .. }) => None,
            None | Some(Entry::Known(_)) => {
                self.entries.with(granted.before.as_ref()?, |entry| match entry {
                    Entry::Known(known) if now_ms < known.expires_ms => Some(known.clone()),
                    Entry::Known(_) | Entry::Refused { .. } | Entry::Lost { .. } => None,
                })?
            }
        }
    }

    async fn register(
        &self,
        device: &EndDevice,
        plan: &Plan<'_>,
        scope: &DpsScope,
        previous: Option<&Entry>,
    ) -> Result<Known, ResolveError> {
        let registration = self.dps.register(scope, &plan.hub_id, plan.route.model_id.as_deref()).await?;
        let hub_device = self.assigned(plan, scope, &registration)?;
        let now_ms = self.clock.forward_ms();
        // DPS may give two registrations one device, or one that a connection string names too.
        let at_hub = ClaimKey::hub_device(&hub_device.hub, &hub_device.device_id);
        self.claims.take(&at_hub, device, now_ms).map_err(|owner| taken(&hub_device.device_id, &owner))?;
        if matches!(previous, Some(Entry::Lost { .. })) {
            info!(%device, hub = %hub_device.hub, "DPS was asked anew for a device that its hub had refused.");
        } else {
            debug!(%device, hub = %hub_device.hub, "DPS assigned the device to its hub.");
        }
        let worthless = previous.map_or(0, Entry::worthless);
        Ok(self.known(device, plan, Arc::new(hub_device), now_ms, worthless))
    }

    /// DPS gave no hub. A device that has one keeps it for a while if DPS could not be asked.
    fn not_registered(
        &self,
        device: &EndDevice,
        plan: &Plan<'_>,
        previous: Option<Entry>,
        error: ResolveError,
    ) -> Result<Arc<HubDevice>, ResolveError> {
        let now_ms = self.clock.forward_ms();
        match (&error, previous) {
            (ResolveError::Retry { .. }, Some(Entry::Known(known))) if known.dev_eui == plan.dev_eui => {
                debug!(%device, %error, "DPS can't confirm the device's hub; the known one is used on.");
                let known = known.prolonged(now_ms);
                let hub_device = Arc::clone(&known.hub_device);
                self.remember(device, Entry::Known(known));
                return Ok(hub_device);
            }
            (ResolveError::Retry { .. }, _) => {}
            (ResolveError::Park { .. }, previous) => {
                let refused = Entry::Refused {
                    error: Box::new(error.clone()),
                    until_ms: now_ms.saturating_add(self.negative_ttl_ms),
                    worthless: previous.as_ref().map_or(0, Entry::worthless),
                };
                self.remember(device, refused);
            }
        }
        self.claims.give_back(&plan.claim, device);
        Err(error)
    }

    /// Puts claim and assignment on disk, before anything is sent under them.
    async fn write_down(
        &self,
        plan: &Plan<'_>,
        owner: &EndDevice,
        known: &Known,
    ) -> Result<(), ResolveError> {
        let now_ms = self.clock.forward_ms();
        let hub_device = &known.hub_device;
        let hub = if hub_device.hub.port == self.routes.amqp_port() {
            hub_device.hub.host.to_string()
        } else {
            hub_device.hub.to_string()
        };
        let assignment = hub_device.provisioned.then(|| Assignment {
            hub,
            device_id: hub_device.device_id.to_string(),
            assigned_ms: known.since_ms,
        });
        let record = Record::new(owner, now_ms, known.dev_eui, assignment);
        let expires_ms = now_ms.saturating_add(self.claims.life_ms());
        self.store
            .put(NAMESPACE, plan.claim.as_str(), record.to_json(), expires_ms)
            .await
            .map_err(|error| retry(format!("the device's assignment can't be stored: {error}")))?;
        self.claims.stored(&plan.claim, owner);
        if hub_device.provisioned {
            self.claims.stored(&ClaimKey::hub_device(&hub_device.hub, &hub_device.device_id), owner);
        }
        Ok(())
    }

    fn remember(&self, device: &EndDevice, entry: Entry) {
        let now_ms = self.clock.forward_ms();
        if self.entries.put(device, entry, now_ms) {
            self.claims.sweep(now_ms);
        }
    }

    /// The hub device that a connection string gives.
    pub(super) fn configured(&self, plan: &Plan<'_>, hub: &ConnectionString) -> HubDevice {
        HubDevice {
            hub: hub.address(self.routes.amqp_port()),
            device_id: plan.hub_id.as_str().into(),
            credential: hub.credential(),
            model_id: plan.route.model_id.clone(),
            provisioned: false,
        }
    }

    /// The hub device that DPS gave.
    ///
    /// # Errors
    /// `Retry` if the hub's name can't be one, `Park` if the device's id can't.
    pub(super) fn assigned(
        &self,
        plan: &Plan<'_>,
        scope: &DpsScope,
        registration: &Registration,
    ) -> Result<HubDevice, ResolveError> {
        let Registration { hub, device_id } = registration;
        let address = HubAddress::parse(hub, self.routes.amqp_port())
            .ok_or_else(|| retry("DPS answered with an assignedHub that is no host name".to_owned()))?;
        hub_id::check_device_id(device_id).map_err(|problem| ResolveError::Park {
            reason: ParkReason::InvalidHubId,
            detail: format!("DPS answered with a device id that {problem}"),
        })?;
        Ok(HubDevice {
            hub: HubAddress { host: self.shared(address.host), port: address.port },
            device_id: device_id.as_str().into(),
            credential: Credential::Device { key: derive_device_key(&scope.group_key, &plan.hub_id) },
            model_id: plan.route.model_id.clone(),
            provisioned: true,
        })
    }

    pub(super) fn known(
        &self,
        device: &EndDevice,
        plan: &Plan<'_>,
        hub_device: Arc<HubDevice>,
        since_ms: i64,
        worthless: u8,
    ) -> Known {
        // The same for a device each time, so that a restart changes nothing.
        let mut hasher = DefaultHasher::new();
        device.hash(&mut hasher);
        let spread = self.assignment_ttl_ms / 10 + 1;
        let early = i64::try_from(hasher.finish() >> 1).map_or(0, |hash| hash % spread);
        let expires_ms = since_ms.saturating_add(self.assignment_ttl_ms).saturating_sub(early);
        Known { hub_device, dev_eui: plan.dev_eui, since_ms, expires_ms, worthless }
    }

    /// One copy of a host name for all its devices.
    fn shared(&self, host: Arc<str>) -> Arc<str> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(&host) {
            return Arc::clone(known);
        }
        if hosts.len() < MAX_SHARED_HOSTS {
            hosts.insert(Arc::clone(&host));
        }
        host
    }
}

fn taken(hub_id: &str, owner: &EndDevice) -> ResolveError {
    ResolveError::Park {
        reason: ParkReason::HubIdTaken,
        detail: format!(
            "hub device {hub_id} belongs to end device {owner}; give each its own with devices.hub_id, for \
             instance \"{{application_id}}-{{device_id}}\""
        ),
    }
}

fn retry(detail: String) -> ResolveError {
    ResolveError::Retry { detail, after: None }
}

/// A time span in milliseconds, as the clock counts.
pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
