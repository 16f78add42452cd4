//! A downlink in the JSON of The Things Stack's API and webhook: zero values left out, base64, enums by name.
//!
//! Reads what the real one reads: base64 of both alphabets, enums by name or number, unknown fields ignored.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Padding is optional, as for the real one.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// From low to high; the place is the number on the wire.
const PRIORITIES: [&str; 7] = ["LOWEST", "LOW", "BELOW_NORMAL", "NORMAL", "ABOVE_NORMAL", "HIGH", "HIGHEST"];

/// One downlink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Downlink {
    /// Of the session it is queued for; none while it is only asked for.
    #[serde(alias = "sessionKeyId", skip_serializing_if = "Vec::is_empty", with = "bytes")]
    pub session_key_id: Vec<u8>,
    /// FPort; 0 is not for applications.
    #[serde(alias = "fPort", skip_serializing_if = "is_zero", deserialize_with = "nullable")]
    pub f_port: u32,
    /// Frame counter, given when it is queued.
    #[serde(alias = "fCnt", skip_serializing_if = "is_zero", deserialize_with = "nullable")]
    pub f_cnt: u32,
    /// What the device gets. `None` if only a decoded payload is given.
    #[serde(alias = "frmPayload", skip_serializing_if = "no_bytes", with = "optional_bytes")]
    pub frm_payload: Option<Vec<u8>>,
    /// For the downlink formatter.
    #[serde(alias = "decodedPayload", skip_serializing_if = "Option::is_none")]
    pub decoded_payload: Option<Map<String, Value>>,
    /// Whether the device must acknowledge it.
    #[serde(skip_serializing_if = "is_false", deserialize_with = "nullable")]
    pub confirmed: bool,
    /// Gateways and time for class B and C, as given.
    #[serde(alias = "classBC", skip_serializing_if = "Option::is_none")]
    pub class_b_c: Option<Map<String, Value>>,
    /// Its place among downlinks.
    #[serde(skip_serializing_if = "Priority::is_lowest")]
    pub priority: Priority,
    /// The sender's own, then The Things Stack's.
    #[serde(alias = "correlationIds", skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub correlation_ids: Vec<String>,
    /// How often a confirmed one is tried.
    #[serde(alias = "confirmedRetry", skip_serializing_if = "Option::is_none")]
    pub confirmed_retry: Option<ConfirmedRetry>,
}

/// How often a confirmed downlink is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfirmedRetry {
    /// Which try this is.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "nullable")]
    pub attempt: u32,
    /// The Application Server's own number if absent.
    #[serde(alias = "maxAttempts", skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
}

/// A downlink's priority, 0 (`LOWEST`) to 6 (`HIGHEST`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(usize);

impl Priority {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        PRIORITIES.get(self.0).copied().unwrap_or_default()
    }

    fn is_lowest(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Priority {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let place = match Value::deserialize(deserializer)? {
            Value::Null => Some(0),
            Value::String(name) => PRIORITIES.iter().position(|known| *known == name),
            Value::Number(number) => number
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .filter(|at| *at < PRIORITIES.len()),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        place.map(Self).ok_or_else(|| D::Error::custom("priority is no TxSchedulePriority"))
    }
}

impl Downlink {
    /// A rough number of bytes it takes in memory.
    pub(super) fn weight(&self) -> usize {
        let json = |map: &Option<Map<String, Value>>| {
            map.as_ref().map_or(0, |map| serde_json::to_string(map).map_or(0, |text| 4 * text.len()))
        };
        let ids: usize = self.correlation_ids.iter().map(|id| id.len() + 32).sum();
        256 + self.frm_payload.as_ref().map_or(0, Vec::len)
            + ids
            + json(&self.decoded_payload)
            + json(&self.class_b_c)
    }

    /// Its JSON.
    pub(super) fn json(&self) -> Value {
        // A struct of numbers, texts and JSON always serializes.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Without what only a queued one has, as `downlink_queued` shows it.
    pub(super) fn as_asked(&self) -> Self {
        Self { session_key_id: Vec::new(), f_cnt: 0, ..self.clone() }
    }

    /// What the Network Server knows of one that was sent.
    pub(super) fn as_sent(&self) -> Self {
        Self { decoded_payload: None, class_b_c: None, confirmed_retry: None, ..self.clone() }
    }
}

/// Standard base64, as The Things Stack writes it.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Base64 of either alphabet.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

mod bytes {
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        Ok(super::optional_bytes::deserialize(deserializer)?.unwrap_or_default())
    }
}

mod optional_bytes {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&super::encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        super::decode(&text).map(Some).ok_or_else(|| D::Error::custom("illegal base64 data"))
    }
}

/// JSON's `null` is the zero value.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer).map_err(D::Error::custom)?.unwrap_or_default())
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(truth: &bool) -> bool {
    !truth
}

fn no_bytes(bytes: &Option<Vec<u8>>) -> bool {
    bytes.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zero_values_are_left_out_and_bytes_are_standard_base64() {
        let downlink = Downlink { f_port: 7, frm_payload: Some(vec![0xFB, 0xFF]), ..Downlink::default() };
        assert_eq!(downlink.json(), json!({ "f_port": 7, "frm_payload": "+/8=" }));
        assert_eq!(Downlink::default().json(), json!({}));
    }

    #[test]
    fn both_alphabets_padded_or_not_and_enums_by_name_or_number_are_read() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            let read: Downlink =
                serde_json::from_value(json!({ "frm_payload": text, "made_up": 1 })).unwrap();
            assert_eq!(read.frm_payload, Some(vec![0xFB, 0xFF]), "{text}");
        }
        for (priority, name) in [(json!("HIGH"), "HIGH"), (json!(5), "HIGH"), (json!(null), "LOWEST")] {
            let read: Downlink = serde_json::from_value(json!({ "priority": priority })).unwrap();
            assert_eq!(read.priority.as_str(), name);
        }
        for wrong in
            [json!({ "priority": "urgent" }), json!({ "priority": 7 }), json!({ "frm_payload": "?" })]
        {
            assert!(serde_json::from_value::<Downlink>(wrong.clone()).is_err(), "{wrong}");
        }
        let camel: Downlink = serde_json::from_value(json!({ "fPort": 3, "confirmed": null })).unwrap();
        assert_eq!(camel.f_port, 3);
    }
}
