//! The tables: made, checked, and brought from an earlier version to this one.
//!
//! Knows no file and no setting of a connection.

use rusqlite::{Connection, OptionalExtension, params};

use super::database::OpenError;
use super::duplicates;
use super::ledger::Ledger;
use super::seal;
use super::trouble::damage;
use super::types::SpoolError;

/// The tables' version, in `meta`. An earlier one is brought up to it, a later one refused.
/// 1: the first. 2: seals, the mark of a clean end. 3: the table of duplicates is a log.
pub(super) const SCHEMA_VERSION: i64 = 3;

/// `idx` is the small table a restart scans; `msg` holds the bodies, of parked records too. `lane` names both
/// by a small number, AUTOINCREMENT so that a number seen once never means another lane. A seal is NULL only in
/// records of version 1, whose numbers are below `sealed_from` in `meta`.
const TABLES: &str = "
CREATE TABLE meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE ledger(id INTEGER PRIMARY KEY CHECK (id = 1), next_seq INTEGER NOT NULL,
    pending INTEGER NOT NULL, pending_bytes INTEGER NOT NULL, parked INTEGER NOT NULL,
    parked_bytes INTEGER NOT NULL, dedup INTEGER NOT NULL, lanes INTEGER NOT NULL, seal INTEGER);
CREATE TABLE lane(id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, grp TEXT NOT NULL,
    UNIQUE(key, grp));
CREATE TABLE msg(seq INTEGER PRIMARY KEY, dedup BLOB, body BLOB NOT NULL);
CREATE TABLE idx(seq INTEGER PRIMARY KEY, lane INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    len INTEGER NOT NULL, seal INTEGER);
CREATE TABLE parked(seq INTEGER PRIMARY KEY, lane INTEGER NOT NULL, received_ms INTEGER NOT NULL,
    len INTEGER NOT NULL, parked_ms INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, seal INTEGER);
CREATE TABLE parked_group(grp TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state(namespace TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, expires_ms INTEGER,
    seal INTEGER, PRIMARY KEY(namespace, key)) WITHOUT ROWID;
CREATE INDEX state_expires ON state(expires_ms) WHERE expires_ms IS NOT NULL;
INSERT INTO ledger VALUES(1, 1, 0, 0, 0, 0, 0, 0, NULL);
INSERT INTO meta VALUES('sealed_from', 1);
";
const TABLE_NAMES: [&str; 9] =
    ["meta", "ledger", "lane", "msg", "idx", "parked", "parked_group", "dedup", "state"];

/// Version 2. Bodies are not read: what was stored before is trusted as it was then, until it has drained.
const SEALS: &str = "
ALTER TABLE idx ADD COLUMN seal INTEGER;
ALTER TABLE parked ADD COLUMN seal INTEGER;
ALTER TABLE state ADD COLUMN seal INTEGER;
ALTER TABLE ledger ADD COLUMN seal INTEGER;
INSERT INTO meta SELECT 'sealed_from', next_seq FROM ledger;
";

/// Version 3.
const LOG: [&str; 3] = [
    "DROP INDEX IF EXISTS dedup_expires; ALTER TABLE dedup RENAME TO by_key;",
    duplicates::TABLE,
    "INSERT INTO dedup(key, seq, expires_ms) SELECT key, seq, expires_ms FROM by_key ORDER BY expires_ms;
     DROP TABLE by_key;",
];

/// Makes the tables in a database without any.
pub(super) fn create(conn: &Connection) -> rusqlite::Result<()> {
    let vacuum: i64 = conn.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if vacuum != 2 {
        // A file that a crash left without tables; rewriting it is the one way to the setting.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        conn.execute_batch("VACUUM")?;
    }
    let transaction = conn.unchecked_transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(duplicates::TABLE)?;
    transaction.execute("INSERT INTO meta VALUES('schema', ?)", [SCHEMA_VERSION])?;
    write_ledger(&transaction, &Ledger { next_seq: 1, ..Ledger::default() })?;
    transaction.commit()
}

/// Makes the tables, or brings them to this version, or says why neither can be.
pub(super) fn settle(conn: &Connection) -> Result<(), OpenError> {
    let found = names(conn)?;
    if found.is_empty() {
        return Ok(create(conn)?);
    }
    let has = |name: &str| found.iter().any(|found| found == name);
    let foreign = || {
        OpenError::Refused(SpoolError::Incompatible(
            "spool.db in spool.directory was made by another program; choose another folder".to_owned(),
        ))
    };
    if !has("meta") {
        // Some of ours without `meta` were not made by anybody else.
        return Err(if TABLE_NAMES.iter().filter(|name| has(name)).count() > 2 {
            OpenError::Damaged("table meta is missing".to_owned())
        } else {
            foreign()
        });
    }
    let version: Option<i64> =
        conn.query_row("SELECT v FROM meta WHERE k = 'schema'", [], |row| row.get(0)).optional()?;
    let missing = TABLE_NAMES.into_iter().find(|name| !has(name));
    match (version, missing) {
        (Some(newer), _) if newer > SCHEMA_VERSION => {
            Err(OpenError::Refused(SpoolError::Incompatible(format!(
                "its schema is version {newer}, this program knows version {SCHEMA_VERSION}; start the newer tti-connector again and let it drain first"
            ))))
        }
        (Some(1..=SCHEMA_VERSION), Some(missing)) => {
            Err(OpenError::Damaged(format!("table {missing} is missing")))
        }
        (Some(SCHEMA_VERSION), None) => Ok(()),
        (Some(older @ 1..SCHEMA_VERSION), None) => Ok(upgrade(conn, older)?),
        (Some(older), _) => Err(OpenError::Refused(SpoolError::Incompatible(format!(
            "its schema is version {older}, and no upgrade to version {SCHEMA_VERSION} exists; choose another folder"
        )))),
        (None, None) => Err(OpenError::Damaged("its version is missing".to_owned())),
        (None, Some(_)) => Err(foreign()),
    }
}

fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// In one transaction: a power cut in it leaves the earlier version.
fn upgrade(conn: &Connection, from: i64) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    if from < 2 {
        seal_all(&transaction)?;
    }
    LOG.iter().try_for_each(|step| transaction.execute_batch(step))?;
    transaction.execute("UPDATE meta SET v = ? WHERE k = 'schema'", [SCHEMA_VERSION])?;
    transaction.commit()?;
    tracing::info!(from, to = SCHEMA_VERSION, "the spool's database was brought to this version");
    Ok(())
}

