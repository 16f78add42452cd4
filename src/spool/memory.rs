//! Bodies of pending records held in memory, counted, within `spool.memory_bytes`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// The budget. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    limit: u64,
    used: Arc<AtomicU64>,
}

/// A body that gives its bytes back to the budget when its last clone is dropped.
struct Held {
    body: Bytes,
    used: Arc<AtomicU64>,
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: Arc::default() }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The same body, counted; `None` when it no longer fits.
    pub(super) fn hold(&self, body: Bytes) -> Option<Bytes> {
        let bytes = body.len() as u64;
        // Only the writer thread adds, so that the check holds until the addition.
        if self.used().saturating_add(bytes) > self.limit {
            return None;
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Some(Bytes::from_owner(Held { body, used: Arc::clone(&self.used) }))
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.used.fetch_sub(self.body.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_with_the_last_clone() {
        let memory = Memory::new(10);
        let first = memory.hold(Bytes::from_static(b"123456")).expect("fits");
        let clone = first.clone();
        assert!(memory.hold(Bytes::from_static(b"12345")).is_none());
        drop(first);
        assert_eq!(memory.used(), 6);
        assert_eq!(&clone[..], b"123456");
        drop(clone);
        assert_eq!(memory.used(), 0);
        assert!(memory.hold(Bytes::from_static(b"1234567890")).is_some());
    }
}
