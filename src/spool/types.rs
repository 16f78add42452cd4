//! What goes into the spool and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::model::{Outcome, ParkReason};

/// A record's place in the order of receipt. Never reused, also not after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seq(pub i64);

/// What makes two posts the same message; a hash made by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey(pub [u8; 16]);

/// One message to keep.
#[derive(Debug)]
pub struct NewRecord {
    /// Records of one lane are handed out in order: the end device's key.
    pub lane: Arc<str>,
    /// Whose budget a parked record uses: the application.
    pub group: Arc<str>,
    /// Recognises a repeated post; `None` when the message has no identity.
    pub dedup: Option<DedupKey>,
    /// The message, opaque here.
    pub body: Bytes,
    /// Told what became of it, if somebody waits. Travels with the record to its [`Pending`]; dropped
    /// when the append fails or answers [`Appended::Duplicate`].
    pub waiter: Option<oneshot::Sender<Outcome>>,
}

/// By what a message is remembered longer than the window of repeated posts; see [`crate::spool::Spool::append_once`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remember {
    /// Taken in with the record.
    pub key: DedupKey,
    /// The record is a duplicate if one of these is remembered.
    pub known_by: Vec<DedupKey>,
    /// Milliseconds since 1970 UTC until when `key` is remembered.
    pub until_ms: i64,
}

/// A record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// New, under this number.
    Stored(Seq),
    /// The same message came before, under this number, within the window; under number 0 if it is only remembered.
    Duplicate(Seq),
}

/// A record that waits to be sent, in order within its lane.
#[derive(Debug)]
pub struct Pending {
    /// Its number.
    pub seq: Seq,
    /// Its lane.
    pub lane: Arc<str>,
    /// When it was appended, milliseconds since 1970 UTC.
    pub received_ms: i64,
    /// Its body, while the memory budget lasts; else read it back.
    pub body: Option<Bytes>,
    /// Told what became of it.
    pub waiter: Option<oneshot::Sender<Outcome>>,
}

/// Why the spool could not keep or give a record.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpoolError {
    /// Too many pending records or bytes; ask the sender to come back.
    #[error("the spool is full: {0}")]
    Full(String),
    /// The parked budget is used up, and this group has a share in it.
    #[error(
        "parked messages use up their budget; application {0} must be cleaned up with `spool list` first"
    )]
    ParkedFull(Arc<str>),
    /// The disk failed or is full. Nothing is accepted until it is well again, which is tried every few seconds.
    #[error("the spool can't work: {0}")]
    Io(String),
    /// What was stored can't be had back as it was: trying again does not help.
    #[error("the spool is damaged: {0}")]
    Damaged(String),
    /// The spool is closing.
    #[error("the spool is closed")]
    Closed,
    /// Another process works on this directory.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// The database is sound, but not one this version can work on; nothing was changed. Only from `open`.
    #[error("the spool's database does not fit this version: {0}")]
    Incompatible(String),
}

/// Where a record is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits to be sent.
    Pending,
    /// It was set aside.
    Parked {
        /// Why.
        reason: ParkReason,
        /// One sentence for a person.
        detail: String,
    },
    /// It is done, discarded, or was requeued under another number.
    Gone,
}

/// A parked record as lists show it, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// Its number, for requeue and discard.
    pub seq: Seq,
    /// Its lane.
    pub lane: Arc<str>,
    /// Its group.
    pub group: Arc<str>,
    /// When it was received, milliseconds since 1970 UTC.
    pub received_ms: i64,
    /// When it was parked, milliseconds since 1970 UTC.
    pub parked_ms: i64,
    /// [`ParkReason::as_str`]; may be a word that only a newer version knows.
    pub reason: String,
    /// One sentence for a person.
    pub detail: String,
    /// Length of its body.
    pub bytes: u64,
}

/// Which parked records a list, requeue or discard means. Unset fields match all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParkedFilter {
    /// Only this group's (application's).
    pub group: Option<String>,
    /// Only those parked for this reason.
    pub reason: Option<ParkReason>,
}

/// What to requeue or discard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// These numbers; others than parked ones are passed over.
    Seqs(Vec<Seq>),
    /// All that are parked now and match.
    Matching(ParkedFilter),
}

/// One live row of the small state beside the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRow {
    /// Unique within its namespace.
    pub key: String,
    /// Opaque here.
    pub value: Bytes,
    /// Milliseconds since 1970 UTC from when on it is no longer given; `None`: for ever.
    pub expires_ms: Option<i64>,
}

/// The spool in numbers, as of the last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Records that wait to be sent.
    pub pending: u64,
    /// Their bodies, in bytes.
    pub pending_bytes: u64,
    /// Records set aside.
    pub parked: u64,
    /// Their bodies, in bytes.
    pub parked_bytes: u64,
    /// When the pending record with the lowest number was received (at most a second old figure),
    /// milliseconds since 1970 UTC.
    pub oldest_received_ms: Option<i64>,
    /// Records stored since the start.
    pub appended: u64,
    /// Repeated posts recognised since the start.
    pub duplicates: u64,
    /// Bodies of pending records held in memory, in bytes.
    pub memory_bytes: u64,
    /// Transactions committed since the start; far fewer than records when these come together.
    pub commits: u64,
    /// How long the last commit took.
    pub last_commit: Duration,
    /// Appends can succeed.
    pub healthy: bool,
    /// Since the start the database was found damaged, was moved aside, and what could be read of it saved into a
    /// new one.
    pub set_aside: bool,
    /// Damaged databases that lie in the folder, for a person to look at and delete.
    pub damaged_files: u64,
}
