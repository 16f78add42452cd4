//! What desired properties ask to be done, seen against what was done before.
//!
//! Pure but for the clock of tries.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::ack::{Ack, Reported, Verdict};
use super::pending::{Following, Owner, Pending};
use super::state::{State, hash};
use crate::azure::{Desired, DesiredScope};
use crate::downlink::NewEntry;
use crate::downlink::translate::{ApplicationRules, desired_property};

/// All that is unfinished of one device.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) state: State,
    /// Not queued yet.
    pub(super) pending: BTreeMap<String, Pending>,
    /// Queued, and not yet over.
    pub(super) following: BTreeMap<String, Following>,
    /// To be told.
    pub(super) acks: BTreeMap<String, Ack>,
    /// Applied before; how far they are is to be asked of the ledger, and told unless it is told already.
    pub(super) unclear: BTreeMap<String, Unclear>,
    /// Never queued, and pointless now.
    pub(super) retired: Vec<NewEntry>,
    /// The state is not on disk.
    pub(super) dirty: bool,
    /// Values that can't become downlinks, to be counted.
    pub(super) invalid: usize,
}

/// An applied property, and the `ac` under which the hub has it acknowledged.
pub(super) struct Unclear {
    pub(super) value: Value,
    pub(super) told: Option<u64>,
}

impl Plan {
    /// Takes in desired properties.
    pub(super) fn take(&mut self, owner: &Owner<'_>, rules: &ApplicationRules, desired: Desired) {
        let Desired { version, properties, scope } = desired;
        match scope {
            DesiredScope::Whole { reported } => {
                // The hub's word, even if its version is lower: then the device was made anew, and a later worker must
                // not take its changes for old ones.
                self.dirty |= version < self.state.version;
                self.state.version = version;
                let here: Vec<String> = self.state.applied().map(str::to_owned).collect();
                let waiting = self.pending.keys().cloned();
                for name in here.into_iter().chain(waiting.collect::<Vec<_>>()) {
                    if !properties.contains_key(&name) {
                        self.remove(&name);
                    }
                }
                for (name, value) in properties {
                    self.compare(owner, rules, name, value, version, &reported);
                }
            }
            DesiredScope::Patch => {
                if version <= self.state.version {
                    return;
                }
                self.state.version = version;
                for (name, value) in properties {
                    if value.is_null() {
                        self.remove(&name);
                    } else {
                        let value = self.state.patched(&name, value);
                        self.dirty |= self.state.set_desired(&name, &value);
                        let hash = hash(&value);
                        self.start(owner, rules, name, (value, hash), version, None);
                    }
                }
            }
        }
    }

    /// A property of all there are: applied only if it differs from what was applied last.
    fn compare(
        &mut self,
        owner: &Owner<'_>,
        rules: &ApplicationRules,
        name: String,
        value: Value,
        version: u64,
        reported: &Map<String, Value>,
    ) {
        let told = Reported::read(reported, &name);
        if let Some(told) = &told {
            self.state.set_shadow(&name, told.value.clone());
        }
        self.dirty |= self.state.set_desired(&name, &value);
        let hash = hash(&value);
        match self.state.last(&name) {
            Some(last) if last.hash == hash => {
                let (version, entry) = (last.version, last.entry());
                self.supersede(&name);
                if entry.is_none() || told.as_ref().is_some_and(|told| told.is_final(&value, version)) {
                    self.acks.remove(&name);
                    return;
                }
                let told = told.filter(|told| *told.value == value).map(|told| told.code);
                self.unclear.insert(name, Unclear { value, told });
            }
            // Nothing is known here, but another installation, or this one before its disk was lost, applied it.
            None if !self.state.knows(&name)
                && told
                    .as_ref()
                    .is_some_and(|told| *told.value == value && (200..=202).contains(&told.code)) =>
            {
                self.state.apply(&name, hash, version, None);
                self.dirty = true;
            }
            Some(_) | None => self.start(owner, rules, name, (value, hash), version, told),
        }
    }

    /// A property is to be applied.
    fn start(
        &mut self,
        owner: &Owner<'_>,
        rules: &ApplicationRules,
        name: String,
        (value, hash): (Value, String),
        version: u64,
        told: Option<Reported<'_>>,
    ) {
        let Some(read) = desired_property(&name, &value, rules) else { return };
        if let Some(pending) = self.pending.get_mut(&name).filter(|pending| pending.hash == hash) {
            pending.version = version;
            return;
        }
        self.supersede(&name);
        self.following.remove(&name);
        self.unclear.remove(&name);
        self.acks.remove(&name);
        match read {
            Ok(request) => {
                let change = self.state.change(&name);
                let pending = Pending::new(owner, &name, (value, hash), version, change, request);
                self.pending.insert(name, pending);
            }
            Err(_) if told.is_some_and(|told| told.refused(&value)) => {}
            Err(invalid) => {
                self.invalid += 1;
                let verdict = Verdict::invalid(&invalid.to_string());
                self.tell(name, Ack { value, version, verdict });
            }
        }
    }

    /// A property is there no more.
    fn remove(&mut self, name: &str) {
        self.supersede(name);
        self.following.remove(name);
        self.unclear.remove(name);
        self.acks.remove(name);
        if self.state.last(name).is_some() || self.state.set_desired(name, &Value::Null) {
            self.state.remove(name);
            self.dirty = true;
        }
    }

    /// Whatever was to be queued for this property is pointless now. Should the same value come once more, it is another
    /// downlink.
    fn supersede(&mut self, name: &str) {
        let Some(old) = self.pending.remove(name) else { return };
        if old.failures > 0 {
            self.state.bump(name);
            self.dirty = true;
            // What may be queued is left to the events that prove it, or to its expiry.
            if !old.unsure {
                self.retired.push(old.entry);
            }
        }
    }

    /// A property is queued, or will never be.
    pub(super) fn conclude(&mut self, name: String, pending: Pending, verdict: Verdict) {
        let Pending { value, hash, version, entry, .. } = pending;
        self.state.apply(&name, hash, version, Some(entry.id));
        self.dirty = true;
        self.tell(name, Ack { value, version, verdict });
    }

    /// An acknowledgement is to be sent; the newest of a property counts.
    pub(super) fn tell(&mut self, name: String, ack: Ack) {
        self.dirty |= self.state.foreshadow(&name, &ack.value);
        self.acks.insert(name, ack);
    }

    /// The hub has them.
    pub(super) fn told(&mut self, acks: BTreeMap<String, Ack>) {
        for (name, ack) in acks {
            self.dirty |= self.state.set_shadow(&name, ack.value);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.pending.is_empty()
            && self.following.is_empty()
            && self.acks.is_empty()
            && self.unclear.is_empty()
            && self.retired.is_empty()
            && !self.dirty
    }
}
