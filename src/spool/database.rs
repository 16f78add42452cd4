//! The SQLite file: its connections and their settings, asserted after they are made.
//!
//! Knows no thread and no transaction of the queue.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::ledger::{Ledger, Limits};
use super::remembered;
use super::schema;
use super::trouble::{Trouble, trouble};
use super::types::SpoolError;

pub(super) const PAGE_BYTES: i64 = 4096;
/// Pages in the log before they are moved into the database: 16 MiB, a checkpoint that stays short.
pub(super) const CHECKPOINT_PAGES: i64 = 4096;
const WAL_KEPT_BYTES: i64 = CHECKPOINT_PAGES * PAGE_BYTES;
/// Page caches of fixed size in KiB, so that memory does not grow with what is stored. Duplicates' keys are random, so any
/// cache fills; with 600,000 of them one of 16 MiB saved a microsecond of 75 an uplink.
const WRITER_CACHE_KIB: i64 = 4 * 1024;
const READER_CACHE_KIB: i64 = 4 * 1024;
/// How long an operator's tool may hold the write lock before appends fail.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// More statements than this module has.
const STATEMENTS_KEPT: usize = 64;

/// Why a database can't be worked on.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Not a database, or a broken one: to be moved aside.
    Damaged(String),
    /// To be left alone: it is sound, but not for us.
    Refused(SpoolError),
    /// The disk does not let us.
    Failed(rusqlite::Error),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match trouble(&error) {
            Trouble::Damaged => Self::Damaged(error.to_string()),
            Trouble::Passing | Trouble::Doubtful => Self::Failed(error),
        }
    }
}

/// Opens or creates the database for writing; its settings and tables are checked, its ledger read.
pub(super) fn open_writer(file: &Path, limits: &Limits) -> Result<(Connection, Ledger), OpenError> {
    let conn = connect(file, OpenFlags::SQLITE_OPEN_CREATE)?;
    // Before the first table, or it takes no effect.
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    assert_setting("journal_mode", &mode, "wal")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    let synchronous: i64 = conn.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    assert_setting("synchronous", &synchronous.to_string(), "2")?;
    for (name, value) in [
        ("cache_size", -WRITER_CACHE_KIB),
        // SQLite's own checkpoints hide a failed sync and try it again; ours (`upkeep`) do not.
        ("wal_autocheckpoint", 0),
        ("journal_size_limit", WAL_KEPT_BYTES),
        ("max_page_count", limits.max_pages(PAGE_BYTES)),
    ] {
        conn.pragma_update_and_check(None, name, value, |_| Ok(())).or_else(no_answer)?;
    }
    schema::settle(&conn)?;
    conn.execute_batch(remembered::TABLE)?;
    let vacuum: i64 = conn.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    assert_setting("auto_vacuum", &vacuum.to_string(), "2")?;
    let ledger = schema::read_ledger(&conn)?;
    Ok((conn, ledger))
}

/// Opens a second connection for reading.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let conn = connect(file, OpenFlags::empty())?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(conn)
}

pub(super) fn connect(file: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(file, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // A failed disk must not be synced again on the way out; `close` checkpoints itself.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    // Else statements that compare a column with a parameter are planned anew whenever its value is another one.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(conn)
}

fn no_answer(error: rusqlite::Error) -> rusqlite::Result<()> {
    match error {
        rusqlite::Error::QueryReturnedNoRows => Ok(()),
        error => Err(error),
    }
}

fn assert_setting(name: &str, found: &str, wanted: &str) -> Result<(), OpenError> {
    if found == wanted {
        return Ok(());
    }
    Err(OpenError::Refused(SpoolError::Incompatible(format!(
        "PRAGMA {name} is {found} and must be {wanted}; is spool.directory on a file system that SQLite's WAL can't use?"
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writers_connection_syncs_every_commit_and_keeps_its_cache_small() {
        let folder = tempfile::tempdir().expect("folder");
        let limits = Limits::new(&crate::config::Spool::default());
        let (conn, _) = open_writer(&folder.path().join("spool.db"), &limits).expect("opens");
        let pragma =
            |name: &str| -> i64 { conn.pragma_query_value(None, name, |row| row.get(0)).expect(name) };
        assert_eq!(pragma("synchronous"), 2);
        assert_eq!(pragma("auto_vacuum"), 2);
        assert_eq!(pragma("cache_size"), -WRITER_CACHE_KIB);
        assert_eq!(pragma("wal_autocheckpoint"), 0);
        assert_eq!(pragma("max_page_count"), limits.max_pages(PAGE_BYTES));
        let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0)).expect("mode");
        assert_eq!(mode, "wal");
    }

    #[test]
    fn a_statement_is_planned_once_whatever_its_parameters_are() {
        let folder = tempfile::tempdir().expect("folder");
        let limits = Limits::new(&crate::config::Spool::default());
        let (conn, _) = open_writer(&folder.path().join("spool.db"), &limits).expect("opens");
        let text = "SELECT key FROM state WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?";
        let mut statement = conn.prepare(text).expect("prepared");
        for now_ms in [1_i64, 2, 3] {
            let mut rows = statement.query([now_ms, 10]).expect("asked");
            assert!(rows.next().expect("read").is_none());
        }
        assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0);
    }

    #[test]
    fn a_setting_that_did_not_take_is_refused_with_its_name() {
        let Err(OpenError::Refused(SpoolError::Incompatible(why))) = assert_setting("synchronous", "1", "2")
        else {
            panic!("accepted");
        };
        assert!(why.contains("synchronous is 1 and must be 2"), "{why}");
    }
}
