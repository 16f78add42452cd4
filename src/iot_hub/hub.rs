//! What is known of one hub, over all its connections: how fast devices may be attached, which ways it does
//! not offer, whether it is away.
//!
//! Opens nothing and knows no device.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::absence::Absence;
use super::connects::Connects;
use super::event::Links;

/// So many seconds' worth of attaches may go at once: IoT Hub lets short bursts pass.
const BURST_SECONDS: f64 = 3.0;
/// A hub's tier changes rarely, and only by hand: what it refused is not asked for again before this.
const REFUSAL_LASTS: Duration = Duration::from_secs(6 * 3600);

/// A way between hub and device besides telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    CloudMessages,
    Methods,
    Twin,
}

impl Way {
    const ALL: [Self; 3] = [Self::CloudMessages, Self::Methods, Self::Twin];

    /// Its name in logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::CloudMessages => "cloud-to-device messages",
            Self::Methods => "direct methods",
            Self::Twin => "twins",
        }
    }

    const fn of(self, links: &mut Links) -> &mut bool {
        match self {
            Self::CloudMessages => &mut links.c2d,
            Self::Methods => &mut links.methods,
            Self::Twin => &mut links.twin,
        }
    }
}

/// One hub.
#[derive(Debug)]
pub(super) struct Hub {
    /// Attaches per second.
    rate: f64,
    /// Held while waiting, so that devices go in the order they came.
    bucket: tokio::sync::Mutex<Bucket>,
    ways: Mutex<[Known; 3]>,
    pub(super) absence: Absence,
    pub(super) connects: Connects,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// What is known of a way.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Something came over it, or it stayed open, so the hub does offer it.
    proven: bool,
    refused: Option<Instant>,
    told: bool,
}

impl Hub {
    /// A hub at which `attach_rate` devices a second may be attached; `connect_rate` is what its tier allows altogether.
    pub(super) fn new(attach_rate: u32, connect_rate: Option<u32>) -> Self {
        let rate = f64::from(attach_rate.max(1));
        let bucket = Bucket { tokens: rate * BURST_SECONDS, at: Instant::now() };
        Self {
            rate,
            bucket: tokio::sync::Mutex::new(bucket),
            ways: Mutex::default(),
            absence: Absence::default(),
            connects: Connects::new(connect_rate),
        }
    }

    /// Waits until one more device may be attached. May be cancelled; then it does not count.
    pub(super) async fn turn(&self) {
        let mut bucket = self.bucket.lock().await;
        bucket.refill(self.rate);
        while bucket.tokens < 1.0 {
            sleep(Duration::from_secs_f64((1.0 - bucket.tokens) / self.rate)).await;
            bucket.refill(self.rate);
        }
        // Taken only with the other, so that who gives up in between costs nobody a turn.
        self.connects.last().await;
        bucket.tokens -= 1.0;
    }

    /// Those of the wished links that are worth asking for.
    pub(super) fn offered(&self, mut wished: Links) -> Links {
        let ways = self.ways();
        for (way, known) in Way::ALL.into_iter().zip(ways.iter()) {
            if known.refused.is_some_and(|at| at.elapsed() < REFUSAL_LASTS) {
                *way.of(&mut wished) = false;
            }
        }
        wished
    }

    /// Something came over a way.
    pub(super) fn prove(&self, way: Way) {
        let mut ways = self.ways();
        let known = &mut ways[way as usize];
        (known.proven, known.refused) = (true, None);
    }

    /// These links have been open for long enough that the hub does offer them, though nothing came.
    pub(super) fn prove_open(&self, mut links: Links) {
        for way in Way::ALL {
            if *way.of(&mut links) {
                self.prove(way);
            }
        }
    }

    /// Whether a way was ever of use.
    pub(super) fn is_proven(&self, way: Way) -> bool {
        self.ways()[way as usize].proven
    }

    /// Remembers that the hub refused a way; `true` the first time.
    pub(super) fn refuse(&self, way: Way) -> bool {
        let mut ways = self.ways();
        let known = &mut ways[way as usize];
        known.refused = Some(Instant::now());
        !std::mem::replace(&mut known.told, true)
    }

    fn ways(&self) -> MutexGuard<'_, [Known; 3]> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn refill(&mut self, rate: f64) {
        let now = Instant::now();
        let earned = (now - self.at).as_secs_f64() * rate;
        (self.tokens, self.at) = ((self.tokens + earned).min(rate * BURST_SECONDS), now);
    }
}

/// The pause before ways that a hub refused are asked for anew.
pub(super) fn pause_until_asked_anew() -> Duration {
    REFUSAL_LASTS.mul_f64(1.0 + fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attaches_burst_for_three_seconds_and_then_keep_the_rate() {
        let hub = Hub::new(100, None);
        let started = Instant::now();
        for _ in 0..300 {
            hub.turn().await;
        }
        assert!(started.elapsed() < Duration::from_millis(1));
        for _ in 0..200 {
            hub.turn().await;
        }
        let took = started.elapsed();
        assert!((Duration::from_millis(1_990)..Duration::from_millis(2_300)).contains(&took), "{took:?}");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let started = Instant::now();
        for _ in 0..400 {
            hub.turn().await;
        }
        assert!(started.elapsed() >= Duration::from_millis(990), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_costs_nobody_a_turn() {
        let hub = Hub::new(1, None);
        for _ in 0..3 {
            hub.turn().await;
        }
        let started = Instant::now();
        for _ in 0..5 {
            assert!(tokio::time::timeout(Duration::from_millis(100), hub.turn()).await.is_err());
        }
        hub.turn().await;
        assert!(started.elapsed() < Duration::from_millis(1_100), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_way_is_told_once_and_asked_for_again_after_hours() {
        let all = Links { c2d: true, methods: true, twin: true };
        let hub = Hub::new(1, None);
        assert_eq!(hub.offered(all), all);
        assert!(hub.refuse(Way::Methods));
        assert!(!hub.refuse(Way::Methods));
        assert_eq!(hub.offered(all), Links { methods: false, ..all });
        tokio::time::sleep(pause_until_asked_anew()).await;
        assert_eq!(hub.offered(all), all);
        assert!(!hub.refuse(Way::Methods), "once per hub and way");
        hub.prove(Way::Methods);
        assert!(hub.is_proven(Way::Methods) && !hub.is_proven(Way::Twin));
        assert_eq!(hub.offered(all), all);
    }
}
