//! Reads what a webhook message says about downlinks, as tolerantly as an uplink. Knows no ledger.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::de::{Error as _, MapAccess, SeqAccess};

use super::application_up::{self, Details};
use super::downlink_event::{DownlinkEvent, DownlinkState, NamedDownlink, NamedPayload};
use super::envelope::EnvelopeError;
use super::kind::Kind;
use super::tolerant::{Elements, Fields, List, Object, Scalar, skip};
use super::uplink::FIRST_LORAWAN_MS;

/// Downlinks read of one message or list; The Things Stack's queue takes no more. Further ones are passed over.
const MAX_DOWNLINKS: usize = 10_000;
/// Correlation ids read of one downlink; The Things Stack adds one or two. Further ones are passed over.
const MAX_CORRELATION_IDS: usize = 100;
/// As much of a failure's text as is kept, in characters.
const MAX_ERROR_CHARS: usize = 300;

impl DownlinkEvent {
    /// Reads an event about downlinks. `None` for other kinds, and where no downlink is named: a join that
    /// invalidated none.
    ///
    /// A downlink has the correlation ids in itself first, then those at the top of the message: some failures have
    /// ours in one place only. Where a message names several downlinks, those at the top could be anybody's of them,
    /// so each has only its own.
    ///
    /// # Errors
    /// As [`super::Envelope::parse`], and a downlink's field of a wrong type.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, EnvelopeError> {
        let (envelope, told) = application_up::read::<Told<'_>>(body)?;
        let Some(state) = state_of(envelope.kind) else { return Ok(None) };
        let mut downlinks = told.downlinks;
        if let [only] = &mut downlinks[..] {
            for id in told.correlation_ids.0 {
                if !only.correlation_ids.contains(&id) {
                    only.correlation_ids.push(id);
                }
            }
        }
        Ok((!downlinks.is_empty()).then(|| Self {
            state,
            downlinks,
            error: told.error,
            received_ms: told
                .received_at
                .and_then(|text| text.parse::<Timestamp>().ok())
                .map(Timestamp::as_millisecond)
                .filter(|ms| *ms >= FIRST_LORAWAN_MS),
        }))
    }
}

const fn state_of(kind: Kind) -> Option<DownlinkState> {
    match kind {
        Kind::DownlinkAck => Some(DownlinkState::Ack),
        Kind::DownlinkNack => Some(DownlinkState::Nack),
        Kind::DownlinkSent => Some(DownlinkState::Sent),
        Kind::DownlinkFailed => Some(DownlinkState::Failed),
        Kind::DownlinkQueued => Some(DownlinkState::Queued),
        Kind::DownlinkQueueInvalidated | Kind::JoinAccept => Some(DownlinkState::Invalidated),
        Kind::UplinkMessage
        | Kind::UplinkNormalized
        | Kind::LocationSolved
        | Kind::ServiceData
        | Kind::Unknown => None,
    }
}

/// All that the keys of a message tell about downlinks.
#[derive(Default)]
struct Told<'a> {
    downlinks: Vec<NamedDownlink>,
    error: Option<String>,
    correlation_ids: CorrelationIds,
    received_at: Option<Cow<'a, str>>,
}

impl<'de> Details<'de> for Told<'de> {
    fn top_level<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "correlation_ids" => self.correlation_ids = CorrelationIds::read(map)?,
            "received_at" => self.received_at = map.next_value::<Scalar<'_>>()?.text_or_none(),
            _ => skip(map)?,
        }
        Ok(())
    }

    fn kind<A: MapAccess<'de>>(&mut self, kind: Kind, map: &mut A) -> Result<bool, A::Error> {
        let mut told = Self::default();
        let present = match kind {
            Kind::DownlinkAck | Kind::DownlinkNack | Kind::DownlinkSent | Kind::DownlinkQueued => {
                let mut downlink = NamedDownlink::default();
                let present = map.next_value_seed(Object(&mut downlink))?;
                told.downlinks.push(downlink);
                present
            }
            Kind::DownlinkFailed => {
                let mut failed = Failed::default();
                let present = map.next_value_seed(Object(&mut failed))?;
                told.downlinks.push(failed.downlink);
                told.error = failed.error.text();
                present
            }
            Kind::DownlinkQueueInvalidated | Kind::JoinAccept => {
                map.next_value_seed(Object(&mut Invalidated(&mut told.downlinks)))?
            }
            Kind::UplinkMessage
            | Kind::UplinkNormalized
            | Kind::LocationSolved
            | Kind::ServiceData
            | Kind::Unknown => return map.next_value::<Option<serde::de::IgnoredAny>>().map(|v| v.is_some()),
        };
        if present {
            (self.downlinks, self.error) = (told.downlinks, told.error);
        }
        Ok(present)
    }
}

