//! One resolution per device at a time; others wait for its result. Knows not what a resolution does.

use std::future::Future;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::OnceCell;

use super::ResolveError;
use crate::azure::HubDevice;
use crate::model::EndDevice;

type Outcome = Result<Arc<HubDevice>, ResolveError>;
/// The hub id belongs to it: two messages of one end device with different DevEUIs are two questions.
type Key = (EndDevice, Arc<str>);

/// Resolutions under way.
#[derive(Debug, Default)]
pub(super) struct Flights(DashMap<Key, Arc<OnceCell<Outcome>>>);

impl Flights {
    /// Runs `resolve`, or waits for the one that runs already. When the caller that runs it goes away, the next
    /// one that waits runs its own.
    pub(super) async fn join<F: Future<Output = Outcome>>(
        &self,
        device: &EndDevice,
        hub_id: &str,
        resolve: impl FnOnce() -> F,
    ) -> Outcome {
        let key = (device.clone(), hub_id.into());
        let cell = Arc::clone(&self.0.entry(key.clone()).or_default());
        let seat = Seat { flights: self, key, cell };
        seat.cell.get_or_init(resolve).await.clone()
    }
}

/// A caller's place in a flight. The last to leave, or the first after the end, clears it away.
struct Seat<'f> {
    flights: &'f Flights,
    key: Key,
    cell: Arc<OnceCell<Outcome>>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        // The map and this seat hold one each; a third can only be taken under the map's lock.
        self.flights.0.remove_if(&self.key, |_, cell| {
            Arc::ptr_eq(cell, &self.cell) && (cell.initialized() || Arc::strong_count(cell) <= 2)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Err(ResolveError::Retry { detail: "x".to_owned(), after: None })
    }

    #[tokio::test]
    async fn leaves_nothing_behind_when_all_callers_go_away() {
        let flights = Flights::default();
        let device = EndDevice::new("", "a", "d").expect("valid");
        let mut one = Box::pin(flights.join(&device, "d", std::future::pending));
        let mut two = Box::pin(flights.join(&device, "d", || async { failed() }));
        assert!(futures_util::poll!(&mut one).is_pending());
        assert!(futures_util::poll!(&mut two).is_pending(), "waits for the first");
        drop(one);
        assert_eq!(two.await, failed(), "runs its own once the first is gone");
        let mut three = Box::pin(flights.join(&device, "d", std::future::pending));
        assert!(futures_util::poll!(&mut three).is_pending());
        drop(three);
        assert!(flights.0.is_empty());
    }
}
