//! What is counted about the way back: requests of the cloud and what became of them. Part of [`super::Metrics`].

use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{ByName, ByStatus, Metrics};

/// Its counters.
#[derive(Debug)]
pub(super) struct Downlinks {
    queued: ByName,
    rejected: ByName,
    abandoned: ByName,
    retried: ByName,
    answered: ByStatus,
    latency: Histogram,
}

impl Default for Downlinks {
    fn default() -> Self {
        Self {
            queued: ByName::default(),
            rejected: ByName::default(),
            abandoned: ByName::default(),
            retried: ByName::default(),
            answered: ByStatus::default(),
            // 1 ms … 65 s: the hub's lock lasts a minute.
            latency: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
        }
    }
}

impl Downlinks {
    pub(super) fn register(&self, to: &mut Registry) {
        to.register(
            "downlink_queued_requests",
            "Downlinks that The Things Stack queued, by who asked for them",
            self.queued.clone(),
        );
        to.register(
            "downlink_rejected_requests",
            "Requests of the cloud that were refused for good, by reason",
            self.rejected.clone(),
        );
        to.register(
            "downlink_abandoned_messages",
            "Cloud-to-device messages that went back to the hub to come again, by reason",
            self.abandoned.clone(),
        );
        to.register(
            "downlink_retried_requests",
            "Tries to queue a downlink that failed and are repeated, by reason",
            self.retried.clone(),
        );
        to.register(
            "downlink_answered_methods",
            "Direct methods that were answered, by status",
            self.answered.clone(),
        );
        to.register(
            "downlink_latency_seconds",
            "From the receipt of a request of the cloud to its downlink being queued at The Things Stack",
            self.latency.clone(),
        );
    }
}

impl Metrics {
    /// The Things Stack queued a downlink that `source` (`c2d`, `method` or `twin`) asked for so long ago.
    pub fn downlink_queued(&self, source: &'static str, since_receipt: Duration) {
        self.0.downlinks.queued.get_or_create(&[("source", source)]).inc();
        self.0.downlinks.latency.observe(since_receipt.as_secs_f64());
    }

    /// A request of the cloud was refused for good.
    pub fn downlink_rejected(&self, reason: &'static str) {
        self.0.downlinks.rejected.get_or_create(&[("reason", reason)]).inc();
    }

    /// A cloud-to-device message went back to the hub.
    pub fn downlink_abandoned(&self, reason: &'static str) {
        self.0.downlinks.abandoned.get_or_create(&[("reason", reason)]).inc();
    }

    /// A request of the cloud waits for another try.
    pub fn downlink_retried(&self, reason: &'static str) {
        self.0.downlinks.retried.get_or_create(&[("reason", reason)]).inc();
    }

    /// A direct method was answered with this status, of HTTP's kind; any other counts as 0.
    pub fn method_answered(&self, status: i32) {
        let status = u16::try_from(status).ok().filter(|status| (100..600).contains(status)).unwrap_or(0);
        self.0.downlinks.answered.get_or_create(&[("status", status)]).inc();
    }
}
