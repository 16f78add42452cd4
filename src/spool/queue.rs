//! The handle to the durable queue: opens it, and turns calls into work for the writer and the reader.
//!
//! Knows no SQL.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::claim::Claim;
use super::folder::Folder;
use super::handout::Handout;
use super::ledger::Limits;
use super::mailbox::{Mailbox, MoveTo, Moved, Op, Picked, Reply};
use super::memory::Memory;
use super::meters::Meters;
use super::opening::{Opened, Opening};
use super::parked;
use super::reader::Reader;
use super::remembered;
use super::state_store::StateStore;
use super::types::{
    Appended, DedupKey, NewRecord, ParkedFilter, ParkedRecord, Remember, Selection, Seq, SpoolError, State,
    Stats,
};
use super::writer::{Shared, Writer};
use crate::config;
use crate::model::{Clock, ParkReason};

/// Longest body, in bytes: far above any webhook's, far below what SQLite can't take.
const MAX_BODY_BYTES: usize = 256 * 1024 * 1024;
/// Longest detail kept with a parked record, in bytes.
const MAX_DETAIL_BYTES: usize = 1000;
/// Parked records given in one list at most.
const MAX_LISTED: usize = 1000;
/// Parked records moved in one transaction, so that appends are not held up.
const MOVED: usize = 256;

/// The durable queue. Cheap to clone; all clones are one queue. Once the last is dropped it closes by itself.
#[derive(Clone)]
pub struct Spool {
    core: Arc<Core>,
}

pub(super) struct Core {
    shared: Shared,
    pub(super) reader: Reader,
    pub(super) clock: Clock,
    folder: PathBuf,
    is_new: bool,
    ended: watch::Receiver<bool>,
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.mailbox.close();
    }
}

impl Core {
    /// Hands an operation to the writer and waits for its answer.
    pub(super) async fn ask<T>(&self, op: impl FnOnce(Reply<T>) -> Op) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.shared.mailbox.push(op(reply))?;
        answer.await.map_err(|_| SpoolError::Closed)?
    }
}

impl Spool {
    /// Opens or creates the spool in `config.directory`; takes the instance lock and starts the threads. Appends
    /// are served at once, whatever the backlog. A damaged database is moved aside with a new name, the error
    /// logged and shown in [`Stats::set_aside`], and what can be read of it saved into a new one. Blocks for some
    /// milliseconds; after an unclean end for up to two seconds; longer while a damaged one is saved.
    ///
    /// # Errors
    /// [`SpoolError::InUse`], [`SpoolError::Incompatible`], [`SpoolError::Io`].
    pub fn open(config: &config::Spool, clock: Clock) -> Result<(Self, Claim), SpoolError> {
        let mut folder = Folder::open(&config.directory)?;
        let limits = Limits::new(config);
        let opening = Opening {
            folder: &mut folder,
            limits: &limits,
            now_ms: clock.now_ms(),
            given: Seq(0),
            damage: None,
        };
        let Opened { conn, books, saved } = opening.open()?;
        let ledger = books.ledger;
        let meters = Meters::new(&ledger);
        if saved {
            meters.set_aside();
        }
        meters.set_damaged_files(Opening::damaged_files(&folder));
        let (reader, reader_thread) = Reader::start(&folder.database())?;
        let shared = Shared {
            mailbox: Arc::new(Mailbox::default()),
            handout: Arc::new(Handout::new(Seq(ledger.next_seq - 1))),
            meters: Arc::new(meters),
            memory: Memory::new(config.memory_bytes),
        };
        let writer = Writer {
            conn,
            books,
            shared: shared.clone(),
            limits,
            dedup_window_ms: i64::try_from(config.dedup_window.as_millis()).unwrap_or(i64::MAX),
            clock: clock.clone(),
            reader: reader_thread,
            folder,
            shrunk: false,
            recovered: None,
        };
        let ended = writer.start().map_err(|error| SpoolError::Io(error.to_string()))?;
        let claim = Claim::new(Arc::clone(&shared.handout), reader.clone(), Arc::clone(&shared.mailbox));
        let is_new = ledger.next_seq == 1;
        let core = Core { shared, reader, clock, folder: config.directory.clone(), is_new, ended };
        Ok((Self { core: Arc::new(core) }, claim))
    }

