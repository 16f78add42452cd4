//! The bounded way from many tasks to the one writer thread. Never blocks the sender.
//!
//! Knows nothing of SQLite.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::types::{Appended, NewRecord, ParkedFilter, Remember, Seq, SpoolError};
use crate::model::ParkReason;

/// Operations that wait for the writer at most: four times what The Things Stack posts at once (2,048).
const MAX_WAITING: usize = 8192;
/// Their bodies together at most; one is always let in.
const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
/// Operations in one transaction at most.
const MAX_BATCH: usize = 1024;
/// Bodies in one transaction at most, so that its commit stays short.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Between the beginnings of two transactions while callers come side by side: each costs a sync and a round of everything
/// after it, however little it holds.
const GATHERED: Duration = Duration::from_millis(2);
/// Operations in a transaction that show that callers come side by side. One alone that waits for each answer is not held up.
const SIDE_BY_SIDE: usize = 2;

pub(super) type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

/// One thing for the writer to do.
pub(super) enum Op {
    Append { record: NewRecord, remember: Option<Box<Remember>>, reply: Reply<Appended> },
    Park { seq: Seq, reason: ParkReason, detail: String, reply: Reply<()> },
    Move { picked: Picked, to: MoveTo, reply: Reply<Moved> },
    PutState { namespace: String, key: String, value: Bytes, expires_ms: Option<i64>, reply: Reply<()> },
    DeleteState { namespace: String, key: String, reply: Reply<()> },
    Flush { reply: Reply<()> },
}

/// Which parked records one step means.
#[derive(Debug)]
pub(super) enum Picked {
    Seqs(Vec<Seq>),
    /// Matching ones above `after` and up to `upto`, the first `limit` of them.
    Matching {
        filter: ParkedFilter,
        after: Seq,
        upto: Seq,
        limit: u32,
    },
}

/// Where parked records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MoveTo {
    Pending,
    Nowhere,
}

/// What one step moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) count: u64,
    /// The highest number moved, where a further step goes on.
    pub(super) last: Option<Seq>,
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { record, .. } => record.body.len(),
            Self::PutState { value, .. } => value.len(),
            Self::Park { .. } | Self::Move { .. } | Self::DeleteState { .. } | Self::Flush { .. } => 0,
        }
    }

    /// Answers that it was not done.
    pub(super) fn refuse(self, why: &SpoolError) {
        // A caller that no longer waits needs no answer.
        match self {
            Self::Append { reply, .. } => drop(reply.send(Err(why.clone()))),
            Self::Park { reply, .. }
            | Self::PutState { reply, .. }
            | Self::DeleteState { reply, .. }
            | Self::Flush { reply } => drop(reply.send(Err(why.clone()))),
            Self::Move { reply, .. } => drop(reply.send(Err(why.clone()))),
        }
    }
}

/// What the writer takes at once.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) ops: Vec<Op>,
    pub(super) done: Vec<Seq>,
    /// Something that was read shows that the database is damaged.
    pub(super) damage: Option<String>,
    /// Nothing more will come, and nothing is left.
    pub(super) ended: bool,
}

#[derive(Default)]
struct Waiting {
    ops: VecDeque<Op>,
    bytes: usize,
    /// At most as long as there are records handed out.
    done: Vec<Seq>,
    damage: Option<String>,
    closed: bool,
    /// What the writer wants to be woken for.
    wakes: Wakes,
    /// When something was taken last, and how many operations.
    taken_at: Option<Instant>,
    taken_ops: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Wakes {
    /// It is at work and looks by itself.
    #[default]
    ForNothing,
    ForAnything,
    /// It lets marks of done records gather.
    ForOps,
    /// It lets all gather.
    WhenFull,
}

#[derive(Default)]
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.ops.len() >= MAX_BATCH || self.bytes >= MAX_BATCH_BYTES
    }

    /// What still may wake the writer that has found something.
    fn gathers(&self) -> Wakes {
        if self.ops.is_empty() {
            Wakes::ForOps
        } else if self.taken_ops >= SIDE_BY_SIDE {
            Wakes::WhenFull
        } else {
            Wakes::ForAnything
        }
    }
}

