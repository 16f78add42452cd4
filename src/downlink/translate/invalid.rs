//! Why a request can't become a downlink, in one sentence for its sender. Holds no payload.

use super::json::{self, NotJson};
use crate::things_stack::MAX_PAYLOAD_BYTES;

/// Longest piece of a sender's value that is shown to it again, in characters.
const MAX_SHOWN_CHARS: usize = 40;

/// Why a request is rejected. Each text names the field, what is wrong with it and what is allowed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Invalid {
    /// No FPort in the request, and none configured.
    #[error("{field} is missing: give {field} (1 to 223), or configure {key}")]
    NoPort {
        /// Where the request could have named it.
        field: &'static str,
        /// Where the configuration could.
        key: String,
    },
    /// A value that is not allowed.
    #[error("{field} is {shown}: it must be {allowed}")]
    Value {
        /// The property or field.
        field: String,
        /// The value, shortened, or its kind.
        shown: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// One property under two spellings with two values.
    #[error(
        "{first} and {second} have different values but are one property, as case does not count: send it once"
    )]
    Twice {
        /// The spelling that came first.
        first: String,
        /// The other.
        second: String,
    },
    /// A field that nobody reads; most likely a misspelt one.
    #[error("{field} is unknown: the fields here are {allowed}")]
    Unknown {
        /// Its name, shortened.
        field: String,
        /// The known ones.
        allowed: &'static str,
    },
    /// Fields that exclude each other, or none of them.
    #[error("{problem}: give exactly one of {allowed}")]
    OneOf {
        /// What was given.
        problem: String,
        /// The fields.
        allowed: &'static str,
    },
    /// A payload that is not what its encoding or kind asks for.
    #[error("{field} {problem}: it must be {allowed}")]
    Payload {
        /// The body or field.
        field: String,
        /// What is wrong, without its content.
        problem: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// More bytes than a downlink holds.
    #[error("{field} has {bytes} bytes: it must have at most {MAX_PAYLOAD_BYTES}")]
    TooLong {
        /// The body or field.
        field: String,
        /// Its length when decoded.
        bytes: usize,
    },
    /// JSON nested deeper than is read.
    #[error("{field} is nested too deeply: it must have at most {} levels", json::MAX_DEPTH)]
    TooDeep {
        /// The body or field.
        field: String,
    },
    /// A command or method that came without payload and has none configured.
    #[error(
        "{name} came without payload and none is configured: send one, or configure downlink.methods.{name}.payload"
    )]
    NothingToSend {
        /// The method's name, shortened.
        name: String,
    },
}

impl Invalid {
    /// `value` as text was not allowed.
    pub(super) fn text(field: &str, value: &str, allowed: &'static str) -> Self {
        Self::Value { field: field.to_owned(), shown: quoted(value), allowed }
    }

    /// `value` as JSON was not allowed.
    pub(super) fn value(field: &str, value: &serde_json::Value, allowed: &'static str) -> Self {
        let shown = match value {
            serde_json::Value::Number(number) => short(&number.to_string()),
            serde_json::Value::String(text) => quoted(text),
            serde_json::Value::Bool(_)
            | serde_json::Value::Null
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_) => json::kind(value).to_owned(),
        };
        Self::Value { field: field.to_owned(), shown, allowed }
    }

    pub(super) fn payload(field: &str, problem: impl Into<String>, allowed: &'static str) -> Self {
        Self::Payload { field: field.to_owned(), problem: problem.into(), allowed }
    }

    pub(super) fn not_json(field: &str, error: NotJson, allowed: &'static str) -> Self {
        match error {
            NotJson::TooDeep => Self::TooDeep { field: field.to_owned() },
            NotJson::Syntax { line, column } => {
                Self::payload(field, format!("is broken JSON at line {line} column {column}"), allowed)
            }
        }
    }
}

/// A value in quotes, without control characters and not long.
pub(super) fn quoted(value: &str) -> String {
    format!("\"{}\"", short(value))
}

/// A value without control characters and not long.
pub(super) fn short(value: &str) -> String {
    let mut shown: String =
        value.chars().take(MAX_SHOWN_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if value.chars().nth(MAX_SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}
