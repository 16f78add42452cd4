//! The order in which committed records reach the claim: from disk while it is behind, from memory once it has
//! caught up. The one place that decides between the two, so that no record is given twice, late or never.
//!
//! Knows no SQLite: the claim does the reading.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::memory::Memory;
use super::types::{Pending, Seq};
use crate::model::Outcome;

/// Records given at once.
pub(super) const CHUNK: usize = 1024;
/// Committed records that wait in memory for the claim at most; then it reads from disk.
const MAX_QUEUED: usize = 8192;
/// Waiters of records that are read from disk; above it those that gave up are swept out.
const SWEEP_WAITERS: usize = 4096;

type Waiter = oneshot::Sender<Outcome>;

/// A record just committed.
pub(super) struct Fresh {
    pub(super) seq: Seq,
    pub(super) lane: Arc<str>,
    pub(super) received_ms: i64,
    /// `None` for a requeued one.
    pub(super) body: Option<Bytes>,
    pub(super) waiter: Option<Waiter>,
}

/// What the claim does next.
pub(super) enum Turn {
    Give(Vec<Pending>),
    /// Read rows above `after` and up to `upto`, then call `fetched`.
    Read {
        after: Seq,
        upto: Seq,
    },
    Wait,
    Ended,
}

struct Inner {
    queue: VecDeque<Pending>,
    /// Everything up to here was given, or waits in `queue`.
    cursor: Seq,
    /// The highest number committed.
    committed: Seq,
    waiters: HashMap<Seq, Waiter>,
    sweep_at: usize,
    ended: bool,
}

pub(super) struct Handout {
    inner: Mutex<Inner>,
    news: Notify,
}

