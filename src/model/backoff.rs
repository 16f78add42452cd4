//! How long to wait before the next try: exponential with jitter, so that devices do not come back in step.

use std::time::Duration;

/// Doubles from `initial` to `max`, each wait drawn from its upper half.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first wait.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row (1 for the first). Between half and all of
    /// `min(max, initial * 2^(failures - 1))`.
    pub fn wait(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let full = self.initial.saturating_mul(1 << doublings).min(self.max);
        full.div_f64(2.0) + full.div_f64(2.0).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_stay_in_their_upper_half() {
        let backoff = Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1) };
        for (failures, full_ms) in [(1, 100), (2, 200), (4, 800), (5, 1000), (u32::MAX, 1000)] {
            for _ in 0..50 {
                let wait = backoff.wait(failures);
                assert!(wait >= Duration::from_millis(full_ms / 2), "{failures}: {wait:?}");
                assert!(wait <= Duration::from_millis(full_ms), "{failures}: {wait:?}");
            }
        }
    }
}
