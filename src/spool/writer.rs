//! The one thread that writes: takes what waits, commits it as one transaction, then tells everybody.
//!
//! Knows no async code. After a failed commit nothing was acknowledged and nothing handed out; `recovery` takes over.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::watch;

use super::batch::{Answers, Batch, Committed, Rules};
use super::books::{Books, ByGroup};
use super::folder::{Folder, Moved};
use super::handout::Handout;
use super::ledger::Limits;
use super::mailbox::{Mailbox, Op, Taken};
use super::memory::Memory;
use super::meters::Meters;
use super::reader::ReaderThread;
use super::recovery::Illness;
use super::trouble::damage;
use super::types::{Seq, SpoolError};
use super::{schema, upkeep};
use crate::model::Clock;

/// Between two looks at what can be swept, and at the oldest record.
const TICK: Duration = Duration::from_secs(1);
/// Between two steps of giving free pages back, so that appends in between are not held up.
const STEP: Duration = Duration::from_millis(50);
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
    /// The last return from an illness.
    pub(super) recovered: Option<Instant>,
}

/// What state the disk is in, as far as the last write tells.
pub(super) enum Disk {
    Well,
    /// Nothing new is kept until it is well again, which is tried from time to time.
    Ill(Illness),
}

/// Why a transaction counts as failed.
pub(super) enum Failure {
    Sqlite(rusqlite::Error),
    /// It was committed, to files that are not in the folder any more.
    Moved(Moved),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// A transaction that failed: why, who waits for an answer, and what it did not come to.
pub(super) type Failed = (Failure, Answers, std::vec::IntoIter<Op>);

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
        self.shared.meters.set_health(Some(Arc::from("it is closed")));
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
                Disk::Ill(illness) => illness.probe_at,
            };
            let mut taken = self.shared.mailbox.take(until.saturating_duration_since(Instant::now()));
            if taken.ended {
                break;
            }
            quiet &= taken.ops.is_empty() && taken.done.is_empty();
            disk = match (disk, taken.damage.take()) {
                (Disk::Well, Some(why)) => {
                    let (illness, ops) = (self.fallen_ill(damage(&why).into(), taken.done), taken.ops);
                    ops.into_iter().for_each(|op| op.refuse(&illness.answer()));
                    Disk::Ill(illness)
                }
                (Disk::Well, None) => self.work(taken, Vec::new()),
                (Disk::Ill(illness), _) => self.nurse(illness, taken),
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
                match upkeep::checkpoint_when_long(&self.conn) {
                    Ok(()) => Disk::Well,
                    Err(error) => Disk::Ill(self.fallen_ill(error.into(), Vec::new())),
                }
            }
            Err((failure, answers, rest)) => {
                let illness = self.fallen_ill(failure, done);
                let error = illness.answer();
                answers.refuse(&error);
                rest.into_iter().for_each(|op| op.refuse(&error));
                Disk::Ill(illness)
            }
        }
    }

    /// After the commit: counts first, so that who is answered sees them; then the claim; then the answers.
    pub(super) fn settle(&mut self, committed: Committed, took: Duration) {
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

    pub(super) fn transact(&mut self, ops: Vec<Op>, done: &[Seq]) -> Result<Committed, Failed> {
        let mut ops = ops.into_iter();
        if let Err(error) = self.conn.execute_batch("BEGIN IMMEDIATE") {
            return Err((error.into(), Answers::default(), ops));
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
        match (result, self.folder.moved()) {
            (Ok(()), None) => Ok(batch.into_committed()),
            (Ok(()), Some(moved)) => {
                let answers = batch.into_answers();
                self.books.roll_back();
                Err((Failure::Moved(moved), answers, ops))
            }
            (Err(error), _) => {
                let answers = batch.into_answers();
                self.roll_back();
                Err((error.into(), answers, ops))
            }
        }
    }

    pub(super) fn roll_back(&mut self) {
        // SQLite has rolled back by itself after some errors. Should this fail too, the next BEGIN will say so.
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        self.books.roll_back();
    }

    /// One step of each kind of upkeep; and when the next is due.
    fn upkeep(&mut self, quiet: bool) -> (Disk, Instant) {
        let failure = match (self.upkeep_step(quiet), self.folder.moved()) {
            (Ok(more), None) => return (Disk::Well, Instant::now() + if more { STEP } else { TICK }),
            (Ok(_), Some(moved)) => Failure::Moved(moved),
            (Err(error), _) => {
                self.roll_back();
                error.into()
            }
        };
        (Disk::Ill(self.fallen_ill(failure, Vec::new())), Instant::now() + TICK)
    }

    fn upkeep_step(&mut self, quiet: bool) -> rusqlite::Result<bool> {
        let lanes = self.books.ledger.lanes;
        let swept = upkeep::sweep(&self.conn, &mut self.books, &self.limits, self.clock.now_ms())?;
        if let Some(ledger) = swept {
            self.books.settle(ledger, ByGroup::new());
            if ledger.lanes != lanes {
                self.books.lanes.forget();
            }
        }
        self.shared.meters.set_oldest(upkeep::oldest_received_ms(&self.conn)?);
        let vacuumed = upkeep::vacuum(&self.conn, self.books.ledger.pending)?;
        self.shrunk |= vacuumed;
        let more = swept.is_some() || vacuumed;
        upkeep::checkpoint_when_long(&self.conn)?;
        // While messages come, that is enough; emptying the log too would only hold appends up.
        if !more && (self.shrunk || quiet && self.folder.wal_bytes() > WAL_WORTH_BYTES) {
            self.shrunk = !upkeep::checkpoint(&self.conn)?;
        }
        Ok(more)
    }

    /// The last steps: the reader ends first, so that the log can be emptied.
    fn finish(mut self, disk: Disk) {
        let written = match disk {
            Disk::Well => self.work(Taken::default(), Vec::new()),
            // The last chance for what is not written yet.
            Disk::Ill(illness) => self.nurse(illness.due_now(), Taken::default()),
        };
        let Self { conn, reader, folder, .. } = self;
        reader.stop();
        if matches!(written, Disk::Well)
            && let Err(error) = schema::put_clean_mark(&conn).and_then(|()| upkeep::checkpoint(&conn))
        {
            tracing::warn!(error = %error, "the spool's log could not be emptied; the next start does it");
        }
        // The lock goes last.
        drop(conn);
        drop(folder);
    }
}
