//! All entries of the directory, bounded. Knows not where they come from.

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::entry::Entry;
use crate::model::EndDevice;

/// End devices kept at most: what one IoT Hub or one DPS holds. More can only be an attack on memory.
pub(super) const MAX_DEVICES: usize = 1_000_000;
/// Stale entries are looked for when there are this many, then at each doubling.
const FIRST_SWEEP: usize = 10_000;

/// One entry an end device.
#[derive(Debug)]
pub(super) struct Entries {
    by_device: DashMap<EndDevice, Entry>,
    sweep_at: AtomicUsize,
}

impl Default for Entries {
    fn default() -> Self {
        Self { by_device: DashMap::new(), sweep_at: AtomicUsize::new(FIRST_SWEEP) }
    }
}

impl Entries {
    /// Looks at an entry under its lock.
    pub(super) fn with<T>(&self, device: &EndDevice, look: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.by_device.get(device).map(|entry| look(&entry))
    }

    /// Replaces an entry by what `change` makes of it, if it makes something.
    pub(super) fn change(&self, device: &EndDevice, change: impl FnOnce(&Entry) -> Option<Entry>) {
        if let Some(mut entry) = self.by_device.get_mut(device)
            && let Some(next) = change(&entry)
        {
            *entry = next;
        }
    }

    /// Keeps an entry. True if stale ones were swept out before.
    pub(super) fn put(&self, device: &EndDevice, entry: Entry, now_ms: i64) -> bool {
        let due = self.by_device.len() >= self.sweep_at.load(Ordering::Relaxed);
        if due {
            self.by_device.retain(|_, entry| !entry.is_stale(now_ms));
            let next = self.by_device.len().saturating_mul(2).clamp(FIRST_SWEEP, MAX_DEVICES);
            self.sweep_at.store(next, Ordering::Relaxed);
        }
        self.by_device.insert(device.clone(), entry);
        due
    }

    /// Whether there is no room for another end device.
    pub(super) fn is_full_for(&self, device: &EndDevice) -> bool {
        self.by_device.len() >= MAX_DEVICES && !self.by_device.contains_key(device)
    }

    /// What `pick` finds in each entry, in any order.
    pub(super) fn collect<T>(&self, pick: impl Fn(&EndDevice, &Entry) -> Option<T>) -> Vec<T> {
        self.by_device.iter().filter_map(|entry| pick(entry.key(), entry.value())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_device.len()
    }
}
