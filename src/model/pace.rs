//! How fast something may be asked of a peer that says when it is too much: a token bucket whose rate is given, or learnt.
//!
//! Pure: takes the time as an argument. Knows neither what is asked nor whom.
//!
//! A refusal takes a third off the rate, once for all that were under way together, and holds everything for a moment; while
//! nothing is accepted, one at a time asks whether that has passed. The rate then grows by 2 % a second, and fast once it is
//! well beyond what was refused, as the limit must be another one.

use std::time::Duration;

use tokio::time::Instant;

/// So many seconds' worth may go at once.
const BURST_SECONDS: f64 = 1.0;
/// One, less what the roundings of a wait may take off.
const WHOLE: f64 = 1.0 - 1e-6;
/// What a refusal leaves of the rate.
const CUT: f64 = 0.7;
/// The first learnt rate, of what was accepted lately: bursts pass, so that was more than is allowed.
const FIRST_CUT: f64 = 0.8;
/// Refusals within this time are one: they answer what was under way before we slowed down.
const CUT_PAUSE: Duration = Duration::from_secs(1);
/// No slower by refusals alone; what is refused even so is held.
const MIN_RATE: f64 = 1.0;
/// The first learnt rate is no lower: the smallest hubs take a hundred a second, and few answers may tell too little.
const MIN_LEARNT: f64 = 80.0;
/// Growth each second, and when the refused rate is passed by so much.
const GROWTH: f64 = 1.02;
const FAST_GROWTH: f64 = 1.2;
const WELL_BEYOND: f64 = 1.25;
/// A learnt rate beyond this limits nobody, and is forgotten.
const UNLIMITED: f64 = 20_000.0;
/// How long everything is held after a refusal; doubles while nothing is accepted.
const HOLD: Duration = Duration::from_millis(250);
/// The longest hold: so soon an end of the trouble is noticed.
const MAX_HOLD: Duration = Duration::from_secs(5);
/// One that asks after a hold and gets no answer for this long does not keep the next one back.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pace.
#[derive(Clone, Debug)]
pub struct Pace {
    ceiling: Option<f64>,
    rate: Option<f64>,
    tokens: f64,
    refilled: Instant,
    /// Somebody had to wait for the rate since it grew last: only then does it say anything that nobody was refused.
    limited: bool,
    grown: Instant,
    /// The rate that was too much.
    refused_rate: f64,
    cut: Option<Instant>,
    accepted_since_cut: bool,
    hold: Hold,
    meter: Meter,
}

/// What a refusal does to all, whatever the rate. `count`: refusals in a row, each after its hold.
#[derive(Clone, Copy, Debug)]
enum Hold {
    Free,
    Until {
        at: Instant,
        count: u32,
    },
    /// One went to ask.
    Asking {
        since: Instant,
        count: u32,
    },
}

impl Hold {
    /// When one may go, as far as holds matter.
    fn ends(self) -> Option<Instant> {
        match self {
            Self::Free => None,
            Self::Until { at, .. } => Some(at),
            Self::Asking { since, .. } => Some(since + PATIENCE),
        }
    }
}

/// Counts what is accepted, over the present second and the one before.
#[derive(Clone, Copy, Debug)]
struct Meter {
    since: Instant,
    now: f64,
    before: f64,
}

impl Pace {
    /// `ceiling`: never more a second than this; `None` as long as nobody refuses.
    pub fn new(ceiling: Option<f64>, now: Instant) -> Self {
        let ceiling = ceiling.map(|rate| rate.max(MIN_RATE));
        Self {
            ceiling,
            rate: ceiling,
            tokens: ceiling.map_or(0.0, capacity),
            refilled: now,
            limited: false,
            grown: now,
            refused_rate: 0.0,
            cut: None,
            accepted_since_cut: true,
            hold: Hold::Free,
            meter: Meter { since: now, now: 0.0, before: 0.0 },
        }
    }

    /// The most there may be a second now; `None` without limit.
    pub fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Whether one more may go now.
    pub fn ready(&mut self, now: Instant) -> bool {
        self.refill(now);
        if let Some(ends) = self.hold.ends() {
            return ends <= now;
        }
        let ready = self.rate.is_none() || self.tokens >= WHOLE;
        self.limited |= !ready;
        ready
    }

    /// One more goes.
    pub fn take(&mut self, now: Instant) {
        self.refill(now);
        if self.rate.is_some() {
            self.tokens -= 1.0;
        }
        self.hold = match self.hold {
            Hold::Free => Hold::Free,
            Hold::Until { count, .. } | Hold::Asking { count, .. } => Hold::Asking { since: now, count },
        };
    }

