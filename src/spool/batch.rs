//! One transaction: many operations, one commit, and only then the answers.
//!
//! Everything here works on copies; nothing outside changes before the commit.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::books::{Books, ByGroup};
use super::handout::Fresh;
use super::ledger::{Ledger, Limits};
use super::mailbox::{MoveTo, Moved, Op, Reply};
use super::remembered;
use super::schema::write_ledger;
use super::seal::{self, Sealed};
use super::trouble::damage;
use super::types::{Appended, NewRecord, Remember, Seq, SpoolError};
use super::upkeep;
use crate::model::ParkReason;

/// Rows of the duplicate table forgotten with each transaction, beyond as many as it adds.
const DEDUP_SWEPT: i64 = 64;

/// Constant for one transaction.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) limits: &'a Limits,
    /// 0: no duplicates are recognised.
    pub(super) dedup_window_ms: i64,
    pub(super) now_ms: i64,
}

/// An answer that waits for the commit.
enum Answer {
    Appended(Reply<Appended>, Result<Appended, SpoolError>),
    Done(Reply<()>),
    Moved(Reply<Moved>, Moved),
}

/// A transaction's work, before or after its commit.
pub(super) struct Batch<'a> {
    pub(super) conn: &'a Connection,
    pub(super) books: &'a mut Books,
    pub(super) rules: Rules<'a>,
    pub(super) ledger: Ledger,
    pub(super) by_group: ByGroup,
    pub(super) fresh: Vec<Fresh>,
    pub(super) appended: u64,
    pub(super) duplicates: u64,
    remembered: i64,
    answers: Vec<Answer>,
}

/// What is left of a batch after its commit.
pub(super) struct Committed {
    pub(super) ledger: Ledger,
    pub(super) by_group: ByGroup,
    pub(super) fresh: Vec<Fresh>,
    pub(super) appended: u64,
    pub(super) duplicates: u64,
    pub(super) answers: Answers,
}

/// The answers of one batch.
#[derive(Default)]
pub(super) struct Answers(Vec<Answer>);

impl Answers {
    /// After the commit: each gets its own.
    pub(super) fn give(self) {
        // A caller that no longer waits needs no answer.
        for answer in self.0 {
            match answer {
                Answer::Appended(reply, result) => drop(reply.send(result)),
                Answer::Done(reply) => drop(reply.send(Ok(()))),
                Answer::Moved(reply, moved) => drop(reply.send(Ok(moved))),
            }
        }
    }

    /// There was no commit: all get the same.
    pub(super) fn refuse(self, why: &SpoolError) {
        for answer in self.0 {
            match answer {
                Answer::Appended(reply, _) => drop(reply.send(Err(why.clone()))),
                Answer::Done(reply) => drop(reply.send(Err(why.clone()))),
                Answer::Moved(reply, _) => drop(reply.send(Err(why.clone()))),
            }
        }
    }
}

impl<'a> Batch<'a> {
    pub(super) fn new(conn: &'a Connection, books: &'a mut Books, rules: Rules<'a>) -> Self {
        let ledger = books.ledger;
        Self {
            conn,
            books,
            rules,
            ledger,
            by_group: ByGroup::new(),
            fresh: Vec::new(),
            appended: 0,
            duplicates: 0,
            remembered: 0,
            answers: Vec::new(),
        }
    }

