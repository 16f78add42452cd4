//! One downlink in the ledger: its identity, who asked for it, how far it is. Pure.

use sha2::{Digest as _, Sha256};

use crate::model::EndDevice;
use crate::things_stack::{CORRELATION_PREFIX, Operation};

/// A downlink's identity: the same for the same request of the cloud, whenever it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId([u8; 16]);

impl EntryId {
    /// The identity of a request that these parts, in this order, tell from all others: for a cloud-to-device message
    /// the hub's host, the hub device, message id, sequence number and time of enqueuing.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Self(id)
    }

    /// The correlation id that travels with the downlink: 46 characters, The Things Stack takes 100.
    pub fn correlation_id(self) -> String {
        format!("{CORRELATION_PREFIX}{self}")
    }

    /// Reads back [`EntryId::correlation_id`]. `None` for anybody else's.
    pub fn parse(correlation_id: &str) -> Option<Self> {
        Self::from_hex(correlation_id.strip_prefix(CORRELATION_PREFIX)?)
    }

    /// Reads back what `Display` wrote.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        (hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(())?;
        u128::from_str_radix(hex, 16).ok().map(|id| Self(id.to_be_bytes()))
    }

    /// The 16 bytes, for keys of storage.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

/// 32 hexadecimal digits.
impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A downlink that is about to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Its identity.
    pub id: EntryId,
    /// For which end device. An event of another device never touches it.
    pub device: EndDevice,
    /// Who asked.
    pub source: Source,
    /// What reports call it (`CorrelationId`): the cloud-to-device message's id, or the entry's own if it has none.
    pub correlation: String,
    /// FPort.
    pub f_port: u8,
    /// Whether the device must acknowledge: then `sent` is not its end.
    pub confirmed: bool,
    /// `Replace` ends the device's other queued entries once it is queued itself.
    pub operation: Operation,
}

/// Who asked for a downlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A cloud-to-device message.
    CloudMessage,
    /// A direct method.
    Method,
    /// A desired property.
    Desired,
}

impl Source {
    /// The word in reports and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CloudMessage => "c2d",
            Self::Method => "method",
            Self::Desired => "twin",
        }
    }

    /// Reads back [`Source::as_str`].
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::CloudMessage, Self::Method, Self::Desired].into_iter().find(|source| source.as_str() == text)
    }
}

/// What the ledger knew of a downlink when it was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: it is on disk now, push it.
    New,
    /// An earlier push has no known outcome (a crash, a lost answer): ask The Things Stack before pushing.
    Unsure,
    /// It was queued; don't push. `sent` says whether a gateway sent it already.
    Queued {
        /// A gateway sent it.
        sent: bool,
    },
    /// It is over; don't push.
    Ended(End),
}

/// How a downlink ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The device acknowledged it.
    Acknowledged,
    /// A gateway sent it; nothing more is to come, as it is unconfirmed.
    Sent,
    /// The Things Stack gave up, with its reason.
    Failed(String),
    /// It was never queued: the request was invalid, or The Things Stack refused it. With the reason.
    Rejected(String),
    /// Nothing final was heard for `downlink.expiry`.
    Expired,
    /// A later `replace` dropped it from the queue.
    Replaced,
}

/// How far a downlink is, for those who wait for it. It only ever goes down this list; an event that comes late
/// changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Entered; nothing proves yet that The Things Stack took it.
    Pushing,
    /// The Things Stack took it.
    Queued,
    /// A gateway sent it; the device must still acknowledge.
    Sent,
    /// Over.
    Ended(End),
}
