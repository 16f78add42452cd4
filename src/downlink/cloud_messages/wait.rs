//! When a message that is queued is answered: at once, or when a gateway or the device says more.

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::CloudMessages;
use crate::azure::Settlement;
use crate::config::CompleteOn;
use crate::downlink::ports::{Network, Observer, Outbox, Store};
use crate::downlink::{Begun, End, NewEntry, Progress};

/// A queued message that is not yet to be answered. The device's later ones need not wait for it.
pub(in crate::downlink) struct Waiting {
    pub(super) entry: NewEntry,
    /// The lock's end, nearly.
    pub(super) until: Instant,
    pub(super) settle: oneshot::Sender<Settlement>,
}

/// The answer for a message whose downlink is so far; `None` while it is not yet to be answered.
pub(super) fn settlement(on: CompleteOn, confirmed: bool, progress: &Progress) -> Option<Settlement> {
    let reject = |reason: &str| Some(Settlement::Reject { reason: reason.to_owned() });
    match (progress, on) {
        (Progress::Pushing, _) => None,
        (Progress::Ended(End::Rejected(reason)), _) => reject(reason),
        (Progress::Queued | Progress::Sent | Progress::Ended(_), CompleteOn::Queued) => {
            Some(Settlement::Complete)
        }
        (Progress::Queued, CompleteOn::Sent | CompleteOn::Confirmed) => None,
        (Progress::Sent, CompleteOn::Sent) => Some(Settlement::Complete),
        (Progress::Sent, CompleteOn::Confirmed) => (!confirmed).then_some(Settlement::Complete),
        (Progress::Ended(end), CompleteOn::Sent | CompleteOn::Confirmed) => match end {
            End::Acknowledged | End::Sent => Some(Settlement::Complete),
            End::Failed(reason) | End::Rejected(reason) => reject(reason),
            End::Expired => reject("nothing final was heard of the downlink in time"),
            End::Replaced => reject("a later downlink replaced it in the queue"),
        },
    }
}

impl<N: Network, S: Store, B: Outbox, O: Observer> CloudMessages<N, S, B, O> {
    /// Waits for the answer until the lock ends, which the hub does not count: it hands the message out again, and
    /// its entry is found.
    pub(in crate::downlink) async fn wait(&self, waiting: Waiting, stop: &CancellationToken) {
        let Waiting { entry, until, mut settle } = waiting;
        let decided = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            () = settle.closed() => None,
            settlement = self.decided(&entry) => settlement,
            () = sleep_until(until) => None,
        };
        if let Some(settlement) = decided {
            // The link may be gone; the message comes again and its entry is found.
            _ = settle.send(settlement);
        }
    }

    async fn decided(&self, entry: &NewEntry) -> Option<Settlement> {
        let answer = |progress: &Progress| settlement(self.complete_on, entry.confirmed, progress);
        let Some(mut progress) = self.ledger.watch(entry.id) else {
            // Ended before anybody looked.
            return match self.ledger.begin(entry.clone()).await {
                Ok(Begun::Ended(end)) => answer(&Progress::Ended(end)),
                Ok(Begun::New | Begun::Unsure | Begun::Queued { .. }) | Err(_) => None,
            };
        };
        let progress = progress.wait_for(|progress| answer(progress).is_some()).await.ok()?;
        answer(&progress)
    }
}
