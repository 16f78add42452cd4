//! A hub's faults that wait or last: which have begun, whom they meet, when something changes next.
//!
//! Knows no connection: each looks here, strikes what begins once, and asks before it lets a device do something.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::fault::{ActiveFault, Fault, FaultError};
use super::kind::FaultKind;

/// Faults that wait or last, per hub.
const MAX_FAULTS: usize = 1_000;
/// How long a fault that is over is remembered, so that every connection has seen it by then.
const KEPT: Duration = Duration::from_secs(10);

/// The table.
#[derive(Debug)]
pub(in super::super) struct Faults {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    last_id: u64,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    id: u64,
    fault: Fault,
    begins: Instant,
    ends: Instant,
}

/// What a device meets that tries something while a fault of its own lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Verdict {
    pub(in super::super) kind: FaultKind,
    /// What the peer is told.
    pub(in super::super) text: String,
}

/// A fault that has begun, as a connection sees it.
#[derive(Clone, Debug)]
pub(in super::super) struct Begun {
    pub(in super::super) id: u64,
    pub(in super::super) fault: Fault,
    pub(in super::super) begins: Instant,
    pub(in super::super) ends: Instant,
}

impl Default for Faults {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Faults {
    /// Takes a fault in and gives its id.
    pub(in super::super) fn inject(&self, fault: Fault, now: Instant) -> Result<u64, FaultError> {
        fault.check()?;
        let mut state = self.lock();
        state.forget(now);
        if state.entries.len() >= MAX_FAULTS {
            return Err(FaultError::TooMany(MAX_FAULTS));
        }
        state.last_id += 1;
        let id = state.last_id;
        let begins = now + fault.delay;
        let ends = begins + fault.duration;
        state.entries.push(Entry { id, fault, begins, ends });
        drop(state);
        self.changed.send_modify(|count| *count += 1);
        Ok(id)
    }

    /// Ends all, also those that have not begun.
    pub(in super::super) fn clear(&self) {
        self.lock().entries.clear();
        self.changed.send_modify(|count| *count += 1);
    }

    /// What waits or lasts.
    pub(in super::super) fn active(&self, now: Instant) -> Vec<ActiveFault> {
        let state = self.lock();
        let active = state.entries.iter().filter(|entry| entry.ends > now || entry.begins > now);
        active
            .map(|entry| ActiveFault {
                id: entry.id,
                fault: entry.fault.clone(),
                begins_in: entry.begins.saturating_duration_since(now),
                ends_in: entry.ends.saturating_duration_since(now),
            })
            .collect()
    }

    /// Changes when faults come or are ended by hand.
    pub(in super::super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What has begun with an id above `seen`, or in any case lasts, oldest first; and when something begins or ends
    /// next.
    pub(in super::super) fn begun(&self, now: Instant) -> (Vec<Begun>, Option<Instant>) {
        let state = self.lock();
        let next =
            state.entries.iter().flat_map(|entry| [entry.begins, entry.ends]).filter(|at| *at > now).min();
        let begun = state.entries.iter().filter(|entry| entry.begins <= now);
        let begun = begun.map(|Entry { id, fault, begins, ends }| Begun {
            id: *id,
            fault: fault.clone(),
            begins: *begins,
            ends: *ends,
        });
        (begun.collect(), next)
    }

    /// The oldest fault among `kinds` that lasts and is about `device`; `None` as device asks for those of the hub.
    pub(in super::super) fn verdict(
        &self,
        device: &str,
        kinds: &[FaultKind],
        now: Instant,
    ) -> Option<Verdict> {
        let state = self.lock();
        let lasting = |entry: &&Entry| entry.begins <= now && now < entry.ends;
        let meets = |entry: &&Entry| kinds.contains(&entry.fault.kind) && entry.fault.concerns(device);
        let entry = state.entries.iter().filter(lasting).find(meets)?;
        Some(Verdict { kind: entry.fault.kind, text: entry.fault.text() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, now: Instant) {
        self.entries.retain(|entry| entry.ends + KEPT > now);
    }
}
