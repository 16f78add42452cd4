//! Out of a damaged database into a new one: everything that can be read and matches its checksum. What can't is put
//! among the parked records with reason `damaged`, as far as anything is known of it.
//!
//! The damaged files are not changed: they are read under another name, with a log of their sound parts beside it.

use std::fs::{self, File};
use std::io::{self, Read as _};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::carve::{Body, Carved};
use super::database::{self, PAGE_BYTES};
use super::folder::{Folder, beside};
use super::ledger::Ledger;
use super::remembered;
use super::rescue::{self, Row};
use super::schema;
use super::seal::{self, Sealed};
use super::types::Seq;
use super::wal::Log;
use crate::model::ParkReason;

/// Rows written in one transaction.
const COMMITTED: u64 = 4096;
/// Left out when it is not known up to where numbers were given away.
const UNKNOWN_NUMBERS: i64 = 1_000_000;
/// Numbers above this were never given away by one who gives a million a second.
const MAX_SEQ: i64 = 1 << 53;

/// What was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) pending: i64,
    pub(super) parked: i64,
    /// Of the parked ones, those whose content or device is lost.
    pub(super) damaged: u64,
    /// Rows of the small state.
    pub(super) state: u64,
}

/// Makes a complete new database as the folder's draft. Numbers up to `given` are never given again.
///
/// # Errors
/// The draft can't be written. Damage is no error.
pub(super) fn save(folder: &Folder, now_ms: i64, given: Seq) -> rusqlite::Result<Saved> {
    folder.sweep().map_err(unwritten)?;
    let draft = database::connect(&folder.draft(), OpenFlags::SQLITE_OPEN_CREATE)?;
    draft.pragma_update(None, "page_size", PAGE_BYTES)?;
    draft.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    // Nobody reads it before it is complete and synced.
    draft.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
    draft.pragma_update(None, "synchronous", "OFF")?;
    schema::create(&draft)?;
    let old = view(folder).map_err(unwritten)?;
    let log = Log::read(&folder.log()).map_err(unwritten)?;
    let carved = Carved::read(&folder.view(), &folder.log(), &log).map_err(unwritten)?;
    let mut salvage = Salvage {
        draft: &draft,
        old: old.as_ref(),
        carved: &carved,
        now_ms,
        saved: Saved::default(),
        written: 0,
    };
    draft.execute_batch("BEGIN")?;
    salvage.records()?;
    salvage.orphans()?;
    salvage.beside_the_queue()?;
    salvage.count(given)?;
    draft.execute_batch("COMMIT")?;
    let saved = salvage.saved;
    drop(old);
    drop(draft);
    for part in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(beside(&folder.view(), part));
    }
    Ok(saved)
}

