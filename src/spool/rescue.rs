//! Reads a damaged database around its damage: a table's rows in order, and where a page can't be read, on from the
//! first row after it.
//!
//! Knows nothing of where the rows go. Errors that these functions give are the receiver's own.

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};

use super::types::Seq;

/// Rows read by one statement.
const CHUNK: i64 = 512;

/// A pending or parked record without its body.
pub(super) struct Row {
    pub(super) lane: i64,
    pub(super) received_ms: i64,
    pub(super) seal: Option<u32>,
    /// The table is of version 1, which had no seals.
    pub(super) unsealed: bool,
    pub(super) parked: Option<Parked>,
}

/// What a parked record has beyond a pending one.
pub(super) struct Parked {
    pub(super) at_ms: i64,
    pub(super) reason: String,
    pub(super) detail: String,
}

type Done = rusqlite::Result<()>;

pub(super) fn lanes(conn: &Connection, mut give: impl FnMut(i64, &str, &str) -> Done) -> Done {
    walk(conn, "SELECT id, key, grp FROM lane WHERE id > ?1 ORDER BY id LIMIT ?2", |row| {
        match (row.get_ref(1)?, row.get_ref(2)?) {
            (ValueRef::Text(key), ValueRef::Text(group)) => {
                match (std::str::from_utf8(key), std::str::from_utf8(group)) {
                    (Ok(key), Ok(group)) => give(row.get(0)?, key, group),
                    (Ok(_) | Err(_), _) => Ok(()),
                }
            }
            (_, _) => Ok(()),
        }
    })
}

/// Pending records, then parked ones.
pub(super) fn rows(conn: &Connection, mut give: impl FnMut(Seq, &Row) -> Done) -> Done {
    let unsealed = !has_seals(conn, "idx");
    let seal = if unsealed { "NULL" } else { "seal" };
    let number =
        |row: &rusqlite::Row<'_>, at: usize| row.get_ref(at).ok().and_then(|value| value.as_i64().ok());
    let mut read = |row: &rusqlite::Row<'_>, is_parked: bool| {
        let text = |at: usize| {
            let value = row.get_ref(at).ok();
            value.and_then(|value| value.as_str().ok()).unwrap_or_default().to_owned()
        };
        let found = Row {
            lane: number(row, 1).unwrap_or(-1),
            received_ms: number(row, 2).unwrap_or(0),
            // No seal at all and one that is none are not the same.
            seal: match row.get_ref(3)? {
                ValueRef::Null => None,
                ValueRef::Integer(seal) => Some(u32::try_from(seal).unwrap_or(0)),
                ValueRef::Real(_) | ValueRef::Text(_) | ValueRef::Blob(_) => Some(0),
            },
            unsealed,
            parked: is_parked.then(|| Parked {
                at_ms: number(row, 4).unwrap_or(0),
                reason: text(5),
                detail: text(6),
            }),
        };
        give(Seq(row.get(0)?), &found)
    };
    let idx = format!("SELECT seq, lane, received_ms, {seal} FROM idx WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    walk(conn, &idx, |row| read(row, false))?;
    let parked = format!(
        "SELECT seq, lane, received_ms, {seal}, parked_ms, reason, detail FROM parked
         WHERE seq > ?1 ORDER BY seq LIMIT ?2"
    );
    walk(conn, &parked, |row| read(row, true))
}

/// All numbers under which there may be a body.
pub(super) fn numbers(conn: &Connection, mut give: impl FnMut(Seq) -> Done) -> Done {
    walk(conn, "SELECT seq FROM msg WHERE seq > ?1 ORDER BY seq LIMIT ?2", |row| give(Seq(row.get(0)?)))
}

/// A record's key among the duplicates, and its body.
pub(super) fn body(conn: &Connection, seq: Seq) -> Option<(Option<Vec<u8>>, Vec<u8>)> {
    let mut statement = conn.prepare_cached("SELECT dedup, body FROM msg WHERE seq = ?").ok()?;
    let row = statement.query_row([seq.0], |row| {
        let dedup = row.get_ref(0)?.as_blob_or_null().ok().flatten().map(<[u8]>::to_vec);
        Ok((dedup, row.get_ref(1)?.as_bytes()?.to_vec()))
    });
    row.optional().ok().flatten()
}

