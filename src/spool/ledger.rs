//! The counts that decide whether a record may come in. Pure: knows no database and no clock.
//!
//! The rule. Pending records have a budget (`spool.max_*`), parked ones another (`spool.parked_max_*`). Parking
//! only moves a record, so it is never refused; while the parked budget is used up, groups that own parked
//! records are refused. What is parked beyond its budget counts against the pending one, so that
//! pending + parked never exceeds the two budgets together, whatever groups are invented or fail.

use std::sync::Arc;

use super::types::SpoolError;
use crate::config;

/// Rows of the duplicate table per pending message allowed: a window of uplinks passes through while few wait.
const DEDUP_PER_MESSAGE: i64 = 4;

/// What the database holds; stored in it with every transaction, so that opening counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The number the next record gets. Only ever grows.
    pub(super) next_seq: i64,
    pub(super) pending: i64,
    pub(super) pending_bytes: i64,
    pub(super) parked: i64,
    pub(super) parked_bytes: i64,
    /// Rows of the duplicate table.
    pub(super) dedup: i64,
    /// Rows of the lane table.
    pub(super) lanes: i64,
}

/// The configured bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    messages: i64,
    bytes: i64,
    parked_messages: i64,
    parked_bytes: i64,
}

impl Limits {
    pub(super) fn new(config: &config::Spool) -> Self {
        let limit = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Self {
            messages: limit(config.max_messages),
            bytes: limit(config.max_bytes),
            parked_messages: limit(config.parked_max_messages),
            parked_bytes: limit(config.parked_max_bytes),
        }
    }

    /// Most rows in the duplicate table; beyond it the oldest are forgotten before their window ends.
    pub(super) fn dedup_rows(&self) -> i64 {
        self.messages.saturating_mul(DEDUP_PER_MESSAGE)
    }

    /// Most rows in the table of remembered keys; beyond it the oldest are forgotten. A few dozen bytes each, so that
    /// together they stay far below what the bodies may take.
    pub(super) fn remembered_rows(&self) -> i64 {
        self.messages.saturating_mul(DEDUP_PER_MESSAGE)
    }

    /// Pages the database may have: what the budgets can need at worst (each body wastes less than one page
    /// beside itself), and `STATE_BYTES` for everything else. A backstop against a defect; the budgets refuse first.
    pub(super) fn max_pages(&self, page_bytes: i64) -> i64 {
        const STATE_BYTES: i64 = 64 * 1024 * 1024;
        let records = self.messages.saturating_add(self.parked_messages);
        let bodies = self.bytes.saturating_add(self.parked_bytes);
        let bytes = bodies
            .saturating_mul(2)
            .saturating_add(records.saturating_mul(page_bytes))
            .saturating_add(STATE_BYTES);
        (bytes / page_bytes).min(i64::from(u32::MAX - 1))
    }

    /// May a body of `bytes` come in for `group`, which owns parked records or not?
    pub(super) fn admit(
        &self,
        ledger: &Ledger,
        group: &Arc<str>,
        owns_parked: bool,
        bytes: i64,
    ) -> Result<(), SpoolError> {
        let used_up = ledger.parked >= self.parked_messages || ledger.parked_bytes >= self.parked_bytes;
        if used_up && owns_parked {
            return Err(SpoolError::ParkedFull(Arc::clone(group)));
        }
        let excess = (ledger.parked - self.parked_messages).max(0);
        let excess_bytes = (ledger.parked_bytes - self.parked_bytes).max(0);
        if ledger.pending + excess >= self.messages {
            return Err(SpoolError::Full(format!(
                "{} messages wait; spool.max_messages is {}",
                ledger.pending + excess,
                self.messages
            )));
        }
        if ledger.pending_bytes.saturating_add(excess_bytes).saturating_add(bytes) > self.bytes {
            return Err(SpoolError::Full(format!(
                "{} bytes wait; spool.max_bytes is {}",
                ledger.pending_bytes + excess_bytes,
                self.bytes
            )));
        }
        Ok(())
    }
}

impl Ledger {
    /// Its checksum: with a changed bit in a count, everything could be refused, or anything let in.
    pub(super) fn seal(&self) -> u32 {
        let Self { next_seq, pending, pending_bytes, parked, parked_bytes, dedup, lanes } = *self;
        let mut hasher = crc32fast::Hasher::new();
        for count in [next_seq, pending, pending_bytes, parked, parked_bytes, dedup, lanes] {
            hasher.update(&count.to_le_bytes());
        }
        hasher.finalize()
    }

    pub(super) fn add_pending(&mut self, bytes: i64) {
        self.pending += 1;
        self.pending_bytes += bytes;
    }

    pub(super) fn take_pending(&mut self, bytes: i64) {
        self.pending -= 1;
        self.pending_bytes -= bytes;
    }

    pub(super) fn add_parked(&mut self, bytes: i64) {
        self.parked += 1;
        self.parked_bytes += bytes;
    }

    pub(super) fn take_parked(&mut self, bytes: i64) {
        self.parked -= 1;
        self.parked_bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(messages: u64, parked: u64) -> Limits {
        Limits::new(&config::Spool {
            max_messages: messages,
            max_bytes: messages * 10,
            parked_max_messages: parked,
            parked_max_bytes: parked * 10,
            ..config::Spool::default()
        })
    }

    #[test]
    fn the_last_place_is_given_and_the_one_after_refused() {
        let group = Arc::from("a");
        let full = Ledger { pending: 2, pending_bytes: 2, ..Ledger::default() };
        let last = Ledger { pending: 1, pending_bytes: 1, ..full };
        assert_eq!(limits(2, 1).admit(&last, &group, false, 1), Ok(()));
        assert!(matches!(limits(2, 1).admit(&full, &group, false, 1), Err(SpoolError::Full(_))));
        assert!(matches!(limits(2, 1).admit(&last, &group, false, 20), Err(SpoolError::Full(_))));
    }

    #[test]
    fn a_used_up_parked_budget_refuses_only_its_owners() {
        let group: Arc<str> = Arc::from("a");
        let ledger = Ledger { parked: 1, parked_bytes: 1, ..Ledger::default() };
        assert_eq!(
            limits(2, 1).admit(&ledger, &group, true, 1),
            Err(SpoolError::ParkedFull(Arc::clone(&group)))
        );
        assert_eq!(limits(2, 1).admit(&ledger, &group, false, 1), Ok(()));
        assert_eq!(limits(2, 2).admit(&ledger, &group, true, 1), Ok(()));
    }

    /// Applications without parked records come one after the other, fill the queue, and all of it is parked.
    #[test]
    fn pending_and_parked_together_stay_within_both_budgets() {
        let limits = limits(10, 4);
        let mut ledger = Ledger::default();
        for round in 0..50 {
            let group: Arc<str> = Arc::from(format!("group-{round}"));
            let mut owned = 0;
            while limits.admit(&ledger, &group, false, 1).is_ok() {
                ledger.add_pending(1);
                owned += 1;
                assert!(ledger.pending + ledger.parked <= 14, "{ledger:?}");
            }
            for _ in 0..owned {
                ledger.take_pending(1);
                ledger.add_parked(1);
            }
        }
        assert_eq!((ledger.pending, ledger.parked), (0, 14));
    }
}
