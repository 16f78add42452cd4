//! One device's queue: order, locks, delivery counts, times to live. Pure: the caller says what time it is.

use std::collections::VecDeque;

use uuid::Uuid;

use super::message::{CloudMessage, Fate, Queued};
use super::settings::CloudSettings;

/// Messages that wait or are locked, as IoT Hub allows.
pub(super) const DEPTH: usize = 50;
/// The longest a sender may let a message live: two days.
const LONGEST_LIFE_MS: i64 = 2 * 24 * 3600 * 1000;

/// What a device does with a message it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::emulator) enum Answer {
    /// Done.
    Complete,
    /// Again, please; counted.
    Abandon,
    /// Never again, with the reason if one was given.
    Reject(Option<String>),
}

/// A message that left the queue for good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) fate: Fate,
    pub(super) description: Option<String>,
    pub(super) queued: Queued,
}

/// The queue holds no message under this lock token: it ran out, or its link was lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LockLost;

/// A device's messages, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Queue {
    sent: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    queued: Queued,
    lock: Option<Lock>,
}

#[derive(Debug)]
struct Lock {
    token: Uuid,
    until_ms: i64,
}

impl Queue {
    /// Appends a message; its sequence number, or `None` if the queue is full.
    pub(super) fn push(
        &mut self,
        message: CloudMessage,
        now_ms: i64,
        settings: &CloudSettings,
    ) -> Option<u64> {
        if self.entries.len() >= DEPTH {
            return None;
        }
        let wanted = message.expires_ms.unwrap_or_else(|| now_ms.saturating_add(settings.ttl_ms()));
        self.sent += 1;
        let queued = Queued {
            sequence_number: self.sent,
            enqueued_ms: now_ms,
            expires_ms: wanted.min(now_ms.saturating_add(LONGEST_LIFE_MS)),
            delivery_count: 0,
            locked: false,
            message,
        };
        self.entries.push_back(Entry { queued, lock: None });
        Some(self.sent)
    }

    /// Ends locks that have run out, uncounted, and takes out what has outlived its time. A locked message does not
    /// expire before its lock.
    pub(super) fn advance(&mut self, now_ms: i64) -> Vec<Ended> {
        for entry in &mut self.entries {
            entry.lock.take_if(|lock| lock.until_ms <= now_ms);
        }
        self.take_where(|entry| entry.lock.is_none() && entry.queued.expires_ms <= now_ms, Fate::Expired)
    }

    /// The message to hand out next.
    pub(super) fn next(&self) -> Option<Queued> {
        self.entries.iter().find(|entry| entry.lock.is_none()).map(|entry| entry.queued.clone())
    }

    /// Locks a message that was handed out; false if it is gone or locked already.
    pub(super) fn lock(&mut self, sequence_number: u64, token: Uuid, until_ms: i64) -> bool {
        let entry = self.entries.iter_mut().find(|entry| entry.queued.sequence_number == sequence_number);
        match entry {
            Some(entry) if entry.lock.is_none() => {
                entry.lock = Some(Lock { token, until_ms });
                true
            }
            Some(_) | None => false,
        }
    }

    /// Takes the device's answer; the message if it has ended.
    ///
    /// # Errors
    /// [`LockLost`] when nothing is locked under `token`.
    pub(super) fn settle(
        &mut self,
        token: Uuid,
        answer: Answer,
        max_deliveries: u8,
    ) -> Result<Option<Ended>, LockLost> {
        let found = |entry: &Entry| entry.lock.as_ref().is_some_and(|lock| lock.token == token);
        let at = self.entries.iter().position(found).ok_or(LockLost)?;
        let (fate, description) = match answer {
            Answer::Complete => (Fate::Success, None),
            Answer::Reject(reason) => (Fate::Rejected, reason),
            Answer::Abandon => {
                let entry = &mut self.entries[at];
                entry.lock = None;
                entry.queued.delivery_count = entry.queued.delivery_count.saturating_add(1);
                if entry.queued.delivery_count < max_deliveries {
                    return Ok(None);
                }
                (Fate::DeliveryCountExceeded, None)
            }
        };
        Ok(self.entries.remove(at).map(|entry| Ended { fate, description, queued: entry.queued }))
    }

    /// Ends all locks, uncounted.
    pub(super) fn unlock(&mut self) {
        for entry in &mut self.entries {
            entry.lock = None;
        }
    }

