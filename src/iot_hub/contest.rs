//! Devices that another client uses too: how long to leave each to the other, so that two that both reconnect do not
//! take it from one another for ever.
//!
//! Pure but for chance: time comes in as an argument. Opens and closes nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use super::inner::DeviceKey;
use crate::azure::HubDevice;

/// Pause before a device is taken back for the first time. Short: mostly it was our own former process that said
/// goodbye late.
const FIRST: Duration = Duration::from_secs(1);
/// Each further pause is so much longer.
const FACTOR: u32 = 3;
/// Longest pause: at most five takeovers an hour, and this long at most until we are back once the other is gone.
const LONGEST: Duration = Duration::from_secs(12 * 60);
/// Up to so much of a pause is added by chance, so that two connectors do not move in step.
const SPREAD: f64 = 0.25;
/// A device held for so long is ours again: longer than anybody like us would have waited.
const OURS_AFTER: Duration = Duration::from_secs(30 * 60);
/// Losing a device once may be a restart's overlap; from so many times in a row on it is an alarm.
const ALARM_AT: u32 = 2;
/// Contended devices that are named in the log; of more of them only the number is worth something.
const NAMED: usize = 20;

/// All contended devices. One that nobody wants any more is forgotten, so there are never more than open ones.
#[derive(Debug, Default)]
pub(super) struct Contests {
    by_device: DashMap<DeviceKey, Contest>,
    alarms: AtomicUsize,
    takeovers: AtomicU64,
}

/// One device's contest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contest {
    /// Times in a row that it was taken from us.
    taken: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Ours since then.
    Held(Instant),
    /// The other's; we take it back from then on, if we still want it.
    Left(Instant),
}

impl Contest {
    /// Another client took it. `false` if that is known already.
    fn take(&mut self, now: Instant) -> bool {
        match self.state {
            State::Left(_) => return false,
            State::Held(since) if now.saturating_duration_since(since) >= OURS_AFTER => self.taken = 0,
            State::Held(_) => {}
        }
        self.taken = self.taken.saturating_add(1);
        self.state = State::Left(now + pause(self.taken));
        true
    }

    fn is_over(&self, now: Instant) -> bool {
        let (State::Held(since) | State::Left(since)) = self.state;
        now.saturating_duration_since(since) >= OURS_AFTER
    }

    fn is_alarming(&self) -> bool {
        self.taken >= ALARM_AT
    }
}

/// The pause after the device was taken so many times in a row.
fn pause(taken: u32) -> Duration {
    let factor = FACTOR.saturating_pow(taken.saturating_sub(1));
    FIRST.saturating_mul(factor).min(LONGEST).mul_f64(1.0 + SPREAD * fastrand::f64())
}

