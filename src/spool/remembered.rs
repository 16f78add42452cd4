//! Keys of messages that were taken in, kept far longer than the window in which a repeated post is recognised: so
//! that a message fetched from an archive days later is not sent twice.
//!
//! Knows no message: who remembers says by which keys, and until when. A row is numbered in the order of receipt, so
//! that its table needs neither a count nor an index by time: the oldest go first. The table is made when absent, and
//! an older version of this program passes it over.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::ledger::Limits;
use super::types::{DedupKey, Remember};

/// Made beside the other tables. Some 70 bytes a row.
pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS remembered(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, at_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL);
";
/// Rows forgotten with each transaction that adds some, beyond as many as it adds.
pub(super) const SWEPT: i64 = 64;

/// Whether one of the keys is remembered now.
pub(super) fn is_known(conn: &Connection, keys: &[DedupKey], now_ms: i64) -> rusqlite::Result<bool> {
    for DedupKey(key) in keys {
        let known = conn
            .prepare_cached("SELECT 1 FROM remembered WHERE key = ? AND expires_ms > ?")?
            .query_row(params![key, now_ms], |_| Ok(()))
            .optional()?;
        if known.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes a key in.
pub(super) fn insert(conn: &Connection, remember: &Remember, now_ms: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO remembered(key, at_ms, expires_ms) VALUES(?, ?, ?)
         ON CONFLICT(key) DO UPDATE SET expires_ms = max(expires_ms, excluded.expires_ms)",
    )?
    .execute(params![remember.key.0, now_ms, remember.until_ms])
    .map(drop)
}

/// Forgets, oldest first and `limit` at most, what has expired and what is beyond the table's bound. Of the latter it
/// keeps in `meta` when the last was taken in: what was taken in until then may be forgotten.
pub(super) fn sweep(conn: &Connection, now_ms: i64, limit: i64, limits: &Limits) -> rusqlite::Result<bool> {
    let edge = |sql: &str| -> rusqlite::Result<Option<i64>> {
        conn.prepare_cached(sql)?.query_row([], |row| row.get(0))
    };
    let (Some(first), Some(last)) =
        (edge("SELECT min(id) FROM remembered")?, edge("SELECT max(id) FROM remembered")?)
    else {
        return Ok(false);
    };
    // Holes count as rows, which is at worst too strict.
    let too_many = (last - first + 1 - limits.remembered_rows()).clamp(0, limit);
    if too_many > 0 {
        let gone: Option<i64> = conn
            .prepare_cached("SELECT max(at_ms) FROM remembered WHERE id < ? AND expires_ms > ?")?
            .query_row([first + too_many, now_ms], |row| row.get(0))?;
        if let Some(gone) = gone {
            forget(conn, gone)?;
        }
        conn.prepare_cached("DELETE FROM remembered WHERE id < ?")?.execute([first + too_many])?;
        return Ok(true);
    }
    // Up to the first that lives on; after a change of the window a few may wait behind it.
    let lives: Option<i64> = conn
        .prepare_cached(
            "SELECT id FROM remembered WHERE id >= ?1 AND id < ?1 + ?2 AND expires_ms > ?3 ORDER BY id LIMIT 1",
        )?
        .query_row([first, limit, now_ms], |row| row.get(0))
        .optional()?;
    let upto = lives.unwrap_or(first + limit);
    Ok(conn.prepare_cached("DELETE FROM remembered WHERE id < ?")?.execute([upto])? > 0)
}

/// What was taken in up to `until_ms` may be forgotten before its time.
pub(super) fn forget(conn: &Connection, until_ms: i64) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "INSERT INTO meta(k, v) VALUES('forgot', ?1) ON CONFLICT(k) DO UPDATE SET v = max(v, ?1)",
    )?
    .execute([until_ms])
    .map(drop)
}

/// Up to when something was taken in that was forgotten before its time; `None` if nothing ever was.
pub(super) fn forgot(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT v FROM meta WHERE k = 'forgot'")?.query_row([], |row| row.get(0)).optional()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn table() -> Connection {
        let conn = Connection::open_in_memory().expect("opens");
        conn.execute_batch("CREATE TABLE meta(k TEXT PRIMARY KEY, v) WITHOUT ROWID").expect("made");
        conn.execute_batch(TABLE).expect("made");
        conn
    }

    fn limits(messages: u64) -> Limits {
        Limits::new(&config::Spool { max_messages: messages, ..config::Spool::default() })
    }

    fn add(conn: &Connection, key: u8, until_ms: i64) {
        let remember = Remember { key: DedupKey([key; 16]), known_by: Vec::new(), until_ms };
        insert(conn, &remember, i64::from(key)).expect("inserted");
    }

    fn knows(conn: &Connection, key: u8, now_ms: i64) -> bool {
        is_known(conn, &[DedupKey([99; 16]), DedupKey([key; 16])], now_ms).expect("read")
    }

    #[test]
    fn a_key_is_known_until_its_time_and_then_swept() {
        let conn = table();
        for key in 0..10 {
            add(&conn, key, 100 + i64::from(key));
        }
        assert!(knows(&conn, 3, 102) && !knows(&conn, 3, 103) && !knows(&conn, 11, 0));
        assert!(sweep(&conn, 104, 3, &limits(100)).expect("swept"));
        let left = |conn: &Connection| -> i64 {
            conn.query_row("SELECT count(*) FROM remembered", [], |row| row.get(0)).expect("counted")
        };
        assert_eq!(left(&conn), 7, "a step is bounded");
        assert!(sweep(&conn, 104, 64, &limits(100)).expect("swept"));
        assert_eq!(left(&conn), 5);
        assert!(!sweep(&conn, 104, 64, &limits(100)).expect("swept"));
        assert_eq!(forgot(&conn).expect("read"), None);
    }

    #[test]
    fn beyond_the_bound_the_oldest_go_and_it_is_told_up_to_when() {
        let conn = table();
        let bound = u8::try_from(limits(5).remembered_rows()).expect("small");
        for key in 0..bound + 3 {
            add(&conn, key, 1000 + i64::from(key));
        }
        assert!(sweep(&conn, 0, 64, &limits(5)).expect("swept"));
        assert!(!knows(&conn, 2, 0) && knows(&conn, 3, 0));
        assert_eq!(forgot(&conn).expect("read"), Some(2));
    }
}
