//! A desired property becomes a downlink: `decodedPayload`, `rawDownlink`, and configured ones by name.

use serde_json::{Map, Value};

use super::{ApplicationRules, Invalid, Request, Wishes};
use super::{bytes, fields, invalid, json};
use crate::things_stack::{Operation, Payload};

/// The Things Industries' own names.
const DECODED: &str = "decodedPayload";
const RAW: &str = "rawDownlink";
const RAW_FIELDS: &str = "fPort, framePayload, confirmed, operation, priority";
/// Marks a component in Plug and Play twins; says nothing.
const COMPONENT_MARK: &str = "__t";

/// Reads one desired property that is not `null`. `None` if it is not for downlinks.
///
/// - `decodedPayload`: the object that the device's formatter gets.
/// - `rawDownlink`: `{fPort, framePayload, confirmed, operation}` as The Things Industries' own integration has it;
///   absent, `null` and `fPort` 0 mean the default.
/// - a configured property: the formatter gets an object with this one field.
pub fn desired_property(
    name: &str,
    value: &Value,
    rules: &ApplicationRules,
) -> Option<Result<Request, Invalid>> {
    let rule = rules.property(name);
    let read = match (name, rule) {
        (DECODED, _) => match value {
            Value::Object(fields) => Ok((Wishes::default(), Payload::Decoded(fields.clone()))),
            other => Err(Invalid::payload(name, format!("is {}", json::kind(other)), "a JSON object")),
        },
        (RAW, _) => raw(value),
        (_, Some(_)) => {
            let decoded = Map::from_iter([(name.to_owned(), value.clone())]);
            Ok((Wishes::default(), Payload::Decoded(decoded)))
        }
        (_, None) => return None,
    };
    Some(read.and_then(|(wishes, payload)| {
        wishes.settle(rule, rules, Operation::Push, payload).ok_or_else(|| Invalid::NoPort {
            field: if name == RAW { "fPort" } else { "the port" },
            key: format!("downlink.properties.{}.port", invalid::short(name)),
        })
    }))
}

fn raw(value: &Value) -> Result<(Wishes, Payload), Invalid> {
    let Value::Object(members) = value else {
        return Err(Invalid::payload(RAW, format!("is {}", json::kind(value)), "a JSON object"));
    };
    let mut wishes = Wishes::default();
    let mut payload = Vec::new();
    for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
        let field = format!("{RAW}.{}", invalid::short(name));
        match name.as_str() {
            "fPort" => wishes.port = some_port(&field, value)?,
            "confirmed" => wishes.confirmed = Some(fields::boolean(&field, value)?),
            "priority" => wishes.priority = Some(fields::priority(&field, value)?),
            "operation" => wishes.operation = Some(fields::queue(&field, value)?),
            "framePayload" => match value {
                Value::String(hex) => payload = bytes::from_hex(&field, hex)?,
                other => {
                    let problem = format!("is {}", json::kind(other));
                    return Err(Invalid::payload(&field, problem, "a string of hexadecimal digits"));
                }
            },
            COMPONENT_MARK => {}
            _ => return Err(Invalid::Unknown { field, allowed: RAW_FIELDS }),
        }
    }
    Ok((wishes, Payload::Raw(payload)))
}

/// 0 stands for none given.
fn some_port(field: &str, value: &Value) -> Result<Option<u8>, Invalid> {
    if fields::number(value, 0, 0).is_some() {
        return Ok(None);
    }
    fields::port(field, value).map(Some)
}

/// Whether a desired property of this name is for downlinks.
pub fn is_desired_property(name: &str, rules: &ApplicationRules) -> bool {
    matches!(name, DECODED | RAW) || rules.property(name).is_some()
}
