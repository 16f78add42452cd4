//! What a twin may hold: names, depth, numbers, lengths and sizes. Pure.

use serde_json::{Number, Value};

use super::twin::Properties;

/// Bytes of desired, and of reported, properties.
pub(super) const MAX_PROPERTIES: usize = 32 * 1024;
/// Bytes of tags.
pub(super) const MAX_TAGS: usize = 8 * 1024;
/// Bytes of a name.
const MAX_NAME: usize = 1024;
/// Bytes of a text.
const MAX_TEXT: usize = 4096;
/// Objects and arrays within each other, below the part itself.
const MAX_DEPTH: usize = 10;
const MAX_INTEGER: i64 = 4_503_599_627_370_495;
const MIN_INTEGER: i64 = -4_503_599_627_370_496;

/// Why a change is refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TwinError {
    /// There is no such device, hence no twin.
    #[error("device {0} is not registered")]
    NotFound(String),
    /// The etag or version asked for is not the twin's.
    #[error("the twin of device {0} has changed: read it again")]
    Precondition(String),
    /// The change is not one a twin can take.
    #[error("{0}")]
    Invalid(String),
    /// The twin would be too large.
    #[error("{part} would count {size} bytes, at most {max} are allowed")]
    TooLarge {
        /// Tags, desired or reported properties.
        part: &'static str,
        /// As IoT Hub counts.
        size: usize,
        /// The limit.
        max: usize,
    },
}

/// Looks at names, depth, texts and numbers of a patch; `null` is allowed anywhere.
///
/// # Errors
/// `Invalid` names the property.
pub(super) fn check_patch(patch: &Properties) -> Result<(), TwinError> {
    members(patch, 0)
}

/// Looks at the size of a part as it would be.
///
/// # Errors
/// `TooLarge`.
pub(super) fn check_size(part: &'static str, properties: &Properties, max: usize) -> Result<(), TwinError> {
    let size = members_size(properties);
    if size > max { Err(TwinError::TooLarge { part, size, max }) } else { Ok(()) }
}

fn members(object: &Properties, depth: usize) -> Result<(), TwinError> {
    if depth > MAX_DEPTH {
        return Err(TwinError::Invalid(format!("properties are more than {MAX_DEPTH} levels deep")));
    }
    for (name, value) in object {
        if name.is_empty() || name.len() > MAX_NAME {
            let start: String = name.chars().take(40).collect();
            let text = format!("the name {start:?} must have 1 to {MAX_NAME} bytes");
            return Err(TwinError::Invalid(text));
        }
        if name.contains(|c: char| matches!(c, '.' | '$' | ' ') || c.is_control()) {
            let text = format!("the name {name:?} has a dot, a dollar, a space or a control character");
            return Err(TwinError::Invalid(text));
        }
        check_value(name, value, depth + 1)?;
    }
    Ok(())
}

fn check_value(name: &str, value: &Value, depth: usize) -> Result<(), TwinError> {
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) if beyond(number) => {
            let text = format!("{name}: integers go from {MIN_INTEGER} to {MAX_INTEGER}");
            Err(TwinError::Invalid(text))
        }
        Value::Number(_) => Ok(()),
        Value::String(text) if text.len() > MAX_TEXT => {
            Err(TwinError::Invalid(format!("{name}: a text has at most {MAX_TEXT} bytes")))
        }
        Value::String(_) => Ok(()),
        Value::Array(items) => {
            if depth > MAX_DEPTH {
                return Err(TwinError::Invalid(format!("{name} is more than {MAX_DEPTH} levels deep")));
            }
            items.iter().try_for_each(|item| check_value(name, item, depth + 1))
        }
        Value::Object(object) => members(object, depth),
    }
}

fn beyond(number: &Number) -> bool {
    match (number.as_i64(), number.as_u64()) {
        (Some(number), _) => !(MIN_INTEGER..=MAX_INTEGER).contains(&number),
        (None, integer) => integer.is_some(),
    }
}

/// As IoT Hub documents it: names and texts by their bytes, numbers 8, booleans 4.
fn members_size(object: &Properties) -> usize {
    object.iter().map(|(name, value)| name.len() + value_size(value)).sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_size).sum(),
        Value::Object(object) => members_size(object),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Properties, TwinError, check_patch, check_size};

    fn checked(value: Value) -> Result<(), TwinError> {
        match value {
            Value::Object(object) => check_patch(&object),
            other => panic!("no object: {other}"),
        }
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!({ "property": "value" }), |inner, _| json!({ "level": inner }))
    }

    #[test]
    fn what_iot_hub_documents_as_allowed_is_allowed() {
        for value in [
            json!({}),
            json!({ "a": null, "b": true, "c": 1.5, "d": [1, "x", { "e": 1 }], "ä-_:": "t" }),
            json!({ "max": 4_503_599_627_370_495_i64, "min": -4_503_599_627_370_496_i64, "float": 1e300 }),
            json!({ "k".repeat(1024): "v".repeat(4096) }),
            nested(10),
        ] {
            assert_eq!(checked(value.clone()), Ok(()), "{value}");
        }
    }

    #[test]
    fn each_limit_is_named_when_it_is_passed() {
        for (value, words) in [
            (json!({ "a.b": 1 }), "a dot"),
            (json!({ "$version": 1 }), "a dollar"),
            (json!({ "a b": 1 }), "a space"),
            (json!({ "a\u{85}": 1 }), "control"),
            (json!({ "": 1 }), "1 to 1024"),
            (json!({ "k".repeat(1025): 1 }), "1 to 1024"),
            (json!({ "x": { "a.b": null } }), "a dot"),
            (json!({ "x": [{ "a.b": 1 }] }), "a dot"),
            (json!({ "t": "v".repeat(4097) }), "4096"),
            (json!({ "n": 4_503_599_627_370_496_i64 }), "integers"),
            (json!({ "n": [-4_503_599_627_370_497_i64] }), "integers"),
            (json!({ "n": u64::MAX }), "integers"),
            (nested(11), "10 levels"),
        ] {
            let error = checked(value.clone()).unwrap_err().to_string();
            assert!(error.contains(words), "{value}: {error}");
        }
    }

    #[test]
    fn sizes_count_names_and_values() {
        let object = |value: Value| -> Properties { serde_json::from_value(value).unwrap() };
        let counted = object(json!({ "ab": 1, "c": true, "d": "xyz", "e": [null, 2], "f": { "g": "h" } }));
        let error = check_size("tags", &counted, 0).unwrap_err();
        let size = 2 + 8 + 1 + 4 + 1 + 3 + 1 + 8 + 1 + 1 + 1;
        assert_eq!(error, TwinError::TooLarge { part: "tags", size, max: 0 });
        assert_eq!(check_size("tags", &counted, size), Ok(()));
    }
}
