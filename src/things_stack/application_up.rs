//! One message of The Things Stack (`ApplicationUp`), read key by key: the parts every reader needs, and a place
//! for what only some need. Knows no Azure and decides nothing.

use std::borrow::Cow;

use serde::de::{DeserializeSeed as _, IgnoredAny, MapAccess};

use super::envelope::{Envelope, EnvelopeError};
use super::kind::Kind;
use super::tolerant::{Fields, Object, Scalar, skip};

/// What a reader wants beyond the [`Envelope`]. Each method must take the value from `map`.
pub(super) trait Details<'de>: Default {
    /// A key beside `end_device_ids` that the envelope does not know.
    fn top_level<A: MapAccess<'de>>(&mut self, _key: &str, map: &mut A) -> Result<(), A::Error> {
        skip(map)
    }

    /// A key within `uplink_message` that the envelope does not know.
    fn uplink<A: MapAccess<'de>>(&mut self, _key: &str, map: &mut A) -> Result<(), A::Error> {
        skip(map)
    }

    /// The key of a kind other than `uplink_message`. Says whether its value is there, that is, not `null`.
    fn kind<A: MapAccess<'de>>(&mut self, _kind: Kind, map: &mut A) -> Result<bool, A::Error> {
        Ok(map.next_value::<Option<IgnoredAny>>()?.is_some())
    }
}

/// Wants nothing more.
impl Details<'_> for () {}

/// Reads `body` once, from start to end.
///
/// # Errors
/// The body is not UTF-8, not one JSON object, or a field we need has the wrong type.
pub(super) fn read<'de, D: Details<'de>>(body: &'de [u8]) -> Result<(Envelope<'de>, D), EnvelopeError> {
    let text = utf8(body)?;
    let mut message = Message { envelope: Envelope::default(), details: D::default() };
    let mut json = serde_json::Deserializer::from_str(text);
    let seen = Object(&mut message).deserialize(&mut json).and_then(|seen| json.end().map(|()| seen))?;
    if !seen {
        return Err(EnvelopeError::at_start("the body must be a JSON object, not null"));
    }
    Ok((message.envelope, message.details))
}

/// The body as text, without the byte order mark that some tools put before it.
pub(super) fn utf8(body: &[u8]) -> Result<&str, EnvelopeError> {
    let text =
        std::str::from_utf8(body).map_err(|error| EnvelopeError::not_utf8(body, error.valid_up_to()))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

struct Message<'a, D> {
    envelope: Envelope<'a>,
    details: D,
}

impl<'de, D: Details<'de>> Fields<'de> for Message<'de, D> {
    const NAME: &'static str = "the body";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "end_device_ids" => {
                map.next_value_seed(Object(&mut EndDeviceIds(&mut self.envelope))).map(|_| ())
            }
            "simulated" => {
                self.envelope.simulated = map.next_value::<Scalar<'_>>()?.flag(key)?;
                Ok(())
            }
            "uplink_message" => {
                if map.next_value_seed(Object(&mut UplinkMessage(self)))? {
                    self.envelope.kind = Kind::UplinkMessage;
                }
                Ok(())
            }
            _ => match Kind::of_key(key) {
                Kind::Unknown => self.details.top_level(key, map),
                kind => {
                    // Should two kinds come together, the one with telemetry in it counts.
                    let present = self.details.kind(kind, map)?;
                    if present && self.envelope.kind != Kind::UplinkMessage {
                        self.envelope.kind = kind;
                    }
                    Ok(())
                }
            },
        }
    }
}

struct EndDeviceIds<'e, 'a>(&'e mut Envelope<'a>);

impl<'de> Fields<'de> for EndDeviceIds<'_, 'de> {
    const NAME: &'static str = "end_device_ids";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "device_id" => self.0.device_id = text(map, "end_device_ids.device_id")?,
            "dev_eui" => self.0.dev_eui = text(map, "end_device_ids.dev_eui")?,
            "application_ids" => {
                map.next_value_seed(Object(&mut ApplicationIds(self.0)))?;
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

struct ApplicationIds<'e, 'a>(&'e mut Envelope<'a>);

impl<'de> Fields<'de> for ApplicationIds<'_, 'de> {
    const NAME: &'static str = "end_device_ids.application_ids";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "application_id" => {
                self.0.application_id = text(map, "end_device_ids.application_ids.application_id")?;
                Ok(())
            }
            _ => skip(map),
        }
    }
}

struct UplinkMessage<'m, 'a, D>(&'m mut Message<'a, D>);

impl<'de, D: Details<'de>> Fields<'de> for UplinkMessage<'_, 'de, D> {
    const NAME: &'static str = "uplink_message";

    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let envelope = &mut self.0.envelope;
        match key {
            "session_key_id" => envelope.session_key_id = text(map, "uplink_message.session_key_id")?,
            "f_port" => {
                let port = map.next_value::<Scalar<'_>>()?.unsigned("uplink_message.f_port")?;
                envelope.f_port = (port != 0).then_some(port);
            }
            "f_cnt" => {
                envelope.f_cnt = map.next_value::<Scalar<'_>>()?.unsigned("uplink_message.f_cnt")?;
            }
            "received_at" => envelope.received_at = map.next_value::<Scalar<'_>>()?.text_or_none(),
            _ => self.0.details.uplink(key, map)?,
        }
        Ok(())
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A, field: &str) -> Result<Option<Cow<'de, str>>, A::Error> {
    map.next_value::<Scalar<'de>>()?.text(field)
}
