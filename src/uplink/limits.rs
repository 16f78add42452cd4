//! How much one hub takes: its pace, and whether the messages of its day are used up.
//!
//! Pure: time comes in as an argument. Knows no lane. A refusal of one device alone is that device's: only when others are
//! refused, too, is it the hub's.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Backoff, EndDevice, Pace};

/// Refusals of two devices within this time have one cause.
const TOGETHER: Duration = Duration::from_secs(10);
/// A device that is refused so often in a row, while no other has any luck, tells of its hub.
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
    /// The device that was refused last, and when.
    refused: Option<(EndDevice, Instant)>,
    /// Something was accepted after it.
    accepted_since: bool,
    throttled: u64,
    told: Option<Instant>,
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
            refused: None,
            accepted_since: true,
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
        self.accepted_since = true;
        self.pace.accepted(now);
        self.quota.take().is_some()
    }

    /// The hub refused a message as too many. `failures`: the device's before this, in a row.
    pub(super) fn throttled(&mut self, device: &EndDevice, failures: u32, now: Instant) -> Refusal {
        self.throttled += 1;
        let fresh = failures == 0;
        let (other, alone) = self.refuse(device, fresh, now);
        if !(other && (fresh || alone)) {
            return Refusal::Device;
        }
        self.pace.refused(now);
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
        let (other, alone) = self.refuse(device, failures == 0, now);
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

    /// Whether another device was refused shortly before, and whether nothing was accepted in between.
    fn refuse(&mut self, device: &EndDevice, fresh: bool, now: Instant) -> (bool, bool) {
        let recent = |at: &Instant| !self.accepted_since || now.saturating_duration_since(*at) < TOGETHER;
        let other = self.refused.as_ref().is_some_and(|(last, at)| last != device && recent(at));
        let alone = !self.accepted_since;
        if fresh || alone {
            self.refused = Some((device.clone(), now));
        }
        self.accepted_since = false;
        (other, alone)
    }

    /// What there is to watch.
    pub(super) fn seen(&self) -> HubLimits {
        HubLimits { pace: self.pace.rate(), quota_used_up: self.quota.is_some(), throttled: self.throttled }
    }
}
