//! Who may send next, as plain data: one lane per end device (and one for its
//! backfilled messages), one window per hub.
//!
//! Pure: takes the time as an argument, does no I/O. A lane has at most one message under way, which keeps its order;
//! a lane that waits holds nobody else; a hub that is down is probed by one message at a time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::delivery::{Hot, HubState, Item, Place, Start, Ticket, Verdict};
use crate::azure::HubAddress;
use crate::model::{Backoff, EndDevice, Lane};
use crate::spool::Pending;

/// A probe without an answer for this long does not keep the next one back: it may hang for its device's sake.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Backfilled messages get one part in so many of a hub's window, so that a live one always finds a place.
const LATE_SHARE: usize = 8;

/// A lane's messages. It stands in exactly one place: ready in a window, under way as a ticket, or waiting for a timer.
#[derive(Debug)]
struct Line {
    queue: VecDeque<Item>,
    failures: u32,
}

/// The messages on their way to one place.
#[derive(Debug, Default)]
struct Window {
    in_flight: usize,
    ready: VecDeque<Lane>,
    /// Lanes of backfilled messages: they start only while no other is ready.
    late: VecDeque<Lane>,
    /// Those of them among `in_flight`.
    late_in_flight: usize,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    failures: u32,
    /// When the next message may ask whether the hub is back.
    probe_at: Instant,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer(Instant, Lane);

/// All lanes and windows.
#[derive(Debug)]
pub(super) struct Schedule {
    lanes: HashMap<Lane, Line>,
    windows: HashMap<Place, Window>,
    timers: BinaryHeap<Reverse<Timer>>,
    device_backoff: Backoff,
    hub_backoff: Backoff,
    max_in_flight: usize,
    in_flight: usize,
}

impl Schedule {
    pub(super) fn new(device_backoff: Backoff, max_in_flight: usize) -> Self {
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
            in_flight: 0,
        }
    }

    /// Takes in a record. `hub` is where its device is known to be.
    pub(super) fn push(&mut self, lane: Lane, pending: Pending, hub: impl FnOnce() -> Option<HubAddress>) {
        let hot = (pending.body.is_some() || pending.waiter.is_some()).then(|| {
            Box::new(Hot { received_ms: pending.received_ms, body: pending.body, waiter: pending.waiter })
        });
        let item = Item { seq: pending.seq, hot };
        if let Some(line) = self.lanes.get_mut(&lane) {
            line.queue.push_back(item);
            return;
        }
        self.lanes.insert(lane.clone(), Line { queue: VecDeque::from([item]), failures: 0 });
        self.enqueue(lane, hub());
    }

    fn enqueue(&mut self, lane: Lane, hub: Option<HubAddress>) {
        let place = Place::new(&lane.device, hub);
        self.windows.entry(place).or_default().queue_up(lane);
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
            while let Some(probe) = window.admits(self.max_in_flight, now) {
                let Some(lane) = window.next(self.max_in_flight) else { break };
                let Some(line) = self.lanes.get_mut(&lane) else { continue };
                let Some(item) = line.queue.pop_front() else { continue };
                window.in_flight += 1;
                window.late_in_flight += usize::from(lane.backfilled);
                if let Some(down) = &mut window.down {
                    down.probe_at = now + PROBE_PATIENCE;
                }
                self.in_flight += 1;
                starts.push(Start { lane, item, place: key.clone(), probe });
            }
        }
        starts
    }

    /// Who waits first for a hub that is down, but is not its device any more, is no probe and need not wait.
    fn move_on(&mut self, now: Instant, hub: impl Fn(&EndDevice) -> Option<HubAddress>) {
        let mut moved = Vec::new();
        for (place, window) in &mut self.windows {
            if window.down.as_ref().is_none_or(|down| down.probe_at > now) {
                continue;
            }
            for queue in [&mut window.ready, &mut window.late] {
                while let Some(first) = queue.front() {
                    let now_at = hub(&first.device);
                    if Place::new(&first.device, now_at.clone()) == *place {
                        break;
                    }
                    moved.extend(queue.pop_front().map(|lane| (lane, now_at)));
                }
            }
        }
        for (lane, hub) in moved {
            self.enqueue(lane, hub);
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
        let lane = self.lanes.get_mut(&ticket.lane)?;
        if let Some(item) = item {
            lane.queue.push_front(item);
        }
        match verdict {
            Verdict::Finished { answered } => {
                lane.failures = 0;
                if lane.queue.is_empty() {
                    self.lanes.remove(&ticket.lane);
                } else {
                    self.enqueue(ticket.lane, hub());
                }
                let answered = answered?;
                self.hub_up(&answered).then_some(HubState::Up(answered))
            }
            Verdict::RetryDevice { after } => {
                lane.failures += 1;
                let wait = self.device_backoff.wait(lane.failures).max(after.unwrap_or_default());
                self.timers.push(Reverse(Timer(now + wait, ticket.lane)));
                None
            }
            Verdict::RetryHub(address) => {
                let place = Place::Hub(address.clone());
                let probed = ticket.probe && ticket.place == place;
                let window = self.windows.entry(place).or_default();
                // Behind the others, so that each hub is asked by another device: this one may be why it fails.
                window.queue_up(ticket.lane);
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
        }
    }

    /// Frees a delivery's place. One that nobody uses is forgotten, so that there are never more than in use.
    fn leave(&mut self, ticket: &Ticket, now: Instant) {
        let Some(window) = self.windows.get_mut(&ticket.place) else { return };
        window.in_flight -= 1;
        window.late_in_flight -= usize::from(ticket.lane.backfilled);
        match &mut window.down {
            // It may not have got as far as the hub: unless it says otherwise below, the next asks at once.
            Some(down) if ticket.probe => down.probe_at = now,
            None if window.in_flight == 0 && window.ready.is_empty() && window.late.is_empty() => {
                self.windows.remove(&ticket.place);
            }
            Some(_) | None => {}
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
        let probe = self
            .windows
            .values()
            .filter(|window| window.has_ready())
            .filter_map(|window| window.down.as_ref().map(|down| down.probe_at))
            .min();
        lane.into_iter().chain(probe).min()
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

impl Window {
    fn queue_up(&mut self, lane: Lane) {
        if lane.backfilled { &mut self.late } else { &mut self.ready }.push_back(lane);
    }

    /// Who starts next: a backfilled one only if nobody else is ready, and only in its share of the window.
    fn next(&mut self, max_in_flight: usize) -> Option<Lane> {
        self.ready.pop_front().or_else(|| {
            let share = (max_in_flight / LATE_SHARE).max(1);
            if self.late_in_flight < share { self.late.pop_front() } else { None }
        })
    }

    fn has_ready(&self) -> bool {
        !self.ready.is_empty() || !self.late.is_empty()
    }

    /// Whether one more may start; `Some(true)` if as the probe of a hub that is down.
    fn admits(&self, max_in_flight: usize, now: Instant) -> Option<bool> {
        match &self.down {
            None => (self.in_flight < max_in_flight).then_some(false),
            Some(down) => (down.probe_at <= now).then_some(true),
        }
    }
}

#[cfg(test)]
mod tests;
