//! The SQLite file: its settings, asserted after they are made, its tables, and what its errors mean for us.
//!
//! Knows no thread and no transaction of the queue.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ffi};

use super::ledger::{Ledger, Limits};
use super::remembered;
use super::types::SpoolError;

/// The tables' version, in `meta`. A database of another version is refused.
const SCHEMA_VERSION: i64 = 1;
const PAGE_BYTES: i64 = 4096;
/// Pages in the log before they are moved into the database: 16 MiB, a checkpoint that stays short.
pub(super) const CHECKPOINT_PAGES: i64 = 4096;
const WAL_KEPT_BYTES: i64 = CHECKPOINT_PAGES * PAGE_BYTES;
/// Page caches of fixed size in KiB, so that memory does not grow with what is stored.
const WRITER_CACHE_KIB: i64 = 16 * 1024;
const READER_CACHE_KIB: i64 = 4 * 1024;
/// How long an operator's tool may hold the write lock before appends fail.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// More statements than this module has.
const STATEMENTS_KEPT: usize = 64;

/// `idx` is the small table a restart scans; `msg` holds the bodies, of parked records too. `lane` names both
/// by a small number, AUTOINCREMENT so that a number seen once never means another lane.
const TABLES: &str = "
CREATE TABLE meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE ledger(id INTEGER PRIMARY KEY CHECK (id = 1), next_seq INTEGER NOT NULL,
    pending INTEGER NOT NULL, pending_bytes INTEGER NOT NULL, parked INTEGER NOT NULL,
    parked_bytes INTEGER NOT NULL, dedup INTEGER NOT NULL, lanes INTEGER NOT NULL);
CREATE TABLE lane(id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, grp TEXT NOT NULL,
    UNIQUE(key, grp));
CREATE TABLE msg(seq INTEGER PRIMARY KEY, dedup BLOB, body BLOB NOT NULL);
CREATE TABLE idx(seq INTEGER PRIMARY KEY, lane INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    len INTEGER NOT NULL);
CREATE TABLE parked(seq INTEGER PRIMARY KEY, lane INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    len INTEGER NOT NULL, parked_ms INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE parked_group(grp TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE dedup(key BLOB PRIMARY KEY, seq INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX dedup_expires ON dedup(expires_ms);
CREATE TABLE state(namespace TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, expires_ms INTEGER,
    PRIMARY KEY(namespace, key)) WITHOUT ROWID;
CREATE INDEX state_expires ON state(expires_ms) WHERE expires_ms IS NOT NULL;
INSERT INTO ledger VALUES(1, 1, 0, 0, 0, 0, 0, 0);
";
const TABLE_NAMES: [&str; 9] =
    ["meta", "ledger", "lane", "msg", "idx", "parked", "parked_group", "dedup", "state"];

/// Why a database can't be worked on.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Not a database, or a broken one: to be moved aside.
    Damaged(String),
    /// To be left alone.
    Refused(SpoolError),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            Some(_) | None => Self::Refused(io(&error)),
        }
    }
}

/// What a failed write means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may pass by itself: no space, no memory, or an operator's tool holds the lock.
    Passing,
    /// The disk's or database's state is unknown; a further fsync could lie. Only a restart helps.
    Lasting,
}

pub(super) fn trouble(error: &rusqlite::Error) -> Trouble {
    if let rusqlite::Error::SqliteFailure(failure, _) = error
        && failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE
    {
        // The index of the log could not grow: no space, though it is called an I/O error.
        return Trouble::Passing;
    }
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DiskFull
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory,
        ) => Trouble::Passing,
        Some(_) | None => Trouble::Lasting,
    }
}

pub(super) fn io(error: &rusqlite::Error) -> SpoolError {
    SpoolError::Io(error.to_string())
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
    match names(&conn)?.as_slice() {
        [] => create(&conn)?,
        found => check(&conn, found)?,
    }
    conn.execute_batch(remembered::TABLE)?;
    let vacuum: i64 = conn.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    assert_setting("auto_vacuum", &vacuum.to_string(), "2")?;
    let ledger = read_ledger(&conn)?;
    Ok((conn, ledger))
}

