//! Small state beside the queue: key and value, durable through the same writer.
//!
//! Does not know what the values mean. Its users keep what they need in memory; this is for restarts.

use std::sync::Arc;

use bytes::Bytes;

use super::mailbox::Op;
use super::queue::Core;
use super::types::{SpoolError, StateRow};

/// Longest namespace and key together, in bytes: an end device's three parts fit.
const MAX_KEY_BYTES: usize = 1024;
/// Longest value, in bytes.
const MAX_VALUE_BYTES: usize = 64 * 1024;
/// Rows read at once, so that bodies are read in between.
const LOADED: u32 = 4096;

/// Small durable state, for instance DPS assignments. Cheap to clone.
#[derive(Clone)]
pub struct StateStore {
    core: Arc<Core>,
}

impl StateStore {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Puts or replaces a value; resolves once durable. From `expires_ms` (milliseconds since 1970 UTC) on it is
    /// no longer given, and deleted some time later.
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
        if namespace.len() + key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
            return Err(SpoolError::Full(format!(
                "state is limited to {MAX_KEY_BYTES} bytes of key and {MAX_VALUE_BYTES} bytes of value"
            )));
        }
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        self.core.ask(|reply| Op::PutState { namespace, key, value, expires_ms, reply }).await
    }

    /// Deletes a value, if there; resolves once durable.
    ///
    /// # Errors
    /// `Full` (too many changes at once), `Io`, `Closed`.
    pub async fn delete(&self, namespace: &str, key: &str) -> Result<(), SpoolError> {
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        self.core.ask(|reply| Op::DeleteState { namespace, key, reply }).await
    }

    /// One value, if it is there and has not expired. Sees every `put` and `delete` that has resolved.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn get(&self, namespace: &str, key: &str) -> Result<Option<Bytes>, SpoolError> {
        let now_ms = self.core.clock.now_ms();
        let (namespace, key) = (namespace.to_owned(), key.to_owned());
        self.core.reader.run(move |side| side.state_value(&namespace, &key, now_ms)).await
    }

    /// All live rows of a namespace, in key order.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn load(&self, namespace: &str) -> Result<Vec<StateRow>, SpoolError> {
        let now_ms = self.core.clock.now_ms();
        let mut rows: Vec<StateRow> = Vec::new();
        let mut last: Option<String> = None;
        loop {
            let namespace = namespace.to_owned();
            let after = last.take();
            let more = self
                .core
                .reader
                .run(move |side| side.state(&namespace, after.as_deref(), now_ms, LOADED))
                .await?;
            let ended = more.len() < LOADED as usize;
            last = more.last().map(|(row, _)| row.key.clone());
            rows.extend(more.into_iter().filter_map(|(row, sound)| sound.then_some(row)));
            if ended {
                return Ok(rows);
            }
        }
    }
}
