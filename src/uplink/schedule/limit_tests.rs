//! The schedule against hubs that throttle, or have no messages left today, with a time of its own.

use std::collections::VecDeque;

use super::*;
use crate::spool::Seq;

const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) };
const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn device(number: usize) -> EndDevice {
    EndDevice::new("", "app", &format!("d-{number}")).expect("valid")
}

fn hub(host: &str) -> HubAddress {
    HubAddress { host: host.into(), port: 5671 }
}

/// A hub that takes `limit` messages a second and a burst of one second's worth.
struct Hub {
    limit: f64,
    tokens: f64,
    /// Messages left of the day, if it has an end.
    left: Option<u32>,
    refused: u32,
    last: HashMap<EndDevice, i64>,
}

impl Hub {
    fn new(limit: f64) -> Self {
        Self { limit, tokens: limit, left: None, refused: 0, last: HashMap::new() }
    }

    fn verdict(&mut self, host: &str, device: &EndDevice, seq: i64) -> Verdict {
        if self.left == Some(0) {
            self.refused += 1;
            return Verdict::QuotaUsedUp { hub: hub(host), resets_in: DAY };
        }
        if self.tokens < 1.0 {
            self.refused += 1;
            return Verdict::Throttled(hub(host));
        }
        self.tokens -= 1.0;
        self.left = self.left.map(|left| left - 1);
        let before = self.last.insert(device.clone(), seq);
        assert!(before.is_none_or(|before| before < seq), "{device} out of order");
        Verdict::Finished { answered: Some(hub(host)) }
    }
}

/// Messages on their way to one hub, each answered after a moment, in a time of their own.
struct Line {
    schedule: Schedule,
    now: Instant,
    hub: Hub,
    under_way: VecDeque<(Instant, Ticket, Item)>,
    states: Vec<HubState>,
    sent: usize,
    /// The first devices, so many, are throttled by themselves.
    ill: usize,
}

impl Line {
    /// `devices` with `each` messages.
    fn new(rate: Option<f64>, limit: f64, devices: usize, each: usize) -> Self {
        let mut schedule = Schedule::new(BACKOFF, 1024, rate);
        for seq in 0..each * devices {
            let pending =
                Pending { seq: Seq(seq as i64), lane: "".into(), received_ms: 0, body: None, waiter: None };
            schedule.push(Lane::live(device(seq % devices)), pending, || Some(hub("hub")));
        }
        let (now, hub) = (Instant::now(), Hub::new(limit));
        Self { schedule, now, hub, under_way: VecDeque::new(), states: Vec::new(), sent: 0, ill: 0 }
    }

    /// Lets time pass; gives how many messages were accepted meanwhile.
    fn run(&mut self, time: Duration) -> usize {
        let (end, before) = (self.now + time, self.sent);
        let here = |_: &EndDevice| Some(hub("hub"));
        while self.now < end {
            self.now += MS;
            self.hub.tokens = (self.hub.tokens + self.hub.limit / 1000.0).min(self.hub.limit);
            while self.under_way.front().is_some_and(|(at, ..)| *at <= self.now) {
                let Some((_, ticket, item)) = self.under_way.pop_front() else { break };
                let verdict = if (0..self.ill).any(|number| ticket.lane.device == device(number)) {
                    self.hub.refused += 1;
                    Verdict::Throttled(hub("hub"))
                } else {
                    self.hub.verdict("hub", &ticket.lane.device, item.seq.0)
                };
                let accepted = matches!(verdict, Verdict::Finished { .. });
                self.sent += usize::from(accepted);
                let item = (!accepted).then_some(item);
                self.states
                    .extend(self.schedule.finished(ticket, item, verdict, self.now, || Some(hub("hub"))));
            }
            self.schedule.wake(self.now, here);
            for start in self.schedule.start(self.now, here) {
                let (ticket, item) = start.into_parts();
                self.under_way.push_back((self.now + MS * 50, ticket, item));
            }
        }
        self.sent - before
    }
}

#[test]
fn a_tier_that_is_known_is_never_overrun() {
    let mut line = Line::new(Some(95.0), 100.0, 200, 10);
    line.run(Duration::from_secs(10));
    let sent = line.run(Duration::from_secs(10));
    assert!((900..=1000).contains(&sent), "{sent}");
    assert_eq!((line.hub.refused, line.states.len()), (0, 0));
    line.run(Duration::from_secs(10));
    assert_eq!(line.sent, 2000);
}

