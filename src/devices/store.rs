//! What the directory keeps across a restart, and the store it needs for it. Knows no database.
//!
//! One record a hub device: who owns it, and what DPS last said. Keys are never in it; they are derived anew.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::hub_id_rule::DevEui;
use crate::model::EndDevice;

/// Under which the records are kept.
pub const NAMESPACE: &str = "hub_device";

/// A small durable map from text to bytes. `app` joins it with the spool's state.
pub trait Store: Send + Sync + 'static {
    /// Keeps `value` under `key`, replacing what was there; returns once it is on disk. After `expires_ms`
    /// (milliseconds since 1970 UTC) the store may drop it.
    fn put<'a>(
        &'a self,
        namespace: &'static str,
        key: &'a str,
        value: Vec<u8>,
        expires_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Removes `key`; nothing to do when it is absent.
    fn delete<'a>(&'a self, namespace: &'static str, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// All keys and values of a namespace that have not expired, in any order.
    fn load<'a>(&'a self, namespace: &'static str) -> BoxFuture<'a, Result<Vec<Kept>, StoreError>>;
}

/// A key and its value.
pub type Kept = (String, Vec<u8>);

/// The store failed; what it was doing may be tried again.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct StoreError(pub String);

/// A record's JSON.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Record {
    /// [`EndDevice::key`] of the owner.
    owner: String,
    /// When the owner last resolved, milliseconds since 1970 UTC.
    pub(super) renewed_ms: i64,
    /// The owner's DevEUI, if it goes into the hub id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dev_eui: Option<DevEui>,
    /// What DPS answered; absent for a hub that is configured by connection string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) assignment: Option<Assignment>,
}

/// What DPS answered.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Assignment {
    /// `assignedHub`: host, or `host:port`.
    pub(super) hub: String,
    /// `deviceId`.
    pub(super) device_id: String,
    /// When, milliseconds since 1970 UTC.
    pub(super) assigned_ms: i64,
}

impl Record {
    pub(super) fn new(
        owner: &EndDevice,
        renewed_ms: i64,
        dev_eui: Option<DevEui>,
        assignment: Option<Assignment>,
    ) -> Self {
        Self { owner: owner.key().to_owned(), renewed_ms, dev_eui, assignment }
    }

    /// `None` if a foreign hand wrote it.
    pub(super) fn owner(&self) -> Option<EndDevice> {
        EndDevice::from_key(&self.owner)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of texts and numbers is always JSON")
    }

    pub(super) fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_and_garbage_does_not() {
        let owner = EndDevice::new("t", "app", "dev").expect("valid");
        let assignment =
            Assignment { hub: "localhost:5671".to_owned(), device_id: "dev".to_owned(), assigned_ms: 7 };
        for assignment in [None, Some(assignment)] {
            let record = Record::new(&owner, 9, DevEui::parse("70B3D57ED0000001"), assignment);
            assert_eq!(Record::from_json(&record.to_json()), Some(record.clone()));
            assert_eq!(record.owner(), Some(owner.clone()));
        }
        assert_eq!(Record::from_json(b"{}"), None);
        assert_eq!(Record::from_json(b"\xff"), None);
    }
}
