//! Keys of the messages taken in within `spool.dedup_window`: what is posted again meanwhile is not stored again.
//!
//! The table is a log: rows come at its end and go at its front, so that a transaction changes few of its pages however
//! many rows there are. Which row holds a key is known in memory only, some 14 bytes a row, read at the start. A row
//! found so is compared with the whole key, so what memory knows too much is harmless; it never knows too little.

use hashbrown::HashTable;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::types::{DedupKey, Seq};

/// The numbers of rows only grow; `seq` differs from its row's number once the record was requeued.
pub(super) const TABLE: &str = "
CREATE TABLE dedup(id INTEGER PRIMARY KEY, key BLOB NOT NULL, seq INTEGER NOT NULL, expires_ms INTEGER NOT NULL);
";
/// Parts that grow one after the other, so that no append waits for all of it to be laid out anew.
const PARTS: usize = 64;

/// A key that is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    row: i64,
    pub(super) seq: Seq,
    pub(super) expires_ms: i64,
}

/// Where a key's row may be: four bytes of the key, and the lower half of the row's number. Rows in the table are far
/// fewer than 2³² apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    print: u32,
    low: u32,
}

#[derive(Debug)]
pub(super) struct Duplicates {
    parts: Vec<HashTable<Place>>,
    /// By the transaction under way.
    added: Vec<(DedupKey, i64)>,
    taken: Vec<(DedupKey, i64)>,
}

impl Default for Duplicates {
    fn default() -> Self {
        let parts = std::iter::repeat_with(HashTable::new).take(PARTS).collect();
        Self { parts, added: Vec::new(), taken: Vec::new() }
    }
}

impl Duplicates {
    /// Reads all keys: some 0.5 s a million.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        let mut all = Self::default();
        let mut statement = conn.prepare("SELECT id, key FROM dedup")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // Any other can't be asked for.
            if let Ok(key) = row.get(1) {
                all.place(DedupKey(key), row.get(0)?);
            }
        }
        Ok(all)
    }

    /// Where `key` is, if it is known; perhaps its time is over. `next` is a number above all rows'.
    pub(super) fn find(
        &self,
        conn: &Connection,
        key: DedupKey,
        next: Seq,
    ) -> rusqlite::Result<Option<Known>> {
        let print = print(key);
        for place in self.parts[part(key)].iter_hash(hash(print)).filter(|place| place.print == print) {
            let row = next.0 - i64::from(low(next.0).wrapping_sub(place.low));
            let known = conn
                .prepare_cached("SELECT seq, expires_ms FROM dedup WHERE id = ? AND key = ?")?
                .query_row(params![row, key.0], |found| {
                    Ok(Known { row, seq: Seq(found.get(0)?), expires_ms: found.get(1)? })
                })
                .optional()?;
            if known.is_some() {
                return Ok(known);
            }
        }
        Ok(None)
    }

    /// Takes in the key of a record whose number is above all that came before; `before` is what was known of it.
    pub(super) fn insert(
        &mut self,
        conn: &Connection,
        (key, seq): (DedupKey, Seq),
        expires_ms: i64,
        before: Option<Known>,
    ) -> rusqlite::Result<()> {
        if let Some(Known { row, .. }) = before {
            conn.prepare_cached("DELETE FROM dedup WHERE id = ?")?.execute([row])?;
            self.taken.push((key, row));
        }
        conn.prepare_cached("INSERT INTO dedup(id, key, seq, expires_ms) VALUES(?, ?, ?, ?)")?
            .execute(params![seq.0, key.0, seq.0, expires_ms])?;
        self.place(key, seq.0);
        self.added.push((key, seq.0));
        Ok(())
    }

    /// The record `from` of this key, if it is the one that is known, goes on under the number `to`.
    pub(super) fn renumber(
        &self,
        conn: &Connection,
        key: DedupKey,
        (from, to): (Seq, Seq),
    ) -> rusqlite::Result<()> {
        if let Some(Known { row, .. }) = self.find(conn, key, to)?.filter(|known| known.seq == from) {
            conn.prepare_cached("UPDATE dedup SET seq = ? WHERE id = ?")?.execute([to.0, row])?;
        }
        Ok(())
    }

    /// Forgets from the front what has expired, and `too_many` rows whether they have or not; `limit` at most. Gives how
    /// many. After a jump of the clock some may wait behind one that lives longer.
    pub(super) fn sweep(
        &mut self,
        conn: &Connection,
        now_ms: i64,
        too_many: i64,
        limit: i64,
    ) -> rusqlite::Result<i64> {
        let mut swept = 0;
        let mut last = None;
        let mut statement =
            conn.prepare_cached("SELECT id, key, expires_ms FROM dedup ORDER BY id LIMIT ?")?;
        let mut rows = statement.query([limit])?;
        while let Some(row) = rows.next()? {
            if swept >= too_many && row.get::<_, i64>(2)? > now_ms {
                break;
            }
            let id = row.get(0)?;
            if let Ok(key) = row.get(1) {
                self.taken.push((DedupKey(key), id));
            }
            last = Some(id);
            swept += 1;
        }
        drop(rows);
        if let Some(last) = last {
            conn.prepare_cached("DELETE FROM dedup WHERE id <= ?")?.execute([last])?;
        }
        Ok(swept)
    }

    /// Whether there is something to sweep.
    pub(super) fn is_due(conn: &Connection, now_ms: i64) -> rusqlite::Result<bool> {
        conn.prepare_cached("SELECT expires_ms <= ? FROM dedup ORDER BY id LIMIT 1")?
            .query_row([now_ms], |row| row.get(0))
            .optional()
            .map(Option::unwrap_or_default)
    }

    /// The transaction was committed.
    pub(super) fn commit(&mut self) {
        self.added.clear();
        for (key, row) in std::mem::take(&mut self.taken) {
            self.forget(key, row);
        }
    }

    /// The transaction was not committed.
    pub(super) fn roll_back(&mut self) {
        self.taken.clear();
        for (key, row) in std::mem::take(&mut self.added) {
            self.forget(key, row);
        }
    }

    fn place(&mut self, key: DedupKey, row: i64) {
        let place = Place { print: print(key), low: low(row) };
        self.parts[part(key)].insert_unique(hash(place.print), place, |place| hash(place.print));
    }

    fn forget(&mut self, key: DedupKey, row: i64) {
        let place = Place { print: print(key), low: low(row) };
        let part = &mut self.parts[part(key)];
        if let Ok(found) = part.find_entry(hash(place.print), |other| *other == place) {
            found.remove();
        }
        // After a flood its memory goes back.
        if part.len() < part.capacity() / 8 {
            part.shrink_to(part.len() * 2, |place| hash(place.print));
        }
    }
}