#[test]
fn an_unknown_tier_is_learnt_with_few_refusals_and_told_once() {
    let mut line = Line::new(None, 100.0, 200, 100);
    line.run(Duration::from_secs(20));
    // At first all that may be under way are.
    let (first, sent) = (line.hub.refused, line.run(Duration::from_secs(100)));
    assert!(first <= 400, "{first}");
    assert!(sent > 7_500, "{sent} of 10,000");
    let refused = line.hub.refused - first;
    assert!(f64::from(refused) < 0.05 * sent as f64, "{refused} of {sent}");
    assert_eq!(line.states, [HubState::Throttled(hub("hub"))]);
    let limits: Vec<_> = line.schedule.hub_limits().map(|(_, limits)| limits).collect();
    assert!(limits[0].pace.is_some_and(|pace| pace < 200.0), "{limits:?}");
    line.hub.limit = 1_000_000.0;
    line.run(Duration::from_secs(120));
    assert_eq!((line.sent, line.schedule.lanes(), line.schedule.in_flight()), (20_000, 0, 0));
}

#[test]
fn a_used_up_day_is_asked_about_now_and_then_and_told_once() {
    let mut line = Line::new(None, 1_000.0, 50, 40);
    line.hub.left = Some(500);
    line.run(Duration::from_secs(5));
    assert_eq!((line.sent, &line.states[..]), (500, &[HubState::QuotaUsedUp(hub("hub"))][..]));
    let before = line.hub.refused;
    assert!(before <= 60, "those that were under way: {before}");
    line.run(Duration::from_secs(3600));
    let asked = line.hub.refused - before;
    assert!((12..=40).contains(&asked), "{asked} in an hour");
    line.hub.left = None;
    line.run(Duration::from_secs(301));
    assert_eq!(line.states.last(), Some(&HubState::QuotaBack(hub("hub"))));
    assert_eq!((line.sent, line.schedule.lanes()), (2_000, 0));
}

#[test]
fn midnight_is_asked_about_at_midnight() {
    let mut limits = Limits::new(None, Instant::now());
    let (now, soon) = (Instant::now(), Duration::from_secs(10));
    limits.used_up(&device(1), 0, false, soon, now);
    assert_eq!(limits.used_up(&device(2), 0, false, soon, now), Refusal::HubAndNew);
    let mut asked = now;
    for _ in 0..8 {
        asked = limits.ask_at().expect("used up");
        limits.used_up(&device(1), 0, true, soon.saturating_sub(asked - now), asked);
    }
    assert!(asked <= now + soon + Duration::from_secs(20), "{:?}", asked - now);
}

#[test]
fn one_throttled_device_is_its_own_trouble() {
    let mut schedule = Schedule::new(BACKOFF, 8, None);
    let mut now = Instant::now();
    let mut seq = 0;
    let mut push = |schedule: &mut Schedule, number| {
        seq += 1;
        let pending = Pending { seq: Seq(seq), lane: "".into(), received_ms: 0, body: None, waiter: None };
        schedule.push(Lane::live(device(number)), pending, || Some(hub("hub")));
    };
    push(&mut schedule, 0);
    let here = |_: &EndDevice| Some(hub("hub"));
    for _ in 0..200 {
        now += MS * 100;
        push(&mut schedule, 1);
        schedule.wake(now, here);
        let starts = schedule.start(now, here);
        assert!(starts.iter().any(|start| start.lane.device == device(1)), "it goes at once");
        for start in starts {
            let (ticket, item) = start.into_parts();
            let ill = ticket.lane.device == device(0);
            let verdict = if ill {
                Verdict::Throttled(hub("hub"))
            } else {
                Verdict::Finished { answered: Some(hub("hub")) }
            };
            let item = ill.then_some(item);
            assert_eq!(schedule.finished(ticket, item, verdict, now, || Some(hub("hub"))), None);
        }
    }
    let limits: Vec<_> = schedule.hub_limits().map(|(_, limits)| limits).collect();
    assert_eq!(limits[0].pace, None);
    assert!((4..=12).contains(&limits[0].throttled), "{limits:?}");
}

#[test]
fn some_throttled_devices_do_not_slow_the_others() {
    let mut line = Line::new(None, 1_000_000.0, 100, 60);
    line.ill = 5;
    line.run(Duration::from_secs(10));
    assert_eq!(line.sent, 95 * 60);
    let limits: Vec<_> = line.schedule.hub_limits().map(|(_, limits)| limits).collect();
    assert_eq!((limits[0].pace, &line.states[..]), (None, &[][..]));
    assert!(line.hub.refused <= 5 * 8, "{}", line.hub.refused);
}