/// Known duplicates, from both ends of the table: what lies behind damage in between is forgotten.
pub(super) fn dedup(conn: &Connection, mut give: impl FnMut(&[u8], i64, i64) -> Done) -> Done {
    // Before version 3 it was ordered by its keys.
    let order = if conn.prepare("SELECT id FROM dedup LIMIT 0").is_ok() { "id" } else { "key" };
    both_ways(conn, &format!("SELECT key, seq, expires_ms FROM dedup ORDER BY {order}"), |row| {
        let (ValueRef::Blob(key), Ok(seq), Ok(expires)) = (row.get_ref(0)?, row.get(1), row.get(2)) else {
            return Ok(());
        };
        give(key, seq, expires)
    })
}

/// The small state, from both ends. The seal is `None` in version 1.
pub(super) fn state(
    conn: &Connection,
    mut give: impl FnMut(&str, &str, &[u8], Option<i64>, Option<Option<u32>>) -> Done,
) -> Done {
    let sealed = has_seals(conn, "state");
    let seal = if sealed { "seal" } else { "NULL" };
    let sql = format!("SELECT namespace, key, value, expires_ms, {seal} FROM state ORDER BY namespace, key");
    both_ways(conn, &sql, |row| {
        let texts = (row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str(), row.get_ref(2)?.as_blob());
        let (Ok(namespace), Ok(key), Ok(value)) = texts else { return Ok(()) };
        let Ok(expires_ms) = row.get(3) else { return Ok(()) };
        give(namespace, key, value, expires_ms, sealed.then(|| row.get(4).ok().flatten()))
    })
}

fn has_seals(conn: &Connection, table: &str) -> bool {
    conn.prepare(&format!("SELECT seal FROM {table} LIMIT 0")).is_ok()
}

/// Gives every row that can be reached, of a statement that reads on above `?1`, `?2` rows at once, by a whole number.
fn walk(conn: &Connection, sql: &str, mut give: impl FnMut(&rusqlite::Row<'_>) -> Done) -> Done {
    let mut after = i64::MIN;
    loop {
        // First what comes before the damage.
        let Ok(mut statement) = conn.prepare_cached(sql) else { return Ok(()) };
        let Ok(mut rows) = statement.query(params![after, CHUNK]) else { return Ok(()) };
        let mut count = 0;
        let whole = loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let Ok(number) = row.get::<_, i64>(0) else { break false };
                    // A damaged page may give them in any order, for ever.
                    if number <= after {
                        break false;
                    }
                    after = number;
                    count += 1;
                    give(row)?;
                }
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        if whole && count < CHUNK {
            return Ok(());
        }
        if !whole {
            drop(rows);
            match beyond(&mut statement, after) {
                Some(number) => after = number,
                None => return Ok(()),
            }
        }
    }
}

/// The lowest number above which something can be read again, if there is one.
fn beyond(statement: &mut rusqlite::Statement<'_>, after: i64) -> Option<i64> {
    let mut next = |after: i64| -> Option<Option<i64>> {
        let row = statement.query_row(params![after, 1], |row| row.get::<_, i64>(0)).optional();
        row.ok().map(|row| row.filter(|number| *number > after))
    };
    let from = after.max(0);
    let mut step = 1;
    let mut readable = loop {
        let at = from.checked_add(step)?;
        match next(at) {
            Some(Some(_)) => break at,
            // The end of the table: what can be read lies in between, if at all.
            Some(None) if step == 1 => return None,
            Some(None) => break at,
            None => step = step.checked_mul(2)?,
        }
    };
    let mut damaged = from;
    while readable - damaged > 1 {
        let middle = damaged + (readable - damaged) / 2;
        match next(middle) {
            Some(_) => readable = middle,
            None => damaged = middle,
        }
    }
    Some(readable)
}

fn both_ways(conn: &Connection, sql: &str, mut give: impl FnMut(&rusqlite::Row<'_>) -> Done) -> Done {
    for sql in [sql.to_owned(), descending(sql)] {
        let Ok(mut statement) = conn.prepare(&sql) else { return Ok(()) };
        let Ok(mut rows) = statement.query([]) else { return Ok(()) };
        loop {
            match rows.next() {
                Ok(Some(row)) => give(row)?,
                Ok(None) => return Ok(()),
                Err(_) => break,
            }
        }
    }
    Ok(())
}

fn descending(sql: &str) -> String {
    format!("{} DESC", sql.replace("BY namespace,", "BY namespace DESC,"))
}
