//! The one table from what DPS answers to what to do next. Pure: no HTTP client, no clock.

use std::time::Duration;

use serde_json::Value;

use crate::azure::hub_id::MAX_ID_CHARS;

/// Longest piece of DPS's own text that goes into a detail, in characters.
const MAX_TEXT_CHARS: usize = 300;
/// Longest operation id taken; DPS's have some 60 characters.
const MAX_OPERATION_ID_BYTES: usize = 256;

/// Which request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `PUT …/register`
    Register,
    /// `GET …/operations/{id}`
    Poll,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The device has a hub.
    Assigned {
        /// `assignedHub`: host, or `host:port`.
        hub: String,
        /// `deviceId`.
        device_id: String,
    },
    /// DPS is still at it: ask again under this operation id.
    Wait {
        /// The operation's id.
        operation_id: String,
    },
    /// DPS decided against the device.
    Refused {
        /// For the operator.
        detail: String,
    },
    /// Try again later.
    Retry {
        /// For the operator.
        detail: String,
        /// Who has to wait.
        reach: Reach,
    },
}

/// How far a passing failure reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// This registration only.
    Device,
    /// Every registration at this endpoint.
    Endpoint,
}

/// Reads one answer: HTTP status and body.
pub(super) fn read(step: Step, status: u16, body: &[u8]) -> Answer {
    let json: Option<Value> = serde_json::from_slice(body).ok().filter(Value::is_object);
    let json = json.as_ref();
    let said = || said(status, json);
    let refused = |advice: &str| Answer::Refused { detail: format!("{}; {advice}", said()) };
    let retry = |reach| Answer::Retry { detail: said(), reach };
    match (status, step) {
        (200..=299, _) => json.and_then(operation).unwrap_or_else(|| Answer::Retry {
            detail: format!("DPS answered {status} with a body that is no registration"),
            reach: Reach::Endpoint,
        }),
        (400, _) => refused("it does not accept the registration id or the model id"),
        (401, _) => refused("check azure.dps.group_enrollment_key and id_scope, and this machine's clock"),
        (403, _) => refused("check the DPS instance's network access rules"),
        // The operation is gone, not the device: register anew.
        (404, Step::Poll) => retry(Reach::Device),
        (404, Step::Register) => refused("check azure.dps.id_scope and the enrollment"),
        // The proxy wants credentials: nothing about the device.
        (407, _) => retry(Reach::Endpoint),
        // Somebody else changed the same registration meanwhile, or our request was too slow.
        (408 | 409 | 412 | 425, _) => retry(Reach::Device),
        (429, _) => retry(Reach::Endpoint),
        (400..=499, _) => refused("is azure.dps.endpoint a DPS device endpoint?"),
        // 5xx; and redirects, which are not followed because they would take the token along.
        _ => retry(Reach::Endpoint),
    }
}