    /// When the next may go at the earliest, if it may not go at any time.
    pub fn next(&self) -> Option<Instant> {
        match (self.hold.ends(), self.rate) {
            (Some(ends), _) => Some(ends),
            (None, Some(rate)) if self.tokens < WHOLE => {
                Some(self.refilled + Duration::from_secs_f64((1.0 - self.tokens) / rate))
            }
            (None, _) => None,
        }
    }

    /// Takes a place now and gives the time from which it may be used: for who does not want to come again. Such places
    /// go before those of [`Pace::ready`].
    pub fn reserve(&mut self, now: Instant) -> Instant {
        self.refill(now);
        let held = match self.hold {
            Hold::Until { at, .. } => at.max(now),
            Hold::Free | Hold::Asking { .. } => now,
        };
        let Some(rate) = self.rate else { return held };
        self.tokens -= 1.0;
        if self.tokens >= 0.0 {
            return held;
        }
        self.limited = true;
        held.max(now + Duration::from_secs_f64(-self.tokens / rate))
    }

    /// One was accepted.
    pub fn accepted(&mut self, now: Instant) {
        self.meter.count(now);
        (self.hold, self.accepted_since_cut) = (Hold::Free, true);
        self.refill(now);
    }

    /// One was refused as too much.
    pub fn refused(&mut self, now: Instant) {
        self.refill(now);
        let rests = self.cut.is_some_and(|cut| now.saturating_duration_since(cut) < CUT_PAUSE);
        if self.accepted_since_cut && !rests {
            let lately = self.meter.rate(now);
            let (before, rate) = match self.rate {
                None => (lately, (lately * FIRST_CUT).max(MIN_LEARNT)),
                // Who did not even use up the rate was refused at what he used.
                Some(rate) => {
                    let used = if self.limited { rate } else { rate.min(lately.max(MIN_RATE)) };
                    (used, (used * CUT).max(MIN_RATE))
                }
            };
            self.refused_rate = before.max(rate);
            self.rate = Some(self.ceiling.map_or(rate, |ceiling| rate.min(ceiling)));
            (self.cut, self.accepted_since_cut) = (Some(now), false);
            (self.limited, self.grown) = (false, now);
        }
        self.tokens = self.tokens.min(0.0);
        self.hold(now);
    }

    /// Everything is refused, which tells nothing about the rate: holds all for a moment, longer each time.
    pub fn hold(&mut self, now: Instant) {
        let count = match self.hold {
            // It was sent before the hold, and says nothing new.
            Hold::Until { at, .. } if at > now => return,
            Hold::Free => 0,
            Hold::Until { count, .. } | Hold::Asking { count, .. } => count,
        };
        let hold = HOLD.saturating_mul(1 << count.min(10)).min(MAX_HOLD);
        self.hold = Hold::Until { at: now + hold, count: count.saturating_add(1) };
    }

    fn refill(&mut self, now: Instant) {
        let Some(rate) = self.rate else {
            self.refilled = now;
            return;
        };
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        (self.tokens, self.refilled) = ((self.tokens + passed * rate).min(capacity(rate)), now);
        self.grow(rate, now);
    }

    fn grow(&mut self, rate: f64, now: Instant) {
        let seconds = now.saturating_duration_since(self.grown).as_secs_f64();
        if seconds < 1.0 || self.hold.ends().is_some() {
            return;
        }
        self.grown = now;
        if !std::mem::take(&mut self.limited) {
            return;
        }
        let beyond = rate > self.refused_rate * WELL_BEYOND;
        // Nobody looked for a while: that is no reason to leap.
        let grown = rate * if beyond { FAST_GROWTH } else { GROWTH }.powf(seconds.min(5.0));
        self.rate = match self.ceiling {
            Some(ceiling) => Some(grown.min(ceiling)),
            None => Some(grown).filter(|rate| *rate < UNLIMITED),
        };
    }
}

fn capacity(rate: f64) -> f64 {
    (rate * BURST_SECONDS).max(1.0)
}