    /// Keeps a record; resolves only after COMMIT with `synchronous=FULL`. Never waits for a place in the queue.
    ///
    /// # Errors
    /// `Full` and `ParkedFull`: nothing was kept. `Io`: nothing was acknowledged, but after a failed sync the
    /// record may be there after the restart. `Closed`.
    pub async fn append(&self, record: NewRecord) -> Result<Appended, SpoolError> {
        self.keep(record, None).await
    }

    /// As [`Spool::append`], but the record is also a duplicate if it is remembered, and is remembered from then on,
    /// in the same transaction.
    ///
    /// # Errors
    /// As [`Spool::append`].
    pub async fn append_once(&self, record: NewRecord, remember: Remember) -> Result<Appended, SpoolError> {
        self.keep(record, Some(Box::new(remember))).await
    }

    /// For each group of keys, whether one of them is remembered. Sees every append that has resolved.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn remembers(&self, groups: Vec<Vec<DedupKey>>) -> Result<Vec<bool>, SpoolError> {
        let now_ms = self.core.clock.now_ms();
        let look = move |conn: &rusqlite::Connection| {
            groups.iter().map(|keys| remembered::is_known(conn, keys, now_ms)).collect()
        };
        self.core.reader.run(move |side| look(&side.conn)).await
    }

    /// What was taken in up to then (milliseconds since 1970 UTC) may be forgotten before its time: for want of room, or
    /// as the database was damaged. `None` if nothing ever was.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn forgot(&self) -> Result<Option<i64>, SpoolError> {
        self.core.reader.run(|side| remembered::forgot(&side.conn)).await
    }

    /// Whether the queue was made anew at this start: nothing was ever taken in by it.
    pub fn is_new(&self) -> bool {
        self.core.is_new
    }

    async fn keep(&self, record: NewRecord, remember: Option<Box<Remember>>) -> Result<Appended, SpoolError> {
        if record.body.len() > MAX_BODY_BYTES {
            return Err(SpoolError::Full(format!("a body is limited to {MAX_BODY_BYTES} bytes")));
        }
        self.core.ask(|reply| Op::Append { record, remember, reply }).await
    }

    /// Reads a pending or parked record's body; `None` when it is gone.
    ///
    /// # Errors
    /// `Damaged`: it does not match its checksum, or is missing. `Io`, `Closed`.
    pub async fn body(&self, seq: Seq) -> Result<Option<Bytes>, SpoolError> {
        self.core.reader.run(move |side| side.body(seq)).await
    }

    /// Reads a pending record's time of receipt (milliseconds since 1970 UTC) and body; `None` when it is gone.
    ///
    /// # Errors
    /// `Damaged`: they do not match their checksum; park it. `Io`, `Closed`.
    pub async fn record(&self, seq: Seq) -> Result<Option<(i64, Bytes)>, SpoolError> {
        self.core.reader.run(move |side| side.record(seq)).await
    }

    /// Takes a record out, in the next group commit. Never blocks. One that a crash loses is sent once more.
    pub fn done(&self, seq: Seq) {
        self.core.shared.mailbox.done(seq);
    }

    /// Waits until everything handed in before is committed, `done` too.
    ///
    /// # Errors
    /// `Full` (too much is under way), `Io`, `Closed`.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        self.core.ask(|reply| Op::Flush { reply }).await
    }

    /// Moves a pending record to the parked ones, in one transaction. Nothing happens when it is not
    /// pending. A detail over 1,000 bytes is cut. Never refused for the budget's sake, since it only moves: once
    /// the parked budget is used up, appends of the groups that own parked records are refused, and what is parked
    /// beyond it counts against the pending budget. So both together never hold more than both budgets.
    ///
    /// # Errors
    /// `Full` (too much is under way), `Io`, `Closed`: the record is still pending; try again later.
    pub async fn park(&self, seq: Seq, reason: ParkReason, detail: &str) -> Result<(), SpoolError> {
        let detail = detail[..detail.floor_char_boundary(MAX_DETAIL_BYTES)].to_owned();
        self.core.ask(|reply| Op::Park { seq, reason, detail, reply }).await
    }

    /// Where a record is now; [`State::Pending`] also when the disk can't tell.
    pub async fn state_of(&self, seq: Seq) -> State {
        self.core.reader.run(move |side| side.state_of(seq)).await.unwrap_or(State::Pending)
    }

    /// Up to `limit` (at most 1,000) parked records above `after` that match, lowest number first.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn parked(
        &self,
        filter: &ParkedFilter,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<ParkedRecord>, SpoolError> {
        let filter = filter.clone();
        let limit = u32::try_from(limit.min(MAX_LISTED)).unwrap_or(u32::MAX);
        self.core.reader.run(move |side| parked::list(&side.conn, &filter, after, limit)).await
    }

    /// One parked record with its body. A damaged one comes with what is left of it, and its detail says so.
    ///
    /// # Errors
    /// `Io`, `Closed`.
    pub async fn show(&self, seq: Seq) -> Result<Option<(ParkedRecord, Bytes)>, SpoolError> {
        self.core
            .reader
            .run(move |side| {
                let Some(mut record) = parked::show(&side.conn, seq)? else { return Ok(None) };
                let body = side.body(seq).or_else(|error| {
                    record.detail = format!("{} ({error})", record.detail);
                    Ok::<_, rusqlite::Error>(side.remains(seq))
                })?;
                Ok(Some((record, body.unwrap_or_default())))
            })
            .await
    }

    /// Makes parked records pending again, each at the end of its lane under a new number; the claim gets them at
    /// once. Gives their count.
    ///
    /// # Errors
    /// `Full`, `Io`, `Closed`; those moved before the error stay moved.
    pub async fn requeue(&self, selection: &Selection) -> Result<u64, SpoolError> {
        self.move_parked(selection, MoveTo::Pending).await
    }

    /// Deletes parked records for good. Gives their count.
    ///
    /// # Errors
    /// `Full`, `Io`, `Closed`; those deleted before the error stay deleted.
    pub async fn discard(&self, selection: &Selection) -> Result<u64, SpoolError> {
        self.move_parked(selection, MoveTo::Nowhere).await
    }

    async fn move_parked(&self, selection: &Selection, to: MoveTo) -> Result<u64, SpoolError> {
        let mut count = 0;
        match selection {
            Selection::Seqs(seqs) => {
                for seqs in seqs.chunks(MOVED) {
                    let picked = Picked::Seqs(seqs.to_vec());
                    count += self.core.ask(|reply| Op::Move { picked, to, reply }).await?.count;
                }
            }
            Selection::Matching(filter) => {
                // What is requeued may be parked again meanwhile, under a higher number: it is left alone.
                let upto = self.core.shared.handout.committed();
                let mut after = Seq(0);
                loop {
                    let picked =
                        Picked::Matching { filter: filter.clone(), after, upto, limit: MOVED as u32 };
                    let moved: Moved = self.core.ask(|reply| Op::Move { picked, to, reply }).await?;
                    count += moved.count;
                    match moved.last {
                        Some(last) => after = last,
                        None => break,
                    }
                }
            }
        }
        Ok(count)
    }

    /// The queue in numbers; cheap.
    pub fn stats(&self) -> Stats {
        self.core.shared.meters.read(self.core.shared.memory.used())
    }

    /// Why appends can't succeed, with folder and remedy; `None` when they can.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.core.shared.meters.trouble()
    }

    /// Whether appends can succeed, for readiness.
    pub fn healthy(&self) -> watch::Receiver<bool> {
        self.core.shared.meters.healthy()
    }

    /// The small state beside the queue.
    pub fn state(&self) -> StateStore {
        StateStore::new(Arc::clone(&self.core))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.core.folder
    }

    /// Commits what was handed in, empties the log, ends the threads, releases the folder. The claim ends too.
    pub async fn close(&self) {
        self.core.shared.mailbox.close();
        let mut ended = self.core.ended.clone();
        // An error means the thread is gone, which is what we wait for.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}
