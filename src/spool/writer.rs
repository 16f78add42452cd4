//! The one thread that writes: takes what waits, commits it as one transaction, then tells everybody.
//!
//! Knows no async code. After a failed commit nothing was acknowledged and nothing handed out.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::watch;

use super::batch::{Answers, Batch, Committed, Rules};
use super::books::Books;
use super::database::{Trouble, trouble};
use super::folder::Folder;
use super::handout::Handout;
use super::ledger::Limits;
use super::mailbox::{Mailbox, Op, Taken};
use super::memory::Memory;
use super::meters::Meters;
use super::reader::ReaderThread;
use super::types::{Seq, SpoolError};
use super::upkeep;
use crate::model::Clock;

/// Between two looks at what can be swept, and at the oldest record.
const TICK: Duration = Duration::from_secs(1);
/// Between two steps of giving free pages back, so that appends in between are not held up.
const STEP: Duration = Duration::from_millis(50);
/// Between two tries to write after the disk was full.
const PROBE: Duration = Duration::from_secs(2);
/// What a try writes: more than pages that happen to be free.
const PROBE_BYTES: i64 = 64 * 1024;
/// A log shorter than this is left for SQLite's own checkpoints.
const WAL_WORTH_BYTES: u64 = 1024 * 1024;

/// What the writer shares with the rest of the spool.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) handout: Arc<Handout>,
    pub(super) meters: Arc<Meters>,
    pub(super) memory: Memory,
}

pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) books: Books,
    pub(super) shared: Shared,
    pub(super) limits: Limits,
    pub(super) dedup_window_ms: i64,
    pub(super) clock: Clock,
    pub(super) reader: ReaderThread,
    pub(super) folder: Folder,
    /// Pages were given back that only a checkpoint takes off the file.
    pub(super) shrunk: bool,
}

/// What state the disk is in, as far as the last write tells.
enum Disk {
    Well,
    /// Probed until it is well again; `undone` are records whose `done` is not yet written: at most as many
    /// as were pending.
    NoSpace {
        why: String,
        undone: Vec<Seq>,
        probe_at: Instant,
    },
    Broken {
        why: String,
    },
}

/// Tells the rest that the writer is gone, also when it panicked.
struct Ending {
    shared: Shared,
    ended: watch::Sender<bool>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.mailbox.close();
        let refused = self.shared.mailbox.take(Duration::ZERO);
        refused.ops.into_iter().for_each(|op| op.refuse(&SpoolError::Closed));
        self.shared.meters.set_healthy(false);
        self.shared.handout.end();
        self.ended.send_replace(true);
    }
}

impl Writer {
    /// Starts the thread. The receiver turns true when it has ended and the folder is free again.
    pub(super) fn start(self) -> std::io::Result<watch::Receiver<bool>> {
        let (ended, receiver) = watch::channel(false);
        let ending = Ending { shared: self.shared.clone(), ended };
        thread::Builder::new().name("spool-writer".to_owned()).spawn(move || {
            // Dropped last: the lock is released before anybody hears of the end.
            let _ending = ending;
            self.run();
        })?;
        Ok(receiver)
    }

    fn run(mut self) {
        let mut disk = Disk::Well;
        let mut upkeep_at = Instant::now();
        let mut quiet = true;
        loop {
            let until = match &disk {
                Disk::Well => upkeep_at,
                Disk::NoSpace { probe_at, .. } => *probe_at,
                Disk::Broken { .. } => Instant::now() + TICK,
            };
            let taken = self.shared.mailbox.take(until.saturating_duration_since(Instant::now()));
            if taken.ended {
                break;
            }
            quiet &= taken.ops.is_empty() && taken.done.is_empty();
            disk = match disk {
                Disk::Well => self.work(taken, Vec::new()),
                Disk::NoSpace { why, undone, probe_at } => {
                    self.work_without_space(taken, why, undone, probe_at)
                }
                Disk::Broken { why } => {
                    let error = SpoolError::Io(why.clone());
                    taken.ops.into_iter().for_each(|op| op.refuse(&error));
                    Disk::Broken { why }
                }
            };
            if matches!(disk, Disk::Well) && Instant::now() >= upkeep_at {
                (disk, upkeep_at) = self.upkeep(quiet);
                quiet = true;
            }
        }
        self.finish(disk);
    }