impl Mailbox {
    /// Hands an operation over; `Full` when the writer is too far behind, `Closed` after `close`.
    pub(super) fn push(&self, op: Op) -> Result<(), SpoolError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(SpoolError::Closed);
        }
        let bytes = waiting.bytes + op.bytes();
        if waiting.ops.len() >= MAX_WAITING || (bytes > MAX_WAITING_BYTES && !waiting.ops.is_empty()) {
            return Err(SpoolError::Full("the disk is slower than the messages come".to_owned()));
        }
        waiting.bytes = bytes;
        waiting.ops.push_back(op);
        let wake = match waiting.wakes {
            Wakes::ForAnything | Wakes::ForOps => true,
            Wakes::WhenFull => waiting.is_full(),
            Wakes::ForNothing => false,
        };
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    pub(super) fn done(&self, seq: Seq) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.done.push(seq);
            let wake = waiting.wakes == Wakes::ForAnything;
            drop(waiting);
            if wake {
                self.arrived.notify_one();
            }
        }
    }

    /// Reports damage that keeps the queue from going on.
    pub(super) fn damaged(&self, why: String) {
        self.lock().damage = Some(why);
        self.arrived.notify_one();
    }

    /// Nothing more is let in; what waits is still taken.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Waits for up to `patience`, then gives what there is, at most one transaction's worth.
    pub(super) fn take(&self, patience: Duration) -> Taken {
        let mut waiting = self.lock();
        waiting.wakes = Wakes::ForAnything;
        let (waiting, _) = self
            .arrived
            .wait_timeout_while(waiting, patience, |waiting| {
                waiting.ops.is_empty()
                    && waiting.done.is_empty()
                    && waiting.damage.is_none()
                    && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.gather(waiting);
        waiting.wakes = Wakes::ForNothing;
        let mut taken = Taken { damage: waiting.damage.take(), ..Taken::default() };
        let mut bytes = 0;
        // A flush goes with the last mark that was there before it.
        let marks_left = waiting.done.len() > MAX_BATCH;
        while taken.ops.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let next = waiting.ops.pop_front_if(|op| !(marks_left && matches!(op, Op::Flush { .. })));
            let Some(op) = next else { break };
            bytes += op.bytes();
            taken.ops.push(op);
        }
        waiting.bytes -= bytes;
        let done = waiting.done.len().min(MAX_BATCH);
        taken.done = waiting.done.drain(..done).collect();
        taken.ended = waiting.closed && taken.ops.is_empty() && taken.done.is_empty();
        if !taken.ops.is_empty() || !taken.done.is_empty() {
            (waiting.taken_at, waiting.taken_ops) = (Some(Instant::now()), taken.ops.len());
        }
        taken
    }

    /// Lets more come until the last transaction began [`GATHERED`] ago, where that holds nobody up for nothing.
    fn gather<'a>(&self, mut waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        let Some(until) = waiting.taken_at.map(|at| at + GATHERED) else { return waiting };
        loop {
            let nothing = waiting.ops.is_empty() && waiting.done.is_empty();
            let wakes = waiting.gathers();
            let left = until.saturating_duration_since(Instant::now());
            if nothing
                || left.is_zero()
                || wakes == Wakes::ForAnything
                || waiting.closed
                || waiting.damage.is_some()
                || waiting.is_full()
            {
                return waiting;
            }
            waiting.wakes = wakes;
            (waiting, _) = self.arrived.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flush() -> Op {
        Op::Flush { reply: oneshot::channel().0 }
    }

    #[test]
    fn refuses_rather_than_waits_when_full_and_lets_in_again() {
        let mailbox = Mailbox::default();
        for _ in 0..MAX_WAITING {
            assert_eq!(mailbox.push(flush()), Ok(()));
        }
        assert!(matches!(mailbox.push(flush()), Err(SpoolError::Full(_))));
        assert_eq!(mailbox.take(Duration::ZERO).ops.len(), MAX_BATCH);
        assert_eq!(mailbox.push(flush()), Ok(()));
    }

    #[test]
    fn counts_bytes_but_lets_one_large_body_in() {
        let put = |bytes: usize| Op::PutState {
            namespace: String::new(),
            key: String::new(),
            value: Bytes::from(vec![0; bytes]),
            expires_ms: None,
            reply: oneshot::channel().0,
        };
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.push(put(MAX_WAITING_BYTES + 1)), Ok(()));
        assert!(matches!(mailbox.push(put(1)), Err(SpoolError::Full(_))));
        assert_eq!(mailbox.take(Duration::ZERO).ops.len(), 1);
        assert_eq!(mailbox.push(put(1)), Ok(()));
    }

    #[test]
    fn a_flush_is_taken_with_the_last_mark_before_it() {
        let mailbox = Mailbox::default();
        (0..2 * MAX_BATCH as i64 + 1).for_each(|seq| mailbox.done(Seq(seq)));
        mailbox.push(flush()).expect("room");
        let taken: Vec<_> = (0..3)
            .map(|_| mailbox.take(Duration::ZERO))
            .map(|taken| (taken.ops.len(), taken.done.len()))
            .collect();
        assert_eq!(taken, [(0, MAX_BATCH), (0, MAX_BATCH), (1, 1)]);
    }

    #[test]
    fn what_waits_at_close_is_still_taken() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.push(flush()), Ok(()));
        mailbox.done(Seq(1));
        mailbox.close();
        assert_eq!(mailbox.push(flush()), Err(SpoolError::Closed));
        let taken = mailbox.take(Duration::ZERO);
        assert_eq!((taken.ops.len(), taken.done.len(), taken.ended), (1, 1, false));
        assert!(mailbox.take(Duration::from_secs(60)).ended);
    }

    /// Takes on a thread of its own.
    fn taken_while(mailbox: &Mailbox, meanwhile: impl FnOnce()) -> Taken {
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| mailbox.take(Duration::from_secs(60)));
            meanwhile();
            taker.join().expect("took")
        })
    }

    fn crowd(mailbox: &Mailbox, count: usize) {
        (0..count).for_each(|_| mailbox.push(flush()).expect("room"));
    }

    /// As if the last transaction with `ops` began a moment from now: no wait ends by itself.
    fn after(mailbox: &Mailbox, ops: usize) {
        let mut waiting = mailbox.lock();
        (waiting.taken_at, waiting.taken_ops) = (Some(Instant::now() + Duration::from_secs(3600)), ops);
    }

    fn until(mailbox: &Mailbox, wakes: Wakes) {
        while mailbox.lock().wakes != wakes {
            std::thread::yield_now();
        }
    }

    #[test]
    fn callers_side_by_side_share_a_transaction_until_it_is_full() {
        let mailbox = Mailbox::default();
        after(&mailbox, SIDE_BY_SIDE);
        let taken = taken_while(&mailbox, || {
            crowd(&mailbox, 1);
            until(&mailbox, Wakes::WhenFull);
            mailbox.done(Seq(1));
            crowd(&mailbox, MAX_BATCH - 1);
        });
        assert_eq!((taken.ops.len(), taken.done.len()), (MAX_BATCH, 1));
    }

    #[test]
    fn the_end_and_damage_wait_for_nobody() {
        let mailbox = Mailbox::default();
        for end in [|mailbox: &Mailbox| mailbox.damaged("it is".to_owned()), Mailbox::close] {
            after(&mailbox, SIDE_BY_SIDE);
            let taken = taken_while(&mailbox, || {
                crowd(&mailbox, 1);
                until(&mailbox, Wakes::WhenFull);
                end(&mailbox);
            });
            assert_eq!(taken.ops.len(), 1);
        }
    }

    #[test]
    fn one_caller_is_not_held_up_and_takes_the_marks_along() {
        let mailbox = Mailbox::default();
        after(&mailbox, 1);
        let taken = taken_while(&mailbox, || {
            mailbox.done(Seq(1));
            until(&mailbox, Wakes::ForOps);
            crowd(&mailbox, 1);
        });
        assert_eq!((taken.ops.len(), taken.done.len()), (1, 1));
    }

    #[test]
    fn what_waits_is_taken_when_the_time_has_come() {
        let mailbox = Mailbox::default();
        crowd(&mailbox, SIDE_BY_SIDE);
        assert_eq!(mailbox.take(Duration::ZERO).ops.len(), SIDE_BY_SIDE);
        crowd(&mailbox, 1);
        assert_eq!(mailbox.take(Duration::ZERO).ops.len(), 1);
        mailbox.done(Seq(1));
        assert_eq!(mailbox.take(Duration::ZERO).done.len(), 1);
    }
}
