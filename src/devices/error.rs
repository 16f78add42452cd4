//! Why a device could not be resolved, said as what to do next.

use std::time::Duration;

use crate::model::ParkReason;

/// The caller's next move. The detail holds no secret.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveError {
    /// DPS or the network may answer better later.
    #[error("{detail}")]
    Retry {
        /// What was seen.
        detail: String,
        /// DPS asked for at least this long.
        after: Option<Duration>,
    },
    /// This device can't be resolved; its message waits for an operator.
    #[error("{reason}: {detail}")]
    Park {
        /// Why.
        reason: ParkReason,
        /// What was seen.
        detail: String,
    },
}
