//! Who may send next, as plain data: one lane per end device, one window per hub.
//!
//! Pure: takes the time as an argument, does no I/O. A lane has at most one message under way, which keeps its order;
//! a lane that waits holds nobody else; a hub that is down is probed by one message at a time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Backoff;
use super::delivery::{Hot, HubState, Item, Start, Ticket, Verdict};
use crate::azure::HubAddress;
use crate::model::EndDevice;
use crate::spool::Pending;

#[derive(Debug)]
struct Lane {
    queue: VecDeque<Item>,
    state: LaneState,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    Ready,
    Running,
    Waiting,
}

/// The messages on their way to one hub, or (`None`) of devices whose hub is not known yet.
#[derive(Debug, Default)]
struct Window {
    in_flight: usize,
    ready: VecDeque<EndDevice>,
    down: Option<Down>,
}

#[derive(Debug)]
struct Down {
    failures: u32,
    probe_at: Instant,
    probing: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer(Instant, EndDevice);

/// All lanes and windows.
#[derive(Debug)]
pub(super) struct Schedule {
    lanes: HashMap<EndDevice, Lane>,
    windows: HashMap<Option<HubAddress>, Window>,
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
    pub(super) fn push(
        &mut self,
        device: EndDevice,
        pending: Pending,
        hub: impl FnOnce() -> Option<HubAddress>,
    ) {
        let hot = (pending.body.is_some() || pending.waiter.is_some()).then(|| {
            Box::new(Hot { received_ms: pending.received_ms, body: pending.body, waiter: pending.waiter })
        });
        let item = Item { seq: pending.seq, hot };
        if let Some(lane) = self.lanes.get_mut(&device) {
            lane.queue.push_back(item);
            return;
        }
        let lane = Lane { queue: VecDeque::from([item]), state: LaneState::Ready, failures: 0 };
        self.lanes.insert(device.clone(), lane);
        self.windows.entry(hub()).or_default().ready.push_back(device);
    }

    /// Everything that may start now.
    pub(super) fn start(&mut self, now: Instant) -> Vec<Start> {
        let mut starts = Vec::new();
        for (key, window) in &mut self.windows {
            while let Some(probe) = window.admits(self.max_in_flight, now) {
                let Some(device) = window.ready.pop_front() else { break };
                let Some(lane) = self.lanes.get_mut(&device) else { continue };
                let Some(item) = lane.queue.pop_front() else { continue };
                lane.state = LaneState::Running;
                window.in_flight += 1;
                if let Some(down) = &mut window.down {
                    down.probing = true;
                }
                self.in_flight += 1;
                starts.push(Start { device, item, window: key.clone(), probe });
            }
        }
        starts
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
        if let Some(window) = self.windows.get_mut(&ticket.window) {
            window.in_flight -= 1;
            if let (true, Some(down)) = (ticket.probe, &mut window.down) {
                down.probing = false;
            }
        }
        let lane = self.lanes.get_mut(&ticket.device)?;
        if let Some(item) = item {
            lane.queue.push_front(item);
        }
        match verdict {
            Verdict::Finished => {
                lane.failures = 0;
                if lane.queue.is_empty() {
                    self.lanes.remove(&ticket.device);
                } else {
                    lane.state = LaneState::Ready;
                    self.windows.entry(hub()).or_default().ready.push_back(ticket.device);
                }
                // Whatever the hub said, it answered: it is up.
                let was_down = self.up(&ticket.window);
                ticket.window.filter(|_| was_down).map(HubState::Up)
            }
            Verdict::RetryDevice { after } => {
                lane.failures += 1;
                lane.state = LaneState::Waiting;
                let wait = self.device_backoff.wait(lane.failures).max(after.unwrap_or_default());
                self.timers.push(Reverse(Timer(now + wait, ticket.device)));
                None
            }
            Verdict::RetryHub(address) => {
                lane.state = LaneState::Ready;
                let window = self.windows.entry(Some(address.clone())).or_default();
                window.ready.push_front(ticket.device);
                let failures = match &window.down {
                    // Others were under way when it went down: they say nothing new.
                    Some(down) if !ticket.probe => down.failures,
                    Some(down) => down.failures + 1,
                    None => 1,
                };
                let probe_at = match &window.down {
                    Some(down) if !ticket.probe => down.probe_at,
                    Some(_) | None => now + self.hub_backoff.wait(failures),
                };
                let (was_up, probing) =
                    (window.down.is_none(), window.down.as_ref().is_some_and(|down| down.probing));
                window.down = Some(Down { failures, probe_at, probing });
                was_up.then_some(HubState::Down(address))
            }
        }
    }

    /// The hub can be reached again. True if it was held back.
    pub(super) fn hub_up(&mut self, address: &HubAddress) -> bool {
        self.up(&Some(address.clone()))
    }

    fn up(&mut self, window: &Option<HubAddress>) -> bool {
        self.windows.get_mut(window).is_some_and(|window| window.down.take().is_some())
    }

    /// Wakes lanes whose wait is over. `hub` says where each device is now.
    pub(super) fn wake(&mut self, now: Instant, hub: impl Fn(&EndDevice) -> Option<HubAddress>) {
        while self.timers.peek().is_some_and(|Reverse(Timer(at, _))| *at <= now) {
            let Some(Reverse(Timer(_, device))) = self.timers.pop() else { break };
            let Some(lane) = self.lanes.get_mut(&device) else { continue };
            if lane.state == LaneState::Waiting {
                lane.state = LaneState::Ready;
                self.windows.entry(hub(&device)).or_default().ready.push_back(device);
            }
        }
    }

