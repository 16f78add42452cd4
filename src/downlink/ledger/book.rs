//! The open entries in memory, and how each event moves them. Pure: no store, no clock, nothing waits.
//!
//! Memory is never behind the disk: what is known counts at once, and is `dirty` until it is on disk.

mod queries;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::watch;

use super::super::ports::Unstored;
use super::super::{Begun, End, EntryId, NewEntry, Progress, Report, ReportState, Source};
use super::row;
use super::stage::{Stage, cut};
use crate::model::EndDevice;
use crate::things_stack::{DownlinkState, Operation, Whereabouts};

/// Open entries of one device at most: what The Things Stack queues for a session. IoT Hub holds 50 messages a device.
const MAX_OPEN_PER_DEVICE: usize = 10_000;
/// Open entries at most, 75 to 150 MB: four for each of the fifty thousand devices that one instance is made for.
const MAX_OPEN: usize = 200_000;

/// One open entry, or an ended one on its way to disk.
pub(super) struct Entry {
    pub(super) device: EndDevice,
    pub(super) source: Source,
    pub(super) correlation: Box<str>,
    pub(super) f_port: u8,
    pub(super) confirmed: bool,
    pub(super) operation: Operation,
    pub(super) stage: Stage,
    pub(super) order: u64,
    pub(super) begun_ms: i64,
    /// Its push was in a former life of the program, and no request asked for it since.
    restored: bool,
    /// Since its last push it was looked for, and found nowhere.
    missing: bool,
    /// To be posted, in this order, before the stage is on disk, so that a crash in between repeats them.
    owed: Vec<Report>,
    /// Counts changes, so that a write knows whether it is still the latest.
    changes: u32,
    watched: Option<watch::Sender<Progress>>,
}

/// What is to be written of an entry.
pub(super) struct Due {
    pub(super) reports: Vec<Report>,
    pub(super) row: Vec<u8>,
    /// `None` when ended.
    pub(super) begun_ms: Option<i64>,
    changes: u32,
}

/// All entries in memory.
#[derive(Default)]
pub(super) struct Book {
    entries: HashMap<EntryId, Entry>,
    by_device: HashMap<EndDevice, OfDevice>,
    dirty: HashMap<EndDevice, BTreeSet<EntryId>>,
    last_order: u64,
}

/// What is in memory of one device.
#[derive(Default)]
struct OfDevice {
    ids: BTreeSet<EntryId>,
    /// Held while one of them is pushed.
    push: Arc<tokio::sync::Mutex<()>>,
    /// The latest replace that was queued: its order and correlation.
    replaced: Option<(u64, Box<str>)>,
}

impl Entry {
    fn new(new: &NewEntry, stage: Stage, order: u64, begun_ms: i64) -> Self {
        Self {
            device: new.device.clone(),
            source: new.source,
            correlation: cut(&new.correlation).into(),
            f_port: new.f_port,
            confirmed: new.confirmed,
            operation: new.operation,
            stage,
            order,
            begun_ms,
            restored: false,
            missing: false,
            owed: Vec::new(),
            changes: 0,
            watched: None,
        }
    }

    fn progress(&self) -> Progress {
        match &self.stage {
            Stage::PutBack | Stage::Pushing => Progress::Pushing,
            Stage::Queued => Progress::Queued,
            Stage::Sent => Progress::Sent,
            Stage::Ended(end) => Progress::Ended(end.clone()),
        }
    }

    /// A report that no event gives.
    fn report(&self, id: EntryId, state: ReportState, reason: Option<String>, at_ms: i64) -> Report {
        Report {
            id,
            device: self.device.clone(),
            dev_eui: None,
            source: self.source,
            correlation: self.correlation.to_string(),
            state,
            reason,
            f_port: self.f_port,
            f_cnt: None,
            confirmed: self.confirmed,
            at_ms,
        }
    }
}

impl Book {
    pub(super) fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Open entries; one whose end is not yet on disk counts.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What a request that comes (again) finds; `None` if nothing is in memory. A put-back one is new again.
    pub(super) fn again(&mut self, new: &NewEntry, now_ms: i64) -> Option<Begun> {
        let entry = self.entries.get_mut(&new.id)?;
        entry.restored = false;
        match &entry.stage {
            Stage::PutBack => {}
            Stage::Pushing => return Some(Begun::Unsure),
            Stage::Queued => return Some(Begun::Queued { sent: false }),
            Stage::Sent => return Some(Begun::Queued { sent: true }),
            Stage::Ended(end) => return Some(Begun::Ended(end.clone())),
        }
        self.last_order += 1;
        // The configuration may have changed what the request means.
        entry.f_port = new.f_port;
        entry.confirmed = new.confirmed;
        entry.operation = new.operation;
        entry.order = self.last_order;
        entry.begun_ms = now_ms;
        entry.missing = false;
        self.set(new.id, Stage::Pushing);
        Some(Begun::New)
    }