    /// Does one operation. After an error the whole transaction must be rolled back.
    pub(super) fn apply(&mut self, op: Op) -> rusqlite::Result<()> {
        // The answer is noted first, so that a failing operation is refused with all others.
        match op {
            Op::Append { record, remember, reply } => {
                let at = self.answers.len();
                self.answers.push(Answer::Appended(reply, Err(SpoolError::Closed)));
                let result = self.append(record, remember.as_deref())?;
                if let Some(Answer::Appended(_, answer)) = self.answers.get_mut(at) {
                    *answer = result;
                }
            }
            Op::Park { seq, reason, detail, reply } => {
                self.answers.push(Answer::Done(reply));
                self.park(seq, reason, &detail)?;
            }
            Op::Move { picked, to, reply } => {
                let at = self.answers.len();
                self.answers.push(Answer::Moved(reply, Moved::default()));
                let done = match to {
                    MoveTo::Pending => self.requeue(&picked)?,
                    MoveTo::Nowhere => self.discard(&picked)?,
                };
                if let Some(Answer::Moved(_, moved)) = self.answers.get_mut(at) {
                    *moved = done;
                }
            }
            Op::PutState { namespace, key, value, expires_ms, reply } => {
                self.answers.push(Answer::Done(reply));
                self.conn
                    .prepare_cached(
                        "INSERT INTO state(namespace, key, value, expires_ms, seal) VALUES(?, ?, ?, ?, ?)
                         ON CONFLICT DO UPDATE SET value = excluded.value, expires_ms = excluded.expires_ms,
                             seal = excluded.seal",
                    )?
                    .execute(params![
                        namespace,
                        key,
                        &value[..],
                        expires_ms,
                        seal::of_state(&namespace, &key, &value, expires_ms)
                    ])?;
            }
            Op::DeleteState { namespace, key, reply } => {
                self.answers.push(Answer::Done(reply));
                self.conn
                    .prepare_cached("DELETE FROM state WHERE namespace = ? AND key = ?")?
                    .execute(params![namespace, key])?;
            }
            Op::Flush { reply } => self.answers.push(Answer::Done(reply)),
        }
        Ok(())
    }

    fn append(
        &mut self,
        record: NewRecord,
        remember: Option<&Remember>,
    ) -> rusqlite::Result<Result<Appended, SpoolError>> {
        let key = record.dedup.filter(|_| self.rules.dedup_window_ms > 0);
        let known = match key {
            Some(key) => self.books.duplicates.find(self.conn, key, Seq(self.ledger.next_seq))?,
            None => None,
        };
        if let Some(known) = known
            && known.expires_ms > self.rules.now_ms
        {
            self.duplicates += 1;
            return Ok(Ok(Appended::Duplicate(known.seq)));
        }
        if let Some(Remember { known_by, .. }) = remember
            && remembered::is_known(self.conn, known_by, self.rules.now_ms)?
        {
            self.duplicates += 1;
            return Ok(Ok(Appended::Duplicate(Seq(0))));
        }
        let bytes = i64::try_from(record.body.len()).unwrap_or(i64::MAX);
        let owns_parked = self.parked_of(&record.group) > 0;
        if let Err(refusal) = self.rules.limits.admit(&self.ledger, &record.group, owns_parked, bytes) {
            return Ok(Err(refusal));
        }
        let (lane, new) = self.books.lanes.intern(self.conn, &record.lane, &record.group)?;
        self.ledger.lanes += i64::from(new);
        let seq = self.next_seq();
        self.conn.prepare_cached("INSERT INTO msg(seq, dedup, body) VALUES(?, ?, ?)")?.execute(params![
            seq.0,
            record.dedup.map(|key| key.0),
            &record.body[..]
        ])?;
        let sealed = Sealed {
            lane: &record.lane,
            group: &record.group,
            received_ms: self.rules.now_ms,
            body: &record.body,
        };
        self.insert_idx(seq, lane.id, self.rules.now_ms, bytes, sealed.seal(seq))?;
        if let Some(key) = key {
            let expires_ms = self.rules.now_ms.saturating_add(self.rules.dedup_window_ms);
            self.books.duplicates.insert(self.conn, (key, seq), expires_ms, known)?;
            self.ledger.dedup += i64::from(known.is_none());
        }
        if let Some(remember) = remember {
            remembered::insert(self.conn, remember, self.rules.now_ms)?;
            self.remembered += 1;
        }
        self.ledger.add_pending(bytes);
        self.appended += 1;
        self.fresh.push(Fresh {
            seq,
            lane: lane.key,
            received_ms: self.rules.now_ms,
            body: Some(record.body),
            waiter: record.waiter,
        });
        Ok(Ok(Appended::Stored(seq)))
    }

    fn parked_of(&self, group: &Arc<str>) -> i64 {
        let of = |counts: &ByGroup| counts.get(group).copied().unwrap_or(0);
        of(&self.books.parked_by_group) + of(&self.by_group)
    }

