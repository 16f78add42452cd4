//! One lane's messages in order: the first ones ready to send, the rest as few bytes as can be, because there may be millions.
//!
//! Knows no time and no hub.

use std::collections::VecDeque;

use super::delivery::{Hot, Item};
use crate::spool::{Pending, Seq};

/// Messages of one lane whose bodies are in memory; a longer one's are read back, so that a backlog leaves the memory to
/// the others.
const BODIES_PER_LANE: usize = 64;

/// Callers that wait for messages far behind; above it those that gave up are swept out.
const SWEEP_WAITERS: usize = 64;

/// A queue of [`Item`]s.
#[derive(Debug, Default)]
pub(super) struct Line {
    front: VecDeque<Item>,
    /// Comes after `front`.
    rest: Numbers,
    /// Those of `rest` that somebody waits for, in its order.
    awaited: VecDeque<(Seq, Box<Hot>)>,
    /// How many of them were there after the last sweep.
    still_awaited: usize,
}

impl Line {
    /// Takes in a record at the end.
    pub(super) fn push(&mut self, pending: Pending) {
        let Pending { seq, received_ms, body, waiter, .. } = pending;
        if self.rest.count == 0 && self.front.len() < BODIES_PER_LANE {
            let hot =
                (body.is_some() || waiter.is_some()).then(|| Box::new(Hot { received_ms, body, waiter }));
            self.front.push_back(Item { seq, hot });
            return;
        }
        self.rest.push(seq);
        if waiter.is_some() {
            if self.awaited.len() >= SWEEP_WAITERS.max(2 * self.still_awaited) {
                self.awaited.retain(|(_, hot)| hot.waiter.as_ref().is_some_and(|waiter| !waiter.is_closed()));
                self.still_awaited = self.awaited.len();
            }
            self.awaited.push_back((seq, Box::new(Hot { received_ms, body: None, waiter })));
        }
    }

    /// Puts one that was taken out back, as the next.
    pub(super) fn put_back(&mut self, item: Item) {
        self.front.push_front(item);
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Item> {
        self.front.pop_front().or_else(|| {
            let seq = self.rest.pop()?;
            let hot = self.awaited.pop_front_if(|(awaited, _)| *awaited == seq).map(|(_, hot)| hot);
            Some(Item { seq, hot })
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front.is_empty() && self.rest.count == 0
    }
}

/// Numbers, mostly growing, each as its distance from the one before: seven bits a byte, the last byte of each below 128.
#[derive(Debug, Default)]
struct Numbers {
    bytes: VecDeque<u8>,
    count: usize,
    pushed: i64,
    popped: i64,
}

impl Numbers {
    fn push(&mut self, Seq(number): Seq) {
        let step = number.wrapping_sub(self.pushed);
        // Small for small steps either way.
        let mut left = (step.wrapping_shl(1) ^ (step >> 63)).cast_unsigned();
        while left >= 0x80 {
            self.bytes.push_back(left as u8 | 0x80);
            left >>= 7;
        }
        self.bytes.push_back(left as u8);
        self.pushed = number;
        self.count += 1;
    }

    fn pop(&mut self) -> Option<Seq> {
        let mut coded = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.bytes.pop_front()?;
            coded |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let step = (coded >> 1).cast_signed() ^ -(coded & 1).cast_signed();
        self.popped = self.popped.wrapping_add(step);
        self.count -= 1;
        if self.count == 0 {
            // A drained backlog's place is given back.
            self.bytes = VecDeque::new();
        }
        Some(Seq(self.popped))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::*;
    use crate::model::Outcome;

    fn pending(seq: i64) -> Pending {
        Pending {
            seq: Seq(seq),
            lane: Arc::from(""),
            received_ms: 7,
            body: Some(Bytes::from_static(b"x")),
            waiter: None,
        }
    }

    proptest! {
        #[test]
        fn numbers_come_out_as_they_went_in(
            numbers in proptest::collection::vec(prop_oneof![any::<i64>(), 0..5000_i64, Just(i64::MIN), Just(i64::MAX)], 0..200),
            taken_between in 0..4_usize,
        ) {
            let (mut queue, mut out) = (Numbers::default(), Vec::new());
            for (index, &number) in numbers.iter().enumerate() {
                queue.push(Seq(number));
                if taken_between > 0 && index % taken_between == 0 {
                    out.extend(queue.pop());
                }
            }
            while let Some(number) = queue.pop() {
                out.push(number);
            }
            prop_assert_eq!(out, numbers.into_iter().map(Seq).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_long_line_keeps_its_order_and_its_first_bodies_only() {
        let mut line = Line::default();
        (0..1000).for_each(|seq| line.push(pending(seq)));
        let first = line.pop().expect("waits");
        line.put_back(first);
        let items: Vec<Item> = std::iter::from_fn(|| line.pop()).collect();
        assert!(items.iter().map(|item| item.seq.0).eq(0..1000));
        assert_eq!(items.iter().filter(|item| item.hot.is_some()).count(), BODIES_PER_LANE);
        assert!(line.is_empty());
    }

    #[test]
    fn a_waiter_far_behind_finds_its_message() {
        let mut line = Line::default();
        (0..200).for_each(|seq| line.push(pending(seq)));
        let (waiter, mut told) = oneshot::channel();
        line.push(Pending { waiter: Some(waiter), ..pending(200) });
        line.push(pending(201));
        let mut items: Vec<Item> = std::iter::from_fn(|| line.pop()).collect();
        let hot = items.remove(200).hot.expect("awaited");
        assert!(hot.body.is_none(), "its body is read back");
        hot.waiter.expect("there").send(Outcome::Skipped).expect("waits");
        assert_eq!(told.try_recv(), Ok(Outcome::Skipped));
    }

    #[test]
    fn waiters_that_gave_up_are_forgotten() {
        let mut line = Line::default();
        (0..200).for_each(|seq| line.push(pending(seq)));
        let (patient, mut told) = oneshot::channel();
        line.push(Pending { waiter: Some(patient), ..pending(200) });
        for seq in 201..10_000 {
            let (waiter, given_up) = oneshot::channel();
            drop(given_up);
            line.push(Pending { waiter: Some(waiter), ..pending(seq) });
        }
        assert!(line.awaited.len() <= SWEEP_WAITERS, "{}", line.awaited.len());
        let items: Vec<Item> = std::iter::from_fn(|| line.pop()).collect();
        assert!(items.iter().map(|item| item.seq.0).eq(0..10_000));
        let hot = items.into_iter().nth(200).and_then(|item| item.hot).expect("awaited");
        hot.waiter.expect("there").send(Outcome::Skipped).expect("waits");
        assert_eq!(told.try_recv(), Ok(Outcome::Skipped));
    }

    #[test]
    fn a_backlog_takes_two_bytes_a_message() {
        let mut line = Line::default();
        (0..10_000).for_each(|turn| line.push(pending(turn * 1000)));
        let bytes = line.rest.bytes.len();
        assert!(bytes < 2 * 10_000 + 8, "{bytes} bytes");
    }
}
