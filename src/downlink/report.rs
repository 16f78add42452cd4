//! What the cloud is told about a downlink: telemetry of kind `downlink`.
//!
//! Knows neither where reports wait nor who sends them.

use crate::downlink::{EntryId, Source};
use crate::model::EndDevice;

/// One report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The downlink.
    pub id: EntryId,
    /// Its end device.
    pub device: EndDevice,
    /// 16 upper-case hexadecimal digits, when known.
    pub dev_eui: Option<String>,
    /// Who asked for it.
    pub source: Source,
    /// `CorrelationId`: see `NewEntry::correlation`.
    pub correlation: String,
    /// What became of it.
    pub state: ReportState,
    /// For people and programs: why it was rejected or failed. Holds no payload.
    pub reason: Option<String>,
    /// FPort, 0 when the request named none.
    pub f_port: u8,
    /// The downlink's frame counter, when the event tells.
    pub f_cnt: Option<u32>,
    /// Whether the device must acknowledge.
    pub confirmed: bool,
    /// When it became so, milliseconds since 1970 UTC.
    pub at_ms: i64,
}

/// What became of a downlink, as reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReportState {
    /// In The Things Stack's queue.
    Queued,
    /// A gateway sent it; final when unconfirmed.
    Sent,
    /// The device acknowledged it; final.
    Ack,
    /// Not acknowledged; The Things Stack tries again.
    Nack,
    /// Final.
    Failed,
    /// It lost its frame counter; The Things Stack queues it anew.
    Invalidated,
    /// The request was invalid or refused, nothing was queued; final.
    Rejected,
    /// Nothing final was heard in time; final for us.
    Expired,
    /// A later `replace` dropped it; final.
    Replaced,
}

impl ReportState {
    /// The word in telemetry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Failed => "failed",
            Self::Invalidated => "invalidated",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
        }
    }
}
