//! The spool's numbers for health, metrics and bounds, readable from everywhere without a lock.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::ledger::Ledger;
use super::types::Stats;

const NONE: i64 = i64::MIN;

/// Written by the writer thread only.
pub(super) struct Meters {
    pending: AtomicI64,
    pending_bytes: AtomicI64,
    parked: AtomicI64,
    parked_bytes: AtomicI64,
    oldest_received_ms: AtomicI64,
    appended: AtomicU64,
    duplicates: AtomicU64,
    commits: AtomicU64,
    last_commit_us: AtomicU64,
    set_aside: AtomicBool,
    damaged_files: AtomicU64,
    /// Why not healthy.
    why: Mutex<Option<Arc<str>>>,
    healthy: watch::Sender<bool>,
}

impl Meters {
    pub(super) fn new(ledger: &Ledger) -> Self {
        let meters = Self {
            pending: AtomicI64::new(0),
            pending_bytes: AtomicI64::new(0),
            parked: AtomicI64::new(0),
            parked_bytes: AtomicI64::new(0),
            oldest_received_ms: AtomicI64::new(NONE),
            appended: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            last_commit_us: AtomicU64::new(0),
            set_aside: AtomicBool::new(false),
            damaged_files: AtomicU64::new(0),
            why: Mutex::default(),
            healthy: watch::Sender::new(true),
        };
        meters.set_ledger(ledger);
        meters
    }

    pub(super) fn set_ledger(&self, ledger: &Ledger) {
        self.pending.store(ledger.pending, Ordering::Relaxed);
        self.pending_bytes.store(ledger.pending_bytes, Ordering::Relaxed);
        self.parked.store(ledger.parked, Ordering::Relaxed);
        self.parked_bytes.store(ledger.parked_bytes, Ordering::Relaxed);
    }

    pub(super) fn set_oldest(&self, received_ms: Option<i64>) {
        self.oldest_received_ms.store(received_ms.unwrap_or(NONE), Ordering::Relaxed);
    }

    pub(super) fn has_oldest(&self) -> bool {
        self.oldest_received_ms.load(Ordering::Relaxed) != NONE
    }

    pub(super) fn committed(&self, appended: u64, duplicates: u64, took: Duration) {
        self.appended.fetch_add(appended, Ordering::Relaxed);
        self.duplicates.fetch_add(duplicates, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.last_commit_us.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Well, or why not.
    pub(super) fn set_health(&self, why: Option<Arc<str>>) {
        let healthy = why.is_none();
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.healthy.send_if_modified(|was| std::mem::replace(was, healthy) != healthy);
    }

    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_aside(&self) {
        self.set_aside.store(true, Ordering::Relaxed);
    }

    pub(super) fn set_damaged_files(&self, count: u64) {
        self.damaged_files.store(count, Ordering::Relaxed);
    }

    pub(super) fn healthy(&self) -> watch::Receiver<bool> {
        self.healthy.subscribe()
    }

    pub(super) fn read(&self, memory_bytes: u64) -> Stats {
        let count = |value: &AtomicI64| u64::try_from(value.load(Ordering::Relaxed)).unwrap_or(0);
        let oldest = self.oldest_received_ms.load(Ordering::Relaxed);
        Stats {
            pending: count(&self.pending),
            pending_bytes: count(&self.pending_bytes),
            parked: count(&self.parked),
            parked_bytes: count(&self.parked_bytes),
            oldest_received_ms: (oldest != NONE).then_some(oldest),
            appended: self.appended.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
            memory_bytes,
            commits: self.commits.load(Ordering::Relaxed),
            last_commit: Duration::from_micros(self.last_commit_us.load(Ordering::Relaxed)),
            healthy: *self.healthy.borrow(),
            set_aside: self.set_aside.load(Ordering::Relaxed),
            damaged_files: self.damaged_files.load(Ordering::Relaxed),
        }
    }
}
