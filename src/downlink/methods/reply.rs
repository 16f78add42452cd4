//! What a direct method's caller reads: a status as HTTP has them, and a JSON object that says why.
//!
//! Pure.

use std::time::Duration;

use serde_json::{Value, json};

use crate::azure::MethodReply;
use crate::downlink::{End, Progress};
use crate::things_stack::{ApiError, QueuedDownlink};

/// Of the 128 KB that IoT Hub takes, some are left for what stands around a list.
const MAX_LIST_BYTES: usize = 120 * 1024;
/// Longest reason, in bytes.
const MAX_MESSAGE_BYTES: usize = 2000;
const REPORTS_FOLLOW: &str = "telemetry with this CorrelationId tells what becomes of it";

/// An answer: `state` is one word for programs, `message` is for people.
pub(super) fn of(status: i32, state: &str, message: &str) -> MethodReply {
    let message = &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)];
    MethodReply { status, payload: json!({ "status": state, "message": message }) }
}

/// The answer and one more field.
pub(super) fn with(mut reply: MethodReply, field: &str, value: Value) -> MethodReply {
    if let Value::Object(fields) = &mut reply.payload {
        fields.insert(field.to_owned(), value);
    }
    reply
}

/// How far a downlink is that was waited for, or that an earlier call of the same identity queued.
pub(super) fn waited(progress: &Progress, confirmed: bool) -> MethodReply {
    match progress {
        Progress::Pushing | Progress::Queued => of(202, "queued", &format!("not sent yet; {REPORTS_FOLLOW}")),
        Progress::Sent if confirmed => of(202, "sent", &format!("not acknowledged yet; {REPORTS_FOLLOW}")),
        Progress::Sent | Progress::Ended(End::Sent) => of(200, "sent", "a gateway sent the downlink"),
        Progress::Ended(End::Acknowledged) => of(200, "confirmed", "the device acknowledged the downlink"),
        Progress::Ended(End::Failed(reason)) => {
            of(502, "failed", &format!("The Things Stack gave up: {reason}"))
        }
        Progress::Ended(End::Rejected(reason)) => of(502, "rejected", reason),
        Progress::Ended(End::Expired) => {
            of(504, "expired", "nothing final was heard of the downlink in time")
        }
        Progress::Ended(End::Replaced) => of(409, "replaced", "a later request dropped it from the queue"),
    }
}

/// The Things Stack will never take it as it is. Its 401 and 403 concern our key, not the caller's.
pub(super) fn refused(status: Option<u16>, detail: &str) -> MethodReply {
    match status {
        Some(400) => of(422, "refused", detail),
        Some(404) => of(404, "refused", detail),
        Some(_) | None => of(502, "refused", detail),
    }
}

/// Nothing was done; the caller may call again.
pub(super) fn not_now(detail: &str, after: Option<Duration>) -> MethodReply {
    match after {
        None => of(503, "unavailable", detail),
        Some(after) => {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            with(of(429, "busy", detail), "retryAfter", json!(seconds.max(1)))
        }
    }
}

/// A call of the API failed.
pub(super) fn failed(error: &ApiError) -> MethodReply {
    match error {
        ApiError::NotNow { detail, after } => not_now(detail, *after),
        ApiError::Unsure { detail } => of(504, "unknown", detail),
        ApiError::Refused { status, detail } => refused(*status, detail),
    }
}

/// Nobody knows this method.
pub(super) fn unknown_method<'a>(known: impl Iterator<Item = &'a str>) -> MethodReply {
    let (known, _) = within_limit(known.map(|name| json!(name)));
    with(of(404, "unknownMethod", "there is no such method; see methods"), "methods", Value::Array(known))
}

