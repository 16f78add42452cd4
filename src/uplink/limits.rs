//! How much one hub takes: its pace, and whether the messages of its day are used up.
//!
//! Pure: time comes in as an argument. Knows no lane. A few devices that are refused again and again while others are not
//! are throttled by themselves, and slow nobody else: a hub is paced down only if many are refused that were fine before.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Backoff, EndDevice, Pace};

/// So many devices refused without one accepted in between: then the hub refuses all.
const ALL_REFUSED: usize = 8;
/// What makes a hub's pace too fast, of the last one or two seconds: so many devices refused that were fine before, and so
/// many for each hundred answers. A hub that throttled before, or whose tier is known, is believed sooner.
const SIGNS: (u32, u32) = (10, 10);
const SIGNS_IF_PACED: (u32, u32) = (3, 3);
/// And only if so many were accepted meanwhile: else there is no pace to speak of.
const LEAST_ACCEPTED: u32 = 10;
/// A device whose day is used up so often in a row, while no other has any luck, tells of its hub.
const SURE: u32 = 2;
/// Pauses before a hub whose day is used up is asked again. A quota comes back at midnight (UTC), or when somebody buys more.
const ASKING: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(300) };
/// Clocks differ: midnight is asked for a little late.
const AFTER_RESET: Duration = Duration::from_secs(2);
/// One that asks and gets no answer for this long does not keep the next one back.
const PATIENCE: Duration = Duration::from_secs(5);
/// Places of a paced hub, as seconds of its pace, and at least so many: devices that get no answer take some.
const WINDOW_SECONDS: f64 = 10.0;
const LEAST_WINDOW: usize = 64;
/// A throttled hub is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// The limits of one hub, as far as they are known.
#[derive(Debug)]
pub(super) struct Limits {
    pace: Pace,
    quota: Option<UsedUp>,
    /// Devices refused since something was accepted last, up to [`ALL_REFUSED`].
    refused: HashSet<EndDevice>,
    recent: Recent,
    throttled: u64,
    told: Option<Instant>,
}

/// Answers of this second and the one before.
#[derive(Clone, Copy, Debug)]
struct Recent {
    since: Instant,
    now: Answers,
    before: Answers,
}

#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    accepted: u32,
    /// Of devices that were fine before.
    refused: u32,
}

#[derive(Debug)]
struct UsedUp {
    failures: u32,
    /// When the next message may ask.
    ask_at: Instant,
}

/// What a refusal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing about others: the device waits.
    Device,
    /// The hub's, which is known already.
    Hub,
    /// The hub's, and worth telling.
    HubAndNew,
}

/// A hub's limits for whoever watches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HubLimits {
    /// Messages a second at most; `None` without limit.
    pub pace: Option<f64>,
    /// The hub takes no more messages today.
    pub quota_used_up: bool,
    /// Messages refused as too many since the start.
    pub throttled: u64,
}

impl Limits {
    /// `rate`: the messages a second that the hub's tier allows, if it is known.
    pub(super) fn new(rate: Option<f64>, now: Instant) -> Self {
        Self {
            pace: Pace::new(rate, now),
            quota: None,
            refused: HashSet::new(),
            recent: Recent { since: now, now: Answers::default(), before: Answers::default() },
            throttled: 0,
            told: None,
        }
    }

    /// How many may be under way, of `max` at most.
    pub(super) fn most(&self, max: usize) -> usize {
        self.pace.rate().map_or(max, |rate| ((rate * WINDOW_SECONDS) as usize).max(LEAST_WINDOW).min(max))
    }

    /// When one may ask whether the hub takes messages again; `None` if it does.
    pub(super) fn ask_at(&self) -> Option<Instant> {
        self.quota.as_ref().map(|quota| quota.ask_at)
    }

    /// Whether the pace lets one more go. Only to be asked if there is one.
    pub(super) fn ready(&mut self, now: Instant) -> bool {
        self.pace.ready(now)
    }

    /// When the pace lets the next one go.
    pub(super) fn next(&self) -> Option<Instant> {
        self.pace.next()
    }

