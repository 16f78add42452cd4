//! The bounded way from many tasks to the one writer thread. Never blocks the sender.
//!
//! Knows nothing of SQLite.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
}

#[derive(Default)]
pub(super) struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
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
        drop(waiting);
        self.arrived.notify_one();
        Ok(())
    }

    pub(super) fn done(&self, seq: Seq) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.done.push(seq);
            drop(waiting);
            self.arrived.notify_one();
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
        let waiting = self.lock();
        let (mut waiting, _) = self
            .arrived
            .wait_timeout_while(waiting, patience, |waiting| {
                waiting.ops.is_empty()
                    && waiting.done.is_empty()
                    && waiting.damage.is_none()
                    && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        let mut taken = Taken { damage: waiting.damage.take(), ..Taken::default() };
        let mut bytes = 0;
        while taken.ops.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let Some(op) = waiting.ops.pop_front() else { break };
            bytes += op.bytes();
            taken.ops.push(op);
        }
        waiting.bytes -= bytes;
        let done = waiting.done.len().min(MAX_BATCH);
        taken.done = waiting.done.drain(..done).collect();
        taken.ended = waiting.closed && taken.ops.is_empty() && taken.done.is_empty();
        taken
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
}
