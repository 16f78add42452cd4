//! How long to wait before a downlink's next try, or before asking anew where a device lives. Pure but for chance.

use std::time::Duration;

/// A part of what a peer asked us to wait is added by chance, so that devices held back together do not return in step.
const SPREAD: f64 = 0.1;

/// Waits that double from `first` to `longest`, each drawn from its upper half, and never shorter than a peer asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// After the first failure.
    pub(super) first: Duration,
    /// The longest by ourselves.
    pub(super) longest: Duration,
}

impl Pace {
    /// The wait after `failures` failures in a row (1 for the first). `after` is what the peer asked for.
    pub(super) fn wait(self, failures: u32, after: Option<Duration>) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        let own = full.div_f64(2.0) + full.div_f64(2.0).mul_f64(fastrand::f64());
        let asked = after.map_or(Duration::ZERO, |after| {
            after.saturating_add(after.min(self.longest).mul_f64(SPREAD * fastrand::f64()))
        });
        own.max(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { first: Duration::from_millis(100), longest: Duration::from_secs(1) };

    #[test]
    fn waits_double_up_to_the_longest_and_stay_in_their_upper_half() {
        for (failures, full_ms) in [(1, 100), (2, 200), (4, 800), (5, 1000), (u32::MAX, 1000)] {
            for _ in 0..50 {
                let wait = PACE.wait(failures, None);
                assert!(wait >= Duration::from_millis(full_ms / 2), "{failures}: {wait:?}");
                assert!(wait <= Duration::from_millis(full_ms), "{failures}: {wait:?}");
            }
        }
    }

    #[test]
    fn what_a_peer_asks_for_is_never_undercut_and_little_exceeded() {
        for asked in [Duration::ZERO, Duration::from_secs(5), Duration::MAX] {
            let wait = PACE.wait(1, Some(asked));
            assert!(wait >= asked, "{wait:?}");
            assert!(wait <= asked.saturating_add(Duration::from_millis(100)), "{wait:?}");
        }
    }
}
