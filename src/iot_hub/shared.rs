//! What every part of the client shares: options, owned tasks, the news of hubs that are up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contest::Contests;
use super::options::IotHubOptions;
use crate::azure::HubAddress;

/// News of hubs kept for a slow receiver; a receiver that lags takes every hub for up.
const HUB_UP_BUFFER: usize = 64;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: IotHubOptions,
    pub(super) tasks: Tasks,
    pub(super) hub_up: broadcast::Sender<HubAddress>,
    /// Devices that another client uses too.
    pub(super) contests: Contests,
    reached: AtomicBool,
    attached: AtomicUsize,
}

impl Shared {
    pub(super) fn new(options: IotHubOptions) -> Self {
        let tasks = Tasks { tracker: TaskTracker::new(), stop: CancellationToken::new() };
        Self {
            options,
            tasks,
            hub_up: broadcast::Sender::new(HUB_UP_BUFFER),
            contests: Contests::default(),
            reached: AtomicBool::new(false),
            attached: AtomicUsize::new(0),
        }
    }

    /// A connection to `hub` is open.
    pub(super) fn announce(&self, hub: &HubAddress) {
        self.reached.store(true, Ordering::Relaxed);
        // Nobody listening is fine.
        _ = self.hub_up.send(hub.clone());
    }

    /// Whether any connection was ever open.
    pub(super) fn reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Counts a kept device as attached, until the mark is dropped.
    pub(super) fn mark_attached(self: &Arc<Self>) -> AttachedMark {
        self.attached.fetch_add(1, Ordering::Relaxed);
        AttachedMark(self.clone())
    }

    /// Kept devices whose links are open.
    pub(super) fn attached(&self) -> usize {
        self.attached.load(Ordering::Relaxed)
    }
}

/// One kept device is attached.
#[derive(Debug)]
pub(super) struct AttachedMark(Arc<Shared>);

impl Drop for AttachedMark {
    fn drop(&mut self) {
        self.0.attached.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tasks that end with the client at the latest.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Spawns `task`; it is dropped where it stands when the client stops, and then gives `None`.
    pub(super) fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(self.stop.clone().run_until_cancelled_owned(task))
    }

    /// Stops what still runs and waits, up to `patience`, until all tasks are gone.
    pub(super) async fn stop(&self, patience: Duration) {
        self.stop.cancel();
        self.tracker.close();
        _ = timeout(patience, self.tracker.wait()).await;
    }

    /// Ends all tasks when the guard is dropped.
    pub(super) fn stop_on_drop(&self) -> tokio_util::sync::DropGuard {
        self.stop.clone().drop_guard()
    }
}
