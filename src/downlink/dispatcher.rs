//! The dispatcher: takes what comes from the hubs and gives each device its own lane.
//!
//! Per device, cloud-to-device messages go one after the other, direct methods beside them; desired properties are
//! handed over in order at once. Knows no message's content. Every message and method is a task of its own, so that a
//! device or application that waits delays no other; their number is bounded, in all and per application, and a device
//! that is idle costs nothing.
//!
//! What finds no place is not lost: a message is left to its lock and comes again in a minute, a method is answered 429.

mod lane;
mod places;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::CloudMessages;
use super::cloud_messages::{CloudJob, Handled, Waiting};
use super::ports::{Commands, Devices, Hubs, Network, Observer, Outbox, Store};
use super::roster::{HubKey, Roster};
use crate::azure::{HubDevice, MethodReply, MethodRequest};
use crate::iot_hub::DeviceEvent;
use crate::model::EndDevice;
use lane::{Lane, Queued};
use places::Places;

/// Direct methods of one device at once: more than people and programs have reason to call, as each is a downlink to a
/// device that hears a few in an hour.
pub const MAX_METHODS: usize = 10;
/// Bodies of messages that wait for their turn, all devices together: more is left to its lock.
const MAX_HELD_BYTES: usize = 64 * 1024 * 1024;
/// Strangers remembered, so that each is logged once.
const MAX_STRANGERS: usize = 1000;
/// Hands out the work. Made by [`Dispatcher::new`], at rest until [`Dispatcher::run`].
pub struct Dispatcher<D, N, H, S, B, O, C> {
    parts: Arc<Parts<D, N, H, S, B, O, C>>,
    lanes: HashMap<HubKey, Lane>,
    places: Places,
    /// Bodies that wait in lanes, in bytes.
    held_bytes: usize,
    strangers: HashSet<HubKey>,
    tasks: JoinSet<Ended>,
    stop: CancellationToken,
}

struct Parts<D, N, H, S, B, O, C> {
    roster: Roster<D, N, H>,
    cloud_messages: CloudMessages<N, S, B, O>,
    commands: C,
}

/// A task ended.
struct Ended {
    key: HubKey,
    device: EndDevice,
    work: Work,
}

/// What it was.
enum Work {
    CloudMessage(Handled),
    Answer,
    Method,
}

