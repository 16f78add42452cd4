//! The hold of links on the hub's queues: which link a device's messages go to, and what is out on it.
//!
//! Knows no AMQP. What a link has and has not finished goes back when its handle is dropped.

use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use super::message::Queued;
use super::queue::Answer;
use super::{FeedbackBatch, Hub, OpenLink};

/// The one link on which a device gets its messages. A newer one takes its place and frees its locks.
#[derive(Debug)]
pub(in crate::emulator) struct CloudLink {
    hub: Arc<Hub>,
    device_id: String,
    number: u64,
    wake: watch::Receiver<()>,
}

/// What a link is to do now.
#[derive(Debug)]
pub(in crate::emulator) struct Next {
    /// The message to hand out, if one waits.
    pub(in crate::emulator) offer: Option<Offer>,
    /// When to look again even if nothing else happens.
    pub(in crate::emulator) deadline_ms: Option<i64>,
}

/// A message to hand out under a lock token. It is not locked yet.
#[derive(Clone, Debug)]
pub(in crate::emulator) struct Offer {
    pub(in crate::emulator) queued: Queued,
    pub(in crate::emulator) token: Uuid,
}

impl CloudLink {
    /// Makes this the device's link.
    pub(in crate::emulator) fn open(hub: Arc<Hub>, device_id: &str) -> Self {
        let (sender, wake) = watch::channel(());
        let mut state = hub.cloud.lock();
        state.links_opened += 1;
        let number = state.links_opened;
        let mailbox = state.mailboxes.entry(device_id.to_owned()).or_default();
        mailbox.queue.unlock();
        mailbox.link = Some(OpenLink { number, wake: sender });
        state.changed = true;
        hub.cloud.release(state);
        Self { hub, device_id: device_id.to_owned(), number, wake }
    }

    /// What to hand out next. Also lets the queue catch up with the time.
    pub(in crate::emulator) fn next(&mut self) -> Next {
        let mut state = self.hub.cloud.lock();
        self.hub.advance(&mut state, &self.device_id, self.hub.clock().now_ms());
        self.wake.mark_unchanged();
        let mailbox = state.mailboxes.get(&self.device_id).filter(|mailbox| mailbox.is(self.number));
        let queued = mailbox.and_then(|mailbox| mailbox.queue.next());
        let deadline_ms = mailbox.and_then(|mailbox| mailbox.queue.deadline_ms());
        self.hub.cloud.release(state);
        Next { offer: queued.map(|queued| Offer { queued, token: Uuid::new_v4() }), deadline_ms }
    }

    /// Locks a message that was handed out; from now on its lock runs.
    pub(in crate::emulator) fn handed_out(&self, offer: &Offer) {
        let until_ms = self.hub.clock().now_ms().saturating_add(self.hub.cloud.settings.lock_ms());
        let mut state = self.hub.cloud.lock();
        let mailbox = state.mailboxes.get_mut(&self.device_id).filter(|mailbox| mailbox.is(self.number));
        // If it is gone, its answer will find no lock.
        if let Some(mailbox) = mailbox {
            mailbox.queue.lock(offer.queued.sequence_number, offer.token, until_ms);
        }
        state.changed = true;
        self.hub.cloud.release(state);
    }

    /// Takes the device's answer; false if the lock was lost before.
    pub(in crate::emulator) fn settle(&self, token: Uuid, answer: Answer) -> bool {
        let now_ms = self.hub.clock().now_ms();
        let mut state = self.hub.cloud.lock();
        self.hub.advance(&mut state, &self.device_id, now_ms);
        let Some(mailbox) = state.mailboxes.get_mut(&self.device_id) else { return false };
        let settled = mailbox.queue.settle(token, answer, self.hub.cloud.settings.max_delivery_count);
        let Ok(ended) = settled else { return false };
        self.hub.bury(&mut state, &self.device_id, ended.into_iter().collect(), now_ms);
        state.changed = true;
        self.hub.cloud.release(state);
        true
    }

    /// Waits until there is something new to hand out; false when it is the device's link no more.
    pub(in crate::emulator) async fn woken(&mut self) -> bool {
        self.wake.changed().await.is_ok()
    }
}

impl Drop for CloudLink {
    fn drop(&mut self) {
        let mut state = self.hub.cloud.lock();
        if let Some(mailbox) = state.mailboxes.get_mut(&self.device_id)
            && mailbox.is(self.number)
        {
            mailbox.link = None;
            mailbox.queue.unlock();
            state.changed = true;
            self.hub.cloud.release(state);
        }
    }
}

impl super::Mailbox {
    fn is(&self, number: u64) -> bool {
        self.link.as_ref().is_some_and(|link| link.number == number)
    }
}

/// Feedback on its way to a service; goes back unless it arrives.
#[derive(Debug)]
pub(in crate::emulator) struct TakenFeedback {
    hub: Arc<Hub>,
    /// `None` once it has arrived.
    batch: Option<FeedbackBatch>,
}

impl TakenFeedback {
    /// Feedback that is due, if there is any; else when it will be, as far as is known.
    pub(in crate::emulator) fn take(hub: &Arc<Hub>) -> Result<Self, Option<i64>> {
        let delay_ms = hub.cloud.settings.feedback_delay_ms();
        let mut state = hub.cloud.lock();
        hub.advance_all(&mut state);
        let batch = state.feedback.take(hub.clock().now_ms(), delay_ms);
        let due_ms = state.feedback.due_ms(delay_ms);
        hub.cloud.release(state);
        match batch {
            Some(batch) => Ok(Self { hub: Arc::clone(hub), batch: Some(batch) }),
            None => Err(due_ms),
        }
    }

    /// The batch's records as JSON.
    pub(in crate::emulator) fn json(&self) -> Vec<u8> {
        let records = self.batch.as_ref().map(|batch| batch.records.as_slice()).unwrap_or_default();
        serde_json::to_vec(records).expect("records are structs of texts")
    }

    /// It was sent; counted, so that it does not come back for ever.
    pub(in crate::emulator) fn handed_out(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.handed_out();
        }
    }

    /// A service has it.
    pub(in crate::emulator) fn arrived(mut self) {
        self.batch = None;
        let mut state = self.hub.cloud.lock();
        state.changed = true;
        self.hub.cloud.release(state);
    }
}

impl Drop for TakenFeedback {
    fn drop(&mut self) {
        if let Some(batch) = self.batch.take() {
            let mut state = self.hub.cloud.lock();
            state.feedback.put_back(batch);
            state.changed = true;
            self.hub.cloud.release(state);
        }
    }
}
