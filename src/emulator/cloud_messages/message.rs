//! A cloud-to-device message as its sender wrote it, and as the hub keeps it. Pure data.

use bytes::Bytes;

/// A message on its way to a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudMessage {
    /// The sender's name for it; feedback repeats it. Absent when the sender gave none.
    pub message_id: Option<String>,
    /// `properties.correlation-id` as text.
    pub correlation_id: Option<String>,
    /// `properties.user-id`.
    pub user_id: Option<Bytes>,
    /// `properties.content-type`.
    pub content_type: Option<String>,
    /// `properties.content-encoding`.
    pub content_encoding: Option<String>,
    /// When the hub drops it, in milliseconds since 1970 UTC; at most two days ahead. `None` for the hub's own
    /// time to live.
    pub expires_ms: Option<i64>,
    /// Application properties as text, in the order sent, `iothub-ack` included.
    pub properties: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// The application property by which a sender asks for feedback.
const ACK: &str = "iothub-ack";

impl CloudMessage {
    /// A message with nothing but a body.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Which feedback its sender wants; none unless `iothub-ack` says so.
    pub fn ack(&self) -> Ack {
        let ack = self.properties.iter().find(|(name, _)| name.eq_ignore_ascii_case(ACK));
        match ack.map(|(_, value)| value.to_ascii_lowercase()).as_deref() {
            Some("positive") => Ack::Positive,
            Some("negative") => Ack::Negative,
            Some("full") => Ack::Full,
            Some(_) | None => Ack::None,
        }
    }

    /// Its size as the hub counts it: body, system property values, names and values of application properties.
    pub fn size(&self) -> usize {
        let texts = [&self.message_id, &self.correlation_id, &self.content_type, &self.content_encoding];
        self.body.len()
            + self.user_id.as_ref().map_or(0, Bytes::len)
            + texts.into_iter().flatten().map(String::len).sum::<usize>()
            + self.properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// Which ends of a message its sender wants to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Neither.
    None,
    /// That the device completed it.
    Positive,
    /// That it came to nothing.
    Negative,
    /// Both.
    Full,
}

/// How a message ended, in the words of feedback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Fate {
    /// The device completed it.
    Success,
    /// Its time was over.
    Expired,
    /// It was handed out too often.
    DeliveryCountExceeded,
    /// The device rejected it.
    Rejected,
    /// The queue was emptied, or the device deleted.
    Purged,
}

impl Fate {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::Expired => "Expired",
            Self::DeliveryCountExceeded => "DeliveryCountExceeded",
            Self::Rejected => "Rejected",
            Self::Purged => "Purged",
        }
    }

    /// Whether a sender who asked for `ack` hears of it.
    pub(super) fn reported_to(self, ack: Ack) -> bool {
        match ack {
            Ack::None => false,
            Ack::Full => true,
            Ack::Positive => self == Self::Success,
            Ack::Negative => self != Self::Success,
        }
    }
}

/// A message in a device's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Counts the messages of one device, from 1.
    pub sequence_number: u64,
    /// When it came, in milliseconds since 1970 UTC.
    pub enqueued_ms: i64,
    /// When the hub drops it, in milliseconds since 1970 UTC.
    pub expires_ms: i64,
    /// How often it was handed out and abandoned.
    pub delivery_count: u8,
    /// Whether the device has it and has not answered yet.
    pub locked: bool,
    /// As sent.
    pub message: CloudMessage,
}

/// A message that reached no good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Whose queue it was in.
    pub device_id: String,
    /// How it ended; never success.
    pub fate: Fate,
    /// Why the device rejected it, if it said.
    pub description: Option<String>,
    /// When, in milliseconds since 1970 UTC.
    pub ended_ms: i64,
    /// As it stood in the queue.
    pub queued: Queued,
}