fn seal_all(transaction: &Connection) -> rusqlite::Result<()> {
    transaction.execute_batch(SEALS)?;
    let rows: Vec<(String, String, u32)> = transaction
        .prepare("SELECT namespace, key, value, expires_ms FROM state")?
        .query_map([], |row| {
            let (namespace, key): (String, String) = (row.get(0)?, row.get(1)?);
            let seal = seal::of_state(&namespace, &key, row.get_ref(2)?.as_blob()?, row.get(3)?);
            Ok((namespace, key, seal))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (namespace, key, seal) in rows {
        transaction
            .prepare_cached("UPDATE state SET seal = ? WHERE namespace = ? AND key = ?")?
            .execute(params![seal, namespace, key])?;
    }
    write_ledger(transaction, &ledger_row(transaction)?.0)
}

/// The ledger, compared with its seal and with the tables.
pub(super) fn read_ledger(conn: &Connection) -> rusqlite::Result<Ledger> {
    let (ledger, seal) = ledger_row(conn)?;
    if seal != Some(ledger.seal()) {
        return Err(damage("its ledger does not match its checksum"));
    }
    // Touches both edges of the big tables: the cheapest look for damage, whatever the backlog.
    for table in ["idx", "msg", "parked"] {
        let highest: Option<i64> =
            conn.query_row(&format!("SELECT max(seq) FROM {table}"), [], |row| row.get(0))?;
        conn.query_row(&format!("SELECT min(seq) FROM {table}"), [], |_| Ok(()))?;
        if highest.is_some_and(|highest| highest >= ledger.next_seq) {
            return Err(damage(&format!("its ledger is older than its table {table}")));
        }
    }
    Ok(ledger)
}

/// The ledger as it stands, and its seal.
pub(super) fn ledger_row(conn: &Connection) -> rusqlite::Result<(Ledger, Option<u32>)> {
    conn.query_row(
        "SELECT next_seq, pending, pending_bytes, parked, parked_bytes, dedup, lanes, seal FROM ledger",
        [],
        |row| {
            let ledger = Ledger {
                next_seq: row.get(0)?,
                pending: row.get(1)?,
                pending_bytes: row.get(2)?,
                parked: row.get(3)?,
                parked_bytes: row.get(4)?,
                dedup: row.get(5)?,
                lanes: row.get(6)?,
            };
            Ok((ledger, row.get(7)?))
        },
    )
    .optional()?
    .ok_or_else(|| damage("its ledger is missing"))
}

pub(super) fn write_ledger(conn: &Connection, ledger: &Ledger) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE ledger SET next_seq = ?, pending = ?, pending_bytes = ?, parked = ?, parked_bytes = ?,
         dedup = ?, lanes = ?, seal = ?",
    )?
    .execute([
        ledger.next_seq,
        ledger.pending,
        ledger.pending_bytes,
        ledger.parked,
        ledger.parked_bytes,
        ledger.dedup,
        ledger.lanes,
        i64::from(ledger.seal()),
    ])
    .map(drop)
}

/// From which number on every record has a seal.
pub(super) fn sealed_from(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("SELECT v FROM meta WHERE k = 'sealed_from'", [], |row| row.get(0))
        .optional()?
        .ok_or_else(|| damage("it does not say which records have checksums"))
}

/// Takes the mark of a clean end away; true if it was there.
pub(super) fn take_clean_mark(conn: &Connection) -> rusqlite::Result<bool> {
    Ok(conn.execute("DELETE FROM meta WHERE k = 'clean'", [])? > 0)
}

/// Says that nothing was under way when the program ended.
pub(super) fn put_clean_mark(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute("INSERT OR REPLACE INTO meta VALUES('clean', 1)", []).map(drop)
}