    /// One transaction with everything taken, and `undone` of an earlier one that failed.
    fn work(&mut self, taken: Taken, undone: Vec<Seq>) -> Disk {
        if taken.ops.is_empty() && taken.done.is_empty() && undone.is_empty() {
            return Disk::Well;
        }
        let mut done = undone;
        done.extend(taken.done);
        let started = Instant::now();
        match self.transact(taken.ops, &done) {
            Ok(committed) => {
                self.settle(committed, started.elapsed());
                Disk::Well
            }
            Err((error, answers, rest)) => {
                let disk = self.failed(&error, done);
                let error = SpoolError::Io(error.to_string());
                answers.refuse(&error);
                rest.into_iter().for_each(|op| op.refuse(&error));
                disk
            }
        }
    }

    /// After the commit: counts first, so that who is answered sees them; then the claim; then the answers.
    fn settle(&mut self, committed: Committed, took: Duration) {
        let Committed { ledger, by_group, fresh, appended, duplicates, answers } = committed;
        self.books.settle(ledger, by_group);
        self.shared.meters.set_ledger(&ledger);
        if ledger.pending == 0 {
            self.shared.meters.set_oldest(None);
        } else if !self.shared.meters.has_oldest()
            && let Some(first) = fresh.first()
        {
            self.shared.meters.set_oldest(Some(first.received_ms));
        }
        self.shared.meters.committed(appended, duplicates, took);
        self.shared.handout.publish(fresh, &self.shared.memory);
        answers.give();
    }

    fn transact(
        &mut self,
        ops: Vec<Op>,
        done: &[Seq],
    ) -> Result<Committed, (rusqlite::Error, Answers, std::vec::IntoIter<Op>)> {
        let mut ops = ops.into_iter();
        if let Err(error) = self.conn.execute_batch("BEGIN IMMEDIATE") {
            return Err((error, Answers::default(), ops));
        }
        let rules = Rules {
            limits: &self.limits,
            dedup_window_ms: self.dedup_window_ms,
            now_ms: self.clock.now_ms(),
        };
        let mut batch = Batch::new(&self.conn, &mut self.books, rules);
        let result = done
            .iter()
            .try_for_each(|seq| batch.done(*seq))
            .and_then(|()| ops.try_for_each(|op| batch.apply(op)))
            .and_then(|()| batch.finish())
            .and_then(|()| self.conn.execute_batch("COMMIT"));
        match result {
            Ok(()) => Ok(batch.into_committed()),
            Err(error) => {
                let answers = batch.into_answers();
                self.roll_back();
                Err((error, answers, ops))
            }
        }
    }

    fn roll_back(&mut self) {
        // SQLite has rolled back by itself after some errors. Should this fail too, the next BEGIN will say so.
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        self.books.lanes.forget();
    }

    /// Judges a failed write; says so in the log, once.
    fn failed(&self, error: &rusqlite::Error, undone: Vec<Seq>) -> Disk {
        self.shared.meters.set_healthy(false);
        let why = error.to_string();
        match trouble(error) {
            Trouble::Passing => {
                tracing::error!(error = %why, "the spool can't write; messages are refused until a write succeeds again");
                Disk::NoSpace { why, undone, probe_at: Instant::now() + PROBE }
            }
            Trouble::Lasting => {
                tracing::error!(error = %why, "the spool's disk or database failed; messages are refused until a restart");
                Disk::Broken { why }
            }
        }
    }

