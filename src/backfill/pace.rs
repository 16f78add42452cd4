//! So many a second and no more, for all who share it. Knows not what.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Gives out moments that lie a fixed time apart.
#[derive(Debug)]
pub(super) struct Pace {
    apart: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// `rate` a second, at least 1.
    pub(super) fn new(rate: u32) -> Self {
        Self { apart: Duration::from_secs(1) / rate.max(1), next: Mutex::new(Instant::now()) }
    }

    /// Waits for a moment of one's own. Moments that nobody took are not made up for.
    pub(super) async fn turn(&self) {
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(Instant::now());
            *next = at + self.apart;
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_come_at_the_rate_also_after_a_pause() {
        let (pace, began) = (Pace::new(20), Instant::now());
        for _ in 0..21 {
            pace.turn().await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        sleep_until(began + Duration::from_secs(60)).await;
        for _ in 0..21 {
            pace.turn().await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(61));
    }
}