/// A 2xx body. `None` if it is no such thing.
fn operation(json: &Value) -> Option<Answer> {
    let state = json.get("registrationState");
    let state_text = |name: &str| state.and_then(|state| text(state, name));
    let status = text(json, "status").or_else(|| state_text("status"))?.to_ascii_lowercase();
    match status.as_str() {
        "assigned" => Some(Answer::Assigned {
            hub: state_text("assignedHub")?,
            device_id: state_text("deviceId").filter(|id| id.len() <= MAX_ID_CHARS)?,
        }),
        "assigning" | "unassigned" => {
            let fits = |id: &String| {
                (1..=MAX_OPERATION_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
            };
            text(json, "operationId").filter(fits).map(|operation_id| Answer::Wait { operation_id })
        }
        "failed" => {
            let code = state_text("errorCode").unwrap_or_default();
            let message = state_text("errorMessage").unwrap_or_default();
            let detail = format!("DPS could not assign the device: {code} {}", for_people(&message));
            // The first three digits of a code are an HTTP status: its hub may only be busy.
            if matches!(code.get(..3), Some("429" | "500" | "502" | "503" | "504")) {
                return Some(Answer::Retry { detail, reach: Reach::Device });
            }
            Some(Answer::Refused { detail })
        }
        "disabled" => Some(Answer::Refused {
            detail: "DPS answers that the device's enrollment is disabled".to_owned(),
        }),
        _ => None,
    }
}

/// `DPS answered 401 (401002, tracking id …): message`.
fn said(status: u16, json: Option<&Value>) -> String {
    let of = |name| json.and_then(|json| text(json, name)).map(|text| for_people(&text));
    let mut detail = format!("DPS answered {status}");
    match (of("errorCode"), of("trackingId")) {
        (Some(code), Some(id)) => detail.push_str(&format!(" ({code}, tracking id {id})")),
        (Some(code), None) => detail.push_str(&format!(" ({code})")),
        (None, Some(id)) => detail.push_str(&format!(" (tracking id {id})")),
        (None, None) => {}
    }
    if let Some(message) = of("message") {
        detail.push_str(": ");
        detail.push_str(&message);
    }
    detail
}

/// A string, or a number as text: error codes come as either.
fn text(json: &Value, name: &str) -> Option<String> {
    match json.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// DPS's text, short, on one line, and never with a token that it may have echoed.
fn for_people(text: &str) -> String {
    if text.contains("SharedAccessSignature") || text.contains("sig=") {
        return "(not shown: it holds a token)".to_owned();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT_CHARS).collect()
}

/// `Retry-After` as seconds or as an HTTP date, seen at `now_ms` (milliseconds since 1970 UTC).
pub(super) fn retry_after(header: &str, now_ms: i64) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let wait_ms = u64::try_from(http_date_ms(header)?.saturating_sub(now_ms)).unwrap_or(0);
    Some(Duration::from_millis(wait_ms))
}

/// An HTTP date in milliseconds since 1970 UTC.
pub(super) fn http_date_ms(header: &str) -> Option<i64> {
    let at = httpdate::parse_http_date(header).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(at.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(answer: Answer) -> String {
        match answer {
            Answer::Refused { detail } => detail,
            other => panic!("{other:?}"),
        }
    }

    fn retried(answer: Answer) -> Reach {
        match answer {
            Answer::Retry { reach, .. } => reach,
            other => panic!("{other:?}"),
        }
    }

    const ERROR: &[u8] = br#"{"errorCode":401002,"trackingId":"t-1","message":"Unauthorized"}"#;

    #[test]
    fn every_http_status_has_its_place() {
        use Step::{Poll, Register};
        for step in [Register, Poll] {
            for status in [400, 401, 403, 405, 406, 410, 413, 415, 418] {
                let detail = refused(read(step, status, ERROR));
                assert!(detail.contains(&status.to_string()) && detail.contains("t-1"), "{detail}");
            }
            for status in [408, 409, 412] {
                assert_eq!(retried(read(step, status, ERROR)), Reach::Device, "{status}");
            }
            for status in [301, 307, 407, 429, 500, 502, 503, 504, 599] {
                assert_eq!(retried(read(step, status, ERROR)), Reach::Endpoint, "{status}");
            }
            for body in [&b""[..], b"<html>", b"[]", b"{}", b"\xff", br#"{"status":"assigned"}"#] {
                assert_eq!(retried(read(step, 200, body)), Reach::Endpoint, "{body:?}");
            }
        }
        assert_eq!(retried(read(Poll, 404, ERROR)), Reach::Device);
        assert!(refused(read(Register, 404, ERROR)).contains("id_scope"));
        assert!(refused(read(Register, 401, ERROR)).contains("group_enrollment_key"));
        assert!(refused(read(Register, 401, b"not json")).starts_with("DPS answered 401; "));
    }

    #[test]
    fn every_registration_status_has_its_place() {
        let read = |body: &str| read(Step::Poll, 200, body.as_bytes());
        assert_eq!(
            read(r#"{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":"D"}}"#),
            Answer::Assigned { hub: "h".to_owned(), device_id: "D".to_owned() }
        );
        for status in ["assigning", "unassigned", "Assigning"] {
            assert_eq!(
                read(&format!(r#"{{"operationId":"5.a","status":"{status}"}}"#)),
                Answer::Wait { operation_id: "5.a".to_owned() }
            );
        }
        assert_eq!(retried(read(r#"{"status":"assigning"}"#)), Reach::Endpoint);
        let failed = |code: &str| {
            read(&format!(
                r#"{{"status":"failed","registrationState":{{"errorCode":{code},"errorMessage":"why"}}}}"#
            ))
        };
        assert!(refused(failed("400209")).contains("400209 why"));
        assert!(refused(failed("\"401002\"")).contains("401002 why"));
        assert_eq!(retried(failed("429001")), Reach::Device);
        assert_eq!(retried(failed("500000")), Reach::Device);
        assert!(refused(read(r#"{"status":"disabled"}"#)).contains("disabled"));
        assert!(refused(read(r#"{"registrationState":{"status":"disabled"}}"#)).contains("disabled"));
    }

    #[test]
    fn details_are_short_and_hold_no_token() {
        let long = format!(r#"{{"message":"a\nb{}"}}"#, "x".repeat(10_000));
        let detail = refused(read(Step::Register, 400, long.as_bytes()));
        assert!(detail.len() < 500 && !detail.contains('\n'), "{detail}");
        let echo = br#"{"message":"bad SharedAccessSignature sr=a&sig=b"}"#;
        assert!(!refused(read(Step::Register, 401, echo)).contains("sig="));
    }

    #[test]
    fn reads_both_forms_of_retry_after() {
        let date_s = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(retry_after(" 3 ", 0), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(date, (date_s - 5) * 1000), Some(Duration::from_secs(5)));
        assert_eq!(retry_after(date, (date_s + 5) * 1000), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", 0), None);
        assert_eq!(retry_after("-1", 0), None);
    }
}