    /// One more is on its way.
    pub(super) fn started(&mut self, now: Instant) {
        match &mut self.quota {
            Some(quota) => quota.ask_at = now + PATIENCE,
            None => self.pace.take(now),
        }
    }

    /// The one that asks has come back, maybe without having reached the hub: then the next asks at once.
    pub(super) fn asked(&mut self, now: Instant) {
        if let Some(quota) = &mut self.quota {
            quota.ask_at = now;
        }
    }

    /// The hub took a message. True if it was held for used up.
    pub(super) fn accepted(&mut self, now: Instant) -> bool {
        self.refused.clear();
        self.recent.of(now).accepted += 1;
        self.pace.accepted(now);
        self.quota.take().is_some()
    }

    /// The hub refused a message as too many. `failures`: the device's before this, in a row.
    pub(super) fn throttled(&mut self, device: &EndDevice, failures: u32, now: Instant) -> Refusal {
        self.throttled += 1;
        let fresh = failures == 0;
        self.recent.of(now).refused += u32::from(fresh);
        self.note(device);
        if self.refused.len() >= ALL_REFUSED {
            self.pace.hold(now);
        } else if fresh && self.is_too_fast(now) {
            self.pace.refused(now);
        } else {
            return Refusal::Device;
        }
        let new = self.told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_AGAIN);
        if new {
            self.told = Some(now);
            return Refusal::HubAndNew;
        }
        Refusal::Hub
    }

    /// The hub refused a message as the day's are used up. `asked`: the message was to ask whether that is still so.
    pub(super) fn used_up(
        &mut self,
        device: &EndDevice,
        failures: u32,
        asked: bool,
        resets_in: Duration,
        now: Instant,
    ) -> Refusal {
        let pause = |failures| now + ASKING.wait(failures).min(resets_in + AFTER_RESET);
        let alone = !self.refused.is_empty();
        self.note(device);
        let other = self.refused.len() > 1;
        match &mut self.quota {
            Some(quota) if asked => {
                quota.failures = quota.failures.saturating_add(1);
                quota.ask_at = pause(quota.failures);
                Refusal::Hub
            }
            // It was under way before the hub was known to be used up.
            Some(_) => Refusal::Hub,
            None if alone && (other || failures >= SURE) => {
                let failures = failures.max(1);
                self.quota = Some(UsedUp { failures, ask_at: pause(failures) });
                Refusal::HubAndNew
            }
            None => Refusal::Device,
        }
    }

    fn note(&mut self, device: &EndDevice) {
        if self.refused.len() < ALL_REFUSED {
            self.refused.insert(device.clone());
        }
    }

    fn is_too_fast(&mut self, now: Instant) -> bool {
        let Answers { accepted, refused } = self.recent.all(now);
        let (least, percent) = if self.pace.rate().is_some() { SIGNS_IF_PACED } else { SIGNS };
        refused >= least && accepted >= LEAST_ACCEPTED && refused * 100 >= percent * (accepted + refused)
    }

    /// What there is to watch.
    pub(super) fn seen(&self) -> HubLimits {
        HubLimits { pace: self.pace.rate(), quota_used_up: self.quota.is_some(), throttled: self.throttled }
    }
}

impl Recent {
    /// Where to count what happens now.
    fn of(&mut self, now: Instant) -> &mut Answers {
        let passed = now.saturating_duration_since(self.since);
        if passed >= Duration::from_secs(2) {
            *self = Self { since: now, now: Answers::default(), before: Answers::default() };
        } else if passed >= Duration::from_secs(1) {
            let since = self.since + Duration::from_secs(1);
            *self = Self { since, now: Answers::default(), before: self.now };
        }
        &mut self.now
    }

    fn all(&mut self, now: Instant) -> Answers {
        let now = *self.of(now);
        let Answers { accepted, refused } = self.before;
        Answers {
            accepted: accepted.saturating_add(now.accepted),
            refused: refused.saturating_add(now.refused),
        }
    }
}
