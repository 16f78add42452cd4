//! The acknowledgement of a desired property in IoT Plug and Play's form, `{value, ac, ad, av}`, as a reported property.
//!
//! Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::state::{State, replacing};
use crate::downlink::attempt::Attempt;
use crate::downlink::{End, Progress};

/// The desired property whose name the reported properties use for something else: the last uplink's payload.
const TAKEN: &str = "decodedPayload";
/// Under which it is acknowledged instead.
const INSTEAD: &str = "decodedPayloadAck";
/// IoT Hub takes strings of 4 KB.
const MAX_AD_BYTES: usize = 1000;

/// What is told about one property.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ack {
    /// The desired value.
    pub(super) value: Value,
    /// `av`: the version of the desired properties with which it came.
    pub(super) version: u64,
    /// `ac` and `ad`.
    pub(super) verdict: Verdict,
}

/// What became of a property, as HTTP's numbers have it, and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    code: u16,
    text: String,
}

impl Verdict {
    fn new(code: u16, text: &str) -> Self {
        Self { code, text: text[..text.floor_char_boundary(MAX_AD_BYTES)].to_owned() }
    }

    /// Whether `ac` is this.
    pub(super) fn is(&self, code: u64) -> bool {
        u64::from(self.code) == code
    }

    /// The value can't become a downlink.
    pub(super) fn invalid(reason: &str) -> Self {
        Self::new(400, reason)
    }

    /// The Things Stack took it.
    pub(super) fn queued() -> Self {
        Self::new(202, "queued")
    }

    /// It was queued, and nothing is known of it any more.
    pub(super) fn forgotten() -> Self {
        Self::new(202, "queued; what became of it is no longer known")
    }

    /// It could not be queued for too long.
    pub(super) fn given_up(detail: &str) -> Self {
        Self::new(504, &format!("not queued within downlink.expiry: {detail}"))
    }

    /// The Things Stack will never take it.
    pub(super) fn refused(status: Option<u16>, detail: &str) -> Self {
        let code = match status {
            Some(400) => 422,
            Some(404) => 404,
            Some(_) | None => 502,
        };
        Self::new(code, detail)
    }

    /// It is over.
    pub(super) fn ended(end: &End) -> Self {
        match end {
            End::Acknowledged => Self::new(200, "acknowledged by the device"),
            End::Sent => Self::new(200, "sent"),
            End::Failed(reason) => Self::new(502, &format!("failed: {reason}")),
            End::Rejected(reason) => Self::new(502, &format!("rejected: {reason}")),
            End::Expired => Self::new(504, "nothing final was heard of the downlink in time"),
            End::Replaced => Self::new(409, "a later request dropped it from the queue"),
        }
    }

    /// How far a queued one is. A confirmed one that was sent still counts as queued.
    pub(super) fn of(progress: &Progress) -> Self {
        match progress {
            Progress::Pushing | Progress::Queued | Progress::Sent => Self::queued(),
            Progress::Ended(end) => Self::ended(end),
        }
    }

    /// A try's verdict; `None` if it is to be tried again.
    pub(super) fn of_attempt(attempt: &Attempt) -> Option<Self> {
        match attempt {
            Attempt::Queued => Some(Self::queued()),
            Attempt::Ended(end) => Some(Self::ended(end)),
            Attempt::Refused { status, detail } => Some(Self::refused(*status, detail)),
            Attempt::NotNow { .. } | Attempt::Unsure { .. } => None,
        }
    }
}

/// An acknowledgement as it stands among the reported properties.
pub(super) struct Reported<'a> {
    /// Of which value.
    pub(super) value: &'a Value,
    /// `ac`
    pub(super) code: u64,
    version: u64,
}

impl<'a> Reported<'a> {
    /// Reads one. `None` if the property is something else, or not there.
    pub(super) fn read(reported: &'a Map<String, Value>, name: &str) -> Option<Self> {
        let fields = reported.get(reported_name(name))?.as_object()?;
        Some(Self {
            value: fields.get("value")?,
            code: fields.get("ac")?.as_u64()?,
            version: fields.get("av")?.as_u64()?,
        })
    }

    /// Whether it says that this value, with this version, came to its end.
    pub(super) fn is_final(&self, value: &Value, version: u64) -> bool {
        self.value == value && self.version == version && self.code != 202
    }

    /// Whether it refused this value as invalid, with whatever version.
    pub(super) fn refused(&self, value: &Value) -> bool {
        self.value == value && self.code == 400
    }
}

/// Under which name a desired property is acknowledged: its own, but for one.
fn reported_name(name: &str) -> &str {
    if name == TAKEN { INSTEAD } else { name }
}

/// The reported properties that acknowledge these.
pub(super) fn patch(acks: &BTreeMap<String, Ack>, state: &State) -> Map<String, Value> {
    acks.iter()
        .map(|(name, Ack { value, version, verdict })| {
            let ack = json!({
                "value": replacing(state.shadow(name), value),
                "ac": verdict.code,
                "ad": verdict.text,
                "av": version,
            });
            (reported_name(name).to_owned(), ack)
        })
        .collect()
}
