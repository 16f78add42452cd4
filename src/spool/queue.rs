//! The handle to the durable queue (signatures first; the parts follow).
#![allow(unused_variables, clippy::unimplemented)]

use bytes::Bytes;
use tokio::sync::watch;

use super::claim::Claim;
use super::state_store::StateStore;
use super::types::{
    Appended, NewRecord, ParkedFilter, ParkedRecord, Selection, Seq, SpoolError, State, Stats,
};
use crate::config;
use crate::model::{Clock, ParkReason};

/// The durable queue. Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub struct Spool;

impl Spool {
    /// Opens or creates; takes the instance lock; recovers; starts the writer thread. Appends are served at once.
    ///
    /// # Errors
    /// [`SpoolError::InUse`], [`SpoolError::Incompatible`], [`SpoolError::Io`].
    pub fn open(config: &config::Spool, clock: Clock) -> Result<(Self, Claim), SpoolError> {
        unimplemented!()
    }

    /// Keeps a record; resolves only after COMMIT with `synchronous=FULL`.
    ///
    /// # Errors
    /// Nothing was kept, or (after `Io`) nothing that was acknowledged.
    pub async fn append(&self, record: NewRecord) -> Result<Appended, SpoolError> {
        unimplemented!()
    }

    /// Reads a pending or parked record's body; `None` when it is gone.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn body(&self, seq: Seq) -> Result<Option<Bytes>, SpoolError> {
        unimplemented!()
    }

    /// Takes a record out, in the next group commit. Never blocks.
    pub fn done(&self, seq: Seq) {
        unimplemented!()
    }

    /// Waits until everything handed in before is committed, `done` too.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        unimplemented!()
    }

    /// Moves a pending record to the parked ones, in one transaction. Never refused for the budget's sake.
    ///
    /// # Errors
    /// `Io`, `Closed`: the record is still pending; try again later.
    pub async fn park(&self, seq: Seq, reason: ParkReason, detail: &str) -> Result<(), SpoolError> {
        unimplemented!()
    }

    /// Where a record is now; [`State::Pending`] also when the disk can't tell.
    pub async fn state_of(&self, seq: Seq) -> State {
        unimplemented!()
    }

    /// Up to `limit` parked records above `after` that match, lowest number first.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn parked(
        &self,
        filter: &ParkedFilter,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<ParkedRecord>, SpoolError> {
        unimplemented!()
    }

    /// One parked record with its body.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn show(&self, seq: Seq) -> Result<Option<(ParkedRecord, Bytes)>, SpoolError> {
        unimplemented!()
    }

    /// Makes parked records pending again, each at the end of its lane under a new number. Gives their count.
    ///
    /// # Errors
    /// `Io`, `Closed`; those moved before the error stay moved.
    pub async fn requeue(&self, selection: &Selection) -> Result<u64, SpoolError> {
        unimplemented!()
    }

    /// Deletes parked records for good. Gives their count.
    ///
    /// # Errors
    /// `Io`, `Closed`; those deleted before the error stay deleted.
    pub async fn discard(&self, selection: &Selection) -> Result<u64, SpoolError> {
        unimplemented!()
    }

    /// The queue in numbers; cheap.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Whether appends can succeed, for readiness.
    pub fn healthy(&self) -> watch::Receiver<bool> {
        unimplemented!()
    }

    /// The small state beside the queue.
    pub fn state(&self) -> StateStore {
        unimplemented!()
    }

    /// Commits what was handed in, checkpoints, ends the threads, releases the lock. The claim ends too.
    pub async fn close(&self) {
        unimplemented!()
    }
}
