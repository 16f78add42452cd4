//! One cloud-to-device message, from its receipt to its answer: ledger, push, settlement, within the hub's lock.
//!
//! Knows no lane and no other message. `steps` says what each peer's answer leads to; this file walks, waits and
//! answers.
//!
//! The hub holds a message for a minute, and hands it out again when that ends, which it does not count; it counts
//! what we abandon, and drops the message at the tenth time by default. So a message that can't be pushed yet is
//! tried until [`LOCK_MARGIN`] before its lock ends and only then abandoned. Ten locks of a minute are ten minutes of
//! outage, and then the message is gone; so after [`MAX_ABANDONS`] times, and when it never had its turn, it is left to
//! its lock instead: the hub keeps it as long as its own expiry says, and an outage costs it only the time.
//!
//! One corner nobody can decide: a push without an answer, a crash (or the webhook away) right after, the downlink sent by
//! a gateway before we ask, and another downlink sent after it, of somebody else or of the network itself: the Network
//! Server keeps the correlation ids of the last one only. It is found nowhere then, no event told of it, and it is pushed
//! once more. `recollection` asks right after the start, so that there is little time for it.

mod steps;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::ledger::Ledger;
use super::ports::{Network, Observer, Outbox, Store};
use super::retry::Pace;
use super::translate::{self, Request, Rules};
use super::{EntryId, NewEntry, Progress, Source};
use crate::azure::{CloudMessage, HubDevice, Settlement};
use crate::config::CompleteOn;
use crate::model::EndDevice;
use crate::things_stack::Operation;
use steps::{Obstacle, Step, Turn};
pub(super) use wait::Waiting;

/// Kept of the lock for the answer's own way to the hub.
pub const LOCK_MARGIN: Duration = Duration::from_secs(5);
/// A message that was abandoned this often is left to its lock: half of what hubs allow by default.
pub const MAX_ABANDONS: u32 = 5;
/// The Things Stack answers again within seconds, or asks for the time itself.
const PACE: Pace = Pace { first: Duration::from_millis(500), longest: Duration::from_secs(8) };

/// The flow of cloud-to-device messages.
pub struct CloudMessages<N, S, B, O> {
    /// The Things Stack.
    pub network: N,
    /// What became of earlier requests.
    pub ledger: Ledger<S, B>,
    /// What the configuration says.
    pub rules: Arc<Rules>,
    /// When a message is completed.
    pub complete_on: CompleteOn,
    /// Counts.
    pub observer: O,
}

/// A message in our hands.
pub(super) struct CloudJob {
    pub(super) device: EndDevice,
    pub(super) hub_device: Arc<HubDevice>,
    pub(super) message: CloudMessage,
    pub(super) received: Instant,
    pub(super) locked_until: Instant,
    pub(super) settle: oneshot::Sender<Settlement>,
}

/// What is left of a message that was worked on.
pub(super) enum Handled {
    /// Nothing.
    Done,
    /// It waits for its answer.
    Waiting(Waiting),
    /// It went back to the hub and comes again: the device's later ones must come after it.
    ComesAgain,
}

/// How a walk ended.
enum Walked {
    /// The ledger knows how far it is.
    At(Progress),
    /// It is refused, and that is reported.
    Rejected(String),
    /// The lock ends, and this is in the way.
    OutOfTime(Obstacle, String),
    /// We are stopping, or the link is lost and with it the lock.
    Interrupted,
}

impl<N: Network, S: Store, B: Outbox, O: Observer> CloudMessages<N, S, B, O> {
    /// Works on a message as long as the device's later ones must wait.
    pub(super) async fn handle(&self, mut job: CloudJob, stop: &CancellationToken) -> Handled {
        let (entry, request, step) = match self.entry(&job) {
            (entry, Ok(request)) => (entry, Some(request), Step::Begin),
            (entry, Err(reason)) => (entry, None, Step::Reject { reason, word: "invalid" }),
        };
        let walked = self.walk(&mut job, &entry, request.as_ref(), step, stop).await;
        let settlement = match walked {
            Walked::At(progress) => {
                let Some(settlement) = wait::settlement(self.complete_on, entry.confirmed, &progress) else {
                    return Handled::Waiting(Waiting {
                        entry,
                        until: before_the_end(job.locked_until),
                        settle: job.settle,
                    });
                };
                settlement
            }
            Walked::Rejected(reason) => Settlement::Reject { reason },
            Walked::OutOfTime(obstacle, detail) => {
                self.observer.abandoned(obstacle.as_str());
                let count = job.message.delivery_count;
                info!(
                    device = %entry.device, message_id = entry.correlation, reason = obstacle.as_str(), detail, abandoned = count,
                    "A cloud-to-device message can't be pushed yet; the hub will hand it out again."
                );
                if count < MAX_ABANDONS && obstacle != Obstacle::Late {
                    // The link may be gone; then the lock runs out instead.
                    _ = job.settle.send(Settlement::Abandon);
                }
                return Handled::ComesAgain;
            }
            Walked::Interrupted => return Handled::Done,
        };
        // Nobody may take it any more: then the hub hands the message out again, and the ledger knows it.
        _ = job.settle.send(settlement);
        Handled::Done
    }

