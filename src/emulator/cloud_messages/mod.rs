//! Cloud-to-device messages of one hub: a queue for each device, what came to nothing, and feedback on both.
//!
//! Knows no AMQP. Time comes from the hub's clock; queues catch up with it whenever they are looked at.

mod feedback;
mod link;
mod message;
mod queue;
mod settings;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use self::feedback::Feedback;
pub(super) use self::feedback::FeedbackBatch;
pub use self::feedback::FeedbackRecord;
pub(super) use self::link::{CloudLink, Next, Offer, TakenFeedback};
pub use self::message::{Ack, CloudMessage, DeadLetter, Fate, Queued};
pub(super) use self::queue::Answer;
use self::queue::{DEPTH, Ended, Queue};
pub use self::settings::CloudSettings;
use super::hub::Hub;

/// Largest message, as IoT Hub counts it.
const MAX_BYTES: usize = 64 * 1024;
/// Dead letters kept for a look, at most 64 MB of them; the oldest go first.
const DEAD_LETTERS: usize = 1_000;

/// Why the hub does not take a message.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CloudRefusal {
    /// The device is not registered.
    #[error("Device {0} not registered.")]
    NoDevice(String),
    /// Fifty messages wait already.
    #[error("the queue of device {0} is full: {DEPTH} messages wait for it")]
    QueueFull(String),
    /// Over 64 KB.
    #[error("the message counts {0} bytes, more than {MAX_BYTES}")]
    TooLarge(usize),
    /// The hub's tier has none.
    #[error("a hub of the basic tier has no cloud-to-device messages")]
    Tier,
}

/// The part of a hub's state that this module owns.
#[derive(Debug)]
pub(super) struct CloudMessages {
    settings: CloudSettings,
    state: Mutex<State>,
    /// Counts changes of queues and feedback.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    mailboxes: HashMap<String, Mailbox>,
    dead: VecDeque<DeadLetter>,
    feedback: Feedback,
    links_opened: u64,
    /// Something changed that nobody was told of yet. Whoever only looks leaves it to the next who acts.
    changed: bool,
}

/// A device's queue and the link that empties it.
#[derive(Debug, Default)]
struct Mailbox {
    queue: Queue,
    generation_id: String,
    link: Option<OpenLink>,
}

#[derive(Debug)]
struct OpenLink {
    number: u64,
    /// Wakes the link; dropped when it is no longer the device's link.
    wake: watch::Sender<()>,
}

impl Default for CloudMessages {
    fn default() -> Self {
        Self { settings: CloudSettings::default(), state: Mutex::default(), changes: watch::channel(0).0 }
    }
}

