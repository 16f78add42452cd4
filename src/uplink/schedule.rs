//! Who may send next, as plain data: one lane per end device (and one for its
//! backfilled messages), one window per hub.
//!
//! Pure: takes the time as an argument, does no I/O. A lane has at most one message under way, which keeps its order;
//! a lane that waits holds nobody else; a hub that is down is probed by one message at a time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::delivery::{HubState, Item, Place, Start, Ticket, Verdict};
use super::limits::{HubLimits, Limits, Refusal};
use super::line::Line;
use super::window::{Down, Window};
use crate::azure::HubAddress;
use crate::model::{Backoff, EndDevice, Lane};
use crate::spool::Pending;

/// A lane with work. It stands in exactly one place: ready in a window, under way as a ticket, or waiting for a timer.
#[derive(Debug, Default)]
struct Busy {
    line: Line,
    failures: u32,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer(Instant, Lane);

/// All lanes and windows.
#[derive(Debug)]
pub(super) struct Schedule {
    lanes: HashMap<Lane, Busy>,
    windows: HashMap<Place, Window>,
    timers: BinaryHeap<Reverse<Timer>>,
    device_backoff: Backoff,
    hub_backoff: Backoff,
    max_in_flight: usize,
    /// Messages a second that a hub's tier allows, if it is known.
    rate: Option<f64>,
    in_flight: usize,
}

/// How often in a row a message goes to the hub that its device is said to have moved to, before it waits.
const MAX_MOVES: u32 = 2;
/// Waits of a device that alone is refused as too many, and as the day is used up.
const THROTTLED: Backoff = Backoff { initial: Duration::from_millis(500), max: Duration::from_secs(5) };
const USED_UP: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300) };

impl Schedule {
    pub(super) fn new(device_backoff: Backoff, max_in_flight: usize, rate: Option<f64>) -> Self {
        // Probing a hub costs one message, so it may be asked often: recovery is noticed within seconds.
        let hub_backoff =
            Backoff { initial: device_backoff.initial, max: device_backoff.max.min(Duration::from_secs(5)) };
        Self {
            lanes: HashMap::new(),
            windows: HashMap::new(),
            timers: BinaryHeap::new(),
            device_backoff,
            hub_backoff,
            max_in_flight,
            rate,
            in_flight: 0,
        }
    }

    /// Takes in a record. `hub` is where its device is known to be.
    pub(super) fn push(&mut self, lane: Lane, pending: Pending, hub: impl FnOnce() -> Option<HubAddress>) {
        if let Some(busy) = self.lanes.get_mut(&lane) {
            busy.line.push(pending);
            return;
        }
        self.lanes.entry(lane.clone()).or_default().line.push(pending);
        self.enqueue(lane, hub());
    }

    fn enqueue(&mut self, lane: Lane, hub: Option<HubAddress>) {
        let place = Place::new(&lane.device, hub);
        let doubtful = self.lanes.get(&lane).is_some_and(|busy| busy.failures > 0);
        self.windows.entry(place).or_default().queue(lane, doubtful);
    }

    /// Everything that may start now. `hub` says where a device is now.
    pub(super) fn start(
        &mut self,
        now: Instant,
        hub: impl Fn(&EndDevice) -> Option<HubAddress>,
    ) -> Vec<Start> {
        self.move_on(now, hub);
        let mut starts = Vec::new();
        for (key, window) in &mut self.windows {
            if matches!(key, Place::Hub(_)) {
                window.limits.get_or_insert_with(|| Limits::new(self.rate, now));
            }
            while let Some((lane, seat, probe)) = window.next(self.max_in_flight, now) {
                let item = self.lanes.get_mut(&lane).and_then(|busy| busy.line.pop());
                let Some(item) = item else {
                    window.leave(&seat);
                    continue;
                };
                self.in_flight += 1;
                starts.push(Start { lane, item, place: key.clone(), probe, seat });
            }
        }
        starts
    }

    /// Who waits for a hub that is down or takes no more today, but is not its device any more, is no probe and need not wait.
    fn move_on(&mut self, now: Instant, hub: impl Fn(&EndDevice) -> Option<HubAddress>) {
        let mut moved = Vec::new();
        for (place, window) in &mut self.windows {
            if window.probe_at().is_none_or(|at| at > now) {
                continue;
            }
            // One whose hub is not known asks where it is when its turn comes: sent away to ask, it would come back here.
            moved.extend(window.take_out(|lane| {
                hub(&lane.device).filter(|address| !matches!(place, Place::Hub(here) if here == address))
            }));
        }
        for (lane, hub) in moved {
            self.enqueue(lane, Some(hub));
        }
    }