impl<D, N, H, S, B, O, C> Dispatcher<D, N, H, S, B, O, C>
where
    D: Devices,
    N: Network,
    H: Hubs,
    S: Store,
    B: Outbox,
    O: Observer,
    C: Commands,
{
    /// Joins the parts.
    pub fn new(roster: Roster<D, N, H>, cloud_messages: CloudMessages<N, S, B, O>, commands: C) -> Self {
        Self {
            parts: Arc::new(Parts { roster, cloud_messages, commands }),
            lanes: HashMap::new(),
            places: Places::default(),
            held_bytes: 0,
            strangers: HashSet::new(),
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Runs until `stop`, or until `events` ends and all work with it. Then nothing new is begun; what is on its way
    /// to The Things Stack may end within `patience`, and what is not answered by then comes again from the hub. The
    /// roster's searches run beside.
    ///
    /// Waits on: events, tasks that end, `stop`.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<DeviceEvent>,
        stop: CancellationToken,
        patience: Duration,
    ) {
        self.stop = stop.clone();
        let mut searches = JoinSet::new();
        searches.spawn(self.parts.roster.clone().run(stop.clone()));
        let mut open = true;
        while open || !self.tasks.is_empty() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                event = events.recv(), if open => match event {
                    Some(event) => self.take(event),
                    None => open = false,
                },
            }
        }
        self.lanes.clear();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, drain).await.is_err() {
            warn!(
                requests = self.tasks.len(),
                "Some requests of the cloud were not answered in time; messages among them come again."
            );
        }
        // Not before: without a reader, links are given up, and the answers just given with them.
        drop(events);
    }

    fn take(&mut self, event: DeviceEvent) {
        match event {
            DeviceEvent::CloudMessage { device: hub_device, message, locked_until, settle } => {
                let Some((key, device)) = self.who(&hub_device) else { return };
                let received = Instant::now();
                self.cloud_message(
                    key,
                    CloudJob { device, hub_device, message, received, locked_until, settle },
                );
            }
            DeviceEvent::Method { device: hub_device, request, reply } => match self.who(&hub_device) {
                Some((key, device)) => self.method(key, device, hub_device, request, reply),
                None => self.refuse(
                    reply,
                    503,
                    "unknown",
                    "no end device of this connector stands for this hub device",
                ),
            },
            DeviceEvent::Desired { device: hub_device, desired } => {
                if let Some((_, device)) = self.who(&hub_device) {
                    self.parts.commands.desired(&device, &hub_device, desired);
                }
            }
            DeviceEvent::Lost { device, reason, detail } => self.parts.roster.lost(&device, reason, &detail),
        }
    }

    /// Whose events these are. What comes for a stranger is left alone: a message comes again when its lock ends.
    fn who(&mut self, hub_device: &HubDevice) -> Option<(HubKey, EndDevice)> {
        let key = HubKey::of(hub_device);
        let device = self.parts.roster.end_device(hub_device);
        if device.is_none() {
            if self.strangers.len() >= MAX_STRANGERS {
                self.strangers.clear();
            }
            if self.strangers.insert(key.clone()) {
                warn!(
                    hub = %hub_device.hub, hub_device = %hub_device.device_id,
                    "The hub sends something for a device that no end device stands for; it is left there."
                );
            }
        }
        device.map(|device| (key, device))
    }

    fn cloud_message(&mut self, key: HubKey, job: CloudJob) {
        let lane = self.lanes.entry(key.clone()).or_default();
        let bytes = job.message.body.len();
        if lane.cloud_busy {
            if self.held_bytes + bytes <= MAX_HELD_BYTES && lane.queue(job) == Queued::Kept {
                self.held_bytes += bytes;
                return;
            }
        } else if self.places.take(job.device.application_id()) {
            lane.cloud_busy = true;
            self.start_cloud_message(key, job);
            return;
        }
        self.parts.cloud_messages.observer.abandoned("overload");
        self.tidy(&key);
    }

    fn method(
        &mut self,
        key: HubKey,
        device: EndDevice,
        hub_device: Arc<HubDevice>,
        request: MethodRequest,
        reply: oneshot::Sender<MethodReply>,
    ) {
        let lane = self.lanes.entry(key.clone()).or_default();
        if lane.methods >= MAX_METHODS || !self.places.take(device.application_id()) {
            self.tidy(&key);
            return self.refuse(
                reply,
                429,
                "busy",
                "too many calls are under way; try again in a few seconds",
            );
        }
        lane.methods += 1;
        let parts = Arc::clone(&self.parts);
        self.spawn(key, device.clone(), Work::Method, async move {
            let answer = parts.commands.answer(&device, &hub_device, request).await;
            parts.cloud_messages.observer.answered(answer.status);
            // The caller may have given up.
            _ = reply.send(answer);
            Work::Method
        });
    }

    fn refuse(&self, reply: oneshot::Sender<MethodReply>, status: i32, state: &str, message: &str) {
        self.parts.cloud_messages.observer.answered(status);
        // The caller may have given up.
        _ = reply.send(MethodReply { status, payload: json!({ "status": state, "message": message }) });
    }

    fn start_cloud_message(&mut self, key: HubKey, job: CloudJob) {
        let (parts, stop) = (Arc::clone(&self.parts), self.stop.clone());
        self.spawn(key, job.device.clone(), Work::CloudMessage(Handled::Done), async move {
            Work::CloudMessage(parts.cloud_messages.handle(job, &stop).await)
        });
    }

    fn start_waiting(&mut self, key: HubKey, device: EndDevice, waiting: Waiting) {
        let (parts, stop) = (Arc::clone(&self.parts), self.stop.clone());
        self.spawn(key, device, Work::Answer, async move {
            parts.cloud_messages.wait(waiting, &stop).await;
            Work::Answer
        });
    }

    /// Starts a task, for which a place was taken. `otherwise` is what it counts as should it panic.
    fn spawn(
        &mut self,
        key: HubKey,
        device: EndDevice,
        otherwise: Work,
        work: impl Future<Output = Work> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            let work = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                error!(%device, "A request of the cloud ended in a panic; this is a defect.");
                otherwise
            });
            Ended { key, device, work }
        });
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        // Panics are caught within, and nobody aborts a task: there is always an outcome.
        let Ok(Ended { key, device, work }) = ended else { return };
        self.places.give(device.application_id());
        if let Some(lane) = self.lanes.get_mut(&key) {
            match work {
                Work::CloudMessage(handled) => self.message_ended(&key, device, handled),
                Work::Answer => {}
                Work::Method => lane.methods -= 1,
            }
        }
        self.tidy(&key);
    }

    /// The device's next message has its turn.
    fn message_ended(&mut self, key: &HubKey, device: EndDevice, handled: Handled) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.cloud_busy = false;
        if matches!(handled, Handled::ComesAgain) {
            self.held_bytes -= lane.drop_queue();
        }
        if let Some(job) = lane.next_message() {
            // There is a place: the one that the last message gave back.
            self.held_bytes -= job.message.body.len();
            self.cloud_message(key.clone(), job);
        }
        if let Handled::Waiting(waiting) = handled
            && self.places.take(device.application_id())
        {
            self.start_waiting(key.clone(), device, waiting);
        }
    }

    /// An idle device costs nothing.
    fn tidy(&mut self, key: &HubKey) {
        if self.lanes.get(key).is_some_and(Lane::is_idle) {
            self.lanes.remove(key);
        }
    }
}

impl<D, N, H, S, B, O, C> std::fmt::Debug for Dispatcher<D, N, H, S, B, O, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}
