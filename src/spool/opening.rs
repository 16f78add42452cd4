//! From the files in the folder to a database that can be worked on: looked over after an unclean end, saved into a
//! new one when damaged.
//!
//! Used at the start, and by the writer when it no longer trusts its connection.

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::books::Books;
use super::database::{self, OpenError};
use super::folder::{self, Folder};
use super::ledger::{Ledger, Limits};
use super::salvage::{self, Saved};
use super::trouble::explain;
use super::types::{Seq, SpoolError};
use super::wal::{Log, Verdict};
use super::{schema, upkeep};

/// How long the look over the whole database may take after an unclean end, while senders wait: some 2 GB that are
/// in memory. What it does not reach is guarded by checksums and found when it is read.
const LOOK: Duration = Duration::from_secs(2);

/// A database ready for the writer.
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) books: Books,
    /// It was made out of a damaged one.
    pub(super) saved: bool,
}

/// What is known when the files are opened.
pub(super) struct Opening<'a> {
    pub(super) folder: &'a mut Folder,
    pub(super) limits: &'a Limits,
    pub(super) now_ms: i64,
    /// Numbers up to here were given away.
    pub(super) given: Seq,
    /// It is known to be damaged.
    pub(super) damage: Option<String>,
}

impl Opening<'_> {
    /// # Errors
    /// `Incompatible`: not for this version; `Io`: the disk does not let us. Nothing was changed.
    pub(super) fn open(mut self) -> Result<Opened, SpoolError> {
        self.folder.sweep().map_err(|error| self.refused(&error))?;
        let finished = self.folder.finish_saving(self.now_ms).map_err(|error| self.refused(&error))?;
        if let Some(aside) = &finished {
            tracing::error!(file = %aside.display(), "the spool's damaged database was moved aside; what could be read of it had been saved before");
        }
        let tried = match self.damage.take() {
            Some(why) => Err(OpenError::Damaged(why)),
            None => self.try_open(),
        };
        let (mut opened, saved) = match tried {
            Ok(opened) => (opened, finished.is_some()),
            Err(OpenError::Damaged(why)) => (self.save(&why)?, true),
            Err(other) => return Err(self.give_up(other)),
        };
        opened.saved = saved;
        self.folder.remember().map_err(|error| self.refused(&error))?;
        Ok(opened)
    }

    fn try_open(&self) -> Result<Opened, OpenError> {
        let (file, log) = (self.folder.database(), self.folder.log());
        let length = self.folder.wal_bytes();
        if length > 0 && !file.exists() {
            return Err(OpenError::Damaged("spool.db is missing beside its log".to_owned()));
        }
        match Log::read(&log).map_err(|error| OpenError::Refused(self.refused(&error)))?.verdict() {
            Verdict::Sound => {}
            Verdict::Torn => tracing::warn!(
                "the spool's log ends within a transaction, as a power cut leaves it; nothing in it was acknowledged"
            ),
            Verdict::Damaged => return Err(OpenError::Damaged("its log is broken in the middle".to_owned())),
        }
        let (conn, ledger) = database::open_writer(&file, self.limits)?;
        if !schema::take_clean_mark(&conn)? {
            look_over(&conn, &ledger)?;
        }
        if length > 0 {
            // A log that goes on behind a torn end could later be taken for a damaged one.
            upkeep::checkpoint(&conn)?;
        }
        let books = Books::read(&conn, ledger)?;
        Ok(Opened { conn, books, saved: false })
    }

    fn save(&self, why: &str) -> Result<Opened, SpoolError> {
        self.folder.may_set_aside()?;
        let failed = |error| SpoolError::Io(explain(self.folder.path(), &error));
        let Saved { pending, parked, damaged, state } =
            salvage::save(self.folder, self.now_ms, self.given).map_err(failed)?;
        let aside = self.folder.save(self.now_ms).map_err(|error| self.refused(&error))?;
        let aside = aside.unwrap_or_else(PathBuf::new);
        tracing::error!(
            file = %aside.display(), error = why, pending, parked, damaged, state,
            "the spool's database is damaged; it was moved aside with all it held, and what could be read of it saved into a new one; see `spool list --reason damaged`"
        );
        self.try_open().map_err(|error| self.give_up(error))
    }

    fn give_up(&self, error: OpenError) -> SpoolError {
        match error {
            OpenError::Damaged(why) => {
                SpoolError::Io(format!("spool.directory {}: {why}", self.folder.path().display()))
            }
            OpenError::Refused(error) => error,
            OpenError::Failed(error) => SpoolError::Io(explain(self.folder.path(), &error)),
        }
    }

    fn refused(&self, error: &std::io::Error) -> SpoolError {
        SpoolError::Io(format!(
            "spool.directory {}: {error}; its disk must have space and be writable for this user",
            self.folder.path().display()
        ))
    }

    /// How many damaged databases lie in the folder.
    pub(super) fn damaged_files(folder: &Folder) -> u64 {
        folder::damaged_files(folder.path()).len() as u64
    }
}

/// Looks at every page, as far as time allows; and whether the tables hold what the ledger says.
fn look_over(conn: &Connection, ledger: &Ledger) -> Result<(), OpenError> {
    let stop = conn.get_interrupt_handle();
    let (ended, watched) = mpsc::channel::<()>();
    let watch = thread::Builder::new().name("spool-look".to_owned()).spawn(move || {
        if watched.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            stop.interrupt();
        }
    });
    let result = look(conn, ledger);
    drop(ended);
    if let Ok(watch) = watch {
        let _ = watch.join();
    }
    match result {
        Ok(None) => Ok(()),
        Ok(Some(damage)) => Err(OpenError::Damaged(damage)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            tracing::info!(
                "the spool's database is too large to be looked over whole at the start; damage in the rest is found when it is read"
            );
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn look(conn: &Connection, ledger: &Ledger) -> rusqlite::Result<Option<String>> {
    let expected =
        [("idx", ledger.pending, ledger.pending_bytes), ("parked", ledger.parked, ledger.parked_bytes)];
    for (table, rows, bytes) in expected {
        let found: (i64, i64) =
            conn.query_row(&format!("SELECT count(*), coalesce(sum(len), 0) FROM {table}"), [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        if found != (rows, bytes) {
            return Ok(Some(format!(
                "table {table} holds {} records of {} bytes, its ledger says {rows} of {bytes}",
                found.0, found.1
            )));
        }
    }
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    Ok((verdict != "ok").then_some(verdict))
}
