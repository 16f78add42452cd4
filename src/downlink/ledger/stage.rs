//! How far one downlink is, and how far each event proves it to be. Pure.

use super::super::End;
use crate::things_stack::DownlinkState;

/// Longest text kept of a reason or a correlation, in bytes; IoT Hub's message ids have at most 128.
const MAX_TEXT_BYTES: usize = 1000;

/// How far an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Certainly not queued; waits to be tried again.
    PutBack,
    /// Perhaps queued.
    Pushing,
    Queued,
    Sent,
    Ended(End),
}

impl Stage {
    /// A stage is never followed by one of a lower rank.
    pub(super) const fn rank(&self) -> u8 {
        match self {
            Self::PutBack | Self::Pushing => 0,
            Self::Queued => 1,
            Self::Sent => 2,
            Self::Ended(_) => 3,
        }
    }

    /// What an event proves about a downlink.
    pub(super) fn proven_by(state: DownlinkState, confirmed: bool, error: Option<&str>) -> Self {
        match state {
            // Queued anew by The Things Stack: at least it was queued.
            DownlinkState::Queued | DownlinkState::Invalidated => Self::Queued,
            DownlinkState::Sent if !confirmed => Self::Ended(End::Sent),
            // A nack tells that it was sent; The Things Stack tries again.
            DownlinkState::Sent | DownlinkState::Nack => Self::Sent,
            DownlinkState::Ack => Self::Ended(End::Acknowledged),
            DownlinkState::Failed => Self::Ended(End::Failed(cut(error.unwrap_or_default()).to_owned())),
        }
    }
}

/// At most as much of a text as is kept.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}
