//! What is known of one application while the connector runs: its gaps, its mark, and what is to be caught up with.
//!
//! Fetches nothing; the webhook writes into it, the worker reads it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::gaps::{Gap, Last, Noted, Tracker};
use super::mark::{Mark, OVERLAP_MS};
use crate::model::EndDevice;
use crate::things_stack::Frame;

/// Bytes of one stored piece of what was seen last: the small state takes 64 KiB.
const PIECE_BYTES: usize = 48 * 1024;

/// One application with backfill on.
#[derive(Debug)]
pub(super) struct Application {
    pub(super) id: String,
    state: Mutex<State>,
    /// A gap was opened.
    pub(super) news: Notify,
}

#[derive(Debug, Default)]
struct State {
    tracker: Tracker,
    mark: Mark,
    /// Everything up to `from` was received or fetched; what came up to `until` before this start is to be fetched.
    catch_up: Option<CatchUp>,
    latest_ms: Option<i64>,
    /// Gaps taken out to be looked for.
    looking_since: Option<i64>,
}

/// What happened while the connector was away. Milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CatchUp {
    pub(super) from_ms: i64,
    pub(super) until_ms: i64,
}

impl Application {
    /// Goes on from a mark; what was received up to `now_ms` is to be caught up with, unless backfill was switched on
    /// just now.
    pub(super) fn new(id: String, mark: Mark, is_on_since_now: bool, now_ms: i64) -> Self {
        let catch_up = (!is_on_since_now).then(|| CatchUp {
            from_ms: mark.received_ms.min(now_ms).saturating_sub(OVERLAP_MS),
            until_ms: now_ms,
        });
        let state = State { mark, catch_up, ..State::default() };
        Self { id, state: Mutex::new(state), news: Notify::new() }
    }

    /// Takes note of an uplink that the webhook brought. A gap that it shows is looked for from `due` on.
    pub(super) fn received(&self, device: &EndDevice, frame: &Frame, now_ms: i64, due: Instant) -> Noted {
        let mut state = self.lock();
        state.latest_ms = Some(now_ms);
        if state.mark.tenant.as_deref() != Some(device.tenant()) {
            state.mark.tenant = Some(device.tenant().to_owned());
        }
        let noted = state.tracker.note(device.device_id(), frame, now_ms, due);
        drop(state);
        if matches!(noted, Noted::Gap(_)) {
            self.news.notify_one();
        }
        noted
    }

    /// Takes note of an uplink that was fetched as if it had come: what is missing around it is a gap, too.
    pub(super) fn fetched(&self, device_id: &str, frame: &Frame, due: Instant) -> Noted {
        self.lock().tracker.note(device_id, frame, frame.received_ms.unwrap_or_default(), due)
    }

    pub(super) fn catch_up(&self) -> Option<CatchUp> {
        self.lock().catch_up
    }

    /// Everything up to `at_ms` was fetched.
    pub(super) fn caught_up_to(&self, at_ms: i64) {
        let mut state = self.lock();
        if let Some(catch_up) = &mut state.catch_up {
            // Never backwards; and the next start overlaps by itself.
            catch_up.from_ms = catch_up.from_ms.max(at_ms);
        }
    }

    pub(super) fn end_catch_up(&self) {
        let mut state = self.lock();
        if let Some(catch_up) = state.catch_up.take() {
            state.mark.received_ms = catch_up.until_ms;
        }
    }

    /// Gaps that are due, to be looked for; until [`Application::looked`] the mark does not pass them.
    pub(super) fn take_gaps(&self, now: Instant) -> HashMap<Box<str>, Vec<Gap>> {
        let mut state = self.lock();
        let due = state.tracker.take(now);
        state.looking_since = due.values().flatten().map(|gap| gap.from_ms).min();
        due
    }

    /// Puts back those gaps that have to be looked for again.
    pub(super) fn looked(&self, again: impl IntoIterator<Item = (Box<str>, Gap)>) {
        let mut state = self.lock();
        state.looking_since = None;
        again.into_iter().for_each(|(device_id, gap)| state.tracker.put_back(device_id, gap));
    }

