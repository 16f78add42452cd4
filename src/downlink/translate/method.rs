//! A direct method's payload becomes a downlink: the built-in `downlink`, and configured ones by name.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{ApplicationRules, Invalid, Request, Wishes};
use super::{bytes, central, class_b_c, fields, invalid, json};
use crate::things_stack::{Operation, Payload};

const FIELDS: &str = "port, payload, decoded, hex, confirmed, priority, queue, classBC, wait, waitSeconds";
const PAYLOADS: &str = "payload (base64), decoded (a JSON object), hex";
const OBJECT: &str = "a JSON object";
const WAIT: &str = "sent or confirmed";
/// IoT Hub's longest response time-out is 300 s; the answer needs time to travel.
const MAX_WAIT_SECONDS: u32 = 290;
const SECONDS: &str = "a whole number from 1 to 290";
/// In a named method's object these are ours, not the formatter's.
const NAMED_WAIT: [&str; 2] = ["$wait", "$waitSeconds"];

/// A direct method's wish.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodCall {
    /// The downlink.
    pub request: Request,
    /// What to wait for before answering; `None` answers once it is queued.
    pub wait: Option<Wait>,
}

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The device's acknowledgement; else that a gateway sent it.
    pub confirmed: bool,
    /// How long; `None` leaves it to the flow.
    pub limit: Option<Duration>,
}

/// Reads the payload of the built-in method `downlink`.
///
/// # Errors
/// The first field that is unknown or not allowed.
pub fn downlink_method(payload: &[u8], rules: &ApplicationRules) -> Result<MethodCall, Invalid> {
    let Value::Object(fields) = read(payload)? else {
        return Err(Invalid::payload("the payload", "is no JSON object", OBJECT));
    };
    let mut wishes = Wishes::default();
    let mut payload = None;
    let (mut wait, mut seconds) = (None, None);
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "port" => wishes.port = Some(fields::port(name, value)?),
            "confirmed" => wishes.confirmed = Some(fields::boolean(name, value)?),
            "priority" => wishes.priority = Some(fields::priority(name, value)?),
            "queue" => wishes.operation = Some(fields::queue(name, value)?),
            "classBC" => wishes.class_b_c = class_b_c::object(name, value)?,
            "wait" => wait = Some(value),
            "waitSeconds" => seconds = Some(value),
            "payload" | "decoded" | "hex" => {
                if let Some((other, _)) = payload {
                    return Err(Invalid::OneOf {
                        problem: format!("{other} and {name} are both given"),
                        allowed: PAYLOADS,
                    });
                }
                payload = Some((name, value));
            }
            _ => return Err(Invalid::Unknown { field: invalid::quoted(name), allowed: FIELDS }),
        }
    }
    let (name, value) = payload.ok_or_else(|| Invalid::OneOf {
        problem: "the downlink's payload is missing".to_owned(),
        allowed: PAYLOADS,
    })?;
    let request = wishes
        .settle(None, rules, Operation::Push, carried(name, value)?)
        .ok_or_else(|| Invalid::NoPort { field: "port", key: "downlink.port".to_owned() })?;
    Ok(MethodCall { wait: waiting(["wait", "waitSeconds"], wait, seconds, &request)?, request })
}

/// Reads the payload of a method that the configuration names; `None` if it does not.
///
/// An object is what the device's formatter gets, save for `$wait` and `$waitSeconds`; anything else is put under the
/// method's name; nothing or `null` sends the configured payload.
///
/// # Errors
/// Why it can't become a downlink.
pub fn named_method(
    name: &str,
    payload: &[u8],
    rules: &ApplicationRules,
) -> Result<Option<MethodCall>, Invalid> {
    let Some(rule) = rules.method(name) else {
        return Ok(None);
    };
    let mut given = read(payload)?;
    let [wait, seconds] = NAMED_WAIT.map(|field| given.as_object_mut().and_then(|given| given.remove(field)));
    let only_waits = (wait.is_some() || seconds.is_some()) && given.as_object().is_some_and(Map::is_empty);
    let decoded = match given {
        Value::Null => central::template(name, rule.payload.as_ref())?,
        _ if only_waits => central::template(name, rule.payload.as_ref())?,
        value => central::under(name, value),
    };
    let request = Wishes::default()
        .settle(Some(rule), rules, Operation::Push, Payload::Decoded(decoded))
        .ok_or_else(|| central::no_port(name, "the port"))?;
    let wait = waiting(NAMED_WAIT, wait.as_ref(), seconds.as_ref(), &request)?;
    Ok(Some(MethodCall { request, wait }))
}

/// Nothing at all is `null`, as some SDKs send the one and some the other.
fn read(payload: &[u8]) -> Result<Value, Invalid> {
    if payload.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    json::read(payload).map_err(|error| Invalid::not_json("the payload", error, "JSON"))
}

/// What the field `name`, one of three, carries.
fn carried(name: &str, value: &Value) -> Result<Payload, Invalid> {
    match (name, value) {
        ("decoded", Value::Object(fields)) => Ok(Payload::Decoded(fields.clone())),
        ("hex", Value::String(text)) => bytes::from_hex(name, text).map(Payload::Raw),
        ("payload", Value::String(text)) => bytes::from_base64(name, text).map(Payload::Raw),
        ("decoded", other) => Err(Invalid::payload(name, format!("is {}", json::kind(other)), OBJECT)),
        (_, other) => Err(Invalid::payload(name, format!("is {}", json::kind(other)), "a string")),
    }
}

/// `confirmed` is only to be waited for if the device must acknowledge.
fn waiting(
    [wait_field, seconds_field]: [&str; 2],
    wait: Option<&Value>,
    seconds: Option<&Value>,
    request: &Request,
) -> Result<Option<Wait>, Invalid> {
    let limit = seconds
        .filter(|value| !value.is_null())
        .map(|value| {
            fields::number(value, 1, MAX_WAIT_SECONDS)
                .map(|seconds| Duration::from_secs(seconds.into()))
                .ok_or_else(|| Invalid::value(seconds_field, value, SECONDS))
        })
        .transpose()?;
    let Some(value) = wait.filter(|value| !value.is_null()) else {
        return match limit {
            None => Ok(None),
            Some(_) => Err(Invalid::OneOf {
                problem: format!("{seconds_field} says how long, but nothing says for what"),
                allowed: "\"sent\" or \"confirmed\" as the wait",
            }),
        };
    };
    match value.as_str() {
        Some("sent") => Ok(Some(Wait { confirmed: false, limit })),
        Some("confirmed") if request.downlink.confirmed => Ok(Some(Wait { confirmed: true, limit })),
        Some("confirmed") => Err(Invalid::value(
            wait_field,
            value,
            "sent, as an unconfirmed downlink is never acknowledged (set confirmed to true)",
        )),
        Some(_) | None => Err(Invalid::value(wait_field, value, WAIT)),
    }
}
