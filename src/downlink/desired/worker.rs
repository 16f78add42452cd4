//! One device's worker: takes in what is desired, queues it, follows it, acknowledges it, ends.
//!
//! Decides little: [`Plan`] does. Nothing here fails for good but what is told to the cloud.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{Either, pending, select_all};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::ack::{Ack, Verdict, patch};
use super::pending::{Following, Owner};
use super::plan::Plan;
use super::state::State;
use super::{Inner, NAMESPACE, Slot};
use crate::azure::HubDevice;
use crate::downlink::attempt::{Attempt, Count, attempt};
use crate::downlink::ports::{Hubs, Network, Outbox, Store};
use crate::downlink::retry::Pace;
use crate::downlink::{Progress, Source};
use crate::iot_hub::SendError;
use crate::model::EndDevice;

/// Between two tries of the store or of the hub.
const PACE: Pace = Pace { first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// Some ten minutes of trying to acknowledge; after the hub's return all properties are told anew anyway.
const MAX_ACK_TRIES: u32 = 15;
/// As long as a device lives. Kept for less, its properties would be applied once more.
const KEPT_FOR_MS: i64 = 10 * 365 * 24 * 3600 * 1000;

/// One device's worker.
pub(super) struct Worker<N, S, O, H> {
    flow: Arc<Inner<N, S, O, H>>,
    device: EndDevice,
    key: String,
    slot: Arc<Slot>,
    plan: Plan,
    /// Failures of the store in a row, and when it may be asked again.
    store: Retry,
    /// Likewise the hub.
    hub: Retry,
}

#[derive(Default)]
struct Retry {
    failures: u32,
    due: Option<Instant>,
}

impl Retry {
    fn is_due(&self) -> bool {
        self.due.is_none_or(|due| due <= Instant::now())
    }

    fn failed(&mut self, after: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now();
        self.due = Some(now.checked_add(PACE.wait(self.failures, after)).unwrap_or(now + PACE.longest));
    }
}

impl<N, S, O, H> Drop for Worker<N, S, O, H> {
    /// Nobody waits in a slot whose worker is gone, whatever ended it.
    fn drop(&mut self) {
        let mut slots = self.flow.slots();
        if slots.get(&self.key).is_some_and(|slot| Arc::ptr_eq(slot, &self.slot)) {
            slots.remove(&self.key);
        }
    }
}

impl<N: Network, S: Store, O: Outbox, H: Hubs> Worker<N, S, O, H> {
    pub(super) fn new(flow: Arc<Inner<N, S, O, H>>, device: EndDevice, key: String, slot: Arc<Slot>) -> Self {
        let (plan, store, hub) = (Plan::default(), Retry::default(), Retry::default());
        Self { flow, device, key, slot, plan, store, hub }
    }

    /// Until all is done, or the flow stops.
    ///
    /// Waits on: newly desired properties, the next try, downlinks that are followed, the stop.
    pub(super) async fn run(mut self) {
        while !self.load().await {
            let retry = self.store.due.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = self.flow.stop.cancelled() => return,
                () = sleep_until(retry) => {}
            }
        }
        loop {
            self.read_inbox();
            self.clear_up().await;
            self.push().await;
            self.save().await;
            self.acknowledge().await;
            self.save().await;
            if self.finished() || self.pause().await {
                return;
            }
        }
    }

    async fn load(&mut self) -> bool {
        match self.flow.parts.store.get(NAMESPACE, &self.key).await {
            Ok(None) => {
                self.store = Retry::default();
                true
            }
            Ok(Some(json)) => {
                self.store = Retry::default();
                match State::read(&json) {
                    Some(state) => self.plan.state = state,
                    None => warn!(
                        device = %self.device,
                        "what is known of the desired properties can't be read; it is taken from the reported ones"
                    ),
                }
                true
            }
            Err(error) => {
                self.store_failed(&error);
                false
            }
        }
    }

    fn read_inbox(&mut self) {
        let rules = self.flow.parts.rules.application(self.device.application_id());
        loop {
            let (desired, hub_device) = {
                let mut inbox = self.slot.inbox();
                (inbox.0.take(), Arc::clone(&inbox.1))
            };
            let Some(desired) = desired else { return };
            let owner = Owner { device: &self.device, hub_device: &hub_device };
            self.plan.take(&owner, rules, desired);
            for _ in 0..std::mem::take(&mut self.plan.invalid) {
                self.flow.parts.observer.rejected(Source::Desired, "invalid");
            }
        }
    }

    /// Asks the ledger about what was applied before.
    async fn clear_up(&mut self) {
        while self.store.is_due()
            && let Some((name, unclear)) = self.plan.unclear.pop_first()
        {
            let Some(last) = self.plan.state.last(&name) else { continue };
            let Some(id) = last.entry() else { continue };
            let version = last.version;
            // Followed before it is asked for, so that no end slips through between.
            let followed = self.flow.parts.ledger.watch(id);
            let verdict = match self.flow.parts.ledger.progress(id).await {
                Ok(Some(progress)) => Verdict::of(&progress),
                Ok(None) if unclear.told.is_some() => continue,
                Ok(None) => Verdict::forgotten(),
                Err(error) => {
                    self.plan.unclear.insert(name, unclear);
                    return self.store_failed(&error);
                }
            };
            self.store = Retry::default();
            let ack = Ack { value: unclear.value.clone(), version, verdict };
            if unclear.told.is_none_or(|code| !ack.verdict.is(code)) {
                self.plan.tell(name.clone(), ack);
            }
            if let Some(progress) = followed {
                self.plan.following.insert(name, Following { value: unclear.value, version, progress });
            }
        }
    }

    /// Tries each property that is due. Newer ones that come meanwhile go first.
    async fn push(&mut self) {
        let now = Instant::now();
        let due = self.plan.pending.iter().filter(|(_, pending)| pending.due <= now);
        for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            if self.flow.stop.is_cancelled() || !self.slot.inbox().0.is_empty() {
                return;
            }
            let Some(mut pending) = self.plan.pending.remove(&name) else { continue };
            let parts = &self.flow.parts;
            let count = Count { observer: &*parts.observer, since: pending.since };
            let tried = attempt(&parts.network, &parts.ledger, count, &pending.entry, &pending.request).await;
            if let Some(verdict) = Verdict::of_attempt(&tried) {
                let (id, value, version) = (pending.entry.id, pending.value.clone(), pending.version);
                self.plan.conclude(name.clone(), pending, verdict);
                if tried == Attempt::Queued {
                    self.follow(name, id, value, version).await;
                }
                continue;
            }
            let (unsure, detail, after) = match tried {
                Attempt::Unsure { detail, after } => (true, detail, after),
                Attempt::NotNow { detail, after } => (false, detail, after),
                Attempt::Queued | Attempt::Ended(_) | Attempt::Refused { .. } => continue,
            };
            parts.observer.retried(if unsure { "unsure" } else { "not_now" });
            if pending.failures == 0 {
                debug!(device = %self.device, reason = %detail, "a desired property could not be queued; it is tried again");
            }
            if pending.failed(unsure, after, parts.expiry) {
                if !unsure {
                    self.plan.retired.push(pending.entry.clone());
                }
                self.plan.conclude(name, pending, Verdict::given_up(&detail));
            } else {
                self.plan.pending.insert(name, pending);
            }
        }
    }

    /// A property was queued: its end is awaited, unless it is over already.
    async fn follow(
        &mut self,
        name: String,
        id: crate::downlink::EntryId,
        value: serde_json::Value,
        version: u64,
    ) {
        match self.flow.parts.ledger.watch(id) {
            Some(progress) => {
                self.plan.following.insert(name, Following { value, version, progress });
            }
            None => {
                if let Ok(Some(progress)) = self.flow.parts.ledger.progress(id).await {
                    self.plan.tell(name, Ack { value, version, verdict: Verdict::of(&progress) });
                }
            }
        }
    }

    /// Brings the state to disk, then ends the entries that the state has left behind.
    async fn save(&mut self) {
        if self.plan.dirty && self.store.is_due() {
            let expires_ms = self.flow.parts.clock.now_ms().saturating_add(KEPT_FOR_MS);
            match self.flow.parts.store.put(NAMESPACE, &self.key, self.plan.state.write(), expires_ms).await {
                Ok(()) => {
                    self.plan.dirty = false;
                    self.store = Retry::default();
                }
                Err(error) => self.store_failed(&error),
            }
        }
        while !self.plan.dirty && self.store.is_due() {
            let Some(entry) = self.plan.retired.pop() else { return };
            let reason = "a newer desired value came before it could be queued, or its time was over";
            if let Err(error) = self.flow.parts.ledger.reject(&entry, reason).await {
                self.plan.retired.push(entry);
                self.store_failed(&error);
            }
        }
    }

    /// Sends what is to be told. What the state must know before is on disk by now, or the telling waits.
    async fn acknowledge(&mut self) {
        self.look_after();
        if self.plan.dirty {
            self.save().await;
        }
        if self.plan.acks.is_empty() || self.plan.dirty || !self.hub.is_due() {
            return;
        }
        let hub_device: Arc<HubDevice> = Arc::clone(&self.slot.inbox().1);
        let patch = patch(&self.plan.acks, &self.plan.state);
        match self.flow.parts.hubs.report(&hub_device, &patch).await {
            Ok(_) => {
                self.hub = Retry::default();
                let told: BTreeMap<String, Ack> = std::mem::take(&mut self.plan.acks);
                self.plan.told(told);
            }
            Err(SendError::Retry { after, .. }) if self.hub.failures < MAX_ACK_TRIES => {
                self.hub.failed(after)
            }
            Err(error @ (SendError::Retry { .. } | SendError::Reresolve { .. } | SendError::Park { .. })) => {
                warn!(
                    device = %self.device, error = %error,
                    "desired properties could not be acknowledged; it is tried again when the hub tells them anew"
                );
                self.plan.acks.clear();
                self.hub = Retry::default();
            }
        }
    }

    /// Turns ends of followed downlinks into acknowledgements.
    fn look_after(&mut self) {
        let ended = self.plan.following.iter_mut().filter_map(|(name, following)| {
            match &*following.progress.borrow_and_update() {
                Progress::Pushing | Progress::Queued | Progress::Sent => None,
                Progress::Ended(end) => Some((name.clone(), Verdict::ended(end))),
            }
        });
        for (name, verdict) in ended.collect::<Vec<_>>() {
            if let Some(Following { value, version, .. }) = self.plan.following.remove(&name) {
                self.plan.tell(name, Ack { value, version, verdict });
            }
        }
    }

    /// Leaves the slot if there is nothing to do and nothing came meanwhile.
    fn finished(&self) -> bool {
        if !self.plan.is_finished() {
            return false;
        }
        let mut slots = self.flow.slots();
        let finished = self.slot.inbox().0.is_empty();
        if finished {
            slots.remove(&self.key);
        }
        finished
    }

    /// Until there may be something to do. True if the flow stops.
    async fn pause(&mut self) -> bool {
        if !self.slot.inbox().0.is_empty() {
            return self.flow.stop.is_cancelled();
        }
        let stored = self.plan.dirty || !self.plan.retired.is_empty() || !self.plan.unclear.is_empty();
        let store = if stored { self.store.due } else { None };
        // What is to be told waits for the store.
        let hub = if self.plan.acks.is_empty() || self.plan.dirty { None } else { self.hub.due };
        let next = self.plan.pending.values().map(|pending| pending.due).chain(store).chain(hub).min();
        let until = next.map_or_else(|| Either::Left(pending()), |next| Either::Right(sleep_until(next)));
        let following = self.plan.following.values_mut();
        let moved = if following.len() == 0 {
            Either::Left(pending())
        } else {
            let changes = following.map(|following| Box::pin(following.progress.changed()));
            Either::Right(select_all(changes).map(|(result, ..)| result.is_err()))
        };
        let silent = tokio::select! {
            biased;
            () = self.flow.stop.cancelled() => return true,
            () = self.slot.woken.notified() => false,
            () = until => false,
            silent = moved => silent,
        };
        if silent {
            self.drop_silent();
        }
        false
    }

    /// Forgets those of which nobody will tell any more.
    fn drop_silent(&mut self) {
        self.look_after();
        self.plan.following.retain(|_, following| following.progress.has_changed().is_ok());
    }

    fn store_failed(&mut self, error: &crate::downlink::ports::Unstored) {
        if self.store.failures == 0 {
            warn!(device = %self.device, error = %error, "the state of desired properties can't be kept or read; it is tried again");
        }
        self.store.failed(None);
    }
}