    /// Goes step by step until the message is somewhere, or may no longer be waited for.
    async fn walk(
        &self,
        job: &mut CloudJob,
        entry: &NewEntry,
        request: Option<&Request>,
        mut step: Step,
        stop: &CancellationToken,
    ) -> Walked {
        let deadline = before_the_end(job.locked_until);
        let (mut failures, mut obstacle, mut detail) = (0_u32, Obstacle::Late, String::new());
        loop {
            if stop.is_cancelled() || job.settle.is_closed() {
                self.give_back(&step, entry).await;
                return Walked::Interrupted;
            }
            if Instant::now() >= deadline {
                self.give_back(&step, entry).await;
                return Walked::OutOfTime(obstacle, detail);
            }
            let after;
            (step, obstacle, after, detail) = match self.step(step, entry, request).await {
                Turn::Next(next) => {
                    step = next;
                    continue;
                }
                Turn::Queued => {
                    self.observer.queued(entry.source, job.received.elapsed());
                    return Walked::At(Progress::Queued);
                }
                Turn::Known(progress) => return Walked::At(progress),
                Turn::Rejected { reason, word } => {
                    warn!(
                        device = %entry.device, message_id = entry.correlation, reason,
                        "A cloud-to-device message was rejected; its sender is told why."
                    );
                    self.observer.rejected(entry.source, word);
                    return Walked::Rejected(reason);
                }
                Turn::Wait { step, obstacle, after, detail } => {
                    debug!(
                        device = %entry.device, message_id = entry.correlation, reason = obstacle.as_str(), detail,
                        "A cloud-to-device message has to wait."
                    );
                    self.observer.retried(obstacle.as_str());
                    (step, obstacle, after, detail)
                }
            };
            failures = failures.saturating_add(1);
            let wait = PACE.wait(failures, after);
            let until = Instant::now().checked_add(wait).map_or(deadline, |until| until.min(deadline));
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = job.settle.closed() => {}
                progress = self.proven(&step, entry.id) => return self.proved(entry, job, progress),
                () = sleep_until(until) => {}
            }
        }
    }

    /// A webhook event told what the push's answer did not.
    fn proved(&self, entry: &NewEntry, job: &CloudJob, progress: Progress) -> Walked {
        self.observer.queued(entry.source, job.received.elapsed());
        Walked::At(progress)
    }

    /// Waits until an event proves that the entry was queued; for ever if it is not open, or is only to be entered or
    /// rejected: that is over when it is on disk, not when the ledger knows it.
    async fn proven(&self, step: &Step, id: EntryId) -> Progress {
        if matches!(step, Step::Ask { .. } | Step::Push)
            && let Some(mut progress) = self.ledger.watch(id)
            && let Ok(progress) = progress.wait_for(|progress| *progress != Progress::Pushing).await
        {
            return progress.clone();
        }
        std::future::pending().await
    }

    /// What was certainly not queued may be pushed next time without asking first.
    async fn give_back(&self, step: &Step, entry: &NewEntry) {
        match step {
            Step::Push | Step::Reject { .. } => self.ledger.put_back(entry.id).await,
            Step::Begin | Step::Ask { .. } => {}
        }
    }

    /// The message's entry, and its downlink or why there is none.
    fn entry(&self, job: &CloudJob) -> (NewEntry, Result<Request, String>) {
        let id = identity(&job.hub_device, &job.message);
        let rules = self.rules.application(job.device.application_id());
        let mut request =
            translate::cloud_message(&job.message, rules).map_err(|invalid| invalid.to_string());
        if let Ok(request) = &mut request {
            request.downlink.correlation_ids = vec![id.correlation_id()];
        }
        let downlink = request.as_ref().ok();
        let entry = NewEntry {
            id,
            device: job.device.clone(),
            source: Source::CloudMessage,
            correlation: job.message.message_id.clone().unwrap_or_else(|| id.to_string()),
            f_port: downlink.map_or(0, |request| request.downlink.f_port),
            confirmed: downlink.is_some_and(|request| request.downlink.confirmed),
            operation: downlink.map_or(Operation::Push, |request| request.operation),
        };
        (entry, request)
    }
}

/// When to stop trying.
fn before_the_end(locked_until: Instant) -> Instant {
    locked_until.checked_sub(LOCK_MARGIN).unwrap_or(locked_until)
}

/// The same for each delivery of one message, another for every other message of the hub.
fn identity(hub_device: &HubDevice, message: &CloudMessage) -> EntryId {
    let sequence = message.sequence_number.map(u64::to_le_bytes);
    let enqueued = message.enqueued_ms.map(i64::to_le_bytes);
    // The hub numbers every message. Should one come without, its body tells it from most others.
    let unnumbered = if sequence.is_none() { message.body.as_ref() } else { &[] };
    EntryId::of(&[
        hub_device.hub.host.as_bytes(),
        hub_device.device_id.as_bytes(),
        message.message_id.as_deref().unwrap_or_default().as_bytes(),
        sequence.as_ref().map_or(&[], |bytes| bytes.as_slice()),
        enqueued.as_ref().map_or(&[], |bytes| bytes.as_slice()),
        unnumbered,
    ])
}