#[test]
fn a_hub_that_refuses_all_is_asked_by_one_at_a_time_and_open_at_once_afterwards() {
    let mut line = Line::new(None, 0.0, 200, 5);
    line.run(Duration::from_secs(60));
    assert_eq!(line.states, [HubState::Throttled(hub("hub"))]);
    assert!(line.hub.refused <= 200 + 25, "{}", line.hub.refused);
    line.hub.limit = 1_000_000.0;
    line.run(Duration::from_secs(10));
    assert_eq!((line.sent, line.schedule.lanes()), (1_000, 0));
}

#[test]
fn a_device_alone_at_its_hub_tells_of_a_used_up_day_too() {
    let mut line = Line::new(None, 1_000.0, 1, 20);
    line.hub.left = Some(5);
    line.run(Duration::from_secs(60));
    assert_eq!((line.sent, &line.states[..]), (5, &[HubState::QuotaUsedUp(hub("hub"))][..]));
    assert!(line.hub.refused <= 9, "{}", line.hub.refused);
    line.hub.left = None;
    line.run(Duration::from_secs(301));
    assert_eq!(line.sent, 20);
}

#[test]
fn a_throttled_hub_leaves_another_alone() {
    let mut schedule = Schedule::new(BACKOFF, 64, None);
    let mut now = Instant::now();
    for number in 0..100_usize {
        let at = if number.is_multiple_of(2) { "slow" } else { "free" };
        for seq in 0..5 {
            let seq = Seq(seq * 100 + number as i64);
            let pending = Pending { seq, lane: "".into(), received_ms: 0, body: None, waiter: None };
            schedule.push(Lane::live(device(number)), pending, || Some(hub(at)));
        }
    }
    let place = |device: &EndDevice| {
        let number: usize = device.device_id()[2..].parse().expect("a number");
        Some(hub(if number.is_multiple_of(2) { "slow" } else { "free" }))
    };
    let mut free = 0;
    for _ in 0..20 {
        now += MS;
        for start in schedule.start(now, place) {
            let (ticket, item) = start.into_parts();
            let at = place(&ticket.lane.device);
            let (item, verdict) = if ticket.place == Place::Hub(hub("slow")) {
                (Some(item), Verdict::Throttled(hub("slow")))
            } else {
                free += 1;
                (None, Verdict::Finished { answered: Some(hub("free")) })
            };
            schedule.finished(ticket, item, verdict, now, || at);
        }
    }
    assert_eq!(free, 250);
    let limits: HashMap<_, _> =
        schedule.hub_limits().map(|(hub, limits)| (hub.host.to_string(), limits)).collect();
    assert_eq!((limits["free"].pace, limits["free"].throttled), (None, 0));
    // Those that were under way; then all are held for a moment.
    assert_eq!(limits["slow"].throttled, 50);
}

#[test]
fn who_did_not_know_its_hub_waits_for_its_turn_there_before_anything_is_sent() {
    let mut schedule = Schedule::new(BACKOFF, 100, Some(10.0));
    let now = Instant::now();
    for number in 0..30 {
        let seq = Seq(number as i64);
        let pending = Pending { seq, lane: "".into(), received_ms: 0, body: None, waiter: None };
        schedule.push(Lane::live(device(number)), pending, || None);
    }
    let starts = schedule.start(now, |_| None);
    assert_eq!(starts.len(), 30, "all may ask where they live");
    for start in starts {
        let (ticket, item) = start.into_parts();
        schedule.finished(ticket, Some(item), Verdict::Resolved(hub("hub")), now, || None);
    }
    let here = |_: &EndDevice| Some(hub("hub"));
    assert_eq!(schedule.start(now, here).len(), 10);
    assert_eq!(schedule.start(now + MS * 1001, here).len(), 10);
}

#[test]
fn devices_whose_hub_is_never_known_beforehand_probe_a_hub_that_is_down() {
    let mut schedule = Schedule::new(BACKOFF, 100, None);
    let mut now = Instant::now();
    for number in 0..5 {
        let seq = Seq(number as i64);
        let pending = Pending { seq, lane: "".into(), received_ms: 0, body: None, waiter: None };
        schedule.push(Lane::live(device(number)), pending, || None);
    }
    let (mut asked, mut sent) = (0, 0);
    for _ in 0..20_000 {
        now += MS;
        schedule.wake(now, |_| None);
        for start in schedule.start(now, |_| None) {
            let (ticket, item) = start.into_parts();
            let verdict = if ticket.place == Place::Hub(hub("hub")) {
                sent += 1;
                Verdict::RetryHub(hub("hub"))
            } else {
                asked += 1;
                Verdict::Resolved(hub("hub"))
            };
            schedule.finished(ticket, Some(item), verdict, now, || None);
        }
    }
    assert_eq!(asked, 5, "each asks once");
    assert!((8..=20).contains(&sent), "{sent} probes in 20 s");
}
