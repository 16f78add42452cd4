//! The words of DPS: a registration, its status, and what DPS can be told to answer. Pure data.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A device registration as DPS knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Lower case. Also the device's id at its hub.
    pub registration_id: String,
    /// Where it stands.
    pub status: RegistrationStatus,
    /// The hub's host, once assigned.
    pub assigned_hub: Option<String>,
    /// Milliseconds since 1970 UTC.
    pub created_ms: i64,
    /// Milliseconds since 1970 UTC.
    pub updated_ms: i64,
    /// Changes with every update.
    pub etag: String,
    /// What the device sent along, for example `{"modelId": "dtmi:…"}`.
    pub payload: Option<Value>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// DPS's words for the state of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationStatus {
    /// Being worked on.
    Assigning,
    /// It has a hub.
    Assigned,
    /// It has none; `errorCode` and `errorMessage` say why.
    Failed,
    /// The enrollment is disabled.
    Disabled,
}

/// Why a registration ends as `failed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Six digits, the first three as in HTTP.
    pub error_code: u32,
    /// For people.
    pub message: String,
}

/// An answer to every call, for as long as it is set: throttled (429), out of order (500, 503), and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Six digits, the first three as in HTTP.
    pub error_code: u32,
    /// For people.
    pub message: String,
    /// `Retry-After` in seconds.
    pub retry_after_s: Option<u32>,
}

/// Calls since the start, refused ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// `PUT …/register`.
    pub registers: u64,
    /// `GET …/operations/…`.
    pub polls: u64,
    /// `POST …/registrations/…`.
    pub lookups: u64,
}
