//! A hub's limits at work: a bucket for each operation, the messages of the day, and counts of what passed. Pure.
//!
//! As IoT Hub shapes traffic: bursts pass, then requests wait their turn, and once the wait is too long they are refused.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::tier::{Operation, TierSettings};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const OPERATIONS: usize = 8;

/// What may be done about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Now,
    After(Duration),
    Refused(Denied),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// 429001: too many in too short a time. After this time another has its place.
    Throttled(Duration),
    /// 403002: the day's messages are used up.
    Quota,
}

/// How many of an operation there were since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Let through, those delayed included.
    pub accepted: u64,
    /// Of these, the ones that had to wait.
    pub delayed: u64,
    /// Refused with 429.
    pub throttled: u64,
    /// Refused as the day's messages are used up.
    pub over_quota: u64,
}

/// What a hub was asked for since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// AMQP connections that were opened.
    pub connections: u64,
    /// Telemetry messages.
    pub telemetry: Count,
    /// Devices that got their first link on a connection.
    pub connects: Count,
    /// Cloud-to-device messages from services over AMQP.
    pub cloud_messages: Count,
    /// Direct methods, in blocks of 4 KB.
    pub methods: Count,
    /// Twins read, by either side.
    pub twin_reads: Count,
    /// Twins changed, by either side.
    pub twin_updates: Count,
    /// Calls of the registry.
    pub registry: Count,
    /// Queries.
    pub queries: Count,
    /// Messages that count for today's quota (UTC), by the tier's meter.
    pub used_today: u64,
}

impl Traffic {
    fn of(&mut self, operation: Operation) -> &mut Count {
        match operation {
            Operation::Telemetry => &mut self.telemetry,
            Operation::Connect => &mut self.connects,
            Operation::CloudMessage => &mut self.cloud_messages,
            Operation::Method => &mut self.methods,
            Operation::TwinRead => &mut self.twin_reads,
            Operation::TwinUpdate => &mut self.twin_updates,
            Operation::Registry => &mut self.registry,
            Operation::Query => &mut self.queries,
        }
    }
}