impl Meter {
    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        if passed >= 2.0 {
            *self = Self { since: now, now: 0.0, before: 0.0 };
        } else if passed >= 1.0 {
            *self = Self { since: self.since + Duration::from_secs(1), now: 0.0, before: self.now };
        }
    }

    fn count(&mut self, now: Instant) {
        self.turn(now);
        self.now += 1.0;
    }

    /// Accepted in a second, lately; the fuller one of the two that are counted.
    fn rate(&mut self, now: Instant) -> f64 {
        self.turn(now);
        self.now.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A peer that takes `limit` a second and a burst of three seconds, asked for as much as the pace lets through.
    struct Peer {
        limit: f64,
        tokens: f64,
        now: Instant,
        accepted: u32,
        refused: u32,
    }

    impl Peer {
        fn new(limit: f64) -> Self {
            Self { limit, tokens: limit * 3.0, now: Instant::now(), accepted: 0, refused: 0 }
        }

        fn run(&mut self, pace: &mut Pace, seconds: u32) -> (u32, u32) {
            (self.accepted, self.refused) = (0, 0);
            for _ in 0..seconds * 1000 {
                self.now += MS;
                self.tokens = (self.tokens + self.limit / 1000.0).min(self.limit * 3.0);
                // At most four within a millisecond: the work of sending.
                for _ in 0..4 {
                    if !pace.ready(self.now) {
                        break;
                    }
                    pace.take(self.now);
                    if self.tokens >= 1.0 {
                        self.tokens -= 1.0;
                        self.accepted += 1;
                        pace.accepted(self.now);
                    } else {
                        self.refused += 1;
                        pace.refused(self.now);
                    }
                }
            }
            (self.accepted, self.refused)
        }
    }

    #[test]
    fn a_given_rate_is_kept_from_the_start() {
        let mut peer = Peer::new(100.0);
        let mut pace = Pace::new(Some(95.0), peer.now);
        let (accepted, refused) = peer.run(&mut pace, 60);
        assert!((5_600..=5_800).contains(&accepted), "{accepted}");
        assert_eq!(refused, 0);
    }

    #[test]
    fn without_a_rate_nothing_is_held_back_until_somebody_refuses() {
        let mut peer = Peer::new(1_000_000.0);
        let mut pace = Pace::new(None, peer.now);
        assert_eq!(peer.run(&mut pace, 2), (8_000, 0));
        assert_eq!(pace.rate(), None);
    }

    #[test]
    fn a_learnt_rate_comes_close_to_the_limit_with_few_refusals() {
        for limit in [20.0, 100.0, 300.0] {
            let mut peer = Peer::new(limit);
            let mut pace = Pace::new(None, peer.now);
            peer.run(&mut pace, 30);
            let (accepted, refused) = peer.run(&mut pace, 120);
            let share = f64::from(accepted) / (limit * 120.0);
            assert!(share > 0.75, "{share} of {limit}");
            assert!(f64::from(refused) < f64::from(accepted) * 0.02 + 10.0, "{refused} of {limit}");
        }
    }

    #[test]
    fn the_rate_grows_fast_once_the_limit_is_lifted_and_is_forgotten_at_last() {
        let mut peer = Peer::new(100.0);
        let mut pace = Pace::new(None, peer.now);
        peer.run(&mut pace, 60);
        peer.limit = 1_000_000.0;
        peer.run(&mut pace, 60);
        assert!(pace.rate().is_none_or(|rate| rate > 1_000.0), "{:?}", pace.rate());
    }

    #[test]
    fn while_all_is_refused_one_at_a_time_asks_and_an_acceptance_opens_at_once() {
        let mut peer = Peer::new(100.0);
        let mut pace = Pace::new(Some(95.0), peer.now);
        peer.run(&mut pace, 5);
        let before = pace.rate();
        (peer.limit, peer.tokens) = (0.0, 0.0);
        let (accepted, refused) = peer.run(&mut pace, 60);
        assert_eq!(accepted, 0);
        assert!(refused <= 20, "{refused}");
        // One cut: refusals in a row tell nothing about the rate.
        assert!(pace.rate() >= before.map(|rate| rate * 0.65), "{:?}", pace.rate());
        (peer.limit, peer.tokens) = (100.0, 300.0);
        let (accepted, _) = peer.run(&mut pace, 10);
        assert!(accepted > 250, "{accepted}");
    }

    #[test]
    fn reserved_places_are_spread_by_the_rate() {
        let now = Instant::now();
        let mut pace = Pace::new(Some(10.0), now);
        let waits: Vec<_> = (0..15).map(|_| pace.reserve(now).duration_since(now).as_millis()).collect();
        assert_eq!(waits[..10], [0; 10]);
        assert_eq!(waits[10..], [100, 200, 300, 400, 500]);
        assert!(!pace.ready(now + MS * 500), "who waits comes after those");
        let mut free = Pace::new(None, now);
        assert_eq!(free.reserve(now), now);
        free.refused(now);
        assert_eq!(free.reserve(now), now + HOLD);
    }
}
