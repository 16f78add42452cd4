//! A downlink as The Things Stack's API takes it. Pure data; the client sends it.

use serde_json::{Map, Value};

/// One downlink to queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Downlink {
    /// 1 to 223.
    pub f_port: u8,
    /// What it carries.
    pub payload: Payload,
    /// Whether the device must acknowledge it.
    pub confirmed: bool,
    /// Its place among downlinks of the cluster.
    pub priority: Priority,
    /// For devices of class B or C: through which gateways, and when.
    pub class_b_c: Option<ClassBC>,
    /// Travel with the downlink and come back in its events; each at most 100 characters.
    pub correlation_ids: Vec<String>,
}

/// What a downlink carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// `frm_payload`: bytes as the device gets them, at most [`MAX_PAYLOAD_BYTES`]; may be empty.
    Raw(Vec<u8>),
    /// `decoded_payload`: for the device's downlink formatter. Without one The Things Stack queues an empty payload
    /// and answers 200.
    Decoded(Map<String, Value>),
}

/// The longest `frm_payload` that The Things Stack takes, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 255;

/// The Things Stack's downlink priorities. On the wire an absent one means `Lowest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// `LOWEST`
    Lowest,
    /// `LOW`
    Low,
    /// `BELOW_NORMAL`
    BelowNormal,
    /// `NORMAL`, the documented connector's default.
    #[default]
    Normal,
    /// `ABOVE_NORMAL`
    AboveNormal,
    /// `HIGH`
    High,
    /// `HIGHEST`
    Highest,
}

impl Priority {
    /// From low to high.
    pub const ALL: [Self; 7] = [
        Self::Lowest,
        Self::Low,
        Self::BelowNormal,
        Self::Normal,
        Self::AboveNormal,
        Self::High,
        Self::Highest,
    ];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lowest => "LOWEST",
            Self::Low => "LOW",
            Self::BelowNormal => "BELOW_NORMAL",
            Self::Normal => "NORMAL",
            Self::AboveNormal => "ABOVE_NORMAL",
            Self::High => "HIGH",
            Self::Highest => "HIGHEST",
        }
    }

    /// Reads a name of any case, with or without `_` (`BelowNormal` is the documented connector's spelling).
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |text: &str| text.replace('_', "").to_ascii_uppercase();
        let wanted = plain(text.trim());
        Self::ALL.into_iter().find(|priority| plain(priority.as_str()) == wanted)
    }
}

/// How a downlink enters its device's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operation {
    /// At its end.
    #[default]
    Push,
    /// Alone: all that is queued is dropped, and The Things Stack tells nobody.
    Replace,
}

impl Operation {
    /// The last segment of the API's path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Replace => "replace",
        }
    }

    /// Reads `push` or `replace` of any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Push, Self::Replace]
            .into_iter()
            .find(|operation| operation.as_str().eq_ignore_ascii_case(text.trim()))
    }
}

/// `class_b_c` of a downlink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassBC {
    /// Gateways to use; empty leaves the choice to The Things Stack.
    pub gateways: Vec<GatewayAntenna>,
    /// When to send, RFC 3339 in UTC.
    pub absolute_time: Option<String>,
}

/// One gateway's antenna.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayAntenna {
    /// The gateway's id.
    pub gateway_id: String,
    /// Which of its antennas.
    pub antenna_index: u32,
    /// Antennas of one group are tried as one.
    pub group_index: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_and_operations_are_read_in_every_usual_spelling() {
        for text in ["BELOW_NORMAL", "BelowNormal", "below_normal", " belownormal "] {
            assert_eq!(Priority::parse(text), Some(Priority::BelowNormal), "{text}");
        }
        for priority in Priority::ALL {
            assert_eq!(Priority::parse(priority.as_str()), Some(priority));
        }
        assert_eq!(Priority::parse("urgent"), None);
        assert_eq!(Operation::parse("Replace"), Some(Operation::Replace));
        assert_eq!(Operation::parse(""), None);
    }
}
