//! What tells one frame of a radio from every other: session, counter, and when the network heard it.
//!
//! Knows neither payload nor who asks.

use jiff::Timestamp;

use super::envelope::Envelope;
use super::kind::Kind;

/// The frame of an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// `uplink_message.session_key_id` as received (base64).
    pub session_key_id: String,
    /// `uplink_message.f_cnt`.
    pub f_cnt: u32,
    /// `uplink_message.received_at`, the network server's time: the same in the webhook's message, in each of its
    /// retries and in the Storage Integration. Milliseconds since 1970 UTC, cut off. `None` if a field mask strips it.
    pub received_ms: Option<i64>,
}

impl Envelope<'_> {
    /// The frame; `None` for other kinds, for simulated uplinks, for those of MAC commands alone and for those
    /// without a session: they are not counted, or carry no telemetry.
    pub fn frame(&self) -> Option<Frame> {
        if self.kind != Kind::UplinkMessage || self.simulated || self.f_port.is_none() {
            return None;
        }
        let received_at = self.received_at.as_deref();
        Some(Frame {
            session_key_id: self.session_key_id.as_deref()?.to_owned(),
            f_cnt: self.f_cnt,
            received_ms: received_at.and_then(|text| Some(text.parse::<Timestamp>().ok()?.as_millisecond())),
        })
    }
}
