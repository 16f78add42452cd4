//! DPS's device API over HTTPS: paths, headers and JSON around [`Dps`]. Decides nothing about assignments.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dps::Dps;
use super::registration::{Refusal, Registration, RegistrationStatus};
use super::reply::{self, Reply};
use super::sas::Token;
use crate::model::Clock;

/// Largest `payload` kept of a registration. A model id needs 100 bytes; 100,000 registrations must fit in memory.
const MAX_PAYLOAD_BYTES: usize = 4096;

/// What the wire needs besides the state itself.
pub(super) struct DpsSite<'a> {
    pub(super) dps: &'a Arc<Dps>,
    pub(super) clock: &'a Clock,
    pub(super) tasks: &'a TaskTracker,
    pub(super) stop: &'a CancellationToken,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    registration_id: Option<String>,
    payload: Option<Value>,
}

/// A call, by its path below the id scope.
enum Call<'a> {
    Register,
    Poll(&'a str),
    Lookup,
}

/// True for paths that belong to DPS: `/{idScope}/registrations/…`.
pub(super) fn owns(path: &[String]) -> bool {
    path.len() >= 3 && path[1] == "registrations"
}

/// Answers a call. `path` must be one that DPS [`owns`].
pub(super) fn answer(site: &DpsSite<'_>, parts: &Parts, path: &[String], body: &[u8]) -> Reply {
    let result = handle(site, parts, path, body);
    result.unwrap_or_else(|refusal| reply::dps_error(&refusal, site.clock))
}

fn handle(site: &DpsSite<'_>, parts: &Parts, path: &[String], body: &[u8]) -> Result<Reply, Refusal> {
    let id = path[2].as_str();
    let rest: Vec<&str> = path[3..].iter().map(String::as_str).collect();
    let (call, method) = match rest.as_slice() {
        ["register"] => (Call::Register, Method::PUT),
        ["operations", operation] => (Call::Poll(operation), Method::GET),
        [] => (Call::Lookup, Method::POST),
        _ => return Err(refusal(404, 404_000, "no such path")),
    };
    if parts.method != method {
        return Err(refusal(405, 405_000, &format!("this path takes {method}")));
    }
    let refused = site.dps.count(|calls| match call {
        Call::Register => calls.registers += 1,
        Call::Poll(_) => calls.polls += 1,
        Call::Lookup => calls.lookups += 1,
    });
    if let Some(refused) = refused {
        return Err(refused);
    }
    authorize(site.dps, parts, path)?;
    if !valid_registration_id(id) {
        return Err(refusal(400, 400_000, "a registration id has up to 128 letters, digits and -._:"));
    }
    let body = parse(parts, id, body)?;
    match call {
        Call::Register => register(site, id, body.payload),
        Call::Poll(operation) => {
            let known = site.dps.operation(id, operation);
            let known = known.ok_or_else(|| refusal(404, 404_201, "the operation is unknown"))?;
            Ok(state_of_operation(site, operation, &known))
        }
        Call::Lookup => {
            let known = site.dps.registration(id);
            let known = known.ok_or_else(|| refusal(404, 404_202, "the registration is unknown"))?;
            Ok(reply::json(StatusCode::OK, &registration_json(&known)))
        }
    }
}

fn register(site: &DpsSite<'_>, id: &str, payload: Option<Value>) -> Result<Reply, Refusal> {
    let full = || refusal(403, 403_001, "this instance holds no more registrations");
    let started = site.dps.register(id, payload).ok_or_else(full)?;
    if let Some(work) = started.work {
        let (dps, stop, id) = (Arc::clone(site.dps), site.stop.clone(), id.to_owned());
        site.tasks.spawn(async move {
            if tokio::time::timeout(work, stop.cancelled()).await.is_err() {
                dps.finish(&id);
            }
        });
    }
    // Azure answers 202 here even when the device is assigned already.
    let mut reply = assigning(site, &started.operation_id);
    let location = format!("/{}/registrations/{id}/operations/{}", site.dps.id_scope(), started.operation_id);
    reply::set(&mut reply, LOCATION, &location);
    Ok(reply)
}

fn state_of_operation(site: &DpsSite<'_>, operation: &str, known: &Registration) -> Reply {
    match known.status {
        RegistrationStatus::Assigning => assigning(site, operation),
        RegistrationStatus::Assigned | RegistrationStatus::Failed | RegistrationStatus::Disabled => {
            reply::json(
                StatusCode::OK,
                &json!({
                    "operationId": operation,
                    "status": known.status,
                    "registrationState": registration_json(known),
                }),
            )
        }
    }
}

fn assigning(site: &DpsSite<'_>, operation: &str) -> Reply {
    let body = json!({ "operationId": operation, "status": RegistrationStatus::Assigning });
    let mut reply = reply::json(StatusCode::ACCEPTED, &body);
    reply::set(&mut reply, RETRY_AFTER, &site.dps.retry_after_s().to_string());
    reply
}

/// `registrationState`. Fields without a value are left out.
fn registration_json(known: &Registration) -> Value {
    let mut state = json!({
        "registrationId": known.registration_id,
        "createdDateTimeUtc": reply::timestamp(known.created_ms),
        "lastUpdatedDateTimeUtc": reply::timestamp(known.updated_ms),
        "status": known.status,
        "etag": known.etag,
    });
    if known.status == RegistrationStatus::Assigned {
        state["assignedHub"] = json!(known.assigned_hub);
        state["deviceId"] = json!(known.registration_id);
        state["substatus"] = json!("initialAssignment");
        state["symmetricKey"] = json!({});
    }
    if let Some(failure) = &known.failure {
        state["errorCode"] = json!(failure.error_code);
        state["errorMessage"] = json!(failure.message);
    }
    state
}

fn authorize(dps: &Dps, parts: &Parts, path: &[String]) -> Result<(), Refusal> {
    if path[0] != dps.id_scope() {
        return Err(refusal(404, 404_203, "the id scope is unknown"));
    }
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let unauthorized = |reason: &str| refusal(401, 401_002, &format!("Unauthorized: {reason}"));
    let token = Token::parse(header.ok_or_else(|| unauthorized("the Authorization header is missing"))?)
        .map_err(|error| unauthorized(&error.to_string()))?;
    dps.verify(&token, &path[2]).map_err(|error| unauthorized(&error.to_string()))
}

fn parse(parts: &Parts, id: &str, body: &[u8]) -> Result<Body, Refusal> {
    if body.is_empty() {
        return Ok(Body::default());
    }
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type
        .is_some_and(|value| !value.trim_start().to_ascii_lowercase().starts_with("application/json"))
    {
        return Err(refusal(415, 415_000, "the body must be application/json"));
    }
    let bad =
        |reason: String| refusal(400, 400_000, &format!("the body is not a registration request: {reason}"));
    let body: Body = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
    if body.registration_id.as_ref().is_some_and(|inner| !inner.eq_ignore_ascii_case(id)) {
        return Err(bad("its registrationId is not the path's".to_owned()));
    }
    if body.payload.as_ref().is_some_and(|payload| payload.to_string().len() > MAX_PAYLOAD_BYTES) {
        return Err(bad(format!("its payload is over {MAX_PAYLOAD_BYTES} bytes, the emulator's limit")));
    }
    Ok(body)
}

fn valid_registration_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let last = id.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    id.len() <= 128 && last && id.bytes().all(allowed)
}

fn refusal(status: u16, error_code: u32, message: &str) -> Refusal {
    Refusal { status, error_code, message: message.to_owned(), retry_after_s: None }
}
