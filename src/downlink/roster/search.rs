//! Searches for devices that their hub refuses: asks the directory anew, with growing waits, few at a time; and now and
//! then for those that were given up, since they may only have been disabled for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashSet;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::debug;

use super::Roster;
use crate::azure::HubDevice;
use crate::devices::ResolveError;
use crate::downlink::ports::{Devices, Hubs, Network};
use crate::downlink::retry::Pace;
use crate::model::EndDevice;

/// Resolutions under way at once, for all lost devices together. Many more than the directory lets ask DPS, so that some
/// that take long hold up no others here.
const MAX_RESOLUTIONS: usize = 256;
/// A device that moved is back within seconds; one whose DPS is down asks every five minutes.
const PACE: Pace = Pace { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

/// Pause before a device that was given up is tried again, if no uplink comes first; as much again at most by chance, so
/// that they do not all come in step.
const AFTER_GIVEN_UP: Duration = Duration::from_secs(10 * 60);
/// Devices given up that are tried again. Further ones wait for their next uplink.
const MAX_GIVEN_UP: usize = 10_000;

/// Devices that were lost since the searcher last looked. Each lost member stands here once at most, so this is no
/// longer than the roster.
#[derive(Debug, Default)]
pub(super) struct Searches {
    lost: Mutex<Vec<EndDevice>>,
    more: Notify,
    /// Whoever was given up and not met since.
    given_up: DashSet<EndDevice>,
}

impl Searches {
    pub(super) fn begin(&self, device: EndDevice) {
        self.list().push(device);
        self.more.notify_one();
    }

    /// Notes that a device was given up; `true` if that is news.
    pub(super) fn give_up(&self, device: &EndDevice) -> bool {
        self.given_up.len() < MAX_GIVEN_UP && self.given_up.insert(device.clone())
    }

    /// Whether the device was given up, and not met since.
    pub(super) fn is_given_up(&self, device: &EndDevice) -> bool {
        self.given_up.contains(device)
    }

    /// An uplink found the device.
    pub(super) fn met(&self, device: &EndDevice) {
        self.given_up.remove(device);
    }

    fn take(&self) -> Vec<EndDevice> {
        std::mem::take(&mut *self.list())
    }

    fn list(&self) -> MutexGuard<'_, Vec<EndDevice>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One device's search.
struct Search {
    device: EndDevice,
    failures: u32,
}

type Answer = Result<Arc<HubDevice>, ResolveError>;

impl<D: Devices, N: Network, H: Hubs> Roster<D, N, H> {
    /// Waits on: devices that are lost, the next due time, resolutions that end. Never ends by itself.
    pub(super) async fn search(&self) {
        let mut waiting = Waiting::default();
        let mut resolutions = FuturesUnordered::new();
        loop {
            while resolutions.len() < MAX_RESOLUTIONS
                && let Some(search) = waiting.take_due(Instant::now())
            {
                // An uplink may have found it meanwhile.
                if self.0.is_lost(&search.device) || self.0.is_away(&search.device) {
                    resolutions.push(self.resolve(search));
                }
            }
            let next = waiting.next().filter(|_| resolutions.len() < MAX_RESOLUTIONS);
            tokio::select! {
                () = self.0.searches.more.notified() => {
                    for device in self.0.searches.take() {
                        waiting.put(Search { device, failures: 1 }, None);
                    }
                }
                Some((search, answer)) = resolutions.next() => self.answered(search, answer, &mut waiting),
                () = sleep_until(next) => {}
            }
        }
    }

    async fn resolve(&self, search: Search) -> (Search, Answer) {
        let answer = self.0.devices.resolve(&search.device).await;
        (search, answer)
    }

    fn answered(&self, search: Search, answer: Answer, waiting: &mut Waiting) {
        let Search { device, failures } = search;
        match answer {
            Ok(hub_device) => self.0.found(&device, &hub_device),
            Err(ResolveError::Park { reason, detail }) => {
                self.0.give_up(&device, reason, &detail);
                if self.0.is_away(&device) {
                    waiting.put_at(
                        Search { device, failures: 1 },
                        AFTER_GIVEN_UP.mul_f64(1.0 + fastrand::f64()),
                    );
                }
            }
            Err(ResolveError::Retry { detail, after }) => {
                debug!(%device, detail, "The device can't be resolved yet.");
                waiting.put(Search { device, failures: failures.saturating_add(1) }, after);
            }
        }
    }
}

/// Searches by the time when they are due; the number tells those of one moment apart.
#[derive(Default)]
struct Waiting {
    by_time: BTreeMap<(Instant, u64), Search>,
    number: u64,
}

impl Waiting {
    fn put(&mut self, search: Search, after: Option<Duration>) {
        let wait = PACE.wait(search.failures, after);
        self.put_at(search, wait);
    }

    fn put_at(&mut self, search: Search, wait: Duration) {
        self.number += 1;
        let now = Instant::now();
        let due = now.checked_add(wait).unwrap_or(now + PACE.longest);
        self.by_time.insert((due, self.number), search);
    }

    fn take_due(&mut self, now: Instant) -> Option<Search> {
        let first = self.by_time.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }

    fn next(&self) -> Option<Instant> {
        self.by_time.keys().next().map(|(due, _)| *due)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
