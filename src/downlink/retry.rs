//! How long to wait before a downlink's next try, or before asking anew where a device lives. Pure but for chance.

use std::time::Duration;

use crate::model::Backoff;

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
        let own = Backoff { initial: self.first, max: self.longest }.wait(failures);
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
    fn what_a_peer_asks_for_is_never_undercut_and_little_exceeded() {
        for asked in [Duration::ZERO, Duration::from_secs(5), Duration::MAX] {
            let wait = PACE.wait(1, Some(asked));
            assert!(wait >= asked, "{wait:?}");
            assert!(wait <= asked.saturating_add(Duration::from_millis(100)), "{wait:?}");
        }
    }
}
