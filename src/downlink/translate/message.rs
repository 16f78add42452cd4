//! A cloud-to-device message becomes a downlink.
//!
//! Its properties, names without regard to case: `Port`, `Confirmed`, `Priority`, `Queue`, `Encoding`,
//! `ClassBCGateways`, `ClassBCAbsoluteTime`, and IoT Central's `method-name`. All others are the user's own.

use serde_json::Value;

use super::{ApplicationRules, Invalid, Request, Wishes};
use super::{bytes, central, class_b_c, fields, json};
use crate::azure::CloudMessage;
use crate::things_stack::{Operation, Payload};

pub(super) const BODY: &str = "the body";
pub(super) const PORT: &str = "Port";
const CONFIRMED: &str = "Confirmed";
const PRIORITY: &str = "Priority";
const QUEUE: &str = "Queue";
const ENCODING: &str = "Encoding";
const GATEWAYS: &str = "ClassBCGateways";
const ABSOLUTE_TIME: &str = "ClassBCAbsoluteTime";
/// Marks a command of IoT Central.
const METHOD_NAME: &str = "method-name";

const BODY_KINDS: &str =
    "a JSON object, base64 text, or what the property Encoding (hex, text or base64) says";

/// How the body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Hexadecimal digits.
    Hex,
    /// The body's bytes as they are, UTF-8 or not.
    Text,
    /// Base64.
    Base64,
}

/// Reads a cloud-to-device message.
///
/// Without `Encoding`, a JSON object is sent through the device's formatter and anything else is read as base64; an
/// empty body is an empty payload. With `Encoding`, the body is bytes in any case.
///
/// # Errors
/// The first property, or the body, that is not allowed.
pub fn cloud_message(message: &CloudMessage, rules: &ApplicationRules) -> Result<Request, Invalid> {
    let properties = Properties(&message.properties);
    let wishes = Wishes {
        port: properties.read(PORT, fields::port_text)?,
        confirmed: properties.read(CONFIRMED, fields::boolean_text)?,
        priority: properties.read(PRIORITY, fields::priority_text)?,
        operation: properties.read(QUEUE, fields::queue_text)?,
        class_b_c: class_b_c::join(
            properties.read(GATEWAYS, class_b_c::gateways_text)?,
            properties.read(ABSOLUTE_TIME, class_b_c::time_text)?,
        ),
    };
    let encoded = properties.read(ENCODING, encoding)?.map(|encoding| decode(encoding, &message.body));
    if let Some(name) = properties.get(METHOD_NAME)? {
        return central::command(name, &message.body, encoded, wishes, rules);
    }
    let payload = match encoded {
        Some(bytes) => Payload::Raw(bytes?),
        None => unmarked(&message.body)?,
    };
    wishes
        .settle(None, rules, Operation::Push, payload)
        .ok_or_else(|| Invalid::NoPort { field: PORT, key: "downlink.port".to_owned() })
}

fn encoding(field: &str, text: &str) -> Result<Encoding, Invalid> {
    let known = [("hex", Encoding::Hex), ("text", Encoding::Text), ("base64", Encoding::Base64)];
    let found = known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, encoding)| encoding).ok_or_else(|| Invalid::text(field, text, "hex, text or base64"))
}

fn decode(encoding: Encoding, body: &[u8]) -> Result<Vec<u8>, Invalid> {
    match encoding {
        Encoding::Text => bytes::checked(BODY, body.to_vec()),
        Encoding::Hex => bytes::from_hex(BODY, utf8(body)?),
        Encoding::Base64 => bytes::from_base64(BODY, utf8(body)?),
    }
}

/// A body of which nothing says what it is.
fn unmarked(body: &[u8]) -> Result<Payload, Invalid> {
    let text = utf8(body)?.trim();
    match text.bytes().next() {
        Some(b'{') => match json::read(text.as_bytes()) {
            Ok(Value::Object(fields)) => Ok(Payload::Decoded(fields)),
            Ok(other) => Err(Invalid::payload(BODY, format!("is {}", json::kind(&other)), BODY_KINDS)),
            Err(error) => Err(Invalid::not_json(BODY, error, BODY_KINDS)),
        },
        Some(b'[') => {
            Err(Invalid::payload(BODY, "begins like a JSON array, which no formatter takes", BODY_KINDS))
        }
        Some(_) | None => bytes::from_base64(BODY, text).map(Payload::Raw),
    }
}

pub(super) fn utf8(body: &[u8]) -> Result<&str, Invalid> {
    std::str::from_utf8(body).map_err(|_| Invalid::payload(BODY, "is no text in UTF-8", BODY_KINDS))
}

/// A message's own properties.
struct Properties<'a>(&'a [(String, String)]);

impl<'a> Properties<'a> {
    /// The one value of a property, however its name is spelt.
    fn get(&self, wanted: &str) -> Result<Option<&'a str>, Invalid> {
        let mut found: Option<&(String, String)> = None;
        for property in self.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)) {
            match found {
                Some((first, value)) if *value != property.1 => {
                    return Err(Invalid::Twice { first: first.clone(), second: property.0.clone() });
                }
                Some(_) => {}
                None => found = Some(property),
            }
        }
        Ok(found.map(|(_, value)| value.as_str()))
    }

    fn read<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str, &str) -> Result<T, Invalid>,
    ) -> Result<Option<T>, Invalid> {
        self.get(name)?.map(|value| parse(name, value)).transpose()
    }
}
