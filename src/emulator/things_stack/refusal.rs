//! Refusals in The Things Stack's JSON form: `{code, message, details}`. Decides nothing.

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::reply::{self, Reply};

/// The gRPC codes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    Unimplemented,
    Unauthenticated,
}

impl Code {
    fn number(self) -> u32 {
        match self {
            Self::InvalidArgument => 3,
            Self::NotFound => 5,
            Self::PermissionDenied => 7,
            Self::ResourceExhausted => 8,
            Self::FailedPrecondition => 9,
            Self::Aborted => 10,
            Self::Unimplemented => 12,
            Self::Unauthenticated => 16,
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Aborted => StatusCode::CONFLICT,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
        }
    }
}

/// Why a call is refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("error:{namespace}:{name} ({message})")]
pub struct Refusal {
    code: Code,
    namespace: &'static str,
    name: &'static str,
    message: String,
    attributes: Map<String, Value>,
}

pub(super) const AS: &str = "pkg/applicationserver";
pub(super) const AS_WEB: &str = "pkg/applicationserver/io/web";
pub(super) const NS: &str = "pkg/networkserver";
pub(super) const RIGHTS: &str = "pkg/auth/rights";
/// What the real one has not: our own limits and controls.
pub(super) const EMULATOR: &str = "emulator";

impl Refusal {
    pub(super) fn new(
        code: Code,
        (namespace, name): (&'static str, &'static str),
        message: impl Into<String>,
    ) -> Self {
        Self { code, namespace, name, message: message.into(), attributes: Map::new() }
    }

    /// Adds an attribute, such as `device_uid`.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.attributes.insert(name.to_owned(), value.into());
        self
    }

    /// A request that has to be changed.
    pub(super) fn invalid(name: (&'static str, &'static str), message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, name, message)
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.code.status().as_u16()
    }

    /// The error's name, such as `no_f_port`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// `ErrorDetails`, as answers and `downlink_failed` hold them.
    pub(super) fn details(&self) -> Value {
        let mut details = json!({
            "namespace": self.namespace,
            "name": self.name,
            "message_format": self.message,
            "correlation_id": Uuid::new_v4().simple().to_string(),
            "code": self.code.number(),
        });
        if !self.attributes.is_empty() {
            details["attributes"] = Value::Object(self.attributes.clone());
        }
        details
    }

    /// The HTTP answer.
    pub(super) fn into_reply(self) -> Reply {
        let mut details = self.details();
        details["@type"] = json!("type.googleapis.com/ttn.lorawan.v3.ErrorDetails");
        let value = json!({ "code": self.code.number(), "message": self.to_string(), "details": [details] });
        json_reply(self.code.status(), &value)
    }
}

/// A JSON answer.
pub(super) fn json_reply(status: StatusCode, value: &Value) -> Reply {
    let mut reply = Reply::new(value.to_string().into_bytes().into());
    *reply.status_mut() = status;
    reply::set(&mut reply, CONTENT_TYPE, "application/json");
    reply
}

/// The answer of a status that a test asked for.
pub(super) fn with_status(status: StatusCode) -> Reply {
    if status.is_success() || status == StatusCode::NOT_ACCEPTABLE {
        // A paused webhook answers without a body.
        return reply::empty(status);
    }
    let code = match status.as_u16() {
        400 => 3,
        401 => 16,
        403 => 7,
        404 => 5,
        409 => 10,
        429 => 8,
        499 => 1,
        501 => 12,
        503 => 14,
        504 => 4,
        _ => 2,
    };
    let (namespace, name, message) = match status {
        StatusCode::TOO_MANY_REQUESTS => {
            ("pkg/ratelimit", "rate_limit_exceeded", "rate limit of `20` accesses per minute exceeded")
        }
        _ => ("pkg/errors", "emulated", "as the emulator was told to answer"),
    };
    let details = json!({
        "@type": "type.googleapis.com/ttn.lorawan.v3.ErrorDetails",
        "namespace": namespace,
        "name": name,
        "message_format": message,
        "code": code,
    });
    let value = json!({ "code": code, "message": format!("error:{namespace}:{name} ({message})"), "details": [details] });
    json_reply(status, &value)
}