impl<'de> Fields<'de> for NamedDownlink {
    const NAME: &'static str = "a downlink";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "correlation_ids" => self.correlation_ids = CorrelationIds::read(map)?.0,
            "f_port" => self.f_port = f_port(map)?,
            "f_cnt" => self.f_cnt = map.next_value::<Scalar<'_>>()?.unsigned("a downlink's f_cnt")?,
            "confirmed" => self.confirmed = map.next_value::<Scalar<'_>>()?.flag("a downlink's confirmed")?,
            "frm_payload" => {
                if map.next_value::<Scalar<'_>>()?.text_or_none().is_some() {
                    self.payload = NamedPayload::Bytes;
                }
            }
            "decoded_payload" => {
                let is_there = map.next_value::<Option<serde::de::IgnoredAny>>()?.is_some();
                if is_there && self.payload == NamedPayload::Nothing {
                    self.payload = NamedPayload::Decoded;
                }
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// An FPort, 0 when absent.
pub(super) fn f_port<'de, A: MapAccess<'de>>(map: &mut A) -> Result<u8, A::Error> {
    let port = map.next_value::<Scalar<'_>>()?.unsigned("a downlink's f_port")?;
    u8::try_from(port).map_err(|_| A::Error::custom("a downlink's f_port must be at most 255"))
}

#[derive(Default)]
struct Failed {
    downlink: NamedDownlink,
    error: ErrorDetails,
}

impl<'de> Fields<'de> for Failed {
    const NAME: &'static str = "downlink_failed";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "downlink" => map.next_value_seed(Object(&mut self.downlink)).map(|_| ()),
            "error" => map.next_value_seed(Object(&mut self.error)).map(|_| ()),
            _ => skip(map),
        }
    }
}

#[derive(Default)]
struct ErrorDetails {
    namespace: Option<String>,
    name: Option<String>,
    message_format: Option<String>,
}

impl ErrorDetails {
    /// `namespace:name: message`, as far as they are there.
    fn text(self) -> Option<String> {
        let id = [self.namespace, self.name].into_iter().flatten().collect::<Vec<_>>().join(":");
        let parts = [Some(id).filter(|id| !id.is_empty()), self.message_format];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(": ");
        let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect();
        (!text.is_empty()).then_some(text)
    }
}

impl<'de> Fields<'de> for ErrorDetails {
    const NAME: &'static str = "downlink_failed.error";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let part = match key {
            "namespace" => &mut self.namespace,
            "name" => &mut self.name,
            "message_format" => &mut self.message_format,
            _ => return skip(map),
        };
        *part = map.next_value::<Scalar<'_>>()?.text_or_none().map(Cow::into_owned);
        Ok(())
    }
}

/// `downlink_queue_invalidated.downlinks`, or `join_accept.invalidated_downlinks`.
struct Invalidated<'d>(&'d mut Vec<NamedDownlink>);

impl<'de> Fields<'de> for Invalidated<'_> {
    const NAME: &'static str = "downlink_queue_invalidated or join_accept";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "downlinks" | "invalidated_downlinks" => {
                self.0.clear();
                map.next_value_seed(List(&mut Objects(self.0)))
            }
            _ => skip(map),
        }
    }
}

/// A list of downlinks, of which at most [`MAX_DOWNLINKS`] are read.
pub(super) struct Objects<'d, F>(pub(super) &'d mut Vec<F>);

impl<'de, F: Fields<'de> + Default> Elements<'de> for Objects<'_, F> {
    const NAME: &'static str = "a list of downlinks";

    fn next<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<bool, A::Error> {
        let mut element = F::default();
        let Some(present) = seq.next_element_seed(Object(&mut element))? else { return Ok(false) };
        if present && self.0.len() < MAX_DOWNLINKS {
            self.0.push(element);
        }
        Ok(true)
    }
}

/// `correlation_ids`.
#[derive(Default)]
pub(super) struct CorrelationIds(pub(super) Vec<String>);

impl CorrelationIds {
    /// The value of the key just read.
    pub(super) fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {
        let mut ids = Self::default();
        map.next_value_seed(List(&mut ids))?;
        Ok(ids)
    }
}

impl<'de> Elements<'de> for CorrelationIds {
    const NAME: &'static str = "correlation_ids";

    fn next<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<bool, A::Error> {
        let Some(element) = seq.next_element::<Scalar<'_>>()? else { return Ok(false) };
        if let Some(id) = element.text_or_none()
            && self.0.len() < MAX_CORRELATION_IDS
        {
            self.0.push(id.into_owned());
        }
        Ok(true)
    }
}
