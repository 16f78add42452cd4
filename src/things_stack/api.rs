//! What The Things Stack's downlink API answers, said as what to do next. Makes no calls.

use std::time::Duration;

use serde_json::{Map, Value};

/// Why a call failed. Holds no key and no payload.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApiError {
    /// Nothing was queued, and a later try may succeed: 429, 406 (webhook paused), 409, no connection.
    #[error("{detail}")]
    NotNow {
        /// What was seen.
        detail: String,
        /// The API asked for at least this long.
        after: Option<Duration>,
    },
    /// The call may or may not have had its effect: time-out, 5xx, connection lost after the request went out. Look
    /// into the queue before trying again.
    #[error("{detail}")]
    Unsure {
        /// What was seen.
        detail: String,
    },
    /// It will never succeed as it is: 400, 401, 403, 404, or no key is known for the application.
    #[error("{detail}")]
    Refused {
        /// The HTTP status; `None` when no call was made.
        status: Option<u16>,
        /// The API's own reason, or ours.
        detail: String,
    },
}

/// A downlink in a device's queue, as the API lists it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueuedDownlink {
    /// Ours among them, if we queued it.
    pub correlation_ids: Vec<String>,
    /// Absent = 0.
    pub f_port: u8,
    /// Absent = 0.
    pub f_cnt: u32,
    /// Base64, as the API gives it.
    pub frm_payload: String,
    /// When the API gives it.
    pub decoded_payload: Option<Map<String, Value>>,
    /// Absent = false.
    pub confirmed: bool,
    /// Wire name; absent = `LOWEST`.
    pub priority: String,
}

/// Where a downlink is, asked by its correlation id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the device's queue.
    Queued,
    /// The network server took it from the queue to send it.
    Taken,
    /// Nowhere that we may look: never queued, or sent some time ago.
    Nowhere,
}
