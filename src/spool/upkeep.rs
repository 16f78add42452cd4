//! Giving space back, in small steps between the writer's batches: old duplicates and remembered keys, expired state, unused lanes,
//! free pages, the write-ahead log.

use std::time::Duration;

use rusqlite::Connection;

use super::books::Books;
use super::database::{BUSY_TIMEOUT, CHECKPOINT_PAGES};
use super::duplicates::Duplicates;
use super::ledger::{Ledger, Limits};
use super::remembered;

/// Rows swept in one step.
const SWEPT: i64 = 1024;
/// Free pages given back in one step: 4 MiB, some 40 ms that an append may have to wait.
const VACUUMED_PAGES: i64 = 1024;
/// Free pages kept while records are pending: a quarter is soon used again.
const FREE_SHARE_KEPT: i64 = 4;
/// Free pages not worth the work (1 MiB).
const FREE_PAGES_KEPT: i64 = 256;
/// Lanes kept although unused: as many devices as one instance is made for, twice.
const LANES_KEPT: i64 = 100_000;
/// How long a checkpoint may wait for a reader; the next one comes soon.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(50);

/// Forgets duplicates whose window has ended, and the oldest beyond the table's bound; `limit` at most.
pub(super) fn sweep_dedup(
    conn: &Connection,
    duplicates: &mut Duplicates,
    ledger: &mut Ledger,
    limits: &Limits,
    (now_ms, limit): (i64, i64),
) -> rusqlite::Result<()> {
    let too_many = ledger.dedup - limits.dedup_rows();
    ledger.dedup -= duplicates.sweep(conn, now_ms, too_many, limit)?;
    Ok(())
}

/// One step of sweeping in a transaction of its own; the changed ledger, or `None` when there was nothing to do.
pub(super) fn sweep(
    conn: &Connection,
    books: &mut Books,
    limits: &Limits,
    now_ms: i64,
) -> rusqlite::Result<Option<Ledger>> {
    let Books { ledger, duplicates, .. } = books;
    let due = conn
        .prepare_cached(
            "SELECT EXISTS(SELECT 1 FROM state WHERE expires_ms <= ?1)
                 OR EXISTS(SELECT 1 FROM remembered WHERE id = (SELECT min(id) FROM remembered) AND expires_ms <= ?1)",
        )?
        .query_row([now_ms], |row| row.get::<_, bool>(0))?
        || Duplicates::is_due(conn, now_ms)?;
    // Scans what is left, so only when at least half of the lanes can go.
    let lanes_due = ledger.lanes > LANES_KEPT && ledger.lanes / 2 > ledger.pending + ledger.parked;
    if !due && !lanes_due {
        return Ok(None);
    }
    let transaction = conn.unchecked_transaction()?;
    let mut ledger = *ledger;
    sweep_dedup(conn, duplicates, &mut ledger, limits, (now_ms, SWEPT))?;
    conn.prepare_cached(
        "DELETE FROM state WHERE (namespace, key) IN
         (SELECT namespace, key FROM state WHERE expires_ms <= ? LIMIT ?)",
    )?
    .execute([now_ms, SWEPT])?;
    remembered::sweep(conn, now_ms, SWEPT, limits)?;
    if lanes_due {
        let deleted = conn.execute(
            "DELETE FROM lane WHERE id NOT IN (SELECT lane FROM idx UNION SELECT lane FROM parked)",
            [],
        )?;
        ledger.lanes -= i64::try_from(deleted).unwrap_or(i64::MAX);
    }
    super::schema::write_ledger(conn, &ledger)?;
    transaction.commit()?;
    Ok(Some(ledger))
}

/// Gives some free pages back to the file system; false when there is nothing to give.
pub(super) fn vacuum(conn: &Connection, pending: i64) -> rusqlite::Result<bool> {
    let free: i64 = conn.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let kept = if pending > 0 { FREE_PAGES_KEPT.max(pages / FREE_SHARE_KEPT) } else { FREE_PAGES_KEPT };
    if free <= kept {
        return Ok(false);
    }
    // Each row is one step of the work: a statement that is only executed frees almost nothing.
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({VACUUMED_PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(true)
}

/// Moves the log into the database once it is long, as far as no reader needs it. An error here means that a sync
/// may have failed, which must not be tried again.
pub(super) fn checkpoint_when_long(conn: &Connection) -> rusqlite::Result<()> {
    let (log, moved): (i64, i64) = conn
        .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
        .query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
    if log >= CHECKPOINT_PAGES && moved < log {
        conn.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |_| Ok(()))?;
    }
    Ok(())
}

/// Moves the log into the database and empties it. False when a reader was in the way.
pub(super) fn checkpoint(conn: &Connection) -> rusqlite::Result<bool> {
    conn.busy_timeout(CHECKPOINT_PATIENCE)?;
    let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(busy? == 0)
}

/// When the pending record with the lowest number was received.
pub(super) fn oldest_received_ms(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT received_ms FROM idx WHERE seq = (SELECT min(seq) FROM idx)")?
        .query_map([], |row| row.get(0))?
        .next()
        .transpose()
}
