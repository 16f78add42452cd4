//! Parked records: finding them, and moving them back or away.
//!
//! Knows no thread: the writer's and the reader's connection both come here.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::batch::Batch;
use super::handout::Fresh;
use super::mailbox::{Moved, Picked};
use super::seal::{self, Sealed};
use super::types::{DedupKey, ParkedFilter, ParkedRecord, Seq};
use crate::model::ParkReason;

struct Found {
    seq: Seq,
    lane: i64,
    key: Arc<str>,
    group: Arc<str>,
    received_ms: i64,
    len: i64,
    seal: Option<u32>,
}

impl Batch<'_> {
    /// Each picked record goes to the end of its lane under a new number, and its duplicates find it there. Damaged
    /// ones stay: they can't be sent.
    pub(super) fn requeue(&mut self, picked: &Picked) -> rusqlite::Result<Moved> {
        let found = find(self.conn, picked, Some(ParkReason::Damaged))?;
        for record in &found {
            let seq = self.next_seq();
            let seal = match record.seal {
                Some(seal) => seal::moved(seal, record.seq, seq),
                None => self.first_seal(record, seq)?,
            };
            self.take_parked(record)?;
            // Saved out of a damaged database, it may be anything.
            let key: Option<[u8; 16]> = self
                .conn
                .prepare_cached("SELECT dedup FROM msg WHERE seq = ?")?
                .query_row([record.seq.0], |row| Ok(row.get(0).ok()))?;
            if let Some(key) = key {
                self.books.duplicates.renumber(self.conn, DedupKey(key), (record.seq, seq))?;
            }
            self.conn
                .prepare_cached("UPDATE msg SET seq = ? WHERE seq = ?")?
                .execute([seq.0, record.seq.0])?;
            self.insert_idx(seq, record.lane, record.received_ms, record.len, seal)?;
            self.ledger.add_pending(record.len);
            self.fresh.push(Fresh {
                seq,
                lane: Arc::clone(&record.key),
                received_ms: record.received_ms,
                body: None,
                waiter: None,
            });
        }
        Ok(moved(&found))
    }

    /// The seal of a record that has none, of an earlier version.
    fn first_seal(&self, record: &Found, seq: Seq) -> rusqlite::Result<u32> {
        self.conn.prepare_cached("SELECT body FROM msg WHERE seq = ?")?.query_row([record.seq.0], |row| {
            let Found { key, group, received_ms, .. } = record;
            let body = row.get_ref(0)?.as_blob()?;
            Ok(Sealed { lane: key, group, received_ms: *received_ms, body }.seal(seq))
        })
    }

    pub(super) fn discard(&mut self, picked: &Picked) -> rusqlite::Result<Moved> {
        let found = find(self.conn, picked, None)?;
        for record in &found {
            self.take_parked(record)?;
            self.conn.prepare_cached("DELETE FROM msg WHERE seq = ?")?.execute([record.seq.0])?;
        }
        Ok(moved(&found))
    }

    fn take_parked(&mut self, record: &Found) -> rusqlite::Result<()> {
        self.conn.prepare_cached("DELETE FROM parked WHERE seq = ?")?.execute([record.seq.0])?;
        *self.by_group.entry(Arc::clone(&record.group)).or_default() -= 1;
        self.ledger.take_parked(record.len);
        Ok(())
    }
}

fn moved(found: &[Found]) -> Moved {
    Moved { count: found.len() as u64, last: found.last().map(|record| record.seq) }
}

fn find(conn: &Connection, picked: &Picked, but: Option<ParkReason>) -> rusqlite::Result<Vec<Found>> {
    let but = but.map(ParkReason::as_str);
    let read = |row: &Row<'_>| {
        Ok(Found {
            seq: Seq(row.get(0)?),
            lane: row.get(1)?,
            key: Arc::from(row.get_ref(2)?.as_str()?),
            group: Arc::from(row.get_ref(3)?.as_str()?),
            received_ms: row.get(4)?,
            len: row.get(5)?,
            seal: row.get(6)?,
        })
    };
    match picked {
        Picked::Seqs(seqs) => {
            let mut one = conn.prepare_cached(
                "SELECT p.seq, p.lane, l.key, l.grp, p.received_ms, p.len, p.seal
                 FROM parked p JOIN lane l ON l.id = p.lane WHERE p.seq = ? AND p.reason IS NOT ?",
            )?;
            let mut found = Vec::new();
            for (at, seq) in seqs.iter().enumerate() {
                if !seqs[..at].contains(seq) {
                    found.extend(one.query_row(params![seq.0, but], read).optional()?);
                }
            }
            Ok(found)
        }
        Picked::Matching { filter, after, upto, limit } => conn
            .prepare_cached(
                "SELECT p.seq, p.lane, l.key, l.grp, p.received_ms, p.len, p.seal
                 FROM parked p JOIN lane l ON l.id = p.lane
                 WHERE p.seq > ?1 AND p.seq <= ?2 AND (?3 IS NULL OR l.grp = ?3)
                   AND (?4 IS NULL OR p.reason = ?4) AND p.reason IS NOT ?6 ORDER BY p.seq LIMIT ?5",
            )?
            .query_map(
                params![
                    after.0,
                    upto.0,
                    filter.group,
                    filter.reason.map(|reason| reason.as_str()),
                    limit,
                    but
                ],
                read,
            )?
            .collect(),
    }
}

const LISTED: &str = "p.seq, l.key, l.grp, p.received_ms, p.parked_ms, p.reason, p.detail, p.len";

fn listed(row: &Row<'_>) -> rusqlite::Result<ParkedRecord> {
    Ok(ParkedRecord {
        seq: Seq(row.get(0)?),
        lane: Arc::from(row.get_ref(1)?.as_str()?),
        group: Arc::from(row.get_ref(2)?.as_str()?),
        received_ms: row.get(3)?,
        parked_ms: row.get(4)?,
        reason: row.get(5)?,
        detail: row.get(6)?,
        bytes: u64::try_from(row.get::<_, i64>(7)?).unwrap_or(0),
    })
}

/// Up to `limit` parked records above `after`, lowest number first.
pub(super) fn list(
    conn: &Connection,
    filter: &ParkedFilter,
    after: Seq,
    limit: u32,
) -> rusqlite::Result<Vec<ParkedRecord>> {
    conn.prepare_cached(&format!(
        "SELECT {LISTED} FROM parked p JOIN lane l ON l.id = p.lane
         WHERE p.seq > ?1 AND (?2 IS NULL OR l.grp = ?2) AND (?3 IS NULL OR p.reason = ?3)
         ORDER BY p.seq LIMIT ?4"
    ))?
    .query_map(params![after.0, filter.group, filter.reason.map(|reason| reason.as_str()), limit], listed)?
    .collect()
}

/// One parked record, without its body.
pub(super) fn show(conn: &Connection, seq: Seq) -> rusqlite::Result<Option<ParkedRecord>> {
    conn.prepare_cached(&format!(
        "SELECT {LISTED} FROM parked p JOIN lane l ON l.id = p.lane WHERE p.seq = ?"
    ))?
    .query_row([seq.0], listed)
    .optional()
}
