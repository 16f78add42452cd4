//! Direct methods: queue a downlink, read the queue, empty it; and configured ones by name.
//!
//! Answers in every case. Knows no link and no payload's meaning.

mod reply;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::attempt::{Attempt, Count, attempt, look_again};
use super::ports::{Network, Observer, Outbox, Store};
use super::translate::{ApplicationRules, Invalid, MethodCall, Rules, Wait, downlink_method, named_method};
use super::{EntryId, Ledger, NewEntry, Progress, Source};
use crate::azure::{HubDevice, MethodReply, MethodRequest};
use crate::model::EndDevice;

/// Queues the downlink that the payload describes.
const DOWNLINK: &str = "downlink";
/// Lists what waits in the device's queue.
const QUEUE: &str = "downlinkQueue";
/// Empties the device's queue.
const CLEAR: &str = "clearDownlinkQueue";

/// How long a call waits for `sent` or `confirmed` when it does not say: IoT Hub gives callers 30 s unless they ask for
/// more, and the answer has to travel.
const DEFAULT_WAIT: Duration = Duration::from_secs(25);
/// A push without an answer may still arrive; looked for too early it is not there yet.
const UNSURE_PAUSE: Duration = Duration::from_secs(1);

/// Answers direct methods.
pub struct Methods<N, S, O> {
    network: N,
    ledger: Ledger<S, O>,
    rules: Arc<Rules>,
    observer: Arc<dyn Observer>,
}

impl<N: Network, S: Store, O: Outbox> Methods<N, S, O> {
    /// Joins the parts.
    pub const fn new(
        network: N,
        ledger: Ledger<S, O>,
        rules: Arc<Rules>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self { network, ledger, rules, observer }
    }

    /// Answers one call. The statuses: 200 done, 202 queued but not yet what was waited for, 400 invalid, 404 no such
    /// method or end device, 409 displaced, 422 and 502 refused or failed, 429 and 503 try again later, 504 not known.
    pub async fn answer(
        &self,
        device: &EndDevice,
        hub_device: &Arc<HubDevice>,
        request: MethodRequest,
    ) -> MethodReply {
        let rules = self.rules.application(device.application_id());
        match request.name.as_str() {
            QUEUE => self.queue(device).await,
            CLEAR => self.clear(device, &request).await,
            _ => match read(&request, rules) {
                Ok(Some(call)) => self.send(device, hub_device, &request, call).await,
                Ok(None) => {
                    reply::unknown_method([DOWNLINK, QUEUE, CLEAR].into_iter().chain(rules.method_names()))
                }
                Err(invalid) => {
                    self.observer.rejected(Source::Method, "invalid");
                    reply::of(400, "invalid", &invalid.to_string())
                }
            },
        }
    }

    async fn send(
        &self,
        device: &EndDevice,
        hub_device: &HubDevice,
        call: &MethodRequest,
        MethodCall { request, wait }: MethodCall,
    ) -> MethodReply {
        let count = Count { observer: &*self.observer, since: Instant::now() };
        let until = count.since + wait.and_then(|wait| wait.limit).unwrap_or(DEFAULT_WAIT);
        let id = identity(hub_device, call);
        let entry = NewEntry {
            id,
            device: device.clone(),
            source: Source::Method,
            correlation: id.to_string(),
            f_port: request.downlink.f_port,
            confirmed: request.downlink.confirmed,
            operation: request.operation,
        };
        let mut attempt = attempt(&self.network, &self.ledger, count, &entry, &request).await;
        if matches!(attempt, Attempt::Unsure { .. }) {
            attempt = self.resolve(count, &entry).await;
        }
        let answer = match attempt {
            Attempt::Queued => match wait {
                None => reply::of(200, "queued", "The Things Stack queued the downlink"),
                Some(wait) => reply::waited(&self.wait(id, wait, until).await, wait.confirmed),
            },
            Attempt::Ended(end) => {
                reply::waited(&Progress::Ended(end), wait.is_some_and(|wait| wait.confirmed))
            }
            Attempt::Refused { status, detail } => reply::refused(status, &detail),
            Attempt::NotNow { detail, after } => {
                // The caller is told, and a new call is a new request: this one is over.
                if let Err(error) = self.ledger.reject(&entry, &detail).await {
                    tracing::debug!(device = %device, error = %error, "a method's downlink was not queued and its entry could not be ended; it expires");
                }
                reply::not_now(&detail, after)
            }
            Attempt::Unsure { detail, .. } => {
                reply::of(504, "unknown", &format!("{detail}; read downlinkQueue before calling again"))
            }
        };
        reply::with(answer, "correlationId", json!(entry.correlation))
    }