/// The limits of one hub.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    settings: TierSettings,
    buckets: [Option<Bucket>; OPERATIONS],
    day: i64,
    traffic: Traffic,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Throttle {
    pub(super) fn settings(&self) -> &TierSettings {
        &self.settings
    }

    /// From now on these limits; the day's count and the counters go on.
    pub(super) fn set(&mut self, settings: TierSettings) {
        self.settings = settings;
        self.buckets = [None; OPERATIONS];
    }

    /// Counts so far.
    pub(super) fn traffic(&mut self, now_ms: i64) -> Traffic {
        self.begin_day(now_ms);
        self.traffic
    }

    pub(super) fn connected(&mut self) {
        self.traffic.connections += 1;
    }

    /// Asks for `count` operations at once that together count `messages` for the quota (see [`Throttle::metered`]).
    pub(super) fn ask(
        &mut self,
        operation: Operation,
        count: u64,
        messages: u64,
        now: Instant,
        now_ms: i64,
    ) -> Answer {
        self.begin_day(now_ms);
        let daily = self.settings.daily_messages.or(self.settings.tier.per_day(self.settings.units));
        let over = messages > 0 && daily.is_some_and(|daily| self.traffic.used_today + messages > daily);
        let answer = if over { Answer::Refused(Denied::Quota) } else { self.take(operation, count, now) };
        let counted = self.traffic.of(operation);
        match answer {
            Answer::Now => counted.accepted += count,
            Answer::After(_) => {
                counted.accepted += count;
                counted.delayed += count;
            }
            Answer::Refused(Denied::Throttled(_)) => counted.throttled += count,
            Answer::Refused(Denied::Quota) => counted.over_quota += count,
        }
        if !matches!(answer, Answer::Refused(_)) {
            self.traffic.used_today += messages;
        }
        answer
    }

    /// A message of so many bytes, as the quota counts it.
    pub(super) fn metered(&self, bytes: usize) -> u64 {
        bytes.div_ceil(self.settings.tier.meter_bytes()).max(1) as u64
    }

    fn begin_day(&mut self, now_ms: i64) {
        let day = now_ms.div_euclid(DAY_MS);
        if day != self.day {
            self.day = day;
            self.traffic.used_today = 0;
        }
    }

    fn take(&mut self, operation: Operation, count: u64, now: Instant) -> Answer {
        let settings = &self.settings;
        let Some(rate) = settings.tier.per_second(operation, settings.units) else { return Answer::Now };
        let rate = (rate * settings.speed).max(1e-6);
        let capacity = (rate * settings.burst.as_secs_f64()).max(1.0);
        let max_delay = if operation == Operation::Connect { Duration::ZERO } else { settings.max_delay };
        let bucket = self.buckets[operation as usize].get_or_insert(Bucket { tokens: capacity, at: now });
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        *bucket = Bucket { tokens: (bucket.tokens + earned).min(capacity), at: now };
        // What is larger than all that is ever saved up passes on a full bucket, else it never could.
        let wanted = (count as f64).min(capacity);
        let left = bucket.tokens - wanted;
        let wait = Duration::try_from_secs_f64(-left / rate).unwrap_or_default();
        if wait > max_delay {
            return Answer::Refused(Denied::Throttled(wait - max_delay));
        }
        bucket.tokens = left;
        if wait.is_zero() { Answer::Now } else { Answer::After(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::Tier;

    const NOON: i64 = DAY_MS * 20_000 + DAY_MS / 2;

    fn of(tier: Tier, units: u32) -> Throttle {
        let mut throttle = Throttle::default();
        throttle.set(TierSettings::new(tier, units));
        throttle
    }

    #[test]
    fn the_figures_are_those_of_azure() {
        use Operation as O;
        for (tier, units, operation, rate) in [
            (Tier::F1, 9, O::Telemetry, 100.0),
            (Tier::S1, 1, O::Telemetry, 100.0),
            (Tier::B1, 10, O::Connect, 120.0),
            (Tier::S2, 2, O::Telemetry, 240.0),
            (Tier::S3, 1, O::Telemetry, 6000.0),
            (Tier::S2, 3, O::CloudMessage, 5.0),
            (Tier::S1, 5, O::TwinUpdate, 50.0),
            (Tier::S2, 20, O::TwinUpdate, 100.0),
            (Tier::S3, 1, O::TwinRead, 500.0),
            (Tier::S3, 3, O::Query, 50.0),
        ] {
            assert_eq!(tier.per_second(operation, units), Some(rate), "{tier:?} x {units} {operation:?}");
        }
        assert_eq!(Tier::F1.per_day(9), Some(8_000));
        assert_eq!((Tier::S1.per_day(2), Tier::B2.per_day(1)), (Some(800_000), Some(6_000_000)));
        for tier in Tier::ALL {
            assert_eq!(Tier::parse(tier.as_str()), Some(tier));
        }
    }

    #[test]
    fn without_a_named_tier_nothing_is_limited() {
        for tier in [Tier::Standard, Tier::Basic] {
            let (mut throttle, now) = (of(tier, 1), Instant::now());
            for _ in 0..100_000 {
                assert_eq!(throttle.ask(Operation::Telemetry, 1, 1, now, NOON), Answer::Now);
            }
        }
    }

    #[test]
    fn a_burst_passes_then_messages_wait_and_at_last_they_are_refused() {
        let (mut throttle, now) = (of(Tier::S1, 1), Instant::now());
        let mut ask = |now| throttle.ask(Operation::Telemetry, 1, 1, now, NOON);
        for _ in 0..300 {
            assert_eq!(ask(now), Answer::Now);
        }
        for waiting in 1..=100 {
            assert_eq!(ask(now), Answer::After(Duration::from_millis(10 * waiting)));
        }
        let Answer::Refused(Denied::Throttled(after)) = ask(now) else { panic!("no more") };
        assert_eq!(after, Duration::from_millis(10));
        let later = now + Duration::from_secs(2);
        let accepted = (0..300).filter(|_| !matches!(ask(later), Answer::Refused(_))).count();
        assert_eq!(accepted, 200, "as many as two seconds give");
        let traffic = throttle.traffic(NOON).telemetry;
        assert_eq!((traffic.accepted, traffic.throttled), (600, 101));
        assert_eq!(throttle.traffic(NOON).used_today, 600);
    }

    #[test]
    fn a_batch_larger_than_any_burst_passes_when_all_is_quiet() {
        let (mut throttle, now) = (of(Tier::S1, 1), Instant::now());
        assert_eq!(throttle.ask(Operation::Telemetry, 5_000, 1, now, NOON), Answer::Now);
        assert!(matches!(throttle.ask(Operation::Telemetry, 5_000, 1, now, NOON), Answer::Refused(_)));
    }

    #[test]
    fn the_days_messages_are_counted_by_the_meter_and_come_back_at_midnight() {
        let (mut throttle, mut now) = (of(Tier::F1, 1), Instant::now());
        assert_eq!([0, 1, 512, 513, 1_100].map(|bytes| throttle.metered(bytes)), [1, 1, 1, 2, 3]);
        assert_eq!(of(Tier::S1, 1).metered(4_097), 2);
        let mut refused = 0;
        for _ in 0..5_000 {
            now += Duration::from_millis(10);
            refused += u32::from(
                throttle.ask(Operation::Telemetry, 1, 2, now, NOON) == Answer::Refused(Denied::Quota),
            );
        }
        assert_eq!((refused, throttle.traffic(NOON).used_today), (1_000, 8_000));
        let midnight = NOON + DAY_MS / 2;
        assert_eq!(throttle.traffic(midnight - 1).used_today, 8_000);
        assert_eq!(throttle.ask(Operation::Telemetry, 1, 2, now, midnight), Answer::Now);
        assert_eq!(throttle.traffic(midnight).used_today, 2);
        // What is no message goes on.
        assert_eq!(throttle.ask(Operation::Registry, 1, 0, now, NOON), Answer::Now);
    }

    #[test]
    fn a_faster_clock_allows_more_and_connects_are_not_delayed() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        throttle.set(TierSettings { speed: 10.0, ..TierSettings::new(Tier::S1, 1) });
        let asked = (0..5_000).map(|_| throttle.ask(Operation::Connect, 1, 0, now, NOON));
        assert_eq!(asked.filter(|answer| *answer == Answer::Now).count(), 3_000);
        assert_eq!(throttle.traffic(NOON).connects.throttled, 2_000);
    }
}
