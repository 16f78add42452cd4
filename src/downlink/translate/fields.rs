//! The values that requests give besides the payload: port, confirmed, priority, queue; as text or as JSON.

use serde_json::Value;

use super::Invalid;
use crate::things_stack::{Operation, Priority};

pub(super) const PORT: &str = "a whole number from 1 to 223";
pub(super) const BOOLEAN: &str = "true or false";
pub(super) const PRIORITY: &str = "one of Lowest, Low, BelowNormal, Normal, AboveNormal, High, Highest";
pub(super) const QUEUE: &str = "Push or Replace";

/// FPort as text.
pub(super) fn port_text(field: &str, text: &str) -> Result<u8, Invalid> {
    let port = text.trim().parse().ok().filter(|port| (1..=223).contains(port));
    port.ok_or_else(|| Invalid::text(field, text, PORT))
}

/// `true` or `false` of any case, as .NET reads and writes it.
pub(super) fn boolean_text(field: &str, text: &str) -> Result<bool, Invalid> {
    let is = |word: &str| text.trim().eq_ignore_ascii_case(word);
    match (is("true"), is("false")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        (false, false) => Err(Invalid::text(field, text, BOOLEAN)),
    }
}

pub(super) fn priority_text(field: &str, text: &str) -> Result<Priority, Invalid> {
    Priority::parse(text).ok_or_else(|| Invalid::text(field, text, PRIORITY))
}

pub(super) fn queue_text(field: &str, text: &str) -> Result<Operation, Invalid> {
    Operation::parse(text).ok_or_else(|| Invalid::text(field, text, QUEUE))
}

/// FPort as a JSON number without fraction.
pub(super) fn port(field: &str, value: &Value) -> Result<u8, Invalid> {
    number(value, 1, 223)
        .and_then(|port| u8::try_from(port).ok())
        .ok_or_else(|| Invalid::value(field, value, PORT))
}

pub(super) fn boolean(field: &str, value: &Value) -> Result<bool, Invalid> {
    value.as_bool().ok_or_else(|| Invalid::value(field, value, BOOLEAN))
}

pub(super) fn priority(field: &str, value: &Value) -> Result<Priority, Invalid> {
    value.as_str().and_then(Priority::parse).ok_or_else(|| Invalid::value(field, value, PRIORITY))
}

pub(super) fn queue(field: &str, value: &Value) -> Result<Operation, Invalid> {
    value.as_str().and_then(Operation::parse).ok_or_else(|| Invalid::value(field, value, QUEUE))
}

/// A whole number of a range; `5.0` is one, as some senders know only doubles.
pub(super) fn number(value: &Value, least: u32, most: u32) -> Option<u32> {
    let whole = value.as_u64().and_then(|whole| u32::try_from(whole).ok()).or_else(|| {
        let double = value.as_f64()?;
        (double.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&double)).then_some(double as u32)
    })?;
    (least..=most).contains(&whole).then_some(whole)
}
