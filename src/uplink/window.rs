//! How many messages may be on their way to one place, so that devices that get no answer leave room for the others.
//!
//! Pure: time comes in as an argument. Knows no message.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::limits::Limits;
use crate::model::Lane;

/// A delivery that takes longer than this stands aside: it may hang for its device's sake, and others may start in its
/// place. As many stand aside at most as may start.
const SLOW: Duration = Duration::from_secs(2);
/// A probe without an answer for this long does not keep the next one back: it may hang for its device's sake.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// One part in so many of a window, and of what its pace lets go, is open to devices whose last try failed; the others can't be
/// held up by them.
const DOUBTFUL_PART: usize = 4;
/// One part in so many of a window is open to backfilled messages, so that a live one always finds a place.
const LATE_PART: usize = 8;

/// The messages on their way to one place.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Under way for a short time, by when they began.
    fresh: BTreeSet<(Instant, u64)>,
    /// Under way for long.
    slow: usize,
    /// Under way, of devices whose last try failed; they are counted above, too.
    doubtful: usize,
    /// Others that were let go since one of them.
    since_doubtful: usize,
    /// Under way, backfilled ones; they are counted above, too.
    late: usize,
    number: u64,
    ready: VecDeque<Lane>,
    /// Devices whose last try failed, and which are ready to try again.
    ready_again: VecDeque<Lane>,
    /// Lanes of backfilled messages, failed or not: they start only while no other can.
    ready_late: VecDeque<Lane>,
    pub(super) down: Option<Down>,
    /// What the hub takes; `None` for a place that is no hub.
    pub(super) limits: Option<Limits>,
}

/// A place that can't be reached.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) failures: u32,
    /// When the next message may ask whether it is back.
    pub(super) probe_at: Instant,
}

/// What one delivery takes up in its window.
#[derive(Debug)]
pub(super) struct Seat {
    since: Instant,
    number: u64,
    doubtful: bool,
    late: bool,
}

impl Window {
    /// A lane stands in line.
    pub(super) fn queue(&mut self, lane: Lane, doubtful: bool) {
        let line = match (lane.backfilled, doubtful) {
            (true, _) => &mut self.ready_late,
            (false, true) => &mut self.ready_again,
            (false, false) => &mut self.ready,
        };
        line.push_back(lane);
    }

    /// The next lane that may start now; `true` beside it if as the probe of a place that is down or takes no more today.
    pub(super) fn next(&mut self, max: usize, now: Instant) -> Option<(Lane, Seat, bool)> {
        self.age(now);
        let (lane, doubtful, probe) = if let Some(at) = self.probe_at() {
            if at > now {
                return None;
            }
            let next = self.ready.pop_front().map(|lane| (lane, false));
            let next = next.or_else(|| Some((self.ready_again.pop_front()?, true)));
            let (lane, doubtful) = next.or_else(|| Some((self.ready_late.pop_front()?, false)))?;
            (lane, doubtful, true)
        } else {
            let max = self.most(max);
            let may_go = self.has_startable(max)
                && !self.is_full(max)
                && self.limits.as_mut().is_none_or(|limits| limits.ready(now));
            if !may_go {
                return None;
            }
            // These first: their part is small, and else they would never come to their turn under load.
            let may_doubt = self.doubtful < part(max, DOUBTFUL_PART)
                && (self.ready.is_empty() || self.since_doubtful + 1 >= DOUBTFUL_PART);
            let again = if may_doubt { self.ready_again.pop_front() } else { None };
            let next = again.map(|lane| (lane, true));
            let next = next.or_else(|| Some((self.ready.pop_front()?, false)));
            // What `has_startable` found, if none of the others: within its part.
            let (lane, doubtful) = next.or_else(|| Some((self.ready_late.pop_front()?, false)))?;
            (lane, doubtful, false)
        };
        if let Some(down) = &mut self.down {
            down.probe_at = now + PROBE_PATIENCE;
        }
        if let Some(limits) = &mut self.limits {
            limits.started(now);
        }
        self.number += 1;
        self.fresh.insert((now, self.number));
        let late = lane.backfilled;
        self.doubtful += usize::from(doubtful);
        self.since_doubtful = if doubtful { 0 } else { self.since_doubtful.saturating_add(1) };
        self.late += usize::from(late);
        Some((lane, Seat { since: now, number: self.number, doubtful, late }, probe))
    }

    /// A delivery has ended.
    pub(super) fn leave(&mut self, seat: &Seat) {
        if !self.fresh.remove(&(seat.since, seat.number)) {
            self.slow = self.slow.saturating_sub(1);
        }
        self.doubtful -= usize::from(seat.doubtful);
        self.late -= usize::from(seat.late);
    }

    /// Takes out the lanes in line for which `gone` gives something, and that with them.
    pub(super) fn take_out<T>(&mut self, mut gone: impl FnMut(&Lane) -> Option<T>) -> Vec<(Lane, T)> {
        let mut out = Vec::new();
        for line in [&mut self.ready, &mut self.ready_again, &mut self.ready_late] {
            for lane in std::mem::take(line) {
                match gone(&lane) {
                    Some(found) => out.push((lane, found)),
                    None => line.push_back(lane),
                }
            }
        }
        out
    }

    /// When the next probe may go, if the place needs one.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        let down = self.down.as_ref().map(|down| down.probe_at);
        down.max(self.limits.as_ref().and_then(Limits::ask_at))
    }

    /// A probe came back, maybe without having reached the hub: then the next asks at once.
    pub(super) fn probed(&mut self, now: Instant) {
        if let Some(down) = &mut self.down {
            down.probe_at = now;
        }
        if let Some(limits) = &mut self.limits {
            limits.asked(now);
        }
    }

    /// Whether nobody uses it, and nothing was learnt about it. There are few hubs: those are kept.
    pub(super) fn is_idle(&self) -> bool {
        self.limits.is_none()
            && self.down.is_none()
            && self.fresh.is_empty()
            && self.slow == 0
            && !self.has_ready()
    }

    /// When to look again if only time passes.
    pub(super) fn next_due(&self, max: usize) -> Option<Instant> {
        if let Some(at) = self.probe_at() {
            return self.has_ready().then_some(at);
        }
        let max = self.most(max);
        if !self.has_startable(max) {
            return None;
        }
        if self.is_full(max) { self.first_aging(max) } else { self.limits.as_ref().and_then(Limits::next) }
    }

    fn first_aging(&self, max: usize) -> Option<Instant> {
        (self.fresh.len() >= max && self.slow < max)
            .then(|| self.fresh.first().map(|(at, _)| *at + SLOW))
            .flatten()
    }

    fn most(&self, max: usize) -> usize {
        self.limits.as_ref().map_or(max, |limits| limits.most(max))
    }

    fn has_startable(&self, max: usize) -> bool {
        !self.ready.is_empty()
            || (!self.ready_again.is_empty() && self.doubtful < part(max, DOUBTFUL_PART))
            || (!self.ready_late.is_empty() && self.late < part(max, LATE_PART))
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.ready_again.is_empty() || !self.ready_late.is_empty()
    }

    fn is_full(&self, max: usize) -> bool {
        self.fresh.len() >= max || self.fresh.len() + self.slow >= max.saturating_mul(2)
    }

    /// Those that have been under way for long stand aside.
    fn age(&mut self, now: Instant) {
        while let Some(first) = self.fresh.first().filter(|(at, _)| *at + SLOW <= now).copied() {
            self.fresh.remove(&first);
            self.slow += 1;
        }
    }
}

fn part(max: usize, of: usize) -> usize {
    (max / of).max(1)
}