    /// A push had no answer: gives events a moment to prove it, then looks.
    async fn resolve(&self, count: Count<'_>, entry: &NewEntry) -> Attempt {
        if let Some(mut progress) = self.ledger.watch(entry.id) {
            let proven = progress.wait_for(|progress| *progress != Progress::Pushing);
            if let Ok(Ok(progress)) = tokio::time::timeout(UNSURE_PAUSE, proven).await {
                self.observer.queued(entry.source, count.since.elapsed());
                return match &*progress {
                    Progress::Pushing | Progress::Queued | Progress::Sent => Attempt::Queued,
                    Progress::Ended(end) => Attempt::Ended(end.clone()),
                };
            }
        }
        look_again(&self.network, &self.ledger, count, entry).await
    }

    /// How far a queued downlink is when what is waited for happened, or the time is over.
    async fn wait(&self, id: EntryId, wait: Wait, until: Instant) -> Progress {
        let Some(mut progress) = self.ledger.watch(id) else {
            return self.ledger.progress(id).await.ok().flatten().unwrap_or(Progress::Queued);
        };
        let reached = |progress: &Progress| match progress {
            Progress::Pushing | Progress::Queued => false,
            Progress::Sent => !wait.confirmed,
            Progress::Ended(_) => true,
        };
        if let Ok(Ok(progress)) = timeout_at(until, progress.wait_for(reached)).await {
            return progress.clone();
        }
        progress.borrow().clone()
    }

    async fn queue(&self, device: &EndDevice) -> MethodReply {
        match self.network.queue(device).await {
            Ok(queue) => reply::queue(&queue),
            Err(error) => reply::failed(&error),
        }
    }

    async fn clear(&self, device: &EndDevice, request: &MethodRequest) -> MethodReply {
        let waited = self.ledger.waiting(device);
        if let Err(error) = self.network.clear(device).await {
            return reply::failed(&error);
        }
        let reason = format!("the direct method {} emptied the queue", request.name);
        if let Err(error) = self.ledger.cleared(device, &waited, &reason).await {
            tracing::debug!(device = %device, error = %error, "the ends of the downlinks that a method cleared are not on disk yet");
        }
        reply::of(200, "cleared", "the device's downlink queue is empty")
    }
}

impl<N, S, O> std::fmt::Debug for Methods<N, S, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Methods").finish_non_exhaustive()
    }
}

fn read(request: &MethodRequest, rules: &ApplicationRules) -> Result<Option<MethodCall>, Invalid> {
    match request.name.as_str() {
        DOWNLINK => downlink_method(&request.payload, rules).map(Some),
        name => named_method(name, &request.payload, rules),
    }
}

/// The same for a call that the hub hands out again. Name and payload count too, should a hub count its calls from 1
/// after each of its restarts.
fn identity(hub_device: &HubDevice, request: &MethodRequest) -> EntryId {
    EntryId::of(&[
        hub_device.hub.host.as_bytes(),
        hub_device.device_id.as_bytes(),
        b"method",
        request.id.as_bytes(),
        request.name.as_bytes(),
        &request.payload,
    ])
}