    /// Takes in an entry that is not in memory; it is dirty.
    pub(super) fn enter(&mut self, new: &NewEntry, now_ms: i64) -> Result<(), Unstored> {
        if self.entries.len() >= MAX_OPEN {
            return Err(Unstored(format!("{MAX_OPEN} downlinks are open already")));
        }
        if self.by_device.get(&new.device).is_some_and(|of| of.ids.len() >= MAX_OPEN_PER_DEVICE) {
            return Err(Unstored(format!("the device has {MAX_OPEN_PER_DEVICE} open downlinks already")));
        }
        self.last_order += 1;
        self.insert(new, Stage::Pushing, self.last_order, now_ms);
        self.touch(new.id);
        Ok(())
    }

    /// Takes in an open entry as it was on disk.
    pub(super) fn restore(&mut self, kept: row::Kept) {
        self.last_order = self.last_order.max(kept.order);
        if kept.new.operation == Operation::Replace && kept.stage.rank() > 0 {
            self.replaced(&kept.new.device, kept.order, &kept.new.correlation);
        }
        self.insert(&kept.new, kept.stage, kept.order, kept.begun_ms);
        if let Some(entry) = self.entries.get_mut(&kept.new.id) {
            entry.restored = true;
        }
    }

    fn replaced(&mut self, device: &EndDevice, order: u64, correlation: &str) {
        let of = self.by_device.entry(device.clone()).or_default();
        if of.replaced.as_ref().is_none_or(|(latest, _)| *latest < order) {
            of.replaced = Some((order, correlation.into()));
        }
    }

    fn insert(&mut self, new: &NewEntry, stage: Stage, order: u64, begun_ms: i64) {
        self.by_device.entry(new.device.clone()).or_default().ids.insert(new.id);
        self.entries.insert(new.id, Entry::new(new, stage, order, begun_ms));
    }

    /// Certainly not queued. What proves that it was counts more.
    pub(super) fn put_back(&mut self, id: EntryId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.stage == Stage::Pushing
        {
            // Nothing to write: a restart looks once more.
            entry.stage = Stage::PutBack;
        }
    }

    /// It is at least as far as `proven`. Never back, and never out of an end. True if it went further.
    pub(super) fn advance(&mut self, id: EntryId, proven: Stage, now_ms: i64) -> bool {
        let Some(entry) = self.entries.get(&id) else { return false };
        let before = entry.stage.rank();
        if proven.rank() <= before {
            return false;
        }
        let replaces = before == 0 && entry.operation == Operation::Replace;
        let (device, correlation, order) = (entry.device.clone(), entry.correlation.clone(), entry.order);
        // Pushed before a crash, replaced after it, and only now do we hear that it was queued.
        let overtaken = self.by_device.get(&device).and_then(|of| of.replaced.as_ref());
        if let Some((latest, by)) = overtaken
            && entry.restored
            && proven == Stage::Queued
            && *latest > order
        {
            let reason = format!("replaced by {by}");
            self.end(id, End::Replaced, ReportState::Replaced, Some(reason), now_ms);
            return true;
        }
        self.set(id, proven);
        if replaces {
            self.replaced(&device, order, &correlation);
            let displaced = self.waiting(&device, order);
            self.displace(&displaced, &format!("replaced by {correlation}"), now_ms);
        }
        true
    }