    /// A delivery ended; `item` comes back when it must be tried again. `hub` is asked for the lane's next place.
    pub(super) fn finished(
        &mut self,
        ticket: Ticket,
        item: Option<Item>,
        verdict: Verdict,
        now: Instant,
        hub: impl FnOnce() -> Option<HubAddress>,
    ) -> Option<HubState> {
        self.in_flight -= 1;
        self.leave(&ticket, now);
        let busy = self.lanes.get_mut(&ticket.lane)?;
        if let Some(item) = item {
            busy.line.put_back(item);
        }
        match verdict {
            Verdict::Finished { answered } => {
                busy.failures = 0;
                if busy.line.is_empty() {
                    self.lanes.remove(&ticket.lane);
                } else {
                    self.enqueue(ticket.lane, hub());
                }
                let answered = answered?;
                let was_down = self.hub_up(&answered);
                if self.limits(&answered, now).accepted(now) {
                    return Some(HubState::QuotaBack(answered));
                }
                was_down.then_some(HubState::Up(answered))
            }
            Verdict::Resolved(address) => {
                let doubtful = busy.failures > 0;
                self.windows.entry(Place::Hub(address)).or_default().queue(ticket.lane, doubtful);
                None
            }
            Verdict::Moved(address) if busy.failures < MAX_MOVES => {
                busy.failures += 1;
                self.windows.entry(Place::Hub(address)).or_default().queue(ticket.lane, false);
                None
            }
            // Hubs that each send it to the other.
            Verdict::Moved(_) => self.wait(ticket.lane, None, now),
            Verdict::RetryDevice { after } => self.wait(ticket.lane, after, now),
            Verdict::RetryHub(address) => {
                let place = Place::Hub(address.clone());
                let probed = ticket.probe && ticket.place == place;
                let window = self.windows.entry(place).or_default();
                // Behind the others, so that each hub is asked by another device: this one may be why it fails.
                window.queue(ticket.lane, false);
                let failures = match &window.down {
                    // Others were under way when it went down: they say nothing new.
                    Some(_) if !probed => return None,
                    Some(down) => down.failures.saturating_add(1),
                    None => 1,
                };
                let was_up = window.down.is_none();
                window.down = Some(Down { failures, probe_at: now + self.hub_backoff.wait(failures) });
                was_up.then_some(HubState::Down(address))
            }
            Verdict::Throttled(address) => {
                let failures = busy.failures;
                let refusal = self.limits(&address, now).throttled(&ticket.lane.device, failures, now);
                self.refused(ticket.lane, refusal, THROTTLED, &address, now);
                (refusal == Refusal::HubAndNew).then_some(HubState::Throttled(address))
            }
            Verdict::QuotaUsedUp { hub: address, resets_in } => {
                let failures = busy.failures;
                let asked = ticket.probe && ticket.place == Place::Hub(address.clone());
                let limits = self.limits(&address, now);
                let refusal = limits.used_up(&ticket.lane.device, failures, asked, resets_in, now);
                self.refused(ticket.lane, refusal, USED_UP, &address, now);
                (refusal == Refusal::HubAndNew).then_some(HubState::QuotaUsedUp(address))
            }
        }
    }

    /// A device waits by itself.
    fn wait(&mut self, lane: Lane, after: Option<Duration>, now: Instant) -> Option<HubState> {
        let busy = self.lanes.get_mut(&lane)?;
        busy.failures += 1;
        let wait = self.device_backoff.wait(busy.failures).max(after.unwrap_or_default());
        self.timers.push(Reverse(Timer(now + wait, lane)));
        None
    }

    /// A refused device waits by itself, or behind the others for its hub.
    fn refused(
        &mut self,
        lane: Lane,
        refusal: Refusal,
        backoff: Backoff,
        address: &HubAddress,
        now: Instant,
    ) {
        let Some(busy) = self.lanes.get_mut(&lane) else { return };
        busy.failures += 1;
        let failures = busy.failures;
        match refusal {
            Refusal::Device => {
                let wait = backoff.wait(failures);
                self.timers.push(Reverse(Timer(now + wait, lane)));
            }
            Refusal::Hub | Refusal::HubAndNew => {
                self.windows.entry(Place::Hub(address.clone())).or_default().queue(lane, false);
            }
        }
    }

    fn limits(&mut self, address: &HubAddress, now: Instant) -> &mut Limits {
        let window = self.windows.entry(Place::Hub(address.clone())).or_default();
        window.limits.get_or_insert_with(|| Limits::new(self.rate, now))
    }

    /// What each hub takes now.
    pub(super) fn hub_limits(&self) -> impl Iterator<Item = (&HubAddress, HubLimits)> {
        self.windows.iter().filter_map(|(place, window)| match (place, &window.limits) {
            (Place::Hub(address), Some(limits)) => Some((address, limits.seen())),
            (Place::Hub(_) | Place::Unknown(..), _) => None,
        })
    }

    /// Frees a delivery's place. One that nobody uses is forgotten, so that there are never more than in use.
    fn leave(&mut self, ticket: &Ticket, now: Instant) {
        let Some(window) = self.windows.get_mut(&ticket.place) else { return };
        window.leave(&ticket.seat);
        if ticket.probe {
            // It may not have got as far as the hub: unless it says otherwise below, the next asks at once.
            window.probed(now);
        }
        if window.is_idle() {
            self.windows.remove(&ticket.place);
        }
    }

    /// The hub can be reached again. True if it was held back.
    pub(super) fn hub_up(&mut self, address: &HubAddress) -> bool {
        let window = self.windows.get_mut(&Place::Hub(address.clone()));
        window.is_some_and(|window| window.down.take().is_some())
    }

    /// Wakes lanes whose wait is over. `hub` says where each device is now.
    pub(super) fn wake(&mut self, now: Instant, hub: impl Fn(&EndDevice) -> Option<HubAddress>) {
        while self.timers.peek().is_some_and(|Reverse(Timer(at, _))| *at <= now) {
            let Some(Reverse(Timer(_, lane))) = self.timers.pop() else { break };
            let hub = hub(&lane.device);
            self.enqueue(lane, hub);
        }
    }

    /// When to call [`Schedule::wake`] and [`Schedule::start`] again, if only time passes.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let lane = self.timers.peek().map(|Reverse(Timer(at, _))| *at);
        let window = self.windows.values().filter_map(|window| window.next_due(self.max_in_flight)).min();
        lane.into_iter().chain(window).min()
    }

    /// Deliveries under way.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Lanes with work.
    #[cfg(test)]
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }
}

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