impl CloudMessages {
    /// An empty state under other settings.
    pub(super) fn with(settings: CloudSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the state and tells whoever waits, if something has changed. Never while the state is locked: who
    /// waits may look at it while it holds the watch.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        let changed = std::mem::take(&mut state.changed);
        drop(state);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl Hub {
    /// Puts a message into a device's queue, as a service would; its sequence number.
    ///
    /// # Errors
    /// [`CloudRefusal`]; then nothing is kept.
    pub fn send_cloud_message(&self, device_id: &str, message: CloudMessage) -> Result<u64, CloudRefusal> {
        if self.tier().is_basic() {
            return Err(CloudRefusal::Tier);
        }
        let size = message.size();
        if size > MAX_BYTES {
            return Err(CloudRefusal::TooLarge(size));
        }
        let now_ms = self.clock().now_ms();
        let mut state = self.cloud.lock();
        // Looked up under our lock, so that a device deleted meanwhile leaves no queue behind.
        let device = self.device(device_id).ok_or_else(|| CloudRefusal::NoDevice(device_id.to_owned()))?;
        self.advance(&mut state, device_id, now_ms);
        let mailbox = state.mailboxes.entry(device_id.to_owned()).or_default();
        mailbox.generation_id = device.generation_id;
        let number = mailbox
            .queue
            .push(message, now_ms, &self.cloud.settings)
            .ok_or_else(|| CloudRefusal::QueueFull(device_id.to_owned()))?;
        mailbox.wake();
        state.changed = true;
        self.cloud.release(state);
        Ok(number)
    }

    /// What waits for a device or is locked by it, in order.
    pub fn cloud_queue(&self, device_id: &str) -> Vec<Queued> {
        let mut state = self.cloud.lock();
        self.advance(&mut state, device_id, self.clock().now_ms());
        state.mailboxes.get(device_id).map_or_else(Vec::new, |mailbox| mailbox.queue.list())
    }

    /// Whether a device's link for messages is there.
    pub fn takes_cloud_messages(&self, device_id: &str) -> bool {
        self.cloud.lock().mailboxes.get(device_id).is_some_and(|mailbox| mailbox.link.is_some())
    }

    /// How many messages wait for a device or are locked by it.
    pub(super) fn cloud_count(&self, device_id: &str) -> usize {
        let mut state = self.cloud.lock();
        self.advance(&mut state, device_id, self.clock().now_ms());
        state.mailboxes.get(device_id).map_or(0, |mailbox| mailbox.queue.len())
    }

    /// The newest messages of a device that came to nothing, the oldest first. The hub keeps 1,000 over all devices.
    pub fn dead_letters(&self, device_id: &str) -> Vec<DeadLetter> {
        let mut state = self.cloud.lock();
        self.advance(&mut state, device_id, self.clock().now_ms());
        state.dead.iter().filter(|letter| letter.device_id == device_id).cloned().collect()
    }

    /// Feedback that no service has fetched yet.
    pub fn feedback(&self) -> Vec<FeedbackRecord> {
        let mut state = self.cloud.lock();
        self.advance_all(&mut state);
        state.feedback.list()
    }

    /// Changes whenever a message is queued, handed out, answered or ended.
    pub fn cloud_changes(&self) -> watch::Receiver<u64> {
        self.cloud.changes.subscribe()
    }

    /// Empties a device's queue; how many messages were in it.
    pub fn purge_cloud_messages(&self, device_id: &str) -> usize {
        let mut state = self.cloud.lock();
        let now_ms = self.clock().now_ms();
        self.advance(&mut state, device_id, now_ms);
        let Some(mailbox) = state.mailboxes.get_mut(device_id) else { return 0 };
        let ended = mailbox.queue.purge();
        mailbox.wake();
        let count = ended.len();
        self.bury(&mut state, device_id, ended, now_ms);
        self.cloud.release(state);
        count
    }

    /// Forgets the queue of a device that is no longer registered.
    pub(super) fn forget_cloud_messages(&self, device_id: &str) {
        self.purge_cloud_messages(device_id);
        self.cloud.lock().mailboxes.remove(device_id);
    }

    /// Lets a queue catch up with the time.
    fn advance(&self, state: &mut State, device_id: &str, now_ms: i64) {
        if let Some(mailbox) = state.mailboxes.get_mut(device_id) {
            let ended = mailbox.queue.advance(now_ms);
            if !ended.is_empty() {
                mailbox.wake();
            }
            self.bury(state, device_id, ended, now_ms);
        }
    }

    fn advance_all(&self, state: &mut State) {
        let now_ms = self.clock().now_ms();
        let due = |mailbox: &Mailbox| mailbox.queue.deadline_ms().is_some_and(|due| due <= now_ms);
        let late: Vec<_> =
            state.mailboxes.iter().filter(|(_, mailbox)| due(mailbox)).map(|(id, _)| id.clone()).collect();
        for device_id in late {
            self.advance(state, &device_id, now_ms);
        }
    }

    /// Writes feedback for messages that have ended, and keeps those that came to nothing.
    fn bury(&self, state: &mut State, device_id: &str, ended: Vec<Ended>, now_ms: i64) {
        state.changed |= !ended.is_empty();
        let generation_id =
            state.mailboxes.get(device_id).map(|mailbox| mailbox.generation_id.clone()).unwrap_or_default();
        for Ended { fate, description, queued } in ended {
            if fate.reported_to(queued.message.ack()) {
                let record = FeedbackRecord {
                    original_message_id: queued.message.message_id.clone(),
                    description: description.clone().unwrap_or_else(|| fate.as_str().to_owned()),
                    device_generation_id: generation_id.clone(),
                    device_id: device_id.to_owned(),
                    enqueued_time_utc: time_text(now_ms),
                    status_code: fate,
                };
                state.feedback.push(record, now_ms);
            }
            if fate != Fate::Success {
                let device_id = device_id.to_owned();
                state.dead.push_back(DeadLetter { device_id, fate, description, ended_ms: now_ms, queued });
                while state.dead.len() > DEAD_LETTERS {
                    state.dead.pop_front();
                }
            }
        }
    }
}

impl Mailbox {
    fn wake(&self) {
        if let Some(link) = &self.link {
            link.wake.send_replace(());
        }
    }
}

/// ISO 8601 with milliseconds; empty beyond the years that can be written.
fn time_text(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}