    /// When to call [`Schedule::wake`] and [`Schedule::start`] again, if only time passes.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let lane = self.timers.peek().map(|Reverse(Timer(at, _))| *at);
        let probe = self
            .windows
            .values()
            .filter(|window| !window.ready.is_empty())
            .filter_map(|window| window.down.as_ref().filter(|down| !down.probing).map(|down| down.probe_at))
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
    /// Whether one more may start; `Some(true)` if as the probe of a hub that is down.
    fn admits(&self, max_in_flight: usize, now: Instant) -> Option<bool> {
        match &self.down {
            None => (self.in_flight < max_in_flight).then_some(false),
            Some(down) => (!down.probing && down.probe_at <= now).then_some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Seq;

    const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) };

    fn device(id: &str) -> EndDevice {
        EndDevice::new("", "app", id).expect("valid")
    }

    fn hub(host: &str) -> HubAddress {
        HubAddress { host: host.into(), port: 5671 }
    }

    fn push(schedule: &mut Schedule, id: &str, seq: i64, host: &str) {
        let pending = Pending { seq: Seq(seq), lane: "".into(), received_ms: 0, body: None, waiter: None };
        schedule.push(device(id), pending, || Some(hub(host)));
    }

    fn take(schedule: &mut Schedule, now: Instant) -> Vec<(String, i64, Ticket, Item)> {
        let starts = schedule.start(now).into_iter();
        starts
            .map(|start| {
                let (ticket, item) = start.into_parts();
                (ticket.device.device_id().to_owned(), item.seq.0, ticket, item)
            })
            .collect()
    }

    #[test]
    fn a_lane_has_one_message_under_way_and_keeps_its_order() {
        let (mut schedule, now) = (Schedule::new(BACKOFF, 10), Instant::now());
        for seq in [1, 2, 3] {
            push(&mut schedule, "a", seq, "hub");
        }
        let mut order = Vec::new();
        for _ in 0..3 {
            let mut started = take(&mut schedule, now);
            assert_eq!(started.len(), 1);
            let (_, seq, ticket, item) = started.remove(0);
            // Every message fails once before it gets through.
            schedule
                .finished(ticket, Some(item), Verdict::RetryDevice { after: None }, now, || Some(hub("hub")));
            assert!(take(&mut schedule, now).is_empty(), "the lane must wait");
            let later = schedule.next_due().expect("a timer");
            schedule.wake(later, |_| Some(hub("hub")));
            let (_, again, ticket, _) = take(&mut schedule, later).remove(0);
            assert_eq!(again, seq);
            schedule.finished(ticket, None, Verdict::Finished, now, || Some(hub("hub")));
            order.push(seq);
        }
        assert_eq!(order, [1, 2, 3]);
        assert_eq!((schedule.lanes(), schedule.in_flight()), (0, 0));
    }

    #[test]
    fn a_waiting_lane_and_a_full_hub_hold_nobody_else() {
        let (mut schedule, now) = (Schedule::new(BACKOFF, 2), Instant::now());
        for (seq, id) in ["a", "b", "c"].into_iter().enumerate() {
            push(&mut schedule, id, seq as i64, "busy");
        }
        push(&mut schedule, "d", 9, "other");
        let mut started: Vec<_> = take(&mut schedule, now).into_iter().map(|start| start.0).collect();
        started.sort();
        assert_eq!(started, ["a", "b", "d"]);
    }

    #[test]
    fn a_hub_that_is_down_is_probed_by_one_message_and_wakes_all_at_once() {
        let (mut schedule, now) = (Schedule::new(BACKOFF, 10), Instant::now());
        for (seq, id) in ["a", "b", "c"].into_iter().enumerate() {
            push(&mut schedule, id, seq as i64, "hub");
        }
        for (_, _, ticket, item) in take(&mut schedule, now) {
            schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), now, || None);
        }
        assert!(take(&mut schedule, now).is_empty());
        let probe_at = schedule.next_due().expect("a probe");
        let mut probes = take(&mut schedule, probe_at);
        assert_eq!(probes.len(), 1, "one probe");
        assert_eq!(schedule.next_due(), None, "the probe is under way");
        let (_, _, ticket, item) = probes.remove(0);
        schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), probe_at, || None);
        assert!(schedule.next_due().expect("the next probe") > probe_at);
        assert!(schedule.hub_up(&hub("hub")));
        assert_eq!(take(&mut schedule, probe_at).len(), 3);
    }

    #[test]
    fn a_probe_that_gets_an_answer_opens_the_hub() {
        let (mut schedule, now) = (Schedule::new(BACKOFF, 10), Instant::now());
        push(&mut schedule, "a", 1, "hub");
        push(&mut schedule, "b", 2, "hub");
        for (_, _, ticket, item) in take(&mut schedule, now) {
            schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), now, || None);
        }
        let probe_at = schedule.next_due().expect("a probe");
        let (_, _, ticket, _) = take(&mut schedule, probe_at).remove(0);
        schedule.finished(ticket, None, Verdict::Finished, probe_at, || None);
        assert_eq!(take(&mut schedule, probe_at).len(), 1);
    }
}
