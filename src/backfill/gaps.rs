//! Gaps in frame counters: what was seen last of each device, and which counters are missing. Pure.
//!
//! Knows no storage and fetches nothing. Costs one look-up an uplink while nothing is missing.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::things_stack::Frame;

/// Devices of one application that are followed; of one more no gap is seen. Some 100 bytes each.
const MAX_DEVICES: usize = 100_000;
/// A larger jump is no gap: LoRaWAN 1.0's servers take no larger one within a session, and nobody should make us look
/// for millions of uplinks with one number.
pub(super) const MAX_MISSING: u32 = 16_384;
/// Gaps of one application that wait; a further one is passed over. Each takes 2 KiB at most.
const MAX_OPEN: usize = 4096;

/// The last frame seen of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// [`session`] of its session key id.
    pub(super) session: u64,
    pub(super) f_cnt: u32,
    /// When the network received it, else when we did; milliseconds since 1970 UTC.
    pub(super) at_ms: i64,
}

/// What a frame shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// Nothing is missing before it, or nothing can be said: a new device, a new session, counters begun anew.
    Fine,
    /// It came late, and may have been missing.
    Late,
    /// So many are missing before it.
    Gap(u32),
}

/// Uplinks of one device and session that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) session: u64,
    /// The first that is missing.
    pub(super) first: u32,
    /// How many are, counted from the first.
    pub(super) missing: u32,
    /// When the frame before it was received.
    pub(super) from_ms: i64,
    /// When the frame behind it was.
    pub(super) to_ms: i64,
    /// One bit for each that came or was found after all.
    found: Vec<u64>,
    /// The frame before was found, so what is not found between was never stored.
    pub(super) reached: bool,
    /// The frame behind was found: all that will ever be stored is there.
    pub(super) caught_up: bool,
    /// How often it was looked for.
    pub(super) tries: u32,
    /// When it is to be looked for.
    pub(super) due: Instant,
}

/// What is known of one application's devices.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    last: HashMap<Box<str>, Last>,
    open: HashMap<Box<str>, Vec<Gap>>,
    count: usize,
}

