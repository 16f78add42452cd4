//! HTTP answers in the forms of IoT Hub and of DPS. Decides nothing.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::registration::Refusal;
use crate::model::Clock;

/// An answer with its whole body.
pub(super) type Reply = Response<Full<Bytes>>;

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    // Our own values always serialize; an empty body would show it at once if one did not.
    let mut reply = Response::new(Full::new(serde_json::to_vec(value).unwrap_or_default().into()));
    *reply.status_mut() = status;
    set(&mut reply, CONTENT_TYPE, "application/json; charset=utf-8");
    // Azure names every call by one.
    set(&mut reply, HeaderName::from_static("x-ms-request-id"), &Uuid::new_v4().to_string());
    reply
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = status;
    reply
}

/// A refusal in IoT Hub's words.
#[derive(Clone, Debug)]
pub(super) struct HubRefusal {
    status: StatusCode,
    code: &'static str,
    message: String,
    header: Option<(HeaderName, &'static str)>,
}

impl HubRefusal {
    /// `code` is IoT Hub's, such as `DeviceNotFound`.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), header: None }
    }

    /// 400 for a request that has to be changed.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ArgumentInvalid", message)
    }

    /// 404 for a path that nobody has; `known` is what there is.
    pub(super) fn unknown(known: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("the emulator has {known}"))
    }

    /// IoT Hub's word for it.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// What to do about it.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// 405; `allowed` goes into the `Allow` header.
    pub(super) fn wrong_method(allowed: &'static str) -> Self {
        let message = format!("this path takes {allowed}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with(ALLOW, allowed)
    }

    /// Adds a header.
    pub(super) fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// IoT Hub's error form, `{"Message": "ErrorCode:…;…", "ExceptionMessage": "Tracking ID:…"}`.
    pub(super) fn into_reply(self) -> Reply {
        let value = json!({
            "Message": format!("ErrorCode:{};{}", self.code, self.message),
            "ExceptionMessage": format!("Tracking ID:{}", Uuid::new_v4().simple()),
        });
        let mut reply = json(self.status, &value);
        set(&mut reply, HeaderName::from_static("iothub-errorcode"), self.code);
        if let Some((name, value)) = self.header {
            set(&mut reply, name, value);
        }
        reply
    }
}

/// DPS's error form, `{errorCode, trackingId, message, timestampUtc}`.
pub(super) fn dps_error(refusal: &Refusal, clock: &Clock) -> Reply {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let value = json!({
        "errorCode": refusal.error_code,
        "trackingId": Uuid::new_v4().to_string(),
        "message": refusal.message,
        "timestampUtc": timestamp(clock.now_ms()),
    });
    let mut reply = json(status, &value);
    if let Some(seconds) = refusal.retry_after_s {
        set(&mut reply, RETRY_AFTER, &seconds.to_string());
    }
    reply
}

/// Sets a header; a value that HTTP cannot carry is left out.
pub(super) fn set(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

/// `2026-11-21T05:08:09.123Z`.
pub(super) fn timestamp(ms: i64) -> String {
    format!("{:.3}", jiff::Timestamp::from_millisecond(ms).unwrap_or_default())
}
