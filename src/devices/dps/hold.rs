//! Holds all registrations back while an endpoint throttles or fails. Sends nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// First wait after an endpoint failed without saying for how long.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait, also when the endpoint asks for more: an operator may have cured it meanwhile.
const LONGEST: Duration = Duration::from_secs(60);

/// Endpoints that must be left alone for now. There are as many as the configuration names.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<String, Hold>>);

#[derive(Debug)]
struct Hold {
    until: Instant,
    failures: u32,
    cause: String,
}

impl Holds {
    /// How long the endpoint must still be left alone, and why.
    pub(super) fn check(&self, endpoint: &str) -> Option<(Duration, String)> {
        let holds = self.lock();
        let hold = holds.get(endpoint)?;
        let left = hold.until.checked_duration_since(Instant::now())?;
        (!left.is_zero()).then(|| (left, hold.cause.clone()))
    }

    /// The endpoint failed. Holds it back for `after`, or for twice as long as the last time. Answers to
    /// requests that were under way when the hold began do not make it longer unless they ask for it.
    pub(super) fn failed(&self, endpoint: &str, after: Option<Duration>, cause: &str) -> Duration {
        let now = Instant::now();
        let mut holds = self.lock();
        let hold = holds.entry(endpoint.to_owned()).or_insert_with(|| Hold {
            until: now,
            failures: 0,
            cause: String::new(),
        });
        let held = hold.until > now;
        if !held {
            hold.failures = hold.failures.saturating_add(1);
            cause.clone_into(&mut hold.cause);
        }
        let doubled = FIRST.saturating_mul(1 << (hold.failures - 1).min(6));
        let wait = after.unwrap_or(if held { Duration::ZERO } else { doubled }).min(LONGEST);
        hold.until = hold.until.max(now + wait);
        hold.until - now
    }

    /// The endpoint answered: the next failure starts small again.
    pub(super) fn works(&self, endpoint: &str) {
        let mut holds = self.lock();
        if holds.get(endpoint).is_some_and(|hold| hold.until <= Instant::now()) {
            holds.remove(endpoint);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn waits_longer_each_time_and_forgets_after_success() {
        let holds = Holds::default();
        assert_eq!(holds.check("a"), None);
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(holds.failed("a", None, "503"), S * expected);
            assert_eq!(holds.failed("a", None, "503"), S * expected, "one outage, not two");
            assert_eq!(holds.check("a"), Some((S * expected, "503".to_owned())));
            assert_eq!(holds.check("b"), None);
            tokio::time::advance(S * expected).await;
            assert_eq!(holds.check("a"), None);
        }
        holds.works("a");
        assert_eq!(holds.failed("a", None, "503"), S);
    }

    #[tokio::test(start_paused = true)]
    async fn does_as_the_endpoint_asks() {
        let holds = Holds::default();
        assert_eq!(holds.failed("a", Some(S * 7), "429"), S * 7);
        assert_eq!(holds.failed("a", Some(S * 3), "429"), S * 7, "never shorter");
        assert_eq!(holds.failed("a", Some(S * 9), "429"), S * 9);
        assert_eq!(holds.failed("a", Some(S * 99_999), "429"), S * 60, "capped");
        holds.works("a");
        assert!(holds.check("a").is_some(), "a late success does not end a hold");
    }
}
