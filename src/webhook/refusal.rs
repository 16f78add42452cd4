//! Why a request is refused, and the one table from reason to HTTP answer. Knows no storage and no hub.

use std::time::Duration;

use warp::http::header::{ACCEPT_ENCODING, ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{HeaderValue, StatusCode};

use super::intake::StoreError;
use crate::http::Problem;
use crate::model::InvalidEndDevice;
use crate::things_stack::EnvelopeError;

/// When to come back to a full or failing spool, in seconds: it may empty, or have room on disk, soon.
const RETRY_SPOOL_SECONDS: u16 = 30;
/// When to come back if a person must clean up first, in seconds.
const RETRY_PARKED_SECONDS: u16 = 300;

/// Nothing was kept of this request. Each text says what to do next; none repeats a secret or a payload.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("post to /webhook, or to a path below it")]
    NotHere,
    #[error("use POST")]
    Method,
    #[error(
        "send one of the secrets in `webhook.secrets`: as `Authorization: Bearer <secret>`, as the password of Basic authentication, or as `x-api-key: <secret>`"
    )]
    Secret,
    #[error(
        "the content type {0:?} can't be read; choose the webhook format JSON in The Things Stack's console"
    )]
    MediaType(String),
    #[error("the content encoding {0:?} can't be undone; send the body as it is or with gzip")]
    Encoding(String),
    #[error(
        "the body is longer than {limit} bytes; raise `webhook.max_body_bytes`, or leave out `up.uplink_message.rx_metadata` with the webhook's field mask"
    )]
    TooLong { limit: u64 },
    #[error("the body did not arrive within {} s (`webhook.read_timeout`)", .0.as_secs_f64())]
    TooSlow(Duration),
    #[error("the body breaks off; send it again")]
    BrokenOff,
    #[error("the body is announced as gzip but can't be inflated; send it again, or without compression")]
    NotGzip,
    #[error("the body is no message of The Things Stack: {0}")]
    Malformed(#[from] EnvelopeError),
    #[error(
        "the body has neither `end_device_ids` nor a kind of message such as `uplink_message` (line 1); if the webhook has a field mask, add both to it"
    )]
    NoMessage,
    #[error("in `end_device_ids`, {0}; if the webhook has a field mask, add `end_device_ids` to it")]
    Device(#[source] InvalidEndDevice),
    #[error("the header `X-Tts-Domain` holds no host name")]
    Tenant,
    #[error("{0}; send the message again later")]
    Store(#[from] StoreError),
}

impl Refusal {
    /// Status, stable code, and headers of the answer.
    pub(super) fn problem(&self) -> Problem {
        let problem = |status, code| Problem::new(status, code, self.to_string());
        let later = |code, seconds: u16| {
            problem(StatusCode::SERVICE_UNAVAILABLE, code).with_header(RETRY_AFTER, seconds)
        };
        match self {
            Self::NotHere => problem(StatusCode::NOT_FOUND, "not_here"),
            Self::Method => problem(StatusCode::METHOD_NOT_ALLOWED, "method")
                .with_header(ALLOW, HeaderValue::from_static("POST")),
            Self::Secret => problem(StatusCode::UNAUTHORIZED, "secret").with_header(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"tti-connector\", Bearer"),
            ),
            Self::MediaType(_) => problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type"),
            Self::Encoding(_) => problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding")
                .with_header(ACCEPT_ENCODING, HeaderValue::from_static("gzip, identity")),
            Self::TooLong { .. } => problem(StatusCode::PAYLOAD_TOO_LARGE, "too_long"),
            Self::TooSlow(_) => problem(StatusCode::REQUEST_TIMEOUT, "too_slow"),
            Self::BrokenOff => problem(StatusCode::BAD_REQUEST, "broken_off"),
            Self::NotGzip => problem(StatusCode::BAD_REQUEST, "not_gzip"),
            Self::Malformed(_) => problem(StatusCode::BAD_REQUEST, "malformed_json"),
            Self::NoMessage => problem(StatusCode::BAD_REQUEST, "no_message"),
            Self::Device(_) => problem(StatusCode::BAD_REQUEST, "end_device_ids"),
            Self::Tenant => problem(StatusCode::BAD_REQUEST, "tenant"),
            Self::Store(StoreError::Full) => later("spool_full", RETRY_SPOOL_SECONDS),
            Self::Store(StoreError::ParkedFull { .. }) => later("parked_full", RETRY_PARKED_SECONDS),
            Self::Store(StoreError::Unavailable) => later("spool_unavailable", RETRY_SPOOL_SECONDS),
        }
    }
}