    pub(super) fn next_seq(&mut self) -> Seq {
        let seq = Seq(self.ledger.next_seq);
        self.ledger.next_seq += 1;
        seq
    }

    pub(super) fn insert_idx(
        &self,
        seq: Seq,
        lane: i64,
        received_ms: i64,
        len: i64,
        seal: u32,
    ) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("INSERT INTO idx(seq, lane, received_ms, len, seal) VALUES(?, ?, ?, ?, ?)")?
            .execute([seq.0, lane, received_ms, len, i64::from(seal)])
            .map(drop)
    }

    /// Deletes a pending record; nothing happens if it is none.
    pub(super) fn done(&mut self, seq: Seq) -> rusqlite::Result<()> {
        let len: Option<i64> = self
            .conn
            .prepare_cached("DELETE FROM idx WHERE seq = ? RETURNING len")?
            .query_row([seq.0], |row| row.get(0))
            .optional()?;
        if let Some(len) = len {
            self.conn.prepare_cached("DELETE FROM msg WHERE seq = ?")?.execute([seq.0])?;
            self.ledger.take_pending(len);
        }
        Ok(())
    }

    /// Only the small row moves; the body stays where it is.
    fn park(&mut self, seq: Seq, reason: ParkReason, detail: &str) -> rusqlite::Result<()> {
        let row: Option<(i64, i64, i64, Option<u32>)> = self
            .conn
            .prepare_cached("DELETE FROM idx WHERE seq = ? RETURNING lane, received_ms, len, seal")?
            .query_row([seq.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((lane, received_ms, len, seal)) = row else { return Ok(()) };
        self.conn
            .prepare_cached(
                "INSERT INTO parked(seq, lane, received_ms, len, parked_ms, reason, detail, seal)
                 VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                seq.0,
                lane,
                received_ms,
                len,
                self.rules.now_ms,
                reason.as_str(),
                detail,
                seal
            ])?;
        let group: Arc<str> = self
            .conn
            .prepare_cached("SELECT grp FROM lane WHERE id = ?")?
            .query_row([lane], |row| Ok(Arc::from(row.get_ref(0)?.as_str()?)))
            .optional()?
            .ok_or_else(|| damage("a record's lane is missing"))?;
        *self.by_group.entry(group).or_default() += 1;
        self.ledger.take_pending(len);
        self.ledger.add_parked(len);
        Ok(())
    }

    /// Writes the counts, forgets old duplicates; the commit is next.
    pub(super) fn finish(&mut self) -> rusqlite::Result<()> {
        let limit = i64::try_from(self.appended).unwrap_or(i64::MAX).saturating_add(DEDUP_SWEPT);
        upkeep::sweep_dedup(
            self.conn,
            &mut self.books.duplicates,
            &mut self.ledger,
            self.rules.limits,
            (self.rules.now_ms, limit),
        )?;
        if self.remembered > 0 {
            let limit = self.remembered.saturating_add(remembered::SWEPT);
            remembered::sweep(self.conn, self.rules.now_ms, limit, self.rules.limits)?;
        }
        for (group, change) in &self.by_group {
            self.conn
                .prepare_cached(
                    "INSERT INTO parked_group(grp, n) VALUES(?1, ?2) ON CONFLICT DO UPDATE SET n = n + ?2",
                )?
                .execute(params![group, change])?;
            self.conn
                .prepare_cached("DELETE FROM parked_group WHERE grp = ? AND n <= 0")?
                .execute([group])?;
        }
        if self.ledger != self.books.ledger {
            write_ledger(self.conn, &self.ledger)?;
        }
        Ok(())
    }

    pub(super) fn into_committed(self) -> Committed {
        Committed {
            ledger: self.ledger,
            by_group: self.by_group,
            fresh: self.fresh,
            appended: self.appended,
            duplicates: self.duplicates,
            answers: Answers(self.answers),
        }
    }

    pub(super) fn into_answers(self) -> Answers {
        Answers(self.answers)
    }
}
