//! The directory: who each end device is at Azure, in memory, with the store behind it.
//!
//! Its face and its start; `resolver` finds out what it does not know.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::warn;

use super::ResolveError;
use super::claims::{ClaimKey, Claims};
use super::dps::{DpsClient, Pace, Registration};
use super::entries::Entries;
use super::entry::Entry;
use super::flights::Flights;
use super::hub_id_rule::HubIdRule;
use super::plan::Plan;
use super::resolver::{Resolver, millis};
use super::routes::{Routes, Target};
use super::store::{Kept, NAMESPACE, Record, Store, StoreError};
use crate::azure::{HubAddress, HubDevice};
use crate::config::Devices;
use crate::model::{Clock, EndDevice, ParkReason};

/// A claim lives at least this long without its owner.
const MIN_CLAIM_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long things are remembered, and how fast DPS is asked.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long an assignment is trusted; each device's ends up to a tenth earlier, so that not all end at once.
    pub assignment_ttl: Duration,
    /// How long a refusal is remembered.
    pub negative_ttl: Duration,
    /// DPS registrations under way at once.
    pub max_registrations: usize,
    /// DPS's pace.
    pub pace: Pace,
}

impl From<&Devices> for Options {
    fn from(devices: &Devices) -> Self {
        Self {
            assignment_ttl: devices.assignment_ttl,
            negative_ttl: devices.negative_ttl,
            max_registrations: devices.max_registrations,
            pace: Pace::default(),
        }
    }
}

/// Who every end device is at Azure. Cheap to clone.
///
/// One hub device belongs to one end device. It is claimed, durably, before the directory gives it out; the
/// claim is renewed whenever the owner is resolved anew, which is at least once per `assignment_ttl` while the
/// device sends. After 30 days, or four times `assignment_ttl` if that is longer, without renewal another end
/// device may take it over. An end device that is deleted at The Things Stack keeps its claim until then.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    resolver: Resolver,
    flights: Flights,
}

impl Directory {
    /// Starts with what the store kept. `http` is for DPS; make it with [`crate::net::http_client`].
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn load(
        routes: Routes,
        rule: HubIdRule,
        store: impl Store,
        options: Options,
        http: reqwest::Client,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let records = store.load(NAMESPACE).await?;
        let claim_life = MIN_CLAIM_LIFE.max(options.assignment_ttl.saturating_mul(4));
        let resolver = Resolver {
            routes,
            rule,
            store: Box::new(store),
            dps: DpsClient::new(http, options.max_registrations, options.pace, clock.clone()),
            clock,
            assignment_ttl_ms: millis(options.assignment_ttl),
            negative_ttl_ms: millis(options.negative_ttl),
            entries: Entries::default(),
            claims: Claims::new(millis(claim_life)),
            hosts: Mutex::default(),
        };
        restore(&resolver, records);
        Ok(Self(Arc::new(Inner { resolver, flights: Flights::default() })))
    }

    /// What is known right now, without I/O: the hot path. `None`: call [`Directory::resolve`].
    ///
    /// # Errors
    /// The device was refused not long ago, or must wait.
    pub fn cached(
        &self,
        device: &EndDevice,
        dev_eui: Option<&str>,
    ) -> Result<Option<Arc<HubDevice>>, ResolveError> {
        self.0.resolver.cached(device, dev_eui)
    }

    /// Finds out who the device is: from memory, from the configuration, or from DPS. One resolution per device
    /// runs at a time, others wait for it. `dev_eui` is 16 hexadecimal digits, `None` if the message has none.
    ///
    /// # Errors
    /// What to do with its messages instead.
    pub async fn resolve(
        &self,
        device: &EndDevice,
        dev_eui: Option<&str>,
    ) -> Result<Arc<HubDevice>, ResolveError> {
        let resolver = &self.0.resolver;
        if let Some(known) = resolver.cached(device, dev_eui)? {
            return Ok(known);
        }
        let remembered = match dev_eui {
            Some(_) => None,
            None => {
                resolver.entries.with(device, Entry::dev_eui).flatten().map(|dev_eui| dev_eui.to_string())
            }
        };
        let dev_eui = dev_eui.or(remembered.as_deref());
        let plan = Plan::new(&resolver.routes, &resolver.rule, device, dev_eui)?;
        let resolve = async || match resolver.cached(device, dev_eui)? {
            Some(known) => Ok(known),
            None => resolver.resolve(device, &plan, false).await,
        };
        self.0.flights.join(device, &plan.hub_id, resolve).await
    }