impl Contests {
    /// The hub says that another client took the device's links. Gives how long to leave it to the other from now on.
    pub(super) fn taken(&self, device: &HubDevice, now: Instant) -> Duration {
        let mut contest = self
            .by_device
            .entry(key(device))
            .or_insert_with(|| Contest { taken: 0, state: State::Held(now) });
        let before = contest.is_alarming();
        let news = contest.take(now);
        let alarming = contest.is_alarming();
        let left = remaining(&contest, now).unwrap_or_default();
        drop(contest);
        match (before, alarming) {
            (false, true) => self.alarm(device),
            // So long ago that this is another story.
            (true, false) => _ = self.alarms.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
        if news {
            tracing::debug!(hub = %device.hub, device = %device.device_id, delay_ms = millis(left),
                "another client took a device's links");
        }
        left
    }

    /// How long the device must still be left to another client; `None` if it may be opened.
    pub(super) fn wait(&self, device: &HubDevice, now: Instant) -> Option<Duration> {
        remaining(&*self.by_device.get(&key(device))?, now)
    }

    /// The device's session is open.
    pub(super) fn opened(&self, device: &HubDevice, now: Instant) {
        if let Some(mut contest) = self.by_device.get_mut(&key(device))
            && let State::Left(_) = contest.state
        {
            contest.state = State::Held(now);
            self.takeovers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets contests that are over.
    pub(super) fn sweep(&self, now: Instant) {
        self.by_device.retain(|(hub, device), contest| {
            let over = contest.is_over(now);
            if over && contest.is_alarming() {
                self.alarms.fetch_sub(1, Ordering::Relaxed);
                tracing::info!(%hub, %device, "no other client takes the device's links any more");
            }
            !over
        });
    }

    /// Devices that were taken from us more than once lately.
    pub(super) fn contended(&self) -> usize {
        self.alarms.load(Ordering::Relaxed)
    }

    /// Times since the start that we took a device back.
    pub(super) fn takeovers(&self) -> u64 {
        self.takeovers.load(Ordering::Relaxed)
    }

    fn alarm(&self, device: &HubDevice) {
        let number = self.alarms.fetch_add(1, Ordering::Relaxed) + 1;
        if number <= NAMED {
            tracing::warn!(hub = %device.hub, device = %device.device_id,
                "Another client uses this device's identity and takes its links away again and again. Look for a second \
                 connector with the same connection string or enrollment, or a field device with the same key. Its \
                 messages are kept, and sent when it is our turn, some times an hour.");
        } else if number == NAMED + 1 {
            tracing::warn!(hub = %device.hub, devices = number,
                "Other clients use many of our devices; the metric contended_devices counts them, further ones are not named.");
        }
    }
}

fn key(device: &HubDevice) -> DeviceKey {
    (device.hub.clone(), device.device_id.clone())
}

fn remaining(contest: &Contest, now: Instant) -> Option<Duration> {
    match contest.state {
        State::Held(_) => None,
        State::Left(until) => until.checked_duration_since(now).filter(|left| !left.is_zero()),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::{Credential, HubAddress, SigningKey};

    const HOUR: Duration = Duration::from_secs(3600);

    fn device() -> HubDevice {
        HubDevice {
            hub: HubAddress { host: "hub".into(), port: 5671 },
            device_id: "d-1".into(),
            credential: Credential::Device { key: SigningKey::from_bytes(b"key") },
            model_id: None,
            provisioned: true,
        }
    }

    /// Two clients that want the device all the time: the times of all takeovers within `span`, of one and the other.
    fn fight(span: Duration) -> [Vec<Duration>; 2] {
        let (clients, device, start) = ([Contests::default(), Contests::default()], device(), Instant::now());
        let mut takeovers = [Vec::new(), Vec::new()];
        let (mut now, mut holder) = (start, 0);
        while now - start < span {
            let loser = 1 - holder;
            now += clients[loser].taken(&device, now);
            assert_eq!(clients[loser].wait(&device, now), None);
            clients[loser].opened(&device, now);
            takeovers[loser].push(now - start);
            holder = loser;
        }
        takeovers
    }

    #[test]
    fn two_that_fight_for_a_day_take_over_six_times_an_hour_at_most_after_the_first_minute() {
        for _ in 0..50 {
            for takeovers in fight(24 * HOUR) {
                let late: Vec<_> = takeovers.iter().filter(|at| at.as_secs() >= 60).copied().collect();
                assert!(takeovers.len() - late.len() <= 4, "{takeovers:?}");
                for (first, from) in late.iter().enumerate() {
                    let within = late[first..].iter().filter(|at| **at < *from + HOUR).count();
                    assert!(within <= 6, "{within} from {from:?} on: {late:?}");
                }
                assert!(late.len() > 24, "it never gives up: {late:?}");
            }
        }
    }

    #[test]
    fn one_theft_counts_once_and_is_no_alarm_but_the_second_is() {
        let (contests, device, now) = (Contests::default(), device(), Instant::now());
        assert_eq!(contests.wait(&device, now), None);
        let left = contests.taken(&device, now);
        assert!((FIRST..FIRST * 2).contains(&left), "{left:?}");
        assert_eq!(contests.taken(&device, now), left, "told by another link of the same session");
        assert_eq!((contests.wait(&device, now), contests.contended()), (Some(left), 0));
        contests.opened(&device, now + left);
        assert_eq!(contests.takeovers(), 1);
        let left = contests.taken(&device, now + left);
        assert!(left >= FIRST * FACTOR, "{left:?}");
        assert_eq!(contests.contended(), 1);
    }

    #[test]
    fn a_device_held_for_long_is_ours_again_and_forgotten() {
        let (contests, device, mut now) = (Contests::default(), device(), Instant::now());
        for _ in 0..9 {
            now += contests.taken(&device, now);
            contests.opened(&device, now);
        }
        contests.sweep(now + OURS_AFTER - FIRST);
        assert_eq!(contests.contended(), 1);
        contests.sweep(now + OURS_AFTER);
        assert_eq!((contests.contended(), contests.by_device.len()), (0, 0));
        assert!(contests.taken(&device, now + OURS_AFTER) < FIRST * 2);
    }

    #[test]
    fn a_theft_after_a_long_time_begins_small_again() {
        let mut contest = Contest { taken: 9, state: State::Held(Instant::now()) };
        assert!(contest.take(Instant::now() + OURS_AFTER));
        assert_eq!(contest.taken, 1);
    }
}
