//! A hub's limits for calls over HTTPS: what a path counts as, and the answer when there are too many.

use hyper::header::RETRY_AFTER;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::hub::Hub;
use super::queries_api;
use super::reply::{self, HubRefusal, Reply};
use super::throttle::Denied;
use super::tier::Operation;

/// Waits for a place for a call.
///
/// # Errors
/// The answer: 429 with `Retry-After`, or 403 when the day's messages are used up.
pub(super) async fn allow(hub: &Hub, parts: &Parts, path: &[String], body: &[u8]) -> Result<(), Reply> {
    let Some((operation, bytes)) = operation(parts, path, body) else { return Ok(()) };
    hub.pass(operation, bytes).await.map_err(refused)
}

/// What a call counts as, and its bytes if it counts as a message.
fn operation(parts: &Parts, path: &[String], body: &[u8]) -> Option<(Operation, Option<usize>)> {
    if queries_api::owns(parts, path) {
        return Some((Operation::Query, None));
    }
    match (path.first()?.as_str(), path.get(2).map(String::as_str)) {
        ("devices" | "statistics", _) => Some((Operation::Registry, None)),
        ("twins", Some("methods")) => Some((Operation::Method, Some(body.len()))),
        ("twins", _) if parts.method == Method::GET => Some((Operation::TwinRead, Some(0))),
        ("twins", _) => Some((Operation::TwinUpdate, Some(body.len()))),
        _ => None,
    }
}

fn refused(denied: Denied) -> Reply {
    match denied {
        Denied::Throttled(after) => {
            let refusal =
                HubRefusal::new(StatusCode::TOO_MANY_REQUESTS, "ThrottlingException", denied.text());
            let mut reply = refusal.into_reply();
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            reply::set(&mut reply, RETRY_AFTER, &seconds.to_string());
            reply
        }
        Denied::Quota => {
            HubRefusal::new(StatusCode::FORBIDDEN, "IotHubQuotaExceeded", denied.text()).into_reply()
        }
    }
}