    /// When the next gap is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lock().tracker.next_due()
    }

    /// The tenant of the latest uplink, if there ever was one.
    pub(super) fn tenant(&self) -> Option<String> {
        self.lock().mark.tenant.clone()
    }

    /// The oldest time from which an uplink may be sent without the risk that it was sent before.
    pub(super) fn floor_ms(&self, now_ms: i64) -> i64 {
        self.lock().mark.floor_ms(now_ms)
    }

    /// The mark to be stored now.
    pub(super) fn mark(&self) -> Mark {
        let state = self.lock();
        let mut mark = state.mark.clone();
        let complete = [state.catch_up.map(|catch_up| catch_up.from_ms), state.tracker.open_since()];
        let complete = complete.into_iter().chain([state.looking_since]).flatten().min();
        mark.received_ms = match (complete, state.latest_ms) {
            (Some(complete), latest) => latest.map_or(complete, |latest| latest.min(complete)),
            (None, Some(latest)) => latest,
            (None, None) => mark.received_ms,
        };
        mark
    }

    /// What was seen last of each device, in pieces to be stored.
    pub(super) fn seen(&self) -> Vec<Vec<u8>> {
        let mut pieces = vec![Vec::new()];
        let state = self.lock();
        for (device_id, last) in state.tracker.last() {
            let line = format!("{device_id} {:x} {} {}\n", last.session, last.f_cnt, last.at_ms);
            if pieces.last().is_none_or(|piece: &Vec<u8>| piece.len() + line.len() > PIECE_BYTES) {
                pieces.push(Vec::new());
            }
            if let Some(piece) = pieces.last_mut() {
                piece.extend_from_slice(line.as_bytes());
            }
        }
        pieces
    }

    /// Takes in a piece of [`Application::seen`] of an earlier start; what can't be read is passed over.
    pub(super) fn restore(&self, piece: &[u8]) {
        let mut state = self.lock();
        for line in piece.split(|byte| *byte == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            // A device's id may hold spaces if it is none of The Things Stack's: the numbers come last.
            let mut parts = line.rsplitn(4, ' ');
            let (at_ms, f_cnt, session) = (parts.next(), parts.next(), parts.next());
            let read = || {
                Some(Last {
                    session: u64::from_str_radix(session?, 16).ok()?,
                    f_cnt: f_cnt?.parse().ok()?,
                    at_ms: at_ms?.parse().ok()?,
                })
            };
            if let (Some(device_id), Some(last)) = (parts.next(), read()) {
                state.tracker.restore(device_id, last);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_000_000_000;

    fn frame(f_cnt: u32, at_ms: i64) -> Frame {
        Frame { session_key_id: "AQ==".to_owned(), f_cnt, received_ms: Some(at_ms) }
    }

    fn device(id: &str) -> EndDevice {
        EndDevice::new("eu1", "house", id).expect("valid")
    }

    fn application(received_ms: Option<i64>) -> Application {
        let mark = Mark { received_ms: received_ms.unwrap_or(START), ..Mark::default() };
        Application::new("house".to_owned(), mark, received_ms.is_none(), START)
    }

    #[test]
    fn the_mark_passes_nothing_that_is_still_missing() {
        let house = application(Some(START - 60_000_000));
        let catch_up = house.catch_up().expect("it was away");
        assert_eq!(catch_up, CatchUp { from_ms: START - 60_000_000 - OVERLAP_MS, until_ms: START });
        house.received(&device("cellar"), &frame(1, START + 1), START + 1, Instant::now());
        assert_eq!(house.mark().received_ms, catch_up.from_ms, "a live uplink ends no absence");
        house.caught_up_to(START - 30_000_000);
        house.caught_up_to(0);
        assert_eq!(house.mark().received_ms, START - 30_000_000);
        house.end_catch_up();
        assert_eq!(house.mark().received_ms, START + 1);
        house.received(&device("cellar"), &frame(4, START + 9), START + 9, Instant::now());
        assert_eq!(house.mark().received_ms, START + 1, "a gap is open");
        let gaps = house.take_gaps(Instant::now());
        assert_eq!(house.mark().received_ms, START + 1, "it is being looked for");
        let again =
            gaps.into_iter().flat_map(|(id, gaps)| gaps.into_iter().map(move |gap| (id.clone(), gap)));
        house.looked(again);
        assert_eq!((house.mark().received_ms, house.next_due().is_some()), (START + 1, true));
        house.take_gaps(Instant::now());
        house.looked(Vec::new());
        assert_eq!(house.mark().received_ms, START + 9);
        assert_eq!(house.mark().tenant.as_deref(), Some("eu1"));
    }

    #[test]
    fn nothing_is_caught_up_with_of_the_time_before_backfill_was_switched_on() {
        let house = application(None);
        assert_eq!((house.catch_up(), house.mark().received_ms), (None, START));
    }

    #[test]
    fn what_was_seen_last_comes_back_from_its_pieces() {
        let house = application(None);
        for n in 0..2000 {
            house.received(&device(&format!("a device with spaces {n}")), &frame(n, 7), 7, Instant::now());
        }
        let pieces = house.seen();
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
        let again = application(None);
        pieces.iter().for_each(|piece| again.restore(piece));
        again.restore(b"garbage\n\xff\n a b c\nx 1 2\n");
        assert_eq!(
            again.received(&device("a device with spaces 5"), &frame(8, 9), 9, Instant::now()),
            Noted::Gap(2)
        );
        assert_eq!(
            again.received(&device("a device with spaces 1999"), &frame(2000, 9), 9, Instant::now()),
            Noted::Fine
        );
    }
}
