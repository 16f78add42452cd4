//! Why a send failed, said as what to do next.

use std::time::Duration;

use crate::azure::HubAddress;
use crate::model::ParkReason;

/// The caller's next move after a failed send. The detail holds no secret and no payload.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SendError {
    /// Try this message again later.
    #[error("{reason}: {detail}", reason = .reason.as_str())]
    Retry {
        /// The class, for metrics.
        reason: RetryReason,
        /// What was seen, with the AMQP condition when there is one.
        detail: String,
        /// The hub asked for at least this long.
        after: Option<Duration>,
        /// How far the trouble reaches.
        trouble: Trouble,
    },
    /// The device may have moved: ask DPS again, or park when there is no DPS.
    #[error("{reason}: {detail}")]
    Reresolve {
        /// The reason to park for when it can't be resolved anew.
        reason: ParkReason,
        /// What was seen.
        detail: String,
    },
    /// This message can't be sent.
    #[error("{reason}: {detail}")]
    Park {
        /// Why.
        reason: ParkReason,
        /// What was seen.
        detail: String,
    },
}

/// How far a trouble reaches: one device waits, or all of a hub until [`crate::iot_hub`] reports it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This device's session or link.
    Device,
    /// The hub can't be reached, or refuses everybody.
    Hub(HubAddress),
}

/// Classes of passing failures, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryReason {
    /// DNS, TCP, TLS or the AMQP open failed, or the connection was lost.
    Connection,
    /// The link or session ended (detach-forced, moved node).
    Link,
    /// Another client with the same identity took the device's links, and has it for now.
    Taken,
    /// The hub throttles messages (429).
    Throttled,
    /// The hub lets no more devices connect just now.
    ConnectsThrottled,
    /// A daily quota or a queue is full; comes back only slowly.
    Quota,
    /// The hub failed inside (500, timeout, busy).
    Hub,
    /// No answer in time.
    Timeout,
    /// The hub released the message.
    Released,
    /// The hub's answer to our token was a passing failure.
    Token,
}

impl RetryReason {
    /// The stable name used in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Link => "link",
            Self::Taken => "taken",
            Self::Throttled => "throttled",
            Self::ConnectsThrottled => "connects_throttled",
            Self::Quota => "quota",
            Self::Hub => "hub",
            Self::Timeout => "timeout",
            Self::Released => "released",
            Self::Token => "token",
        }
    }
}
