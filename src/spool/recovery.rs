//! What the writer does while the disk is ill: refuses what is new, keeps what is done, and tries.
//!
//! Want of space passes on the same connection. After any other error what is on disk is not known: a failed sync may
//! have left pages that the system holds for written. So the files are opened anew: the log written and synced once
//! more, read back, moved into the database, and compared with what was acknowledged.

use std::fs::File;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::books::Books;
use super::folder::Moved;
use super::mailbox::{Op, Taken};
use super::opening::{Opened, Opening};
use super::trouble::{Trouble, explain, trouble};
use super::types::{Seq, SpoolError};
use super::upkeep;
use super::writer::{Disk, Failure, Writer};

/// Between two tries.
const PROBE: Duration = Duration::from_secs(2);
/// Between two tries while each return is soon followed by the next failure.
const PROBE_MAX: Duration = Duration::from_secs(60);
/// What a try writes into the database: more than pages that happen to be free.
const PROBE_BYTES: i64 = 64 * 1024;

/// Why nothing new is kept, and what is to be written once the disk is well.
pub(super) struct Illness {
    trouble: Trouble,
    /// The writer's connection was closed and there is no other yet.
    detached: bool,
    /// What was read is damaged, and how.
    damage: Option<String>,
    why: Arc<str>,
    /// Records that are done, though it is not yet written: at most as many as were pending.
    undone: Vec<Seq>,
    pub(super) probe_at: Instant,
    wait: Duration,
}

impl Illness {
    /// What those are told who hand something in.
    pub(super) fn answer(&self) -> SpoolError {
        SpoolError::Io(self.why.to_string())
    }

    pub(super) fn due_now(self) -> Self {
        Self { probe_at: Instant::now(), ..self }
    }

    fn later(self) -> Disk {
        Disk::Ill(Self { probe_at: Instant::now() + self.wait, ..self })
    }
}

impl Writer {
    /// Judges a failure and says so in the log, once.
    pub(super) fn fallen_ill(&self, failure: Failure, undone: Vec<Seq>) -> Illness {
        let folder = self.folder.path();
        let (trouble, damage, why) = match &failure {
            Failure::Sqlite(error) => {
                let trouble = trouble(error);
                let damage = (trouble == Trouble::Damaged).then(|| error.to_string());
                (trouble, damage, explain(folder, error))
            }
            Failure::Moved(moved) => (Trouble::Doubtful, None, was_moved(folder, *moved)),
        };
        tracing::error!(
            error = why,
            "the spool can't work; messages are answered 503 until it can, which is tried every few seconds"
        );
        let why: Arc<str> = why.into();
        self.shared.meters.set_health(Some(Arc::clone(&why)));
        let soon_again = self.recovered.is_some_and(|at| at.elapsed() < PROBE_MAX);
        let wait = if soon_again && trouble != Trouble::Passing { PROBE_MAX.min(PROBE * 4) } else { PROBE };
        // Saving what is left of a damaged database need not wait for anything.
        let first = if trouble == Trouble::Damaged && !soon_again { Duration::ZERO } else { wait };
        Illness { trouble, detached: false, damage, why, undone, probe_at: Instant::now() + first, wait }
    }

    /// One turn of the loop while the disk is ill.
    pub(super) fn nurse(&mut self, mut illness: Illness, taken: Taken) -> Disk {
        illness.undone.extend(taken.done);
        match illness.trouble {
            Trouble::Passing => self.wait_for_space(illness, taken.ops),
            Trouble::Doubtful | Trouble::Damaged => {
                let answer = illness.answer();
                taken.ops.into_iter().for_each(|op| op.refuse(&answer));
                if Instant::now() < illness.probe_at { Disk::Ill(illness) } else { self.start_anew(illness) }
            }
        }
    }

    /// Appends are refused at once. The rest may succeed, and may free the space that is missing.
    fn wait_for_space(&mut self, illness: Illness, ops: Vec<Op>) -> Disk {
        let answer = illness.answer();
        let (appends, ops): (Vec<Op>, Vec<Op>) =
            ops.into_iter().partition(|op| matches!(op, Op::Append { .. }));
        appends.into_iter().for_each(|op| op.refuse(&answer));
        if ops.is_empty() && Instant::now() < illness.probe_at {
            return Disk::Ill(illness);
        }
        let Illness { undone, .. } = &illness;
        let started = Instant::now();
        match self.transact(ops, undone) {
            Ok(committed) => self.settle(committed, started.elapsed()),
            Err((failure, answers, rest)) => {
                answers.refuse(&answer);
                rest.into_iter().for_each(|op| op.refuse(&answer));
                return self.still_ill(failure, illness);
            }
        }
        match self.probe() {
            Ok(()) => self.well(),
            Err(error) => self.still_ill(error.into(), Illness { undone: Vec::new(), ..illness }),
        }
    }

