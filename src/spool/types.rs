//! What goes into the spool and what comes out of it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::model::Outcome;

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
    /// Told what became of it, if somebody waits.
    pub waiter: Option<oneshot::Sender<Outcome>>,
}

/// A record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// New, under this number.
    Stored(Seq),
    /// The same message came before, under this number, within the window.
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
    /// The disk failed or is full. Nothing more is accepted until a restart, or until space returns.
    #[error("the spool can't write: {0}")]
    Io(String),
    /// The spool is closing.
    #[error("the spool is closed")]
    Closed,
    /// Another process works on this directory.
    #[error("{0} is in use by another process")]
    InUse(String),
}
