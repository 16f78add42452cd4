//! Since when a hub has been of no use to anybody: it can't be reached, or says itself that it is suspended or gone.
//!
//! Plain data; time comes in as an argument.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A hub that nobody tried for this long is not known to be away. Longer than any pause between two tries.
const STALE: Duration = Duration::from_secs(120);

/// One hub's.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// So that what works costs no lock.
    noted: AtomicBool,
    span: Mutex<Option<Span>>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    first: Instant,
    last: Instant,
}

impl Absence {
    /// The hub could not be reached, or refused everybody.
    pub(super) fn failed(&self, now: Instant) {
        let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        let first = span.filter(|span| now - span.last < STALE).map_or(now, |span| span.first);
        *span = Some(Span { first, last: now });
        self.noted.store(true, Ordering::Relaxed);
    }

    /// It did something for a device.
    pub(super) fn works(&self) {
        if self.noted.load(Ordering::Relaxed) {
            let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
            *span = None;
            self.noted.store(false, Ordering::Relaxed);
        }
    }

    /// For how long it has been away; `None` if it is not known to be.
    pub(super) fn lasts(&self, now: Instant) -> Option<Duration> {
        let span = *self.span.lock().unwrap_or_else(PoisonError::into_inner);
        span.filter(|span| now.saturating_duration_since(span.last) < STALE).map(|span| now - span.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn lasts_from_the_first_failure_until_it_works_or_nobody_asks() {
        let (absence, now) = (Absence::default(), Instant::now());
        absence.works();
        assert_eq!(absence.lasts(now), None);
        for second in [0, 100, 200, 300] {
            absence.failed(now + S * second);
        }
        assert_eq!(absence.lasts(now + S * 310), Some(S * 310));
        assert_eq!(absence.lasts(now + S * 420), None, "nobody tried for long");
        absence.failed(now + S * 500);
        assert_eq!(absence.lasts(now + S * 500), Some(Duration::ZERO), "another story");
        absence.works();
        assert_eq!(absence.lasts(now + S * 500), None);
    }
}
