//! How fast devices may connect to one hub, over all its connections: by its tier, or learnt from its refusals.
//!
//! Opens nothing and knows no device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep_until};

use super::error::{RetryReason, SendError};
use crate::model::Pace;

/// The pace of a hub's connects.
#[derive(Debug)]
pub(super) struct Connects(Mutex<Pace>);

impl Connects {
    /// `rate`: devices a second that the hub's tier allows; `None` if it is not known.
    pub(super) fn new(rate: Option<u32>) -> Self {
        Self(Mutex::new(Pace::new(rate.map(f64::from), Instant::now())))
    }

    /// Waits for a place, before all that only [`Connects::last`] waits for. Given up, the place is lost.
    pub(super) async fn first(&self) {
        let at = self.pace().reserve(Instant::now());
        sleep_until(at).await;
    }

    /// Waits for a place that nobody else needs now. May be cancelled.
    pub(super) async fn last(&self) {
        loop {
            let next = {
                let (mut pace, now) = (self.pace(), Instant::now());
                if pace.ready(now) {
                    return pace.take(now);
                }
                pace.next().unwrap_or(now)
            };
            sleep_until(next).await;
        }
    }

    /// A device connected, or did not.
    pub(super) fn note(&self, opened: Result<(), &SendError>) {
        let now = Instant::now();
        match opened {
            Ok(()) => self.pace().accepted(now),
            Err(SendError::Retry { reason: RetryReason::Throttled, .. }) => self.pace().refused(now),
            Err(SendError::Retry { .. } | SendError::Reresolve { .. } | SendError::Park { .. }) => {}
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hub that lets no more devices connect just now says nothing about messages.
pub(super) fn as_connect(mut error: SendError) -> SendError {
    if let SendError::Retry { reason, .. } = &mut error
        && *reason == RetryReason::Throttled
    {
        *reason = RetryReason::ConnectsThrottled;
    }
    error
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::error::Trouble;
    use super::*;

    fn refused() -> SendError {
        let (reason, trouble) = (RetryReason::Throttled, Trouble::Device);
        SendError::Retry { reason, detail: String::new(), after: None, trouble }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_tier_all_connect_at_once_until_the_hub_refuses() {
        let connects = Connects::new(None);
        let began = Instant::now();
        for _ in 0..500 {
            connects.first().await;
            connects.note(Ok(()));
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        connects.note(Err(&refused()));
        for _ in 0..500 {
            connects.first().await;
        }
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        assert!(matches!(
            as_connect(refused()),
            SendError::Retry { reason: RetryReason::ConnectsThrottled, .. }
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_telemetry_to_send_connects_before_who_only_waits_for_downlinks() {
        let connects = Connects::new(Some(100));
        let began = Instant::now();
        for _ in 0..300 {
            connects.pace().reserve(began);
        }
        connects.last().await;
        assert!(began.elapsed() >= Duration::from_millis(1990), "{:?}", began.elapsed());
    }
}
