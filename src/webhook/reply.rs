//! The answers for messages that were taken, and the one table from a parked message's reason to its status.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use warp::http::header::{CONTENT_TYPE, HeaderName};
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;

use crate::http::Problem;
use crate::model::{Outcome, ParkReason};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// 202: on disk.
pub(super) fn stored() -> Response {
    json_reply(StatusCode::ACCEPTED, Bytes::from_static(br#"{"status":"stored"}"#))
}

/// 202: on disk since an earlier post.
pub(super) fn duplicate() -> Response {
    json_reply(StatusCode::ACCEPTED, Bytes::from_static(br#"{"status":"duplicate"}"#))
}

/// 202: on disk, and not known yet what the hub says.
pub(super) fn pending() -> Response {
    json_reply(StatusCode::ACCEPTED, Bytes::from_static(br#"{"status":"pending"}"#))
}

/// 202: read, counted, and not kept. `reason` is one of our own words.
pub(super) fn ignored(reason: &'static str) -> Response {
    json_reply(StatusCode::ACCEPTED, format!(r#"{{"status":"ignored","reason":"{reason}"}}"#).into())
}

/// What became of the message: 200, or the status of the reason for which it is parked.
pub(super) fn outcome(outcome: &Outcome) -> Response {
    match outcome {
        Outcome::Sent { hub, hub_device } => {
            let body = json!({"status": "sent", "hub": hub, "device": hub_device});
            json_reply(StatusCode::OK, body.to_string().into())
        }
        Outcome::Skipped => json_reply(StatusCode::OK, Bytes::from_static(br#"{"status":"skipped"}"#)),
        Outcome::Parked { reason, detail } => {
            let detail = format!(
                "{detail}. The message is kept in the spool; when the cause is removed, send it with `tti-connector spool requeue`",
                detail = detail.trim_end_matches('.')
            );
            Problem::new(parked_status(*reason), reason.as_str(), detail).into_response()
        }
    }
}

/// Adds which wish was granted (RFC 7240, section 3).
pub(super) fn waited(mut response: Response, wait: Duration) -> Response {
    let applied = HeaderValue::from_str(&format!("wait={}", wait.as_secs()));
    response.headers_mut().insert(PREFERENCE_APPLIED, applied.expect("digits are a valid header value"));
    response
}

const fn parked_status(reason: ParkReason) -> StatusCode {
    match reason {
        ParkReason::DeviceUnknown => StatusCode::NOT_FOUND,
        ParkReason::HubIdTaken => StatusCode::CONFLICT,
        ParkReason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ParkReason::NotConfigured | ParkReason::InvalidHubId | ParkReason::Malformed => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ParkReason::NotAssigned => StatusCode::FAILED_DEPENDENCY,
        ParkReason::Unauthorized | ParkReason::Rejected => StatusCode::BAD_GATEWAY,
        ParkReason::Damaged => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn json_reply(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
