//! What the API lists: a device's queue, and what the Network Server took from it. Makes no calls.

use serde::de::{DeserializeSeed as _, MapAccess};
use serde_json::value::RawValue;

use super::api::QueuedDownlink;
use super::application_up::utf8;
use super::downlink_event::NamedDownlink;
use super::envelope::EnvelopeError;
use super::event_reader::{CorrelationIds, Objects, f_port};
use super::tolerant::{Fields, List, Object, Scalar, skip};

/// `GET …/down`: `{"downlinks":[…]}`, or `{}` when nothing is queued.
pub(super) fn queue(body: &[u8]) -> Result<Vec<QueuedDownlink>, EnvelopeError> {
    let mut queue = Queue::default();
    read(body, &mut queue)?;
    Ok(queue.0)
}

/// `GET /ns/…/devices/{id}`: whether the Network Server knows this correlation id among the downlinks it took: the
/// last few it sent, and the confirmed one whose answer it waits for.
pub(super) fn taken(body: &[u8], correlation_id: &str) -> Result<bool, EnvelopeError> {
    let mut device = Device::default();
    read(body, &mut device)?;
    Ok(device.0.0.iter().any(|downlink| downlink.correlation_ids.iter().any(|id| id == correlation_id)))
}

fn read<'de>(body: &'de [u8], fields: &mut impl Fields<'de>) -> Result<(), EnvelopeError> {
    let mut json = serde_json::Deserializer::from_str(utf8(body)?);
    let present = Object(fields).deserialize(&mut json).and_then(|present| json.end().map(|()| present))?;
    if present { Ok(()) } else { Err(EnvelopeError::at_start("the answer must be a JSON object, not null")) }
}

#[derive(Default)]
struct Queue(Vec<QueuedDownlink>);

impl<'de> Fields<'de> for Queue {
    const NAME: &'static str = "the answer";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "downlinks" => map.next_value_seed(List(&mut Objects(&mut self.0))),
            _ => skip(map),
        }
    }
}

impl<'de> Fields<'de> for QueuedDownlink {
    const NAME: &'static str = "a downlink";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let text = |map: &mut A| map.next_value::<Scalar<'_>>().map(|value| value.text_or_none());
        match key {
            "correlation_ids" => self.correlation_ids = CorrelationIds::read(map)?.0,
            "f_port" => self.f_port = f_port(map)?,
            "f_cnt" => self.f_cnt = map.next_value::<Scalar<'_>>()?.unsigned("a downlink's f_cnt")?,
            "frm_payload" => self.frm_payload = text(map)?.unwrap_or_default().into_owned(),
            // A decoded payload that is no object, or too deep for a value, is not shown.
            "decoded_payload" => {
                self.decoded_payload = serde_json::from_str(map.next_value::<&RawValue>()?.get()).ok();
            }
            "confirmed" => self.confirmed = map.next_value::<Scalar<'_>>()?.flag("a downlink's confirmed")?,
            "priority" => self.priority = text(map)?.unwrap_or_default().into_owned(),
            _ => skip(map)?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct Device(Taken);

impl<'de> Fields<'de> for Device {
    const NAME: &'static str = "the answer";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "mac_state" => map.next_value_seed(Object(&mut self.0)).map(|_| ()),
            _ => skip(map),
        }
    }
}

#[derive(Default)]
struct Taken(Vec<NamedDownlink>);

impl<'de> Fields<'de> for Taken {
    const NAME: &'static str = "mac_state";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "recent_downlinks" => map.next_value_seed(List(&mut Objects(&mut self.0))),
            "pending_application_downlink" => {
                let mut pending = NamedDownlink::default();
                if map.next_value_seed(Object(&mut pending))? {
                    self.0.push(pending);
                }
                Ok(())
            }
            _ => skip(map),
        }
    }
}
