//! An entry of a hub's device registry. Pure data.

use serde::{Deserialize, Serialize};

/// A registry entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Case-sensitive, up to 128 characters.
    pub device_id: String,
    /// Enabled or disabled.
    pub status: DeviceStatus,
    /// Base64.
    pub primary_key: String,
    /// Base64.
    pub secondary_key: String,
    /// New at each creation, so that a device made anew is told apart.
    pub generation_id: String,
    /// Changes with every update; without quotes.
    pub etag: String,
}

/// Whether a device may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceStatus {
    /// It may.
    Enabled,
    /// It is refused, and cut off if connected.
    Disabled,
}

/// Why the registry refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// No such device.
    #[error("device {0} is not registered")]
    NotFound(String),
    /// `create` of one that exists.
    #[error("device {0} is already registered")]
    Exists(String),
    /// The etag does not match.
    #[error("the etag of device {0} does not match")]
    Precondition(String),
}
