//! Wall-clock time that a test can set, and the same without steps backwards. Timers use tokio's own clock instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// How far ahead of the machine's clock somebody else's may be to be believed.
const MOST_BEHIND: Duration = Duration::from_hours(24);

/// Milliseconds since 1970-01-01 UTC, from the system or from a test. Clones share what they learnt.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// When this clock was made; what passes since is counted by the system's steady clock.
    made: Instant,
    /// The latest time known of the moment when it was made.
    latest: AtomicI64,
}

#[derive(Debug)]
enum Source {
    System,
    /// Stands still.
    Manual(AtomicI64),
    /// The system's, wrong by so much.
    Shifted(AtomicI64),
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The machine's own clock.
    pub fn system() -> Self {
        Self::new(Source::System)
    }

    /// A clock that stands at `now_ms` until `advance` moves it.
    pub fn manual(now_ms: i64) -> Self {
        Self::new(Source::Manual(AtomicI64::new(now_ms)))
    }

    /// The machine's clock, wrong by `ms`; `advance` changes by how much.
    pub fn shifted(ms: i64) -> Self {
        Self::new(Source::Shifted(AtomicI64::new(ms)))
    }

    fn new(source: Source) -> Self {
        let inner = Inner { source, made: Instant::now(), latest: AtomicI64::new(i64::MIN) };
        Self(Arc::new(inner))
    }

    /// Moves a manual or shifted clock by `ms` (either way); no effect on the system's.
    pub fn advance(&self, ms: i64) {
        match &self.0.source {
            Source::System => {}
            Source::Manual(at) | Source::Shifted(at) => {
                at.fetch_add(ms, Ordering::SeqCst);
            }
        }
    }

    /// Milliseconds since 1970-01-01 UTC. A system clock before 1970 reads as 0.
    pub fn now_ms(&self) -> i64 {
        match &self.0.source {
            Source::System => system_ms(),
            Source::Manual(now) => now.load(Ordering::SeqCst),
            Source::Shifted(by) => system_ms().saturating_add(by.load(Ordering::SeqCst)),
        }
    }

    /// As [`now_ms`](Self::now_ms), but it never runs back: when the machine's clock is set back, this one goes on from
    /// where it was. For the expiry of tokens and for waits, which a clock that jumps back by an hour would make an hour too
    /// short or too long. It learns where the clock was only when it is asked.
    pub fn forward_ms(&self) -> i64 {
        self.at_least(self.now_ms())
    }

    /// Takes the time of somebody whom we trust, if that is later than [`forward_ms`](Self::forward_ms), but no more than a
    /// day later than our own clock. Gives the time in force.
    pub fn trust_ms(&self, their_ms: i64) -> i64 {
        let now_ms = self.now_ms();
        let most = now_ms.saturating_add(millis(MOST_BEHIND));
        self.at_least(if their_ms <= most { their_ms.max(now_ms) } else { now_ms })
    }

    fn at_least(&self, ms: i64) -> i64 {
        let passed = match &self.0.source {
            // It stands still, and so must this.
            Source::Manual(_) => 0,
            Source::System | Source::Shifted(_) => millis(self.0.made.elapsed()),
        };
        let at_start = ms.saturating_sub(passed);
        let latest = self.0.latest.fetch_max(at_start, Ordering::SeqCst).max(at_start);
        latest.saturating_add(passed)
    }
}

fn system_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn the_forward_time_follows_a_jump_ahead_and_ignores_one_back() {
        let clock = Clock::manual(10 * HOUR_MS);
        let other = clock.clone();
        assert_eq!(clock.forward_ms(), 10 * HOUR_MS);
        clock.advance(-HOUR_MS);
        assert_eq!((clock.now_ms(), clock.forward_ms()), (9 * HOUR_MS, 10 * HOUR_MS));
        clock.advance(3 * HOUR_MS);
        assert_eq!((clock.now_ms(), other.forward_ms()), (12 * HOUR_MS, 12 * HOUR_MS));
    }

    #[tokio::test(start_paused = true)]
    async fn the_forward_time_goes_on_after_a_jump_back() {
        let clock = Clock::shifted(0);
        let before = clock.forward_ms();
        clock.advance(-HOUR_MS);
        tokio::time::advance(Duration::from_secs(10)).await;
        let passed = clock.forward_ms() - before;
        assert!((10_000..11_000).contains(&passed), "{passed}");
    }

    #[test]
    fn a_trusted_clock_ahead_of_ours_is_followed_within_a_day() {
        let clock = Clock::manual(100 * HOUR_MS);
        assert_eq!(clock.trust_ms(101 * HOUR_MS), 101 * HOUR_MS);
        assert_eq!(clock.trust_ms(1000 * HOUR_MS), 101 * HOUR_MS);
        assert_eq!(clock.trust_ms(0), 101 * HOUR_MS);
        assert_eq!((clock.now_ms(), clock.forward_ms()), (100 * HOUR_MS, 101 * HOUR_MS));
    }
}
