//! One message to the webhook before it is stamped and sent: which kind, about what.
//!
//! Knows no HTTP and no device state.

use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Map, Value, json};

use super::name::{DeviceName, Euis, end_device_ids};
use crate::model::Clock;

/// What an `ApplicationUp` can be about.
pub(super) const KINDS: [&str; 11] = [
    "uplink_message",
    "uplink_normalized",
    "join_accept",
    "downlink_ack",
    "downlink_nack",
    "downlink_sent",
    "downlink_failed",
    "downlink_queued",
    "downlink_queue_invalidated",
    "location_solved",
    "service_data",
];

/// One message to the webhook.
#[derive(Clone, Debug)]
pub(super) struct Up {
    /// One of [`KINDS`].
    pub(super) kind: &'static str,
    pub(super) correlation_ids: Vec<String>,
    pub(super) dev_addr: Option<String>,
    pub(super) body: Value,
    pub(super) simulated: bool,
}

impl Up {
    /// The whole message. Uplinks and joins say twice when they came: the Network Server's time, then ours.
    pub(super) fn json(mut self, name: &DeviceName, euis: &Euis, stamps: &Stamps) -> Value {
        if matches!(self.kind, "uplink_message" | "join_accept")
            && let Value::Object(body) = &mut self.body
        {
            body.entry("received_at").or_insert_with(|| json!(stamps.next()));
        }
        let mut message = Map::new();
        message.insert("end_device_ids".to_owned(), end_device_ids(name, euis, self.dev_addr.as_deref()));
        if !self.correlation_ids.is_empty() {
            message.insert("correlation_ids".to_owned(), json!(self.correlation_ids));
        }
        message.insert("received_at".to_owned(), json!(stamps.next()));
        message.insert(self.kind.to_owned(), self.body);
        if self.simulated {
            message.insert("simulated".to_owned(), json!(true));
        }
        Value::Object(message)
    }
}

/// Timestamps with nine digits, each later than the one before.
#[derive(Debug)]
pub(super) struct Stamps {
    clock: Clock,
    last_ns: AtomicI64,
}

impl Stamps {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, last_ns: AtomicI64::new(0) }
    }

    /// The time in milliseconds since 1970 UTC.
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// `2026-11-21T05:08:09.123000001Z`.
    pub(super) fn next(&self) -> String {
        let now = self.clock.now_ms().saturating_mul(1_000_000);
        let later = |last: i64| Some(now.max(last).saturating_add(1));
        let last = self.last_ns.fetch_update(Ordering::AcqRel, Ordering::Acquire, later).unwrap_or(now);
        let stamp = jiff::Timestamp::from_nanosecond(i128::from(now.max(last).saturating_add(1)));
        format!("{:.9}", stamp.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_have_nine_digits_and_never_stand_still() {
        let stamps = Stamps::new(Clock::manual(1_000));
        assert_eq!(stamps.next(), "1970-01-01T00:00:01.000000001Z");
        assert_eq!(stamps.next(), "1970-01-01T00:00:01.000000002Z");
    }
}
