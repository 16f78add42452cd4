//! Small state beside the queue: key and value, durable through the same writer (signatures first).
#![allow(unused_variables, clippy::unimplemented)]

use bytes::Bytes;

use super::types::{SpoolError, StateRow};

/// Small durable state, for instance DPS assignments. Cheap to clone.
#[derive(Clone)]
pub struct StateStore;

impl StateStore {
    /// Puts or replaces a value; resolves once durable.
    ///
    /// # Errors
    /// `Full` (too many changes at once, or key or value too long), `Io`, `Closed`.
    pub async fn put(
        &self,
        namespace: &str,
        key: &str,
        value: Bytes,
        expires_ms: Option<i64>,
    ) -> Result<(), SpoolError> {
        unimplemented!()
    }

    /// Deletes a value, if there; resolves once durable.
    ///
    /// # Errors
    /// As `put`.
    pub async fn delete(&self, namespace: &str, key: &str) -> Result<(), SpoolError> {
        unimplemented!()
    }

    /// All live rows of a namespace, in key order.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn load(&self, namespace: &str) -> Result<Vec<StateRow>, SpoolError> {
        unimplemented!()
    }
}
