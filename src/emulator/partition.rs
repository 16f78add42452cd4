//! One partition's log of events: numbers them, and lets the oldest go when there are too many. Pure.

use std::collections::VecDeque;

use super::event::Event;

/// Events kept; the oldest go first. Bounds memory in long runs of small messages.
const EVENTS: usize = 100_000;
/// Bytes kept, by [`Event::weight`]; bounds memory when messages are large.
const BYTES: usize = 256 * 1024 * 1024;

/// The events of the devices that hash to it, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Sequence number of `events[0]`.
    first: i64,
    events: VecDeque<Event>,
    bytes: usize,
}

impl Partition {
    /// Appends an event with the next sequence number.
    pub(super) fn push(&mut self, event: Event) {
        self.push_within(event, EVENTS, BYTES);
    }

    fn push_within(&mut self, mut event: Event, events: usize, bytes: usize) {
        event.sequence_number = self.bounds().1;
        self.bytes += event.weight();
        self.events.push_back(event);
        while self.events.len() > events || (self.bytes > bytes && self.events.len() > 1) {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.weight();
            self.first += 1;
        }
    }

    /// Events from a sequence number on, at most `limit`; from the oldest kept one if that is newer.
    pub(super) fn from(&self, number: i64, limit: usize) -> Vec<Event> {
        let skip = usize::try_from(number - self.first).unwrap_or(0);
        self.events.iter().skip(skip).take(limit).cloned().collect()
    }

    /// First kept and next sequence number.
    pub(super) fn bounds(&self) -> (i64, i64) {
        (self.first, self.first + i64::try_from(self.events.len()).unwrap_or(i64::MAX))
    }

    /// Sequence number of the first kept event after `ms` (or at it, if `inclusive`); the next one if none is.
    pub(super) fn first_after(&self, ms: i64, inclusive: bool) -> i64 {
        let before = |event: &Event| event.enqueued_ms < ms || (!inclusive && event.enqueued_ms == ms);
        self.first + i64::try_from(self.events.partition_point(before)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{Event, Partition};

    fn event(bytes: usize) -> Event {
        Event {
            sequence_number: 0,
            enqueued_ms: 0,
            device_id: String::new(),
            generation_id: String::new(),
            auth_method: String::new(),
            message_id: None,
            correlation_id: None,
            content_type: None,
            content_encoding: None,
            properties: vec![],
            annotations: vec![],
            body: Bytes::from(vec![0; bytes]),
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_weigh_too_much() {
        let mut partition = Partition::default();
        for _ in 0..5 {
            partition.push_within(event(0), 3, usize::MAX);
        }
        assert_eq!(partition.bounds(), (2, 5));
        assert_eq!(partition.from(0, 1)[0].sequence_number, 2);

        let room = 2 * event(1000).weight();
        let mut partition = Partition::default();
        for _ in 0..5 {
            partition.push_within(event(1000), 100, room);
        }
        assert_eq!(partition.bounds(), (3, 5));
        partition.push_within(event(10_000), 100, room);
        assert_eq!(partition.bounds(), (5, 6), "the newest stays, however large");
    }
}
