//! What The Things Stack's webhook tells about downlinks: which one, and what became of it.

/// What all correlation ids begin with that this program gives to downlinks.
pub const CORRELATION_PREFIX: &str = "tti-connector:";

/// A message of the webhook about one or more downlinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownlinkEvent {
    /// What became of them.
    pub state: DownlinkState,
    /// The downlinks it names: one, or for invalidated ones any number.
    pub downlinks: Vec<NamedDownlink>,
    /// For `failed`: The Things Stack's error in words (`namespace:name: message`), without a payload.
    pub error: Option<String>,
    /// The message's own `received_at` in milliseconds since 1970 UTC, if it is there and sane.
    pub received_ms: Option<i64>,
}

impl DownlinkEvent {
    /// Whether a downlink of this program is among them.
    pub fn names_ours(&self) -> bool {
        self.downlinks
            .iter()
            .flat_map(|downlink| &downlink.correlation_ids)
            .any(|id| id.starts_with(CORRELATION_PREFIX))
    }
}

/// What became of a downlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DownlinkState {
    /// `downlink_queued`: it is in The Things Stack's queue. Arrives before the push is answered.
    Queued,
    /// `downlink_sent`: a gateway sent it.
    Sent,
    /// `downlink_ack`: the device acknowledged it.
    Ack,
    /// `downlink_nack`: the device did not; The Things Stack tries again by itself, so this is not final.
    Nack,
    /// `downlink_failed`: final.
    Failed,
    /// `downlink_queue_invalidated`, or `join_accept.invalidated_downlinks`: The Things Stack queues it anew by itself.
    Invalidated,
}

impl DownlinkState {
    /// The word in our telemetry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Ack => "ack",
            Self::Nack => "nack",
            Self::Failed => "failed",
            Self::Invalidated => "invalidated",
        }
    }
}

/// One downlink as an event names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedDownlink {
    /// The nested ones first, then those at the top of the message: some failures have them in one place only.
    pub correlation_ids: Vec<String>,
    /// Absent = 0.
    pub f_port: u8,
    /// Absent = 0.
    pub f_cnt: u32,
    /// Absent = false.
    pub confirmed: bool,
    /// In which form it shows its payload.
    pub payload: NamedPayload,
}

/// The payload of a downlink as an event shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NamedPayload {
    /// Not at all: it is empty, or a field mask leaves it out.
    #[default]
    Nothing,
    /// `decoded_payload` alone. In `downlink_queued` this means that the end device has no downlink formatter, or that
    /// it made nothing of it: The Things Stack says nothing about it and sends an empty payload.
    Decoded,
    /// `frm_payload`.
    Bytes,
}