    /// A look found it, and no event told of it: its sender hears from us.
    pub(super) fn found(&mut self, id: EntryId, at: Whereabouts, now_ms: i64) {
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.stage.rank() == 0) else { return };
        let confirmed = entry.confirmed;
        let further = match at {
            Whereabouts::Nowhere => return self.missing(id),
            Whereabouts::Queued => None,
            Whereabouts::Taken => Some((DownlinkState::Sent, ReportState::Sent)),
        };
        self.advance(id, Stage::Queued, now_ms);
        self.owe(id, ReportState::Queued, now_ms);
        if let Some((proof, report)) = further {
            self.advance(id, Stage::proven_by(proof, confirmed, None), now_ms);
            self.owe(id, report, now_ms);
        }
    }

    /// To be reported, unless the end that it came to at once is.
    fn owe(&mut self, id: EntryId, state: ReportState, now_ms: i64) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.stage != Stage::Ended(End::Replaced)
        {
            entry.owed.push(entry.report(id, state, None, now_ms));
        }
    }

    fn displace(&mut self, displaced: &[EntryId], reason: &str, now_ms: i64) {
        for id in displaced {
            self.end(*id, End::Replaced, ReportState::Replaced, Some(reason.to_owned()), now_ms);
        }
    }

    /// A call of ours dropped from the device's queue what waited there before.
    pub(super) fn cleared(&mut self, device: &EndDevice, waited: &[EntryId], reason: &str, now_ms: i64) {
        let mut dropped = self.waiting(device, u64::MAX);
        dropped.retain(|id| waited.contains(id));
        self.displace(&dropped, cut(reason), now_ms);
    }

    /// Never to be queued. Nothing happens when there is proof that it was.
    pub(super) fn reject(&mut self, id: EntryId, reason: &str, now_ms: i64) {
        if self.entries.get(&id).is_some_and(|entry| entry.stage.rank() == 0) {
            let reason = cut(reason).to_owned();
            self.end(id, End::Rejected(reason.clone()), ReportState::Rejected, Some(reason), now_ms);
        }
    }

    /// Ends all that were entered at `begun_ms` or before and are still open.
    pub(super) fn expire(&mut self, begun_ms: i64, now_ms: i64) {
        let old = |(id, entry): (&EntryId, &Entry)| {
            (entry.begun_ms <= begun_ms && entry.stage.rank() < 3).then_some(*id)
        };
        let expired: Vec<EntryId> = self.entries.iter().filter_map(old).collect();
        for id in expired {
            self.end(id, End::Expired, ReportState::Expired, None, now_ms);
        }
    }

    fn end(&mut self, id: EntryId, end: End, state: ReportState, reason: Option<String>, now_ms: i64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.owed.push(entry.report(id, state, reason, now_ms));
            self.set(id, Stage::Ended(end));
        }
    }

    fn set(&mut self, id: EntryId, stage: Stage) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.stage = stage;
            if let Some(watched) = &entry.watched {
                watched.send_replace(entry.progress());
            }
            self.touch(id);
        }
    }

    fn touch(&mut self, id: EntryId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.changes = entry.changes.wrapping_add(1);
            self.dirty.entry(entry.device.clone()).or_default().insert(id);
        }
    }

    /// What is to be written of a device: the displaced ones first, since the replace that did it may only be on disk
    /// once they are. Had a crash come in between, its event would displace them again.
    pub(super) fn dirty(&self, device: &EndDevice) -> (Vec<EntryId>, Vec<EntryId>) {
        let displaced = |id: &EntryId| {
            self.entries.get(id).is_some_and(|entry| entry.stage == Stage::Ended(End::Replaced))
        };
        self.dirty.get(device).into_iter().flatten().copied().partition(displaced)
    }

    /// What is to be written of one entry; `None` if nothing is.
    pub(super) fn due(&self, id: EntryId) -> Option<Due> {
        let entry = self.entries.get(&id)?;
        self.dirty.get(&entry.device)?.contains(&id).then(|| Due {
            reports: entry.owed.clone(),
            row: row::write(entry),
            begun_ms: (entry.stage.rank() < 3).then_some(entry.begun_ms),
            changes: entry.changes,
        })
    }

    /// The oldest of the owed reports is on disk.
    pub(super) fn posted(&mut self, id: EntryId) {
        if let Some(entry) = self.entries.get_mut(&id)
            && !entry.owed.is_empty()
        {
            entry.owed.remove(0);
        }
    }

    /// `due` is on disk. An ended entry leaves memory.
    pub(super) fn stored(&mut self, id: EntryId, due: &Due) {
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.changes == due.changes) else { return };
        if entry.stage.rank() == 3 {
            self.forget(id);
            return;
        }
        let device = entry.device.clone();
        self.clean(&device, id);
    }

    pub(super) fn forget(&mut self, id: EntryId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.clean(&entry.device, id);
        if let Some(of) = self.by_device.get_mut(&entry.device) {
            of.ids.remove(&id);
            if of.ids.is_empty() {
                self.by_device.remove(&entry.device);
            }
        }
    }

    fn clean(&mut self, device: &EndDevice, id: EntryId) {
        if let Some(ids) = self.dirty.get_mut(device) {
            ids.remove(&id);
            if ids.is_empty() {
                self.dirty.remove(device);
            }
        }
    }
}