/// Keys are digests: any of their bytes are as good as random.
fn part(DedupKey(key): DedupKey) -> usize {
    usize::from(key[0]) % PARTS
}

fn print(DedupKey(key): DedupKey) -> u32 {
    u32::from_le_bytes([key[1], key[2], key[3], key[4]])
}

/// The table takes its place from the lower bits and a tag from the upper.
fn hash(print: u32) -> u64 {
    u64::from(print) | u64::from(print) << 32
}

fn low(row: i64) -> u32 {
    row as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Above all numbers here; those near it have a carry into the upper half.
    const NEXT: Seq = Seq((1 << 40) + 20);
    const FIRST: i64 = NEXT.0 - 20_000;

    fn table() -> (Connection, Duplicates) {
        let conn = Connection::open_in_memory().expect("opens");
        conn.execute_batch(TABLE).expect("made");
        let duplicates = Duplicates::read(&conn).expect("read");
        (conn, duplicates)
    }

    /// All share the part and the print of `key(0)`.
    fn key(last: u8) -> DedupKey {
        let mut key = [7; 16];
        key[15] = last;
        DedupKey(key)
    }

    fn seq_of(conn: &Connection, duplicates: &Duplicates, key: DedupKey) -> Option<i64> {
        duplicates.find(conn, key, NEXT).expect("read").map(|known| known.seq.0)
    }

    fn places(duplicates: &Duplicates) -> usize {
        duplicates.parts.iter().map(HashTable::len).sum()
    }

    fn rows(conn: &Connection) -> usize {
        let rows: u32 = conn.query_row("SELECT count(*) FROM dedup", [], |row| row.get(0)).expect("counted");
        rows as usize
    }

    #[test]
    fn keys_that_look_alike_are_told_apart_also_after_a_restart() {
        let (conn, mut duplicates) = table();
        for last in 0..40 {
            duplicates
                .insert(&conn, (key(last), Seq(NEXT.0 - 40 + i64::from(last))), 1, None)
                .expect("inserted");
        }
        duplicates.commit();
        for duplicates in [duplicates, Duplicates::read(&conn).expect("read")] {
            for last in 0..40 {
                assert_eq!(seq_of(&conn, &duplicates, key(last)), Some(NEXT.0 - 40 + i64::from(last)));
            }
            assert_eq!(seq_of(&conn, &duplicates, key(40)), None);
            assert_eq!(seq_of(&conn, &duplicates, DedupKey([9; 16])), None);
        }
    }

    #[test]
    fn a_key_taken_in_anew_or_swept_leaves_nothing_behind_in_memory() {
        let (conn, mut duplicates) = table();
        for round in 0..5_000_i64 {
            let known = duplicates.find(&conn, key(0), Seq(FIRST + 2 * round)).expect("read");
            duplicates.insert(&conn, (key(0), Seq(FIRST + 2 * round)), 10, known).expect("inserted");
            let mut other = [0; 16];
            other[..8].copy_from_slice(
                &u64::try_from(round).expect("small").wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes(),
            );
            duplicates
                .insert(&conn, (DedupKey(other), Seq(FIRST + 2 * round + 1)), 10, None)
                .expect("inserted");
            duplicates.commit();
        }
        assert_eq!((places(&duplicates), rows(&conn)), (5_001, 5_001));
        assert_eq!(duplicates.sweep(&conn, 9, 0, 64).expect("swept"), 0);
        assert!(!Duplicates::is_due(&conn, 9).expect("read"));
        assert_eq!(duplicates.sweep(&conn, 9, 10, 64).expect("swept"), 10, "too many");
        duplicates.commit();
        assert_eq!((places(&duplicates), rows(&conn)), (4_991, 4_991));
        assert!(Duplicates::is_due(&conn, 10).expect("read"));
        while duplicates.sweep(&conn, 10, 0, 64).expect("swept") > 0 {
            duplicates.commit();
        }
        assert_eq!((places(&duplicates), rows(&conn)), (0, 0));
        assert!(duplicates.parts.iter().all(|part| part.capacity() < 16), "its memory went back");
        assert!(!Duplicates::is_due(&conn, 10).expect("read"));
    }

    #[test]
    fn what_was_not_committed_is_not_known_and_what_it_took_away_is() {
        let (conn, mut duplicates) = table();
        duplicates.insert(&conn, (key(0), Seq(FIRST + 1)), 10, None).expect("inserted");
        duplicates.commit();
        let transaction = conn.unchecked_transaction().expect("begun");
        let known = duplicates.find(&conn, key(0), Seq(FIRST + 2)).expect("read");
        duplicates.insert(&conn, (key(0), Seq(FIRST + 2)), 20, known).expect("inserted");
        duplicates.insert(&conn, (key(1), Seq(FIRST + 3)), 20, None).expect("inserted");
        assert_eq!(duplicates.sweep(&conn, 20, 0, 1).expect("swept"), 1);
        assert_eq!(seq_of(&conn, &duplicates, key(0)), None);
        transaction.rollback().expect("rolled back");
        duplicates.roll_back();
        assert_eq!(
            (seq_of(&conn, &duplicates, key(0)), seq_of(&conn, &duplicates, key(1))),
            (Some(FIRST + 1), None)
        );
        assert_eq!(places(&duplicates), 1);
    }

    #[test]
    fn a_requeued_record_is_found_under_its_new_number_and_another_is_not_touched() {
        let (conn, mut duplicates) = table();
        duplicates.insert(&conn, (key(0), Seq(FIRST + 1)), 10, None).expect("inserted");
        duplicates.commit();
        duplicates.renumber(&conn, key(0), (Seq(FIRST + 9), Seq(FIRST + 10))).expect("renumbered");
        assert_eq!(seq_of(&conn, &duplicates, key(0)), Some(FIRST + 1));
        duplicates.renumber(&conn, key(0), (Seq(FIRST + 1), Seq(FIRST + 10))).expect("renumbered");
        duplicates.renumber(&conn, key(1), (Seq(FIRST + 1), Seq(FIRST + 11))).expect("renumbered");
        assert_eq!(seq_of(&conn, &duplicates, key(0)), Some(FIRST + 10));
    }
}
