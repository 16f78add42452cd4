//! What the backfill needs of its neighbours. `app` implements these for the real ones; tests for small ones.

use std::future::Future;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::identity::Identity;
use crate::model::{EndDevice, Outcome};
use crate::things_stack::{ApiError, StoredPage, StoredQuery};

/// The Storage Integration, with the key of each application.
pub trait Storage: Clone + Send + Sync + 'static {
    /// One page of stored uplinks, oldest first.
    ///
    /// # Errors
    /// See [`ApiError`].
    fn page(&self, query: &StoredQuery<'_>) -> impl Future<Output = Result<StoredPage, ApiError>> + Send;
}

/// The durable queue, and its memory of what was taken in.
pub trait Outbox: Clone + Send + Sync + 'static {
    /// For each identity, whether it is remembered.
    ///
    /// # Errors
    /// The disk can't be read; the text says why.
    fn known(&self, all: Vec<Identity>) -> impl Future<Output = Result<Vec<bool>, Unstored>> + Send;
    /// What was taken in up to then may no longer be remembered, milliseconds since 1970 UTC.
    ///
    /// # Errors
    /// The disk can't be read; the text says why.
    fn forgot(&self) -> impl Future<Output = Result<Option<i64>, Unstored>> + Send;
    /// Puts a fetched uplink into its device's second line, unless it was taken in before; remembers it until `until_ms`.
    ///
    /// # Errors
    /// It is not kept; the text says why.
    fn put(&self, fetched: Fetched) -> impl Future<Output = Result<Put, Unstored>> + Send;
}

/// An uplink to put into the queue.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Whose.
    pub device: EndDevice,
    /// The message as the webhook would have posted it.
    pub body: Bytes,
    /// What a repeated post of it is recognised by.
    pub dedup: [u8; 16],
    /// What it is remembered by.
    pub identity: Identity,
    /// Milliseconds since 1970 UTC.
    pub until_ms: i64,
}

/// What became of it.
#[derive(Debug)]
pub enum Put {
    /// It is on disk. Told when it leaves the queue, if somebody sends.
    New(Option<oneshot::Receiver<Outcome>>),
    /// It was taken in before.
    Known,
}

/// The queue can't be read or written.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Unstored(pub String);

/// The small state beside the queue.
pub trait Store: Clone + Send + Sync + 'static {
    /// Puts or replaces a value.
    ///
    /// # Errors
    /// It is not kept.
    fn put(
        &self,
        namespace: &'static str,
        key: &str,
        value: Vec<u8>,
    ) -> impl Future<Output = Result<(), Unstored>> + Send;
    /// Deletes a value, if it is there.
    ///
    /// # Errors
    /// It may still be there.
    fn delete(&self, namespace: &'static str, key: &str)
    -> impl Future<Output = Result<(), Unstored>> + Send;
    /// All values of a namespace.
    ///
    /// # Errors
    /// They can't be read.
    fn load(
        &self,
        namespace: &'static str,
    ) -> impl Future<Output = Result<Vec<(String, Bytes)>, Unstored>> + Send;
    /// Whether the queue was made anew at this start, so that nothing was ever taken in before.
    fn is_new(&self) -> bool;
}

/// Told what happens, for metrics.
pub trait Observer: Send + Sync + 'static {
    /// A jump of a frame counter was seen that leaves out so many uplinks.
    fn gap(&self, missing: u64);
    /// A fetched uplink was put into the queue.
    fn queued(&self);
    /// A fetch failed.
    fn failed(&self, reason: &'static str);
    /// Rows of the Storage Integration could not be read.
    fn bad_rows(&self, count: u64);
    /// Missed uplinks were not found: `never_stored` or `no_longer_stored`.
    fn lost(&self, reason: &'static str, count: u64);
}