impl Handout {
    /// Nothing was given yet; records up to `committed` are on disk.
    pub(super) fn new(committed: Seq) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            cursor: Seq(0),
            committed,
            waiters: HashMap::new(),
            sweep_at: SWEEP_WAITERS,
            ended: false,
        };
        Self { inner: Mutex::new(inner), news: Notify::new() }
    }

    pub(super) fn committed(&self) -> Seq {
        self.lock().committed
    }

    /// Records just committed, in order.
    pub(super) fn publish(&self, fresh: Vec<Fresh>, memory: &Memory) {
        if fresh.is_empty() {
            return;
        }
        let mut inner = self.lock();
        for record in fresh {
            let caught_up = inner.cursor == inner.committed;
            inner.committed = record.seq;
            if caught_up && inner.queue.len() < MAX_QUEUED {
                inner.cursor = record.seq;
                inner.queue.push_back(Pending {
                    seq: record.seq,
                    lane: record.lane,
                    received_ms: record.received_ms,
                    body: record.body.and_then(|body| memory.hold(body)),
                    waiter: record.waiter,
                });
            } else if let Some(waiter) = record.waiter {
                inner.keep(record.seq, waiter);
            }
        }
        drop(inner);
        self.news.notify_one();
    }

    /// The files were opened anew: records up to `committed` are on disk, perhaps some that nobody was told of.
    pub(super) fn advance(&self, committed: Seq) {
        let mut inner = self.lock();
        if inner.committed < committed {
            inner.committed = committed;
            drop(inner);
            self.news.notify_one();
        }
    }

    pub(super) fn turn(&self) -> Turn {
        let mut inner = self.lock();
        if inner.ended {
            return Turn::Ended;
        }
        if !inner.queue.is_empty() {
            let count = inner.queue.len().min(CHUNK);
            return Turn::Give(inner.queue.drain(..count).collect());
        }
        if inner.cursor < inner.committed {
            return Turn::Read { after: inner.cursor, upto: inner.committed };
        }
        Turn::Wait
    }

    /// Rows read for a [`Turn::Read`] up to `upto`, at most [`CHUNK`] of them.
    pub(super) fn fetched(&self, upto: Seq, rows: &mut [Pending]) {
        let mut inner = self.lock();
        inner.cursor = match rows.last() {
            Some(last) if rows.len() >= CHUNK => last.seq,
            Some(_) | None => upto,
        };
        if !inner.waiters.is_empty() {
            for row in rows {
                row.waiter = inner.waiters.remove(&row.seq);
            }
        }
    }

    /// Resolves when `turn` may say something new.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// The writer has ended: what is on disk is for the next start.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.queue.clear();
        inner.waiters.clear();
        drop(inner);
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, seq: Seq, waiter: Waiter) {
        if self.waiters.len() >= self.sweep_at {
            self.waiters.retain(|_, waiter| !waiter.is_closed());
            self.sweep_at = SWEEP_WAITERS.max(self.waiters.len() * 2);
        }
        self.waiters.insert(seq, waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(seqs: impl IntoIterator<Item = i64>) -> Vec<Fresh> {
        seqs.into_iter()
            .map(|seq| Fresh {
                seq: Seq(seq),
                lane: Arc::from("lane"),
                received_ms: 0,
                body: Some(Bytes::from_static(b"x")),
                waiter: None,
            })
            .collect()
    }

    /// Plays the disk: every number in the range is there.
    fn next(handout: &Handout) -> Vec<i64> {
        match handout.turn() {
            Turn::Give(rows) => rows.iter().map(|row| row.seq.0).collect(),
            Turn::Read { after, upto } => {
                let mut rows: Vec<Pending> = (after.0 + 1..=upto.0)
                    .take(CHUNK)
                    .map(|seq| Pending {
                        seq: Seq(seq),
                        lane: Arc::from("lane"),
                        received_ms: 0,
                        body: None,
                        waiter: None,
                    })
                    .collect();
                handout.fetched(upto, &mut rows);
                rows.iter().map(|row| row.seq.0).collect()
            }
            Turn::Wait | Turn::Ended => Vec::new(),
        }
    }

    #[test]
    fn live_records_come_after_the_backlog_and_each_once() {
        let memory = Memory::new(1000);
        let handout = Handout::new(Seq(1500));
        let mut given = next(&handout);
        handout.publish(fresh(1501..=1502), &memory);
        given.extend(next(&handout));
        handout.publish(fresh(1503..=1503), &memory);
        for _ in 0..3 {
            given.extend(next(&handout));
        }
        assert!(given.into_iter().eq(1..=1503));
    }

    #[test]
    fn a_slow_claim_goes_back_to_the_disk_without_a_gap() {
        let memory = Memory::new(1_000_000);
        let handout = Handout::new(Seq(0));
        let last = MAX_QUEUED as i64 + 3000;
        handout.publish(fresh(1..=last), &memory);
        let mut given = Vec::new();
        while let rows @ [_, ..] = &next(&handout)[..] {
            given.extend_from_slice(rows);
        }
        assert!(given.into_iter().eq(1..=last));
        handout.publish(fresh([last + 1]), &memory);
        let Turn::Give(rows) = handout.turn() else { panic!("caught up, so from memory") };
        assert!(rows[0].body.is_some());
    }

    #[test]
    fn a_waiter_finds_its_record_also_by_way_of_the_disk() {
        let handout = Handout::new(Seq(1));
        let (waiter, mut told) = oneshot::channel();
        let mut record = fresh([2]);
        record[0].waiter = Some(waiter);
        handout.publish(record, &Memory::new(0));
        let Turn::Read { upto, .. } = handout.turn() else { panic!("behind, so from disk") };
        let mut rows =
            [Pending { seq: Seq(2), lane: Arc::from(""), received_ms: 0, body: None, waiter: None }];
        handout.fetched(upto, &mut rows);
        rows[0].waiter.take().expect("attached").send(Outcome::Skipped).expect("waits");
        assert_eq!(told.try_recv(), Ok(Outcome::Skipped));
    }
}
