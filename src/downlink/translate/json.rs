//! JSON that somebody else wrote, read without letting its nesting exhaust the stack.

use serde_json::Value;

/// Deepest nesting taken. IoT Hub allows ten levels in twins; formatters need few.
pub(super) const MAX_DEPTH: usize = 64;

/// Why bytes are not taken as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotJson {
    /// More than [`MAX_DEPTH`] levels.
    TooDeep,
    /// Broken from here on, both counted from 1.
    Syntax { line: usize, column: usize },
}

/// Reads one JSON value with nothing but white space around it.
pub(super) fn read(bytes: &[u8]) -> Result<Value, NotJson> {
    if depth(bytes) > MAX_DEPTH {
        return Err(NotJson::TooDeep);
    }
    serde_json::from_slice(bytes)
        .map_err(|error| NotJson::Syntax { line: error.line(), column: error.column() })
}

/// What a value is, for people.
pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// How many brackets outside of strings stand open at most.
fn depth(bytes: &[u8]) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in bytes {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                open += 1;
                deepest = deepest.max(open);
            }
            (false, b'}' | b']') => open = open.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_limited_and_brackets_in_strings_do_not_count() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(read(nested(MAX_DEPTH + 1).as_bytes()), Err(NotJson::TooDeep));
        assert_eq!(read("[".repeat(1_000_000).as_bytes()), Err(NotJson::TooDeep));
        let text = format!("\"{}\\\"{}\"", "[".repeat(100), "{".repeat(100));
        assert!(read(text.as_bytes()).is_ok());
        assert_eq!(read(b"{\n x}"), Err(NotJson::Syntax { line: 2, column: 2 }));
    }
}
