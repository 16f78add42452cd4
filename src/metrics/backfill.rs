//! What is counted about missed uplinks and what became of them. Part of [`super::Metrics`].

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{ByName, Metrics};

/// Its counters.
#[derive(Debug, Default)]
pub(super) struct Backfills {
    gaps: Counter,
    queued: Counter,
    sent: Counter,
    failed: ByName,
    lost: ByName,
    bad: Counter,
}

impl Backfills {
    pub(super) fn register(&self, to: &mut Registry) {
        to.register(
            "backfill_gaps",
            "Gaps in frame counters seen, of applications with backfill on",
            self.gaps.clone(),
        );
        to.register(
            "backfill_queued_messages",
            "Missed uplinks fetched from the Storage Integration and put into the spool",
            self.queued.clone(),
        );
        to.register(
            "backfill_sent_messages",
            "Fetched uplinks whose telemetry a hub accepted",
            self.sent.clone(),
        );
        to.register(
            "backfill_failed_fetches",
            "Fetches of stored uplinks that failed and are tried again, by reason",
            self.failed.clone(),
        );
        to.register(
            "backfill_lost_messages",
            "Missed uplinks not found: never_stored (the network did not hear them) or no_longer_stored",
            self.lost.clone(),
        );
        to.register(
            "backfill_bad_rows",
            "Rows of the Storage Integration that could not be read and were passed over",
            self.bad.clone(),
        );
    }
}

impl Metrics {
    /// A gap in a device's frame counters was seen.
    pub fn backfill_gap(&self) {
        self.0.backfills.gaps.inc();
    }

    /// A fetched uplink was put into the spool.
    pub fn backfill_queued(&self) {
        self.0.backfills.queued.inc();
    }

    /// A hub accepted the telemetry of a fetched uplink.
    pub fn backfill_sent(&self) {
        self.0.backfills.sent.inc();
    }

    /// A fetch failed.
    pub fn backfill_failed(&self, reason: &'static str) {
        self.0.backfills.failed.get_or_create(&[("reason", reason)]).inc();
    }

    /// So many missed uplinks were not found.
    pub fn backfill_lost(&self, reason: &'static str, count: u64) {
        self.0.backfills.lost.get_or_create(&[("reason", reason)]).inc_by(count);
    }

    /// So many rows could not be read.
    pub fn backfill_bad_rows(&self, count: u64) {
        self.0.backfills.bad.inc_by(count);
    }
}