/// What waits in a queue, the next one first.
pub(super) fn queue(queue: &[QueuedDownlink]) -> MethodReply {
    let (downlinks, left_out) = within_limit(queue.iter().map(listed));
    let message = match left_out {
        0 => format!("{} downlinks wait", queue.len()),
        left_out => format!("{} downlinks wait; the last {left_out} do not fit in the answer", queue.len()),
    };
    with(of(200, "ok", &message), "downlinks", Value::Array(downlinks))
}

fn listed(queued: &QueuedDownlink) -> Value {
    let mut listed = json!({
        "port": queued.f_port,
        "payload": queued.frm_payload,
        "confirmed": queued.confirmed,
        "priority": if queued.priority.is_empty() { "LOWEST" } else { &queued.priority },
        "correlationIds": queued.correlation_ids,
    });
    if let (Some(decoded), Value::Object(fields)) = (&queued.decoded_payload, &mut listed) {
        fields.insert("decoded".to_owned(), Value::Object(decoded.clone()));
    }
    listed
}

/// As many as fit into an answer, and how many do not.
fn within_limit(values: impl Iterator<Item = Value>) -> (Vec<Value>, usize) {
    let (mut taken, mut bytes, mut left_out) = (Vec::new(), 0, 0);
    for value in values {
        bytes += value.to_string().len() + 1;
        if bytes <= MAX_LIST_BYTES {
            taken.push(value);
        } else {
            left_out += 1;
        }
    }
    (taken, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_queue_fits_into_an_answer() {
        let one = QueuedDownlink { frm_payload: "A".repeat(340), ..QueuedDownlink::default() };
        let reply = queue(&vec![one; 10_000]);
        assert!(reply.payload.to_string().len() <= 128 * 1024);
        let listed = reply.payload["downlinks"].as_array().map_or(0, Vec::len);
        assert!(listed > 200, "{listed}");
        let message = format!("10000 downlinks wait; the last {} do not fit in the answer", 10_000 - listed);
        assert_eq!(reply.payload["message"], message);
    }

    #[test]
    fn each_refusal_of_the_things_stack_has_a_status() {
        for (error, status, state) in [
            (ApiError::Refused { status: Some(400), detail: String::new() }, 422, "refused"),
            (ApiError::Refused { status: Some(401), detail: String::new() }, 502, "refused"),
            (ApiError::Refused { status: Some(403), detail: String::new() }, 502, "refused"),
            (ApiError::Refused { status: Some(404), detail: String::new() }, 404, "refused"),
            (ApiError::Refused { status: None, detail: String::new() }, 502, "refused"),
            (ApiError::NotNow { detail: String::new(), after: None }, 503, "unavailable"),
            (
                ApiError::NotNow { detail: String::new(), after: Some(Duration::from_millis(1500)) },
                429,
                "busy",
            ),
            (ApiError::Unsure { detail: String::new() }, 504, "unknown"),
        ] {
            let reply = failed(&error);
            assert_eq!((reply.status, &reply.payload["status"]), (status, &json!(state)), "{error:?}");
        }
        let busy = not_now("", Some(Duration::from_millis(1500)));
        assert_eq!(busy.payload["retryAfter"], 2);
    }

    #[test]
    fn each_progress_has_a_status() {
        for (progress, confirmed, status, state) in [
            (Progress::Queued, false, 202, "queued"),
            (Progress::Sent, true, 202, "sent"),
            (Progress::Sent, false, 200, "sent"),
            (Progress::Ended(End::Sent), false, 200, "sent"),
            (Progress::Ended(End::Acknowledged), true, 200, "confirmed"),
            (Progress::Ended(End::Failed(String::new())), true, 502, "failed"),
            (Progress::Ended(End::Rejected(String::new())), true, 502, "rejected"),
            (Progress::Ended(End::Expired), true, 504, "expired"),
            (Progress::Ended(End::Replaced), true, 409, "replaced"),
        ] {
            let reply = waited(&progress, confirmed);
            assert_eq!((reply.status, &reply.payload["status"]), (status, &json!(state)), "{progress:?}");
        }
    }
}
