//! Every metric's name, unit and help text, in one place. Knows nobody: whoever counts holds a [`Metrics`].

mod backfill;
mod downlinks;
mod hub_limits;
mod snapshot;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use backfill::Backfills;
use downlinks::Downlinks;
use hub_limits::HubLimits;
use snapshot::Gauges;
pub use snapshot::Snapshot;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One label with few values, all known at build time.
type Label<V> = [(&'static str, V); 1];
type ByName = Family<Label<&'static str>, Counter>;
type ByStatus = Family<Label<u16>, Counter>;

/// All metrics. Cheap to clone; every clone counts into the same place.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Mutex<Registry>,
    received: ByName,
    ignored: ByName,
    refused: ByStatus,
    stored: Counter,
    duplicates: Counter,
    webhook_request: Histogram,
    sent: Counter,
    parked: ByName,
    retried: ByName,
    hub_latency: Histogram,
    downlinks: Downlinks,
    backfills: Backfills,
    hub_limits: HubLimits,
    gauges: Gauges,
    snapshot: OnceLock<Box<dyn Fn() -> Snapshot + Send + Sync>>,
}

impl Default for Inner {
    fn default() -> Self {
        let inner = Self {
            registry: Mutex::default(),
            received: ByName::default(),
            ignored: ByName::default(),
            refused: ByStatus::default(),
            stored: Counter::default(),
            duplicates: Counter::default(),
            // 0.5 ms … 16 s: The Things Stack gives up after 5 s or 10 s.
            webhook_request: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            sent: Counter::default(),
            parked: ByName::default(),
            retried: ByName::default(),
            // 1 ms … 65 s.
            hub_latency: Histogram::new(exponential_buckets(0.001, 2.0, 17)),
            downlinks: Downlinks::default(),
            backfills: Backfills::default(),
            hub_limits: HubLimits::default(),
            gauges: Gauges::default(),
            snapshot: OnceLock::new(),
        };
        let mut registry = Registry::with_prefix("tti_connector");
        inner.register(&mut registry);
        inner.downlinks.register(&mut registry);
        inner.backfills.register(&mut registry);
        inner.hub_limits.register(&mut registry);
        inner.gauges.register(&mut registry);
        Self { registry: Mutex::new(registry), ..inner }
    }
}

impl Inner {
    /// The registry adds the prefix, and `_total` to counters.
    fn register(&self, to: &mut Registry) {
        to.register(
            "webhook_received_messages",
            "Messages posted by The Things Stack that could be read, by kind",
            self.received.clone(),
        );
        to.register(
            "webhook_ignored_messages",
            "Messages of which no telemetry comes, by reason: not kept, or found so when about to be sent",
            self.ignored.clone(),
        );
        to.register(
            "webhook_refused_requests",
            "Requests to the webhook answered with an error, by HTTP status",
            self.refused.clone(),
        );
        to.register(
            "webhook_stored_messages",
            "Messages written to the spool before they were answered",
            self.stored.clone(),
        );
        to.register(
            "webhook_duplicate_messages",
            "Messages posted again and recognised as the same",
            self.duplicates.clone(),
        );
        to.register(
            "webhook_request_duration_seconds",
            "From a request's head to its message being stored or ignored",
            self.webhook_request.clone(),
        );
        to.register("hub_sent_messages", "Telemetry messages accepted by a hub", self.sent.clone());
        to.register(
            "hub_parked_messages",
            "Messages set aside for an operator since the start, by reason",
            self.parked.clone(),
        );
        to.register(
            "hub_retried_messages",
            "Sends and resolutions that failed and are tried again, by reason",
            self.retried.clone(),
        );
        to.register(
            "hub_latency_seconds",
            "From the post of a message to the hub's acceptance of its telemetry",
            self.hub_latency.clone(),
        );
    }
}

impl Metrics {
    /// All counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// A readable message of this kind was posted. `kind` is The Things Stack's key, or `unknown`.
    pub fn received(&self, kind: &'static str) {
        self.0.received.get_or_create(&[("kind", kind)]).inc();
    }

    /// A message was answered 2xx but not kept.
    pub fn ignored(&self, reason: &'static str) {
        self.0.ignored.get_or_create(&[("reason", reason)]).inc();
    }

    /// A request was answered with this HTTP status, 400 or above.
    pub fn refused(&self, status: u16) {
        self.0.refused.get_or_create(&[("status", status)]).inc();
    }

    /// A message is on disk.
    pub fn stored(&self) {
        self.0.stored.inc();
    }

    /// A message came again.
    pub fn duplicate(&self) {
        self.0.duplicates.inc();
    }

    /// A request's message was stored or ignored this long after its head came.
    pub fn webhook_request(&self, took: Duration) {
        self.0.webhook_request.observe(took.as_secs_f64());
    }

    /// A hub accepted a message posted `since_post` ago.
    pub fn sent(&self, since_post: Duration) {
        self.0.sent.inc();
        self.0.hub_latency.observe(since_post.as_secs_f64());
    }

    /// A message was set aside.
    pub fn parked(&self, reason: &'static str) {
        self.0.parked.get_or_create(&[("reason", reason)]).inc();
    }

    /// A message waits for another try.
    pub fn retried(&self, reason: &'static str) {
        self.0.retried.get_or_create(&[("reason", reason)]).inc();
    }

    /// What a hub takes: messages a second (`None` without a limit), whether its day is used up, and how many messages it
    /// throttled since the start.
    pub fn hub_limits(&self, hub: &str, pace: Option<f64>, used_up: bool, throttled: u64) {
        self.0.hub_limits.set(hub, pace, used_up, throttled);
    }

    /// Says where the gauges come from: called at each [`Metrics::render`], so it must be quick. The first call counts.
    pub fn set_snapshot(&self, snapshot: impl Fn() -> Snapshot + Send + Sync + 'static) {
        // A second source would be a defect of the composition root; the first one stays valid.
        let _ = self.0.snapshot.set(Box::new(snapshot));
    }

    /// Everything as OpenMetrics text, with gauges of this moment.
    pub fn render(&self) -> String {
        if let Some(snapshot) = self.0.snapshot.get() {
            self.0.gauges.set(&snapshot());
        }
        let mut text = String::new();
        encode(&mut text, &self.registry()).expect("writing to a String never fails");
        text
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_labels_and_gauges_come_from_the_snapshot() {
        let metrics = Metrics::new();
        let clone = metrics.clone();
        clone.received("uplink_message");
        metrics.received("uplink_message");
        metrics.refused(401);
        metrics.sent(Duration::from_millis(30));
        metrics.set_snapshot(|| Snapshot {
            pending_messages: 7,
            oldest_age: Some(Duration::from_millis(1500)),
            ..Snapshot::default()
        });
        let text = metrics.render();
        for line in [
            "tti_connector_webhook_received_messages_total{kind=\"uplink_message\"} 2",
            "tti_connector_webhook_refused_requests_total{status=\"401\"} 1",
            "tti_connector_hub_latency_seconds_count 1",
            "tti_connector_spool_pending_messages 7",
            "tti_connector_spool_oldest_age_seconds 1.5",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_has_a_help_text() {
        let metrics = Metrics::new();
        // A family without any label is not shown.
        metrics.received("a");
        metrics.ignored("a");
        metrics.refused(400);
        metrics.parked("a");
        metrics.retried("a");
        metrics.downlink_queued("a", Duration::ZERO);
        metrics.downlink_rejected("a");
        metrics.downlink_abandoned("a");
        metrics.downlink_retried("a");
        metrics.method_answered(200);
        metrics.backfill_failed("a");
        metrics.backfill_lost("a", 1);
        metrics.hub_limits("a", Some(1.0), false, 1);
        let text = metrics.render();
        let words = |prefix: &str| {
            text.lines()
                .filter_map(|line| line.strip_prefix(prefix))
                .filter_map(|rest| rest.split(' ').next())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let typed = words("# TYPE ");
        assert_eq!(typed, words("# HELP "));
        assert!(typed.len() >= 39, "{typed:?}");
        let documented = include_str!("../../docs/OPERATIONS.md");
        for name in typed {
            let name = name.trim_start_matches("tti_connector_");
            let known = [format!("`{name}`"), format!("`{name}_total`")];
            assert!(known.iter().any(|known| documented.contains(known)), "docs/OPERATIONS.md lacks {name}");
        }
    }
}
