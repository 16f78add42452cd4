//! From the API's answer, or the lack of one, to what to do next. Pure.

use std::error::Error as _;
use std::time::Duration;

use serde_json::Value;

use super::api::ApiError;

/// Longest wait believed. The Things Stack counts per minute; what is longer is a mistake, or a proxy's.
const MAX_AFTER: Duration = Duration::from_secs(600);
/// As much of the API's own reason as is passed on, in characters.
const MAX_REASON_CHARS: usize = 300;

/// What a call does, for limits and hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    /// Pushes or replaces.
    Write,
    /// Lists a queue, or asks the Network Server.
    Read,
}

/// Reads a status that is no success.
pub(super) fn read(call: Call, status: u16, after: Option<Duration>, body: &[u8]) -> ApiError {
    let mut detail = format!("The Things Stack answered {status}");
    if let Some(reason) = reason(body) {
        detail = format!("{detail}: {reason}");
    }
    match status {
        429 => ApiError::NotNow { detail, after },
        // 406: the webhook is paused. 409: somebody else changed the queue at the same time.
        406 | 409 => ApiError::NotNow { detail, after: None },
        // 499: The Things Stack saw us hang up. 408 comes from proxies on the way.
        408 | 499 | 500.. => ApiError::Unsure { detail },
        300..400 => refused(
            status,
            format!("{detail}, a redirect, which is not followed; correct `things_stack.base_url`"),
        ),
        401 | 403 => refused(status, format!("{detail} (the API key needs {})", right(call))),
        0..300 | 400..=405 | 407 | 410..=428 | 430..=498 => refused(status, detail),
    }
}

/// What went wrong before there was an answer.
pub(super) fn unsent(error: &reqwest::Error) -> ApiError {
    let detail = |what: &str| format!("The Things Stack {what}: {}", sources(error));
    if error.is_connect() {
        ApiError::NotNow { detail: detail("can't be reached"), after: None }
    } else if error.is_builder() {
        ApiError::Refused { status: None, detail: detail("can't be asked") }
    } else {
        ApiError::Unsure { detail: detail("gave no answer") }
    }
}

/// A wait in seconds, rounded up and at most ten minutes. `None` for what is no number, not positive, or a date.
pub(super) fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.ceil().min(MAX_AFTER.as_secs_f64())))
}

/// An error's causes without the URL: what reqwest says itself is only that it failed.
pub(super) fn causes(error: reqwest::Error) -> String {
    sources(&error.without_url())
}

fn sources(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text }
}

const fn right(call: Call) -> &'static str {
    match call {
        Call::Write => "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE",
        Call::Read => "RIGHT_APPLICATION_TRAFFIC_READ",
    }
}

fn refused(status: u16, detail: String) -> ApiError {
    ApiError::Refused { status: Some(status), detail }
}

/// The reason in an error of The Things Stack, or that there is none.
pub(super) fn reason_of(error: &[u8]) -> String {
    reason(error).unwrap_or_else(|| "an error without a reason".to_owned())
}

/// `message`, else `details[0].message_format`. `None` for a body that is no error of The Things Stack.
fn reason(body: &[u8]) -> Option<String> {
    // Deeper than 128 levels is an error for serde_json, so this can't use up the stack.
    let error: Value = serde_json::from_slice(body).ok()?;
    let text = |value: &Value| {
        let visible = value.as_str()?.chars().filter(|c| !c.is_control());
        let text: String = visible.take(MAX_REASON_CHARS).collect();
        (!text.trim().is_empty()).then_some(text)
    };
    text(&error["message"]).or_else(|| text(&error["details"][0]["message_format"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_says_what_to_do_next() {
        let wait = Some(Duration::from_secs(3));
        for status in 300..=999 {
            let error = read(Call::Write, status, wait, b"");
            match status {
                429 => assert!(matches!(error, ApiError::NotNow { after, .. } if after == wait), "{status}"),
                406 | 409 => assert!(matches!(error, ApiError::NotNow { after: None, .. }), "{status}"),
                408 | 499 | 500.. => assert!(matches!(error, ApiError::Unsure { .. }), "{status}"),
                _ => assert!(
                    matches!(error, ApiError::Refused { status: Some(seen), .. } if seen == status),
                    "{status}"
                ),
            }
            assert!(error.to_string().contains(&status.to_string()));
        }
    }

    #[test]
    fn the_apis_own_reason_is_passed_on_cut_and_cleaned() {
        let said = |body: &str| read(Call::Write, 400, None, body.as_bytes()).to_string();
        let reason = "error:pkg/networkserver:no_session (device `cellar` has no session)";
        assert!(said(&format!(r#"{{"code":9,"message":"{reason}"}}"#)).ends_with(reason));
        assert!(said(r#"{"message":"","details":[{"message_format":"no `id`"}]}"#).ends_with(": no `id`"));
        assert!(said(r#"{"message":"a\u001b[31mb\nc\u0085d"}"#).ends_with(": a[31mbcd"));
        let long = said(&format!(r#"{{"message":"{}"}}"#, "é".repeat(5000)));
        assert_eq!(long.chars().filter(|c| *c == 'é').count(), MAX_REASON_CHARS);
        let deep = format!(r#"{{"message":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        for body in ["", "null", "[]", "<html>", r#"{"message":7}"#, r#"{"details":{"a":1}}"#, &deep] {
            assert_eq!(said(body), "The Things Stack answered 400", "{body}");
        }
    }

    #[test]
    fn a_refusal_for_lack_of_rights_names_the_right() {
        for status in [401, 403] {
            let said = read(Call::Write, status, None, b"").to_string();
            assert!(said.contains("RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE"), "{said}");
            let said = read(Call::Read, status, None, b"").to_string();
            assert!(said.contains("RIGHT_APPLICATION_TRAFFIC_READ"), "{said}");
        }
    }

    #[test]
    fn waits_are_seconds_and_sane() {
        for (text, expected) in [
            ("7", Some(7)),
            (" 0.2 ", Some(1)),
            ("1e9", Some(600)),
            ("inf", Some(600)),
            ("0", None),
            ("-1", None),
            ("NaN", None),
            ("", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            assert_eq!(seconds(text).map(|wait| wait.as_secs()), expected, "{text}");
        }
    }
}