    /// Appends are refused at once. The rest may succeed, and may free the space that is missing.
    fn work_without_space(&mut self, taken: Taken, why: String, undone: Vec<Seq>, probe_at: Instant) -> Disk {
        let error = SpoolError::Io(why.clone());
        let (appends, ops): (Vec<Op>, Vec<Op>) =
            taken.ops.into_iter().partition(|op| matches!(op, Op::Append { .. }));
        appends.into_iter().for_each(|op| op.refuse(&error));
        let mut done = undone;
        done.extend(taken.done);
        let idle = ops.is_empty();
        if idle && Instant::now() < probe_at {
            return Disk::NoSpace { why, undone: done, probe_at };
        }
        let started = Instant::now();
        match self.transact(ops, &done) {
            Ok(committed) => {
                self.settle(committed, started.elapsed());
                done.clear();
            }
            Err((error, answers, rest)) => {
                let answer = SpoolError::Io(error.to_string());
                answers.refuse(&answer);
                rest.into_iter().for_each(|op| op.refuse(&answer));
                return self.still_failing(&error, why, done);
            }
        }
        match self.probe() {
            Ok(()) => {
                tracing::info!("the spool can write again");
                self.shared.meters.set_healthy(true);
                Disk::Well
            }
            Err(error) => self.still_failing(&error, why, done),
        }
    }

    /// It was said in the log; only a turn for the worse is said again.
    fn still_failing(&mut self, error: &rusqlite::Error, why: String, undone: Vec<Seq>) -> Disk {
        match trouble(error) {
            Trouble::Passing => Disk::NoSpace { why, undone, probe_at: Instant::now() + PROBE },
            Trouble::Lasting => self.failed(error, undone),
        }
    }

    fn probe(&mut self) -> rusqlite::Result<()> {
        let written = self
            .conn
            .execute("INSERT OR REPLACE INTO meta VALUES('probe', zeroblob(?))", [PROBE_BYTES])
            .and_then(|_| self.conn.execute("DELETE FROM meta WHERE k = 'probe'", []))
            .map(drop);
        if written.is_err() {
            self.roll_back();
        }
        written
    }

    /// One step of each kind of upkeep; and when the next is due.
    fn upkeep(&mut self, quiet: bool) -> (Disk, Instant) {
        match self.upkeep_step(quiet) {
            Ok(more) => (Disk::Well, Instant::now() + if more { STEP } else { TICK }),
            Err(error) => {
                self.roll_back();
                (self.failed(&error, Vec::new()), Instant::now() + TICK)
            }
        }
    }

    fn upkeep_step(&mut self, quiet: bool) -> rusqlite::Result<bool> {
        let lanes = self.books.ledger.lanes;
        let swept = upkeep::sweep(&self.conn, &self.books.ledger, &self.limits, self.clock.now_ms())?;
        if let Some(ledger) = swept {
            self.books.ledger = ledger;
            if ledger.lanes != lanes {
                self.books.lanes.forget();
            }
        }
        self.shared.meters.set_oldest(upkeep::oldest_received_ms(&self.conn)?);
        let vacuumed = upkeep::vacuum(&self.conn, self.books.ledger.pending)?;
        self.shrunk |= vacuumed;
        let more = swept.is_some() || vacuumed;
        // While messages come, SQLite's own checkpoints do; a further one would only hold appends up.
        if !more && (self.shrunk || quiet && self.folder.wal_bytes() > WAL_WORTH_BYTES) {
            self.shrunk = !upkeep::checkpoint(&self.conn)?;
        }
        Ok(more)
    }

    /// The last steps: the reader ends first, so that the log can be emptied.
    fn finish(mut self, disk: Disk) {
        let undone = match disk {
            Disk::Well => Vec::new(),
            Disk::NoSpace { undone, .. } => undone,
            Disk::Broken { .. } => return self.reader.stop(),
        };
        let written = self.work(Taken::default(), undone);
        let Self { conn, reader, folder, .. } = self;
        reader.stop();
        if matches!(written, Disk::Well)
            && let Err(error) = upkeep::checkpoint(&conn)
        {
            tracing::warn!(error = %error, "the spool's log could not be emptied; the next start does it");
        }
        // The lock goes last.
        drop(conn);
        drop(folder);
    }
}