    /// Empties the queue.
    pub(super) fn purge(&mut self) -> Vec<Ended> {
        self.take_where(|_| true, Fate::Purged)
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn deadline_ms(&self) -> Option<i64> {
        let due = |entry: &Entry| entry.lock.as_ref().map_or(entry.queued.expires_ms, |lock| lock.until_ms);
        self.entries.iter().map(due).min()
    }

    /// What is in it, in order.
    pub(super) fn list(&self) -> Vec<Queued> {
        let shown = |entry: &Entry| Queued { locked: entry.lock.is_some(), ..entry.queued.clone() };
        self.entries.iter().map(shown).collect()
    }

    fn take_where(&mut self, over: impl Fn(&Entry) -> bool, fate: Fate) -> Vec<Ended> {
        if !self.entries.iter().any(&over) {
            return Vec::new();
        }
        let (gone, kept): (VecDeque<_>, VecDeque<_>) = self.entries.drain(..).partition(over);
        self.entries = kept;
        gone.into_iter().map(|entry| Ended { fate, description: None, queued: entry.queued }).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Answer, DEPTH, Ended, LONGEST_LIFE_MS, LockLost, Queue};
    use crate::emulator::cloud_messages::message::{CloudMessage, Fate};
    use crate::emulator::cloud_messages::settings::CloudSettings;

    const LOCK_MS: i64 = 60_000;

    fn filled(count: u64) -> Queue {
        let mut queue = Queue::default();
        for number in 1..=count {
            let message = CloudMessage::new(number.to_string());
            assert_eq!(queue.push(message, 0, &CloudSettings::default()), Some(number));
        }
        queue
    }

    /// Locks the next message; its number and token.
    fn hand_out(queue: &mut Queue, now_ms: i64) -> (u64, Uuid) {
        let number = queue.next().expect("a message waits").sequence_number;
        let token = Uuid::new_v4();
        assert!(queue.lock(number, token, now_ms + LOCK_MS));
        (number, token)
    }

    fn fates(ended: &[Ended]) -> Vec<(u64, Fate)> {
        ended.iter().map(|ended| (ended.queued.sequence_number, ended.fate)).collect()
    }

    #[test]
    fn messages_leave_in_order_also_while_earlier_ones_are_locked() {
        let mut queue = filled(3);
        let (first, token) = hand_out(&mut queue, 0);
        let (second, _) = hand_out(&mut queue, 0);
        assert_eq!((first, second), (1, 2));
        let ended = queue.settle(token, Answer::Complete, 10).unwrap().unwrap();
        assert_eq!((ended.fate, ended.queued.sequence_number), (Fate::Success, 1));
        assert_eq!(hand_out(&mut queue, 0).0, 3);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_lock_that_runs_out_puts_the_message_back_in_its_place_uncounted() {
        let mut queue = filled(2);
        let (_, token) = hand_out(&mut queue, 0);
        assert_eq!(queue.deadline_ms(), Some(LOCK_MS));
        assert_eq!(queue.advance(LOCK_MS - 1), []);
        assert_eq!(queue.next().unwrap().sequence_number, 2);
        assert_eq!(queue.advance(LOCK_MS), []);
        let back = queue.next().unwrap();
        assert_eq!((back.sequence_number, back.delivery_count), (1, 0));
        assert_eq!(queue.settle(token, Answer::Complete, 10), Err(LockLost));
        assert_eq!(queue.list().len(), 2);
    }

    #[test]
    fn abandoned_messages_come_back_first_and_are_dropped_after_the_last_time() {
        let mut queue = filled(2);
        for count in 1..=3 {
            let (number, token) = hand_out(&mut queue, 0);
            assert_eq!(number, 1);
            let ended = queue.settle(token, Answer::Abandon, 3).unwrap();
            assert_eq!(ended.map(|ended| ended.fate), (count == 3).then_some(Fate::DeliveryCountExceeded));
        }
        assert_eq!(queue.next().unwrap().sequence_number, 2);
    }

    #[test]
    fn a_rejected_message_ends_at_once_with_the_reason() {
        let mut queue = filled(1);
        let (_, token) = hand_out(&mut queue, 0);
        let ended = queue.settle(token, Answer::Reject(Some("no port".into())), 10).unwrap().unwrap();
        assert_eq!((ended.fate, ended.description.as_deref()), (Fate::Rejected, Some("no port")));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn the_fifty_first_message_is_one_too_many_also_when_the_others_are_locked() {
        let mut queue = filled(DEPTH as u64);
        hand_out(&mut queue, 0);
        assert_eq!(queue.push(CloudMessage::default(), 0, &CloudSettings::default()), None);
        let (_, token) = hand_out(&mut queue, 0);
        queue.settle(token, Answer::Complete, 10).unwrap();
        assert_eq!(queue.push(CloudMessage::default(), 0, &CloudSettings::default()), Some(51));
    }

    #[test]
    fn time_to_live_is_an_hour_unless_the_sender_says_and_never_over_two_days() {
        let mut queue = Queue::default();
        for expires_ms in [None, Some(5_000), Some(i64::MAX)] {
            let message = CloudMessage { expires_ms, ..CloudMessage::default() };
            queue.push(message, 1_000, &CloudSettings::default());
        }
        let expiries: Vec<_> = queue.list().iter().map(|queued| queued.expires_ms).collect();
        assert_eq!(expiries, [3_601_000, 5_000, 1_000 + LONGEST_LIFE_MS]);
        assert_eq!(fates(&queue.advance(5_000)), [(2, Fate::Expired)]);
        hand_out(&mut queue, 3_600_000);
        assert_eq!(queue.advance(3_601_000), [], "a locked message does not expire");
        assert_eq!(fates(&queue.advance(3_600_000 + LOCK_MS)), [(1, Fate::Expired)]);
    }

    #[test]
    fn a_lost_link_frees_its_locks_and_a_purge_takes_everything() {
        let mut queue = filled(2);
        let (number, token) = hand_out(&mut queue, 0);
        assert!(!queue.lock(number, Uuid::new_v4(), LOCK_MS), "locked already");
        queue.unlock();
        assert_eq!(queue.settle(token, Answer::Abandon, 10), Err(LockLost));
        assert_eq!(queue.next().unwrap().delivery_count, 0);
        hand_out(&mut queue, 0);
        assert_eq!(fates(&queue.purge()), [(1, Fate::Purged), (2, Fate::Purged)]);
        assert!(!queue.lock(1, Uuid::new_v4(), LOCK_MS), "gone");
    }
}
