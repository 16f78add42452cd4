//! What can be asked about the open entries of one device, or of all. Pure.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::{Book, Entry};
use crate::downlink::ledger::stage::Stage;
use crate::downlink::{EntryId, Progress};
use crate::model::EndDevice;

impl Book {
    /// Whose push was under way when a former life of the program ended, and nothing was heard of since.
    pub(in super::super) fn left_open(&self) -> Vec<(EntryId, EndDevice)> {
        let open = |(id, entry): (&EntryId, &Entry)| {
            (entry.restored && entry.stage == Stage::Pushing).then(|| (*id, entry.device.clone()))
        };
        let mut open: Vec<_> = self.entries.iter().filter_map(open).collect();
        open.sort_by_key(|(id, _)| *id);
        open
    }

    /// What waits in the device's queue and was entered before `order`.
    pub(in super::super) fn waiting(&self, device: &EndDevice, order: u64) -> Vec<EntryId> {
        let queued = |id: &EntryId| {
            self.entries.get(id).is_some_and(|entry| entry.stage == Stage::Queued && entry.order < order)
        };
        self.by_device.get(device).into_iter().flat_map(|of| &of.ids).copied().filter(queued).collect()
    }

    /// Who pushes the entry holds this, so that its device's pushes come one after another.
    pub(in super::super) fn push_turn(&self, id: EntryId) -> Option<Arc<Mutex<()>>> {
        let device = &self.entries.get(&id)?.device;
        self.by_device.get(device).map(|of| Arc::clone(&of.push))
    }

    /// The entry is pushed next. Gives the others of its device that may be queued, and were not looked for since their
    /// last push.
    pub(in super::super) fn about_to_push(&mut self, id: EntryId) -> Vec<EntryId> {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.missing = false;
        }
        let of = self.entries.get(&id).and_then(|entry| self.by_device.get(&entry.device));
        let unsure = |other: &EntryId| {
            let entry = self.entries.get(other).filter(|_| *other != id);
            entry.is_some_and(|entry| entry.stage == Stage::Pushing && !entry.missing)
        };
        of.into_iter().flat_map(|of| &of.ids).copied().filter(unsure).collect()
    }

    /// It was looked for and found nowhere.
    pub(super) fn missing(&mut self, id: EntryId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.missing = true;
        }
    }

    /// Devices of which something is to be written.
    pub(in super::super) fn dirty_devices(&self) -> Vec<EndDevice> {
        self.dirty.keys().cloned().collect()
    }

    pub(in super::super) fn watch(&mut self, id: EntryId) -> Option<watch::Receiver<Progress>> {
        let entry = self.entries.get_mut(&id)?;
        let progress = entry.progress();
        Some(entry.watched.get_or_insert_with(|| watch::Sender::new(progress)).subscribe())
    }
}
