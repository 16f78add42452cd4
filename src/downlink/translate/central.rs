//! A command of IoT Central becomes a downlink: its name stands in a property, its argument is the body.

use serde_json::{Map, Value};

use super::message::{BODY, PORT, utf8};
use super::{ApplicationRules, Invalid, Request, Wishes};
use super::{invalid, json};
use crate::things_stack::{Operation, Payload};

/// IoT Central's body for a command without argument.
const NOTHING: &str = "@";
const BODY_KINDS: &str = "JSON, text, or @ for nothing";

/// Reads a command. `encoded` is the body as bytes where a property said how to read it.
///
/// A command replaces the queue unless something says otherwise, as the documented connector has it: of two values
/// for one setting only the later matters.
pub(super) fn command(
    name: &str,
    body: &[u8],
    encoded: Option<Result<Vec<u8>, Invalid>>,
    wishes: Wishes,
    rules: &ApplicationRules,
) -> Result<Request, Invalid> {
    if name.trim().is_empty() {
        return Err(Invalid::text("method-name", name, "the command's name"));
    }
    let rule = rules.method(name);
    let configured = rule.and_then(|rule| rule.payload.as_ref());
    let payload = match (nothing(body), encoded) {
        (true, _) => Payload::Decoded(template(name, configured)?),
        (false, Some(bytes)) => Payload::Raw(bytes?),
        (false, None) => Payload::Decoded(argument(name, utf8(body)?.trim())?),
    };
    wishes.settle(rule, rules, Operation::Replace, payload).ok_or_else(|| no_port(name, PORT))
}

/// Whether the body is no argument.
fn nothing(body: &[u8]) -> bool {
    let body = body.trim_ascii();
    body.is_empty() || body == NOTHING.as_bytes()
}

/// An argument as an object: as is, or under the command's name.
fn argument(name: &str, text: &str) -> Result<Map<String, Value>, Invalid> {
    match json::read(text.as_bytes()) {
        Ok(value) => Ok(under(name, value)),
        Err(json::NotJson::TooDeep) => Err(Invalid::not_json(BODY, json::NotJson::TooDeep, BODY_KINDS)),
        Err(json::NotJson::Syntax { .. }) => Ok(under(name, Value::String(text.to_owned()))),
    }
}

/// What is configured to be sent when a request carries nothing.
pub(super) fn template(name: &str, configured: Option<&Value>) -> Result<Map<String, Value>, Invalid> {
    configured
        .map(|value| under(name, value.clone()))
        .ok_or_else(|| Invalid::NothingToSend { name: invalid::short(name) })
}

/// An object as it is; anything else as the one field `name` of an object, as a decoded payload must be one.
pub(super) fn under(name: &str, value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => Map::from_iter([(name.to_owned(), other)]),
    }
}

/// No port for the method or command of this name.
pub(super) fn no_port(name: &str, field: &'static str) -> Invalid {
    Invalid::NoPort { field, key: format!("downlink.methods.{}.port", invalid::short(name)) }
}