/// Opens a second connection for reading.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let conn = connect(file, OpenFlags::empty())?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(conn)
}

fn connect(file: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(file, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // A failed disk must not be synced again on the way out; `close` checkpoints itself.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
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

fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn create(conn: &Connection) -> rusqlite::Result<()> {
    let vacuum: i64 = conn.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if vacuum != 2 {
        // A file that a crash left without tables; rewriting it is the one way to the setting.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        conn.execute_batch("VACUUM")?;
    }
    let transaction = conn.unchecked_transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute("INSERT INTO meta VALUES('schema', ?)", [SCHEMA_VERSION])?;
    transaction.commit()
}

fn check(conn: &Connection, found: &[String]) -> Result<(), OpenError> {
    let has = |name: &str| found.iter().any(|found| found == name);
    let foreign = || {
        OpenError::Refused(SpoolError::Incompatible(
            "spool.db in spool.directory was made by another program; choose another folder".to_owned(),
        ))
    };
    if !has("meta") {
        return Err(foreign());
    }
    let version: Option<i64> =
        conn.query_row("SELECT v FROM meta WHERE k = 'schema'", [], |row| row.get(0)).optional()?;
    match version {
        Some(SCHEMA_VERSION) => {}
        Some(newer) if newer > SCHEMA_VERSION => {
            return Err(OpenError::Refused(SpoolError::Incompatible(format!(
                "its schema is version {newer}, this program knows version {SCHEMA_VERSION}; start the newer tti-connector again and let it drain first"
            ))));
        }
        Some(older) => {
            return Err(OpenError::Refused(SpoolError::Incompatible(format!(
                "its schema is version {older}, and no upgrade to version {SCHEMA_VERSION} exists; choose another folder"
            ))));
        }
        None => return Err(foreign()),
    }
    match TABLE_NAMES.into_iter().find(|name| !has(name)) {
        Some(missing) => Err(OpenError::Damaged(format!("table {missing} is missing"))),
        None => Ok(()),
    }
}

fn read_ledger(conn: &Connection) -> Result<Ledger, OpenError> {
    let ledger = conn
        .query_row(
            "SELECT next_seq, pending, pending_bytes, parked, parked_bytes, dedup, lanes FROM ledger",
            [],
            |row| {
                Ok(Ledger {
                    next_seq: row.get(0)?,
                    pending: row.get(1)?,
                    pending_bytes: row.get(2)?,
                    parked: row.get(3)?,
                    parked_bytes: row.get(4)?,
                    dedup: row.get(5)?,
                    lanes: row.get(6)?,
                })
            },
        )
        .optional()?
        .ok_or_else(|| OpenError::Damaged("its ledger is missing".to_owned()))?;
    // Touches both edges of the big tables: the cheapest look for damage, whatever the backlog.
    for table in ["idx", "msg", "parked"] {
        let highest: Option<i64> =
            conn.query_row(&format!("SELECT max(seq) FROM {table}"), [], |r| r.get(0))?;
        conn.query_row(&format!("SELECT min(seq) FROM {table}"), [], |_| Ok(()))?;
        if highest.is_some_and(|highest| highest >= ledger.next_seq) {
            return Err(OpenError::Damaged(format!("its ledger is older than its table {table}")));
        }
    }
    Ok(ledger)
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
    fn a_setting_that_did_not_take_is_refused_with_its_name() {
        let Err(OpenError::Refused(SpoolError::Incompatible(why))) = assert_setting("synchronous", "1", "2")
        else {
            panic!("accepted");
        };
        assert!(why.contains("synchronous is 1 and must be 2"), "{why}");
    }

    #[test]
    fn only_want_of_space_or_of_a_lock_may_pass() {
        let of = |code| trouble(&rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_NOMEM, ffi::SQLITE_IOERR_SHMSIZE] {
            assert_eq!(of(code), Trouble::Passing, "{code}");
        }
        for code in [
            ffi::SQLITE_IOERR,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_ERROR,
        ] {
            assert_eq!(of(code), Trouble::Lasting, "{code}");
        }
    }
}
