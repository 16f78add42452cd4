//! Calling a direct method over HTTPS: `POST /twins/{id}/methods`. Waits as long as the caller says.

use std::time::Duration;

use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::hub::Hub;
use super::methods::{Invocation, MAX_PAYLOAD, MethodError};
use super::registry::authorize;
use super::reply::{self, HubRefusal, Reply};
use super::twins_api::SERVICE;

/// Seconds; IoT Hub's range and default.
const RESPONSE_S: std::ops::RangeInclusive<u64> = 5..=300;
const RESPONSE_DEFAULT_S: u64 = 30;
/// Seconds; by default a device must be there already.
const CONNECT_S: std::ops::RangeInclusive<u64> = 0..=300;
/// Longest name; an address has not more either.
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    method_name: String,
    payload: Option<Box<RawValue>>,
    response_timeout_in_seconds: Option<u64>,
    /// What the SDKs called it first.
    timeout_in_seconds: Option<u64>,
    connect_timeout_in_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Outcome<'a> {
    status: i32,
    payload: &'a RawValue,
}

/// Answers a call of a device's method.
pub(super) async fn invoke(
    hub: &Hub,
    parts: &Parts,
    path: &[String],
    id: &str,
    body: &[u8],
) -> Result<Reply, HubRefusal> {
    if parts.method != Method::POST {
        return Err(HubRefusal::wrong_method("POST"));
    }
    authorize(hub, parts, path, &SERVICE)?;
    let wanted = parse(body)?;
    let answer = hub.call_device(id, wanted).await.map_err(|error| refused(&error))?;
    Ok(reply::json(StatusCode::OK, &Outcome { status: answer.status, payload: &answer.payload }))
}

fn parse(body: &[u8]) -> Result<Invocation, HubRefusal> {
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| HubRefusal::bad(format!("the body is no method call: {error}")))?;
    if body.method_name.is_empty() || body.method_name.len() > MAX_NAME {
        return Err(HubRefusal::bad(format!("methodName must have 1 to {MAX_NAME} bytes")));
    }
    let payload = body.payload.unwrap_or_else(|| RawValue::NULL.to_owned());
    if payload.get().len() > MAX_PAYLOAD {
        let reason = format!("the payload is over {MAX_PAYLOAD} bytes");
        return Err(HubRefusal::new(StatusCode::PAYLOAD_TOO_LARGE, "MessageTooLarge", reason));
    }
    let response = body.response_timeout_in_seconds.or(body.timeout_in_seconds).unwrap_or(RESPONSE_DEFAULT_S);
    let connect = body.connect_timeout_in_seconds.unwrap_or(0);
    if !RESPONSE_S.contains(&response) || !CONNECT_S.contains(&connect) {
        let reason = "responseTimeoutInSeconds goes from 5 to 300, connectTimeoutInSeconds from 0 to 300";
        return Err(HubRefusal::bad(reason));
    }
    Ok(Invocation {
        name: body.method_name,
        payload: Bytes::copy_from_slice(payload.get().as_bytes()),
        connect: Duration::from_secs(connect),
        response: Duration::from_secs(response),
    })
}

fn refused(error: &MethodError) -> HubRefusal {
    let (status, code) = match error {
        MethodError::NoDevice(_) => (StatusCode::NOT_FOUND, "DeviceNotFound"),
        MethodError::NotOnline(_) => (StatusCode::NOT_FOUND, "DeviceNotOnline"),
        MethodError::TimedOut(_) => (StatusCode::GATEWAY_TIMEOUT, "GatewayTimeout"),
        MethodError::BadAnswer(_) => (StatusCode::BAD_GATEWAY, "InvalidDeviceResponse"),
    };
    HubRefusal::new(status, code, error.to_string())
}
