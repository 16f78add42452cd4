//! Metrics of what each hub takes: its pace, its throttling, its quota.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Hubs with metrics of their own; there are few, and each costs a scraper three series.
const MAX_HUBS: usize = 256;

type ByHub<M> = Family<[(&'static str, String); 1], M>;

/// The metrics themselves.
#[derive(Debug, Default)]
pub(super) struct HubLimits {
    pace: ByHub<Gauge<f64, AtomicU64>>,
    throttled: ByHub<Counter>,
    used_up: ByHub<Gauge<u64, AtomicU64>>,
    /// What was counted already.
    counted: Mutex<BTreeMap<String, u64>>,
}

impl HubLimits {
    pub(super) fn register(&self, to: &mut Registry) {
        to.register(
            "hub_pace_messages_per_second",
            "Messages a second that a hub gets at most; not there while it has no limit that is known",
            self.pace.clone(),
        );
        to.register(
            "hub_throttled_messages",
            "Messages that a hub refused since it gets too many; they are sent again",
            self.throttled.clone(),
        );
        to.register(
            "hub_quota_used_up",
            "1 while a hub takes no more messages, as those of its day (UTC) are used up",
            self.used_up.clone(),
        );
    }

    pub(super) fn set(&self, hub: &str, pace: Option<f64>, used_up: bool, throttled: u64) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if !counted.contains_key(hub) && counted.len() >= MAX_HUBS {
            return;
        }
        let before = counted.entry(hub.to_owned()).or_default();
        let more = throttled.saturating_sub(std::mem::replace(before, throttled));
        drop(counted);
        let label = [("hub", hub.to_owned())];
        match pace {
            Some(pace) => _ = self.pace.get_or_create(&label).set(pace),
            None => _ = self.pace.remove(&label),
        }
        self.throttled.get_or_create(&label).inc_by(more);
        self.used_up.get_or_create(&label).set(u64::from(used_up));
    }
}