    /// It was said in the log; only a turn for the worse is said again.
    fn still_ill(&mut self, failure: Failure, illness: Illness) -> Disk {
        match &failure {
            Failure::Sqlite(error) if trouble(error) == Trouble::Passing => illness.later(),
            Failure::Sqlite(_) | Failure::Moved(_) => Disk::Ill(self.fallen_ill(failure, illness.undone)),
        }
    }

    fn well(&mut self) -> Disk {
        tracing::info!("the spool works again");
        self.recovered = Some(Instant::now());
        self.shared.meters.set_health(None);
        Disk::Well
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

    /// Leaves the connections behind and opens the files as a start would, without trusting what they held.
    fn start_anew(&mut self, mut illness: Illness) -> Disk {
        if let Err(error) = self.try_anew(&mut illness) {
            tracing::debug!(error = %error, "the spool still can't work");
            illness.wait = PROBE_MAX.min(illness.wait * 2);
            return illness.later();
        }
        // What was done meanwhile is the proof that commits succeed.
        let started = Instant::now();
        match self.transact(Vec::new(), &illness.undone) {
            Ok(committed) => {
                self.settle(committed, started.elapsed());
                self.well()
            }
            Err((failure, ..)) => {
                let wait = PROBE_MAX.min(illness.wait * 2);
                Illness { wait, ..self.fallen_ill(failure, illness.undone) }.later()
            }
        }
    }

    fn try_anew(&mut self, illness: &mut Illness) -> Result<(), SpoolError> {
        let text = |error: &dyn std::fmt::Display| SpoolError::Io(error.to_string());
        // While not even a plain file can be written, reading goes on over the connection there is.
        let moved = if illness.detached { None } else { self.folder.moved() };
        match moved {
            None => self.folder.probe().map_err(|error| text(&error))?,
            Some(Moved::Gone) => self.write_anew().map_err(|error| text(&error))?,
            Some(moved @ Moved::Replaced) => {
                return Err(SpoolError::Io(was_moved(self.folder.path(), moved)));
            }
        }
        self.reader.release();
        // Holds the place while there is none on the files; SQLite keeps what it knows of them only until then.
        let none = Connection::open_in_memory().map_err(|error| text(&error))?;
        drop(mem::replace(&mut self.conn, none));
        illness.detached = true;
        self.folder.rewrite_log().map_err(|error| text(&error))?;
        let acknowledged = Seq(self.books.ledger.next_seq - 1);
        let opening = Opening {
            folder: &mut self.folder,
            limits: &self.limits,
            now_ms: self.clock.now_ms(),
            given: acknowledged,
            damage: illness.damage.clone(),
        };
        let Opened { conn, mut books, saved } = opening.open()?;
        // Saved once; what comes then is new.
        illness.damage = None;
        if !upkeep::checkpoint(&conn).map_err(|error| text(&error))? {
            return Err(SpoolError::Io("another process reads the database".to_owned()));
        }
        self.reader.reopen(&self.folder.database()).map_err(|error| text(&error))?;
        self.note(&mut books, acknowledged, saved);
        (self.conn, self.books) = (conn, books);
        Ok(())
    }

    /// Compares what is there with what was acknowledged, and tells the rest.
    fn note(&self, books: &mut Books, acknowledged: Seq, saved: bool) {
        let ledger = &mut books.ledger;
        if ledger.next_seq <= acknowledged.0 {
            tracing::error!(
                acknowledged = acknowledged.0,
                found = ledger.next_seq - 1,
                "the disk no longer holds messages that it had confirmed; they can't be had back"
            );
            ledger.next_seq = acknowledged.0 + 1;
        }
        if saved {
            self.shared.meters.set_aside();
        }
        self.shared.meters.set_damaged_files(Opening::damaged_files(&self.folder));
        self.shared.meters.set_ledger(ledger);
        // A refused transaction may have come to be on disk after all.
        self.shared.handout.advance(Seq(ledger.next_seq - 1));
    }

    /// The files are gone from the folder but still open: their content goes into a new one.
    fn write_anew(&mut self) -> io::Result<()> {
        self.folder.restore()?;
        self.folder.sweep()?;
        let draft = self.folder.draft();
        let draft = draft.to_str().ok_or_else(|| io::Error::other("its path is no text"))?;
        self.conn.execute("VACUUM INTO ?", [draft]).map_err(io::Error::other)?;
        File::open(draft)?.sync_all()?;
        self.folder.save(self.clock.now_ms()).map(drop)
    }
}

fn was_moved(folder: &std::path::Path, moved: Moved) -> String {
    let folder = folder.display();
    match moved {
        Moved::Gone => format!("spool.directory {folder}: its files were removed; they are written anew"),
        Moved::Replaced => format!(
            "spool.directory {folder}: another database was put in the place of the open one; take it away, or restart to use it"
        ),
    }
}