    /// Asks DPS where a known device lives now. If DPS does not tell, what is known stays.
    ///
    /// # Errors
    /// What DPS said instead, or that nothing is known of the device.
    pub async fn ask_anew(&self, device: &EndDevice) -> Result<Arc<HubDevice>, ResolveError> {
        let resolver = &self.0.resolver;
        let known = resolver.entries.with(device, |entry| match entry {
            Entry::Known(known) => Some(known.dev_eui.map(|dev_eui| dev_eui.to_string())),
            Entry::Refused { .. } | Entry::Lost { .. } => None,
        });
        let Some(dev_eui) = known.flatten() else {
            let detail = "the device has no hub any more".to_owned();
            return Err(ResolveError::Retry { detail, after: None });
        };
        let plan = Plan::new(&resolver.routes, &resolver.rule, device, dev_eui.as_deref())?;
        self.0.flights.join(device, &plan.hub_id, async || resolver.resolve(device, &plan, true).await).await
    }

    /// The end devices that DPS assigned to this hub, as far as is known.
    pub fn assigned_to(&self, hub: &HubAddress) -> Vec<(EndDevice, Arc<HubDevice>)> {
        let mut devices = self.known();
        devices.retain(|(_, hub_device)| hub_device.provisioned && hub_device.hub == *hub);
        devices
    }

    /// The hub does not know this device, or refuses it. `seen` is what was used; if the directory knows better
    /// by now, nothing happens. With DPS, the next resolution asks it anew, but a hub that refuses again and
    /// again what DPS just assigned makes the device be refused for a while, with the hub's reason; without
    /// DPS, that is done at once.
    pub fn lost(&self, device: &EndDevice, seen: &Arc<HubDevice>, reason: ParkReason) {
        let resolver = &self.0.resolver;
        resolver.entries.change(device, |entry| match entry {
            Entry::Known(known) if Arc::ptr_eq(&known.hub_device, seen) => {
                Some(known.lost(reason, resolver.clock.forward_ms(), resolver.negative_ttl_ms))
            }
            Entry::Known(_) | Entry::Refused { .. } | Entry::Lost { .. } => None,
        });
    }

    /// All end devices whose hub device is known, those too whose assignment should be confirmed by now: the hub will
    /// say if it is wrong.
    pub fn known(&self) -> Vec<(EndDevice, Arc<HubDevice>)> {
        self.0.resolver.entries.collect(|device, entry| match entry {
            Entry::Known(known) => Some((device.clone(), Arc::clone(&known.hub_device))),
            Entry::Refused { .. } | Entry::Lost { .. } => None,
        })
    }

    /// End devices in memory, refused ones too.
    pub fn len(&self) -> usize {
        self.0.resolver.entries.len()
    }

    /// Whether no end device is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes up the records that the present configuration would make again. Others are left to expire: their end
/// device is another hub device now, or has no hub any more.
fn restore(resolver: &Resolver, records: Vec<Kept>) {
    let mut unreadable = 0_usize;
    let mut read: Vec<_> = records
        .into_iter()
        .filter_map(|(key, json)| {
            let record = Record::from_json(&json).and_then(|record| Some((record.owner()?, record)));
            unreadable += usize::from(record.is_none());
            record.map(|(owner, record)| (key, owner, record))
        })
        .collect();
    if unreadable > 0 {
        warn!(
            records = unreadable,
            "Some stored assignments can't be read; their devices are resolved anew."
        );
    }
    // Of several records of one end device, the last one holds: its DevEUI changed meanwhile.
    read.sort_unstable_by_key(|(_, _, record)| std::cmp::Reverse(record.renewed_ms));
    let mut seen = HashSet::with_capacity(read.len());
    for (key, owner, record) in read {
        let dev_eui = record.dev_eui.map(|dev_eui| dev_eui.to_string());
        let Ok(plan) = Plan::new(&resolver.routes, &resolver.rule, &owner, dev_eui.as_deref()) else {
            continue;
        };
        if plan.claim.as_str() != key || !seen.insert(owner.clone()) {
            continue;
        }
        resolver.claims.restore(&plan.claim, &owner, record.renewed_ms);
        let (hub_device, since_ms) = match (&plan.route.target, record.assignment) {
            (Target::Hub(hub), None) => (Some(resolver.configured(&plan, hub)), record.renewed_ms),
            (Target::Dps(scope), Some(assignment)) => {
                let registration = Registration { hub: assignment.hub, device_id: assignment.device_id };
                (resolver.assigned(&plan, scope, &registration).ok(), assignment.assigned_ms)
            }
            (Target::Hub(_), Some(_)) | (Target::Dps(_), None) => continue,
        };
        let Some(hub_device) = hub_device else { continue };
        if hub_device.provisioned {
            let claim = ClaimKey::hub_device(&hub_device.hub, &hub_device.device_id);
            resolver.claims.restore(&claim, &owner, record.renewed_ms);
        }
        let known = resolver.known(&owner, &plan, Arc::new(hub_device), since_ms, 0);
        resolver.entries.put(&owner, Entry::Known(known), resolver.clock.forward_ms());
    }
}
