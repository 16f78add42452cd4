//! The times and counts of cloud-to-device messages that a hub's owner may set. Pure data.

use std::time::Duration;

/// How a hub treats cloud-to-device messages; the defaults are IoT Hub's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudSettings {
    /// How long a device may take to answer a message. IoT Hub's minute can't be changed there; shorten it in tests.
    pub lock: Duration,
    /// Time to live of a message whose sender names none. Default 1 h.
    pub ttl: Duration,
    /// How often a message is handed out before it is dropped, 1 to 100. Default 10.
    pub max_delivery_count: u8,
    /// How long feedback waits for more, unless 64 records are there. Default 15 s.
    pub feedback_delay: Duration,
}

impl CloudSettings {
    pub(super) fn lock_ms(&self) -> i64 {
        millis(self.lock)
    }

    pub(super) fn ttl_ms(&self) -> i64 {
        millis(self.ttl)
    }

    pub(super) fn feedback_delay_ms(&self) -> i64 {
        millis(self.feedback_delay)
    }
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(60),
            ttl: Duration::from_secs(3600),
            max_delivery_count: 10,
            feedback_delay: Duration::from_secs(15),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
