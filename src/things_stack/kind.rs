//! The kinds of message a webhook of The Things Stack may carry. Knows nothing of what is inside them.

use std::fmt;

/// What a message (`ApplicationUp`) is. The body names it only by the key that is present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A data uplink of a device, MAC-only ones too. The only kind that becomes telemetry.
    UplinkMessage,
    /// One measurement in The Things Stack's own vocabulary; sent beside, and before, the uplink itself.
    UplinkNormalized,
    /// A device joined.
    JoinAccept,
    /// A confirmed downlink was acknowledged.
    DownlinkAck,
    /// A confirmed downlink was not acknowledged; The Things Stack tries again by itself.
    DownlinkNack,
    /// A gateway sent a downlink.
    DownlinkSent,
    /// A downlink failed for good.
    DownlinkFailed,
    /// A downlink entered the queue.
    DownlinkQueued,
    /// Queued downlinks lost their frame counters, for instance by a new join.
    DownlinkQueueInvalidated,
    /// A device's place was computed.
    LocationSolved,
    /// An application package reports.
    ServiceData,
    /// None of the keys above; newer than this program, or no message of The Things Stack.
    #[default]
    Unknown,
}

impl Kind {
    /// All kinds, for tables and metrics.
    pub const ALL: [Self; 12] = [
        Self::UplinkMessage,
        Self::UplinkNormalized,
        Self::JoinAccept,
        Self::DownlinkAck,
        Self::DownlinkNack,
        Self::DownlinkSent,
        Self::DownlinkFailed,
        Self::DownlinkQueued,
        Self::DownlinkQueueInvalidated,
        Self::LocationSolved,
        Self::ServiceData,
        Self::Unknown,
    ];

    /// The key in the body (`unknown` for [`Kind::Unknown`]); also the label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UplinkMessage => "uplink_message",
            Self::UplinkNormalized => "uplink_normalized",
            Self::JoinAccept => "join_accept",
            Self::DownlinkAck => "downlink_ack",
            Self::DownlinkNack => "downlink_nack",
            Self::DownlinkSent => "downlink_sent",
            Self::DownlinkFailed => "downlink_failed",
            Self::DownlinkQueued => "downlink_queued",
            Self::DownlinkQueueInvalidated => "downlink_queue_invalidated",
            Self::LocationSolved => "location_solved",
            Self::ServiceData => "service_data",
            Self::Unknown => "unknown",
        }
    }

    /// The kind a body's key stands for; [`Kind::Unknown`] for any other text.
    pub fn of_key(key: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.as_str() == key).unwrap_or_default()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