/// A session as a number: 64 bits tell a device's few sessions apart.
pub(super) fn session(session_key_id: &str) -> u64 {
    // FNV-1a: the same in every version, since it is stored.
    session_key_id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Gap {
    fn new(last: &Last, missing: u32, to_ms: i64, due: Instant) -> Self {
        Self {
            session: last.session,
            first: last.f_cnt.saturating_add(1),
            missing,
            from_ms: last.at_ms,
            to_ms,
            found: vec![0; missing.div_ceil(64) as usize],
            reached: false,
            caught_up: false,
            tries: 0,
            due,
        }
    }

    /// A frame of the gap's device was found or came.
    pub(super) fn note(&mut self, session: u64, f_cnt: u32) {
        if session != self.session {
            return;
        }
        match f_cnt.checked_sub(self.first) {
            None => self.reached |= f_cnt + 1 == self.first,
            Some(at) if at < self.missing => {
                if let Some(bits) = self.found.get_mut(at as usize / 64) {
                    *bits |= 1 << (at % 64);
                }
            }
            Some(_) => self.caught_up = true,
        }
    }

    /// How many are still missing.
    pub(super) fn left(&self) -> u32 {
        self.missing - self.found.iter().map(|bits| bits.count_ones()).sum::<u32>()
    }
}

impl Tracker {
    /// Takes note of a frame that the webhook brought; a gap is opened by it, due as given, or filled.
    pub(super) fn note(&mut self, device_id: &str, frame: &Frame, now_ms: i64, due: Instant) -> Noted {
        let session = session(&frame.session_key_id);
        let seen = Last { session, f_cnt: frame.f_cnt, at_ms: frame.received_ms.unwrap_or(now_ms) };
        let Some(last) = self.last.get_mut(device_id) else {
            if self.last.len() < MAX_DEVICES {
                self.last.insert(device_id.into(), seen);
            }
            return Noted::Fine;
        };
        if last.session != session {
            if frame.received_ms.is_some_and(|at_ms| at_ms < last.at_ms) {
                self.fill(device_id, session, seen.f_cnt);
                return Noted::Late;
            }
            *last = seen;
            return Noted::Fine;
        }
        if seen.f_cnt <= last.f_cnt {
            // Counters that begin anew are of a later time; without the network's time there is no telling.
            let is_late = frame.received_ms.is_none_or(|at_ms| at_ms <= last.at_ms);
            if is_late {
                self.fill(device_id, session, seen.f_cnt);
                return Noted::Late;
            }
            *last = seen;
            return Noted::Fine;
        }
        let missing = seen.f_cnt - last.f_cnt - 1;
        let gap = Gap::new(last, missing.min(MAX_MISSING), seen.at_ms, due);
        *last = seen;
        if missing == 0 || missing > MAX_MISSING {
            return Noted::Fine;
        }
        if self.count < MAX_OPEN {
            self.count += 1;
            self.open.entry(device_id.into()).or_default().push(gap);
        }
        Noted::Gap(missing)
    }

    fn fill(&mut self, device_id: &str, session: u64, f_cnt: u32) {
        let Some(gaps) = self.open.get_mut(device_id) else { return };
        let before = gaps.len();
        gaps.iter_mut().for_each(|gap| gap.note(session, f_cnt));
        gaps.retain(|gap| gap.left() > 0);
        self.count -= before - gaps.len();
        if gaps.is_empty() {
            self.open.remove(device_id);
        }
    }

    /// Takes out the gaps that are due, by device.
    pub(super) fn take(&mut self, now: Instant) -> HashMap<Box<str>, Vec<Gap>> {
        let mut due: HashMap<Box<str>, Vec<Gap>> = HashMap::new();
        self.open.retain(|device_id, gaps| {
            let taken: Vec<Gap> = gaps.extract_if(.., |gap| gap.due <= now).collect();
            if !taken.is_empty() {
                self.count -= taken.len();
                due.insert(device_id.clone(), taken);
            }
            !gaps.is_empty()
        });
        due
    }

    /// When the next gap is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.open.values().flatten().map(|gap| gap.due).min()
    }

    /// Puts back what has to be looked for again.
    pub(super) fn put_back(&mut self, device_id: Box<str>, gap: Gap) {
        if self.count < MAX_OPEN {
            self.count += 1;
            self.open.entry(device_id).or_default().push(gap);
        }
    }

    /// Since when something is missing, milliseconds since 1970 UTC.
    pub(super) fn open_since(&self) -> Option<i64> {
        self.open.values().flatten().map(|gap| gap.from_ms).min()
    }

    /// What was seen last of each device, to be stored.
    pub(super) fn last(&self) -> impl Iterator<Item = (&str, &Last)> {
        self.last.iter().map(|(device_id, last)| (&**device_id, last))
    }

    /// What was stored.
    pub(super) fn restore(&mut self, device_id: &str, last: Last) {
        if self.last.len() < MAX_DEVICES {
            self.last.entry(device_id.into()).or_insert(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(session: &str, f_cnt: u32, received_ms: i64) -> Frame {
        Frame { session_key_id: session.to_owned(), f_cnt, received_ms: Some(received_ms) }
    }

    fn noted(tracker: &mut Tracker, frames: &[(&str, u32, i64)]) -> Vec<Noted> {
        let note = |(session, f_cnt, at): &(&str, u32, i64)| {
            tracker.note("d", &frame(session, *f_cnt, *at), 0, Instant::now())
        };
        frames.iter().map(note).collect()
    }

    use Noted::{Fine, Gap as Missing, Late};

    #[test]
    fn a_jump_within_a_session_is_a_gap_and_nothing_else_is() {
        for (frames, expected) in [
            (vec![("a", 5, 50), ("a", 6, 60), ("a", 9, 90)], vec![Fine, Fine, Missing(2)]),
            // Rejoined: the old session's tail and the new one's head say nothing for certain.
            (
                vec![("a", 500, 50), ("b", 0, 60), ("b", 1, 70), ("b", 3, 90)],
                vec![Fine, Fine, Fine, Missing(1)],
            ),
            // A late one of the old session changes nothing.
            (
                vec![("a", 500, 50), ("b", 0, 60), ("a", 499, 40), ("b", 2, 90)],
                vec![Fine, Fine, Late, Missing(1)],
            ),
            // Counters begun anew within the session (ABP): later, but lower.
            (vec![("a", 500, 50), ("a", 0, 60), ("a", 2, 80)], vec![Fine, Fine, Missing(1)]),
            // A retry of the webhook: lower, and earlier.
            (
                vec![("a", 5, 50), ("a", 8, 80), ("a", 6, 60), ("a", 9, 90)],
                vec![Fine, Missing(2), Late, Fine],
            ),
            (vec![("a", 0, 1), ("a", MAX_MISSING + 1, 2)], vec![Fine, Missing(MAX_MISSING)]),
            (vec![("a", 0, 1), ("a", MAX_MISSING + 2, 2)], vec![Fine, Fine]),
            (vec![("a", 1, 1), ("a", u32::MAX, 2), ("a", u32::MAX, 2)], vec![Fine, Fine, Late]),
        ] {
            assert_eq!(noted(&mut Tracker::default(), &frames), expected, "{frames:?}");
        }
    }

    #[test]
    fn without_the_networks_time_a_lower_counter_is_late() {
        let mut tracker = Tracker::default();
        for (f_cnt, expected) in [(5, Fine), (0, Late), (6, Fine)] {
            let frame = Frame { session_key_id: "a".to_owned(), f_cnt, received_ms: None };
            assert_eq!(tracker.note("d", &frame, 0, Instant::now()), expected, "{f_cnt}");
        }
    }

    #[test]
    fn a_gap_that_fills_by_itself_is_gone() {
        let mut tracker = Tracker::default();
        noted(&mut tracker, &[("a", 5, 50), ("a", 8, 80), ("a", 6, 60)]);
        assert_eq!(tracker.open_since(), Some(50));
        noted(&mut tracker, &[("a", 6, 60), ("b", 7, 55)]);
        assert!(tracker.next_due().is_some(), "counters of another session fill nothing");
        noted(&mut tracker, &[("a", 8, 80), ("a", 7, 70)]);
        assert!(tracker.next_due().is_none());
        assert!(tracker.take(Instant::now()).is_empty());
    }

    #[test]
    fn what_is_found_tells_what_is_lost_and_why() {
        let mut tracker = Tracker::default();
        noted(&mut tracker, &[("a", 5, 50), ("a", 200, 80)]);
        let mut gap = tracker.take(Instant::now()).remove("d").expect("open").remove(0);
        assert_eq!((gap.first, gap.missing, gap.from_ms, gap.to_ms), (6, 194, 50, 80));
        for f_cnt in [5, 6, 70, 70, 199] {
            gap.note(session("a"), f_cnt);
        }
        gap.note(session("b"), 100);
        assert_eq!((gap.left(), gap.reached, gap.caught_up), (191, true, false));
        gap.note(session("a"), 200);
        assert!(gap.caught_up);
    }

    #[test]
    fn so_many_gaps_are_kept_and_no_more() {
        let mut tracker = Tracker::default();
        for n in 0..u32::try_from(MAX_OPEN).expect("small") + 10 {
            noted(&mut tracker, &[("a", n * 2, i64::from(n))]);
        }
        assert_eq!(tracker.count, MAX_OPEN);
        assert_eq!(tracker.take(Instant::now()).values().map(Vec::len).sum::<usize>(), MAX_OPEN);
    }
}