fn unwritten(error: io::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// The damaged database under another name. `None` when nothing can be made of it.
fn view(folder: &Folder) -> io::Result<Option<Connection>> {
    let (file, log, view) = (folder.database(), folder.log(), folder.view());
    let view_log = beside(&view, "-wal");
    match fs::hard_link(&file, &view) {
        Ok(()) => {}
        // SQLite throws a log away whose database is empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::create(&view)?.set_len(PAGE_BYTES as u64)?;
        }
        // A file system without links.
        Err(_) => drop(fs::copy(&file, &view)?),
    }
    let sound = Log::read(&log)?;
    sound.copy_sound(&log, &view_log, None)?;
    if let Some(conn) = readable(folder) {
        return Ok(Some(conn));
    }
    // Its first page says where the tables are. They are always at the same place: a new database's page knows.
    for part in ["-wal", "-shm"] {
        let _ = fs::remove_file(beside(&view, part));
    }
    let pages = fs::metadata(&view)?.len() / PAGE_BYTES as u64;
    let pages = u32::try_from(pages).unwrap_or(u32::MAX).max(sound.pages());
    let mut first = [0; PAGE_BYTES as usize];
    File::open(folder.draft())?.read_exact(&mut first)?;
    let header = [(18, 0x0202_u16.to_be_bytes().to_vec()), (28, pages.to_be_bytes().to_vec())];
    for (at, bytes) in header.into_iter().chain([(32, vec![0; 8])]) {
        first[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    // Valid only if the two change counters are the same.
    first.copy_within(24..28, 92);
    sound.copy_sound(&log, &view_log, Some((&first, pages)))?;
    Ok(readable(folder))
}

fn readable(folder: &Folder) -> Option<Connection> {
    let conn = database::connect(&folder.view(), OpenFlags::empty()).ok()?;
    conn.pragma_update(None, "query_only", true).ok()?;
    // Damaged rows may still say something.
    conn.pragma_update(None, "cell_size_check", true).ok()?;
    let tables: i64 = conn
        .query_row(
            "SELECT count(*) FROM sqlite_master WHERE type = 'table'
             AND name IN ('lane', 'msg', 'idx', 'parked', 'dedup', 'state')",
            [],
            |row| row.get(0),
        )
        .ok()?;
    (tables == 6).then_some(conn)
}

struct Salvage<'a> {
    draft: &'a Connection,
    old: Option<&'a Connection>,
    carved: &'a Carved,
    now_ms: i64,
    saved: Saved,
    written: u64,
}

impl Salvage<'_> {
    /// Lanes, then each pending and parked record with its body.
    fn records(&mut self) -> rusqlite::Result<()> {
        let Some(old) = self.old else { return Ok(()) };
        let sealed_from = schema::sealed_from(old).ok();
        rescue::lanes(old, |id, key, group| {
            self.draft
                .prepare_cached("INSERT OR IGNORE INTO lane(id, key, grp) VALUES(?, ?, ?)")?
                .execute(params![id, key, group])?;
            self.step()
        })?;
        rescue::rows(old, |seq, row| {
            if !(1..MAX_SEQ).contains(&seq.0) || self.holds(seq)? {
                return Ok(());
            }
            let lane: Option<(String, String)> = self
                .draft
                .prepare_cached("SELECT key, grp FROM lane WHERE id = ?")?
                .query_row([row.lane], |lane| Ok((lane.get(0)?, lane.get(1)?)))
                .optional()?;
            let found = self.proven(old, seq, row, lane.as_ref());
            let (dedup, body) = found.clone().unwrap_or_default();
            let (key, group) = lane.clone().unwrap_or_default();
            let content = Sealed { lane: &key, group: &group, received_ms: row.received_ms, body: &body };
            let sound = lane.is_some()
                && found.is_some()
                && match row.seal {
                    Some(seal) => seal == content.seal(seq),
                    // Of version 1: none had one.
                    None => row.unsealed || sealed_from.is_some_and(|from| seq.0 < from),
                };
            let lane_id = if lane.is_some() { row.lane } else { self.no_lane()? };
            let seal = content.seal(seq);
            self.message(seq, dedup.as_deref(), &body)?;
            let len = i64::try_from(body.len()).unwrap_or(i64::MAX);
            if !sound {
                let detail = match found {
                    Some(_) => "its content does not match its checksum",
                    None => "its content could not be read",
                };
                return self.park(
                    seq,
                    lane_id,
                    (row.received_ms, len),
                    (self.now_ms, ParkReason::Damaged.as_str(), detail),
                    seal,
                );
            }
            match &row.parked {
                Some(parked) => self.park(
                    seq,
                    lane_id,
                    (row.received_ms, len),
                    (parked.at_ms, &parked.reason, &parked.detail),
                    seal,
                ),
                None => {
                    self.draft
                        .prepare_cached(
                            "INSERT INTO idx(seq, lane, received_ms, len, seal) VALUES(?, ?, ?, ?, ?)",
                        )?
                        .execute(params![seq.0, lane_id, row.received_ms, len, seal])?;
                    self.step()
                }
            }
        })
    }

    /// The body that matches the seal, from wherever it can be had; else what the tree gives.
    fn proven(&self, old: &Connection, seq: Seq, row: &Row, lane: Option<&(String, String)>) -> Option<Body> {
        let found = rescue::body(old, seq);
        let (Some(seal), Some((lane, group))) = (row.seal, lane) else { return found };
        let matches =
            |(_, body): &Body| Sealed { lane, group, received_ms: row.received_ms, body }.seal(seq) == seal;
        match found {
            Some(sound) if matches(&sound) => Some(sound),
            other => self.carved.bodies(seq).find(matches).or(other),
        }
    }

    /// Bodies of which nothing else is known any more.
    fn orphans(&mut self) -> rusqlite::Result<()> {
        let Some(old) = self.old else { return Ok(()) };
        rescue::numbers(old, |seq| {
            if !(1..MAX_SEQ).contains(&seq.0) || self.holds(seq)? {
                return Ok(());
            }
            let (dedup, body) = rescue::body(old, seq).unwrap_or_default();
            let lane = self.no_lane()?;
            let seal = Sealed { lane: "", group: "", received_ms: 0, body: &body }.seal(seq);
            self.message(seq, dedup.as_deref(), &body)?;
            let detail = "whose it was could not be read";
            let len = i64::try_from(body.len()).unwrap_or(i64::MAX);
            self.park(seq, lane, (0, len), (self.now_ms, ParkReason::Damaged.as_str(), detail), seal)
        })
    }

    fn beside_the_queue(&mut self) -> rusqlite::Result<()> {
        // What was remembered for long is not saved: with holes in it, it would be worth nothing.
        self.draft.execute_batch(remembered::TABLE)?;
        remembered::forget(self.draft, self.now_ms)?;
        let Some(old) = self.old else { return Ok(()) };
        rescue::dedup(old, |key, seq, expires_ms| {
            self.draft
                .prepare_cached(
                    "INSERT OR IGNORE INTO dedup(id, key, seq, expires_ms) VALUES(?2, ?1, ?2, ?3)",
                )?
                .execute(params![key, seq, expires_ms])?;
            self.step()
        })?;
        rescue::state(old, |namespace, key, value, expires_ms, sealed| {
            let seal = seal::of_state(namespace, key, value, expires_ms);
            if sealed.is_some_and(|sealed| sealed != Some(seal)) {
                return Ok(());
            }
            self.draft
                .prepare_cached(
                    "INSERT OR IGNORE INTO state(namespace, key, value, expires_ms, seal) VALUES(?, ?, ?, ?, ?)",
                )?
                .execute(params![namespace, key, value, expires_ms, seal])?;
            self.saved.state += 1;
            self.step()
        })
    }

    /// The counts, from what is there.
    fn count(&mut self, given: Seq) -> rusqlite::Result<()> {
        let before = self.old.and_then(|old| schema::ledger_row(old).ok());
        let known = before.filter(|(ledger, seal)| seal.is_none_or(|seal| seal == ledger.seal()));
        let draft = self.draft;
        let one = |sql: &str| -> rusqlite::Result<i64> { draft.query_row(sql, [], |row| row.get(0)) };
        let highest = one("SELECT max(coalesce((SELECT max(seq) FROM msg), 0),
            coalesce((SELECT max(seq) FROM dedup WHERE seq < 9007199254740992), 0))")?;
        let next = match known {
            Some((ledger, _)) if (1..MAX_SEQ).contains(&ledger.next_seq) => ledger.next_seq,
            Some(_) | None => highest + UNKNOWN_NUMBERS,
        };
        let ledger = Ledger {
            next_seq: next.max(highest + 1).max(given.0 + 1),
            pending: one("SELECT count(*) FROM idx")?,
            pending_bytes: one("SELECT coalesce(sum(len), 0) FROM idx")?,
            parked: one("SELECT count(*) FROM parked")?,
            parked_bytes: one("SELECT coalesce(sum(len), 0) FROM parked")?,
            dedup: one("SELECT count(*) FROM dedup")?,
            lanes: one("SELECT count(*) FROM lane")?,
        };
        draft.execute(
            "INSERT INTO parked_group SELECT l.grp, count(*) FROM parked p JOIN lane l ON l.id = p.lane GROUP BY l.grp",
            [],
        )?;
        schema::write_ledger(draft, &ledger)?;
        (self.saved.pending, self.saved.parked) = (ledger.pending, ledger.parked);
        Ok(())
    }

    fn holds(&self, seq: Seq) -> rusqlite::Result<bool> {
        self.draft.prepare_cached("SELECT 1 FROM msg WHERE seq = ?")?.exists([seq.0])
    }

    /// The lane of records of which none is known.
    fn no_lane(&self) -> rusqlite::Result<i64> {
        self.draft.execute("INSERT OR IGNORE INTO lane(key, grp) VALUES('', '')", [])?;
        self.draft.query_row("SELECT id FROM lane WHERE key = '' AND grp = ''", [], |row| row.get(0))
    }

    fn message(&mut self, seq: Seq, dedup: Option<&[u8]>, body: &[u8]) -> rusqlite::Result<()> {
        self.draft
            .prepare_cached("INSERT INTO msg(seq, dedup, body) VALUES(?, ?, ?)")?
            .execute(params![seq.0, dedup, body])
            .map(drop)
    }

    fn park(
        &mut self,
        seq: Seq,
        lane: i64,
        (received_ms, len): (i64, i64),
        (parked_ms, reason, detail): (i64, &str, &str),
        seal: u32,
    ) -> rusqlite::Result<()> {
        self.saved.damaged += u64::from(reason == ParkReason::Damaged.as_str());
        self.draft
            .prepare_cached(
                "INSERT INTO parked(seq, lane, received_ms, len, parked_ms, reason, detail, seal)
                 VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![seq.0, lane, received_ms, len, parked_ms, reason, detail, seal])?;
        self.step()
    }

    fn step(&mut self) -> rusqlite::Result<()> {
        self.written += 1;
        if self.written.is_multiple_of(COMMITTED) {
            self.draft.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }
}
