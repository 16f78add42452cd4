//! What the writer knows beside the database: the ledger, who owns parked records, the lanes' numbers, the keys of
//! duplicates.
//!
//! A transaction works on its own copy of the counts; they become true here only after its commit.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::duplicates::Duplicates;
use super::ledger::Ledger;

/// Lanes whose number is kept in memory at most (some 150 bytes each); then all are looked up anew.
const LANES_CACHED: usize = 131_072;

/// A lane as the writer knows it.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) id: i64,
    pub(super) key: Arc<str>,
    pub(super) group: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct Lanes {
    known: HashMap<Arc<str>, Lane>,
}

/// Parked records by group: how many, or by how many they change. Groups with none are not in it.
pub(super) type ByGroup = HashMap<Arc<str>, i64>;

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) ledger: Ledger,
    pub(super) parked_by_group: ByGroup,
    pub(super) lanes: Lanes,
    pub(super) duplicates: Duplicates,
}

impl Books {
    pub(super) fn read(conn: &Connection, ledger: Ledger) -> rusqlite::Result<Self> {
        let parked_by_group = conn
            .prepare("SELECT grp, n FROM parked_group")?
            .query_map([], |row| Ok((Arc::from(row.get_ref(0)?.as_str()?), row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let duplicates = Duplicates::read(conn)?;
        Ok(Self { ledger, parked_by_group, lanes: Lanes::default(), duplicates })
    }

    /// A transaction was committed.
    pub(super) fn settle(&mut self, ledger: Ledger, changes: ByGroup) {
        self.ledger = ledger;
        self.duplicates.commit();
        for (group, change) in changes {
            let count = self.parked_by_group.get(&group).copied().unwrap_or(0) + change;
            if count > 0 {
                self.parked_by_group.insert(group, count);
            } else {
                self.parked_by_group.remove(&group);
            }
        }
    }

    /// A transaction was not committed.
    pub(super) fn roll_back(&mut self) {
        self.lanes.forget();
        self.duplicates.roll_back();
    }
}

impl Lanes {
    /// The lane's number, given to it now if it is new; true if it is.
    pub(super) fn intern(
        &mut self,
        conn: &Connection,
        key: &Arc<str>,
        group: &Arc<str>,
    ) -> rusqlite::Result<(Lane, bool)> {
        if let Some(lane) = self.known.get(key).filter(|lane| lane.group == *group) {
            return Ok((lane.clone(), false));
        }
        let found: Option<i64> = conn
            .prepare_cached("SELECT id FROM lane WHERE key = ? AND grp = ?")?
            .query_row(params![key, group], |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => {
                conn.prepare_cached("INSERT INTO lane(key, grp) VALUES(?, ?)")?
                    .execute(params![key, group])?;
                conn.last_insert_rowid()
            }
        };
        let lane = Lane { id, key: Arc::clone(key), group: Arc::clone(group) };
        if self.known.len() >= LANES_CACHED {
            self.known.clear();
        }
        self.known.insert(Arc::clone(key), lane.clone());
        Ok((lane, found.is_none()))
    }

    /// After a rollback, or once unused lanes were deleted.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}
