//! The body of a push or replace: reads it and refuses what the real one's validation refuses.
//!
//! Knows no device; what depends on its state is refused there.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::downlink::Downlink;
use super::name::is_id;
use super::radio::MAX_PAYLOAD_BYTES;
use super::refusal::{AS_WEB, Code, NS, Refusal};

/// Longest correlation id.
const MAX_CORRELATION_CHARS: usize = 100;
/// Reserved by LoRaWAN for tests.
const TEST_PORT: u32 = 224;
const LAST_PORT: u32 = 255;
/// What validation lets a downlink ask for; the Application Server's own limit is lower.
const MAX_ATTEMPTS: u32 = 100;

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    downlinks: Option<Vec<Downlink>>,
}

/// Reads and checks the downlinks of a request.
///
/// # Errors
/// 400, naming the field.
pub(super) fn downlinks(body: &[u8], now_ms: i64) -> Result<Vec<Downlink>, Refusal> {
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid((AS_WEB, "decode_body"), format!("decode body: {error}")))?;
    let mut items = body.downlinks.unwrap_or_default();
    for (index, item) in items.iter_mut().enumerate() {
        // Only applications that encrypt by themselves may set these.
        item.session_key_id.clear();
        item.f_cnt = 0;
        check(item, now_ms).map_err(|(field, reason)| match reason {
            Wrong::Value(reason) => {
                let message = format!("validate body: invalid field `downlinks[{index}].{field}`: {reason}");
                Refusal::invalid((AS_WEB, "validate_body"), message).with("field", field)
            }
            Wrong::Expired => {
                let message = "the downlink's absolute_time is in the past";
                Refusal::new(Code::FailedPrecondition, (NS, "expired_downlink"), message)
            }
        })?;
    }
    Ok(items)
}

enum Wrong {
    Value(&'static str),
    Expired,
}

fn check(item: &Downlink, now_ms: i64) -> Result<(), (&'static str, Wrong)> {
    if item.f_port > LAST_PORT || item.f_port == TEST_PORT {
        return Err(("f_port", Wrong::Value("must be 255 at most and not 224")));
    }
    if item.frm_payload.as_ref().is_some_and(|payload| payload.len() > MAX_PAYLOAD_BYTES) {
        return Err(("frm_payload", Wrong::Value("must have 255 bytes at most")));
    }
    if item.correlation_ids.iter().any(|id| id.chars().count() > MAX_CORRELATION_CHARS) {
        return Err(("correlation_ids", Wrong::Value("each must have 100 characters at most")));
    }
    let attempts = item.confirmed_retry.and_then(|retry| retry.max_attempts);
    if attempts.is_some_and(|attempts| attempts == 0 || attempts > MAX_ATTEMPTS) {
        return Err(("confirmed_retry.max_attempts", Wrong::Value("must be 1 to 100")));
    }
    match &item.class_b_c {
        Some(class_b_c) => check_class_b_c(class_b_c, now_ms),
        None => Ok(()),
    }
}

fn check_class_b_c(class_b_c: &Map<String, Value>, now_ms: i64) -> Result<(), (&'static str, Wrong)> {
    match class_b_c.get("gateways") {
        None | Some(Value::Null) => {}
        Some(Value::Array(gateways)) => {
            let named = |gateway: &Value| {
                gateway.pointer("/gateway_ids/gateway_id").and_then(Value::as_str).is_some_and(is_id)
            };
            if !gateways.iter().all(named) {
                return Err(("class_b_c.gateways", Wrong::Value("each must have gateway_ids.gateway_id")));
            }
        }
        Some(_) => return Err(("class_b_c.gateways", Wrong::Value("must be an array"))),
    }
    match class_b_c.get("absolute_time") {
        None | Some(Value::Null) => Ok(()),
        Some(time) => {
            let time = time.as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
            match time {
                None => Err(("class_b_c.absolute_time", Wrong::Value("must be a time of RFC 3339"))),
                Some(time) if time.as_millisecond() <= now_ms => {
                    Err(("class_b_c.absolute_time", Wrong::Expired))
                }
                Some(_) => Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(downlink: Value) -> Result<usize, &'static str> {
        let body = json!({ "downlinks": [downlink], "made_up": true }).to_string();
        downlinks(body.as_bytes(), 1_000).map(|items| items.len()).map_err(|refusal| refusal.name())
    }

    #[test]
    fn what_the_real_validation_refuses_is_refused() {
        let time = |time: &str| json!({ "f_port": 1, "class_b_c": { "absolute_time": time } });
        let ids = |length: usize| json!({ "f_port": 1, "correlation_ids": ["é".repeat(length)] });
        for (downlink, expected) in [
            (json!({ "f_port": 1, "frm_payload": "AA", "other": [] }), Ok(1)),
            (json!({ "f_port": 224 }), Err("validate_body")),
            (json!({ "f_port": 256 }), Err("validate_body")),
            (json!({ "f_port": -1 }), Err("decode_body")),
            (json!({ "f_port": "1" }), Err("decode_body")),
            (json!({ "f_port": 1, "frm_payload": "not base64" }), Err("decode_body")),
            (json!({ "f_port": 1, "frm_payload": "A".repeat(340) }), Ok(1)),
            (json!({ "f_port": 1, "frm_payload": "A".repeat(342) }), Err("validate_body")),
            (json!({ "f_port": 1, "decoded_payload": [1] }), Err("decode_body")),
            (json!({ "f_port": 1, "priority": "URGENT" }), Err("decode_body")),
            (json!({ "f_port": 1, "confirmed_retry": { "max_attempts": 0 } }), Err("validate_body")),
            (json!({ "f_port": 1, "confirmed_retry": { "max_attempts": 101 } }), Err("validate_body")),
            (json!({ "f_port": 1, "class_b_c": { "gateways": [{}] } }), Err("validate_body")),
            (
                json!({ "f_port": 1, "class_b_c": { "gateways": [{ "gateway_ids": { "gateway_id": "gtw" } }] } }),
                Ok(1),
            ),
            (time("tomorrow"), Err("validate_body")),
            (time("1970-01-01T00:00:01Z"), Err("expired_downlink")),
            (time("1970-01-01T00:00:02Z"), Ok(1)),
            (ids(100), Ok(1)),
            (ids(101), Err("validate_body")),
        ] {
            assert_eq!(name(downlink.clone()), expected, "{downlink}");
        }
    }

    #[test]
    fn a_body_without_downlinks_has_none() {
        for body in ["{}", "{\"downlinks\":null}", "{\"downlinks\":[]}"] {
            assert_eq!(downlinks(body.as_bytes(), 0).unwrap(), []);
        }
        assert!(downlinks(b"[", 0).is_err());
    }
}
