//! What the cloud is told about a downlink: telemetry of kind `downlink`.
//!
//! Knows neither where reports wait nor who sends them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{EntryId, Source};
use crate::azure::Telemetry;
use crate::model::{EndDevice, hex, iso_utc};
use crate::things_stack::DownlinkState;

/// The version of the stored form.
const VERSION: u32 = 1;
/// `kind` in application properties, `Kind` in the body.
const KIND: &str = "downlink";

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
    /// For people and programs: why it was rejected or failed, or what is odd about it. Holds no payload.
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

    /// All of them.
    const ALL: [Self; 9] = [
        Self::Queued,
        Self::Sent,
        Self::Ack,
        Self::Nack,
        Self::Failed,
        Self::Invalidated,
        Self::Rejected,
        Self::Expired,
        Self::Replaced,
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl From<DownlinkState> for ReportState {
    fn from(state: DownlinkState) -> Self {
        match state {
            DownlinkState::Queued => Self::Queued,
            DownlinkState::Sent => Self::Sent,
            DownlinkState::Ack => Self::Ack,
            DownlinkState::Nack => Self::Nack,
            DownlinkState::Failed => Self::Failed,
            DownlinkState::Invalidated => Self::Invalidated,
        }
    }
}

impl Report {
    /// The same for the same report (entry, state, frame counter), however often it is made; different for any other.
    /// The time is no part of it: what is reported again after a crash has another one.
    pub fn dedup(&self) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(b"downlink report");
        hash.update(self.id.bytes());
        hash.update(self.state.as_str());
        hash.update(self.f_cnt.map_or(u64::MAX, u64::from).to_le_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        key
    }

    /// As it waits to be sent among messages of The Things Stack: JSON whose first key is none of theirs.
    pub fn to_stored(&self) -> Bytes {
        let stored = Stored {
            version: VERSION,
            id: self.id.to_string(),
            device: self.device.key().into(),
            dev_eui: self.dev_eui.clone(),
            source: self.source.as_str().into(),
            correlation: self.correlation.clone(),
            state: self.state.as_str().into(),
            reason: self.reason.clone(),
            f_port: self.f_port,
            f_cnt: self.f_cnt,
            confirmed: self.confirmed,
            at_ms: self.at_ms,
        };
        serde_json::to_vec(&stored).expect("a struct of texts and numbers is always JSON").into()
    }

    /// Reads back [`Report::to_stored`]. `None` if it is no report, or none that this version can read. Whoever sends it
    /// checks that it came from its own device's lane.
    pub fn from_stored(stored: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(stored).ok()?;
        (stored.version == VERSION).then_some(())?;
        Some(Self {
            id: EntryId::from_hex(&stored.id)?,
            device: EndDevice::from_key(&stored.device)?,
            dev_eui: stored.dev_eui,
            source: Source::parse(&stored.source)?,
            correlation: stored.correlation,
            state: ReportState::parse(&stored.state)?,
            reason: stored.reason,
            f_port: stored.f_port,
            f_cnt: stored.f_cnt,
            confirmed: stored.confirmed,
            at_ms: stored.at_ms,
        })
    }

    /// The telemetry of it.
    ///
    /// Body: `Kind` (`downlink`), `State`, `CorrelationId`, `ApplicationID`, `DeviceID`, `DeviceEUI` (left out when
    /// unknown), `Port` (0 when the request named none), `Confirmed`, `FrameCounter` (left out when unknown), `Source`
    /// (`c2d`, `method`, `twin`), `Reason` (only where there is one), `ReceivedAtUtc`.
    ///
    /// Application properties, for routing: as an uplink's (`iothub-creation-time-utc`, `ApplicationId`, `DeviceEUI`,
    /// `DeviceId`), then `kind` (`downlink`), `State`, `CorrelationId`. The AMQP correlation-id is `CorrelationId` too.
    /// The message id is [`Report::dedup`] as 32 hexadecimal digits.
    pub fn to_telemetry(&self) -> Telemetry {
        let at = iso_utc(self.at_ms);
        let body = Body {
            kind: KIND,
            state: self.state.as_str(),
            correlation_id: &self.correlation,
            application_id: self.device.application_id(),
            device_id: self.device.device_id(),
            device_eui: self.dev_eui.as_deref(),
            port: self.f_port,
            confirmed: self.confirmed,
            frame_counter: self.f_cnt,
            source: self.source.as_str(),
            reason: self.reason.as_deref(),
            received_at_utc: &at,
        };
        let body = serde_json::to_vec(&body).expect("a struct of texts and numbers is always JSON").into();
        let mut properties = Vec::with_capacity(7);
        properties.push(("iothub-creation-time-utc", at));
        properties.push(("ApplicationId", self.device.application_id().to_owned()));
        if let Some(dev_eui) = &self.dev_eui {
            properties.push(("DeviceEUI", dev_eui.clone()));
        }
        properties.push(("DeviceId", self.device.device_id().to_owned()));
        properties.push(("kind", KIND.to_owned()));
        properties.push(("State", self.state.as_str().to_owned()));
        properties.push(("CorrelationId", self.correlation.clone()));
        Telemetry {
            body,
            message_id: hex(self.dedup()),
            correlation_id: Some(self.correlation.clone()),
            properties,
        }
    }
}

/// The stored form. A message of The Things Stack has its kind as a key and so never passes for this: other keys than
/// these are refused. And of a kind that it does not know, the webhook keeps nothing.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(rename = "tti_connector_downlink_report")]
    version: u32,
    id: String,
    device: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dev_eui: Option<String>,
    source: String,
    correlation: String,
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    f_port: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    f_cnt: Option<u32>,
    confirmed: bool,
    at_ms: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Body<'a> {
    kind: &'a str,
    state: &'a str,
    correlation_id: &'a str,
    #[serde(rename = "ApplicationID")]
    application_id: &'a str,
    #[serde(rename = "DeviceID")]
    device_id: &'a str,
    #[serde(rename = "DeviceEUI", skip_serializing_if = "Option::is_none")]
    device_eui: Option<&'a str>,
    port: u8,
    confirmed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    frame_counter: Option<u32>,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    received_at_utc: &'a str,
}
