//! Through which gateways, and when: for devices of class B or C.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::Invalid;
use super::fields::number;
use super::json;
use crate::things_stack::{ClassBC, GatewayAntenna};

const GATEWAYS: &str = "gateway ids with commas between, each gateway-id[:antenna[:group]], or a JSON array of \
    {\"gateway_ids\":{\"gateway_id\":…},\"antenna_index\":…,\"group_index\":…}; at most 100";
const TIME: &str = "a time such as 2030-01-31T12:00:00Z (RFC 3339)";
const OBJECT: &str = "an object with gateways and absoluteTime";

/// More than any network has in reach of one device.
const MAX_GATEWAYS: usize = 100;
/// The Things Stack's limit for ids.
const MAX_ID_CHARS: usize = 36;

/// Joins the two. `None` when neither says anything.
pub(super) fn join(gateways: Option<Vec<GatewayAntenna>>, absolute_time: Option<String>) -> Option<ClassBC> {
    (gateways.is_some() || absolute_time.is_some())
        .then(|| ClassBC { gateways: gateways.unwrap_or_default(), absolute_time })
}

/// Reads gateways as text, either notation.
pub(super) fn gateways_text(field: &str, text: &str) -> Result<Vec<GatewayAntenna>, Invalid> {
    let invalid = || Invalid::text(field, text, GATEWAYS);
    if text.trim_start().starts_with('[') {
        let value = json::read(text.as_bytes()).map_err(|_| invalid())?;
        return gateways_array(&value).ok_or_else(invalid);
    }
    let gateways: Option<Vec<_>> = text.split(',').map(|part| gateway(part.trim())).collect();
    gateways.filter(|gateways| gateways.len() <= MAX_GATEWAYS).ok_or_else(invalid)
}

/// Reads a time and writes it in UTC.
pub(super) fn time_text(field: &str, text: &str) -> Result<String, Invalid> {
    let time: Timestamp = text.trim().parse().map_err(|_| Invalid::text(field, text, TIME))?;
    Ok(time.to_string())
}

/// Reads `{gateways, absoluteTime}`; gateways as text or array.
pub(super) fn object(field: &str, value: &Value) -> Result<Option<ClassBC>, Invalid> {
    let Value::Object(fields) = value else {
        return Err(Invalid::value(field, value, OBJECT));
    };
    let (mut gateways, mut absolute_time) = (None, None);
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let field = format!("{field}.{}", super::invalid::short(name));
        match (name.as_str(), value) {
            ("gateways", Value::String(text)) => gateways = Some(gateways_text(&field, text)?),
            ("gateways", array) => {
                gateways =
                    Some(gateways_array(array).ok_or_else(|| Invalid::value(&field, array, GATEWAYS))?);
            }
            ("absoluteTime", Value::String(text)) => absolute_time = Some(time_text(&field, text)?),
            ("absoluteTime", other) => return Err(Invalid::value(&field, other, TIME)),
            _ => return Err(Invalid::Unknown { field, allowed: "gateways, absoluteTime" }),
        }
    }
    Ok(join(gateways, absolute_time))
}

/// `gateway-id[:antenna[:group]]`
fn gateway(text: &str) -> Option<GatewayAntenna> {
    let mut parts = text.split(':').map(str::trim);
    let gateway_id = checked_id(parts.next()?)?;
    let mut index = || parts.next().map_or(Some(0), |text| text.parse().ok());
    let (antenna_index, group_index) = (index()?, index()?);
    parts.next().is_none().then_some(GatewayAntenna { gateway_id, antenna_index, group_index })
}

fn gateways_array(value: &Value) -> Option<Vec<GatewayAntenna>> {
    let array = value.as_array().filter(|array| array.len() <= MAX_GATEWAYS)?;
    array.iter().map(gateway_object).collect()
}

/// As The Things Stack writes it, or just the id.
fn gateway_object(value: &Value) -> Option<GatewayAntenna> {
    if let Value::String(text) = value {
        return gateway(text);
    }
    let fields = value.as_object()?;
    let gateway_id = checked_id(fields.get("gateway_ids")?.get("gateway_id")?.as_str()?)?;
    Some(GatewayAntenna {
        gateway_id,
        antenna_index: index(fields, "antenna_index")?,
        group_index: index(fields, "group_index")?,
    })
}

/// Absent or null = 0.
fn index(fields: &Map<String, Value>, name: &str) -> Option<u32> {
    match fields.get(name) {
        None | Some(Value::Null) => Some(0),
        Some(value) => number(value, 0, u32::MAX),
    }
}

/// An id as The Things Stack has them: three or more lower-case letters and digits, single dashes between.
fn checked_id(id: &str) -> Option<String> {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let words = id.split('-').map(str::len).sum::<usize>();
    (words >= 3 && id.len() <= MAX_ID_CHARS && id.split('-').all(word)).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn antenna(gateway_id: &str, antenna_index: u32, group_index: u32) -> GatewayAntenna {
        GatewayAntenna { gateway_id: gateway_id.to_owned(), antenna_index, group_index }
    }

    #[test]
    fn both_notations_of_gateways_are_read() {
        let expected = vec![antenna("roof-1", 0, 0), antenna("mast", 1, 2)];
        for text in [
            "roof-1,mast:1:2",
            " roof-1 , mast : 1 : 2 ",
            r#"[{"gateway_ids":{"gateway_id":"roof-1"}},{"gateway_ids":{"gateway_id":"mast"},"antenna_index":1,"group_index":2}]"#,
            r#"["roof-1","mast:1:2"]"#,
        ] {
            assert_eq!(gateways_text("g", text), Ok(expected.clone()), "{text}");
        }
        for text in [
            "",
            "roof-1,",
            "Roof",
            "a",
            "roof--1",
            "a-b",
            "-roof",
            "roof:x",
            "roof:1:2:3",
            "[1]",
            "[",
            "roof:-1",
        ] {
            assert!(gateways_text("g", text).is_err(), "{text}");
        }
        assert!(gateways_text("g", &vec!["roof"; 101].join(",")).is_err());
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(time_text("t", "2030-01-31T14:00:00+02:00").as_deref(), Ok("2030-01-31T12:00:00Z"));
        assert_eq!(time_text("t", "2030-01-31T12:00:00.5Z").as_deref(), Ok("2030-01-31T12:00:00.5Z"));
        for text in ["", "tomorrow", "2030-01-31", "2030-01-31T12:00:00", "1900000000"] {
            assert!(time_text("t", text).is_err(), "{text}");
        }
    }
}
