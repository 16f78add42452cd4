//! The emulated Things Stack as one value: devices, keys, faults and the log of pushes behind a lock.
//!
//! Knows no HTTP. What a call tells the webhook is put into the device's lane before the lock is given back, so that
//! messages leave in the order of events.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::device::{Class, Device, Invalidated, Operation, Uplink};
use super::downlink::Downlink;
use super::fault::{Fault, Faults};
use super::keys::{self, Keys, Right};
use super::name::{DeviceName, Euis, is_id};
use super::outbox::{Delivery, DeliveryCounts, Outbox};
use super::refusal::{AS_WEB, Code, EMULATOR, Refusal};
use super::registry::Registry;
use super::saved::Saved;
use super::storage::{Query, Shelves, Storage};
use super::up::{Stamps, Up};
use super::webhook::Webhook;

/// Pushes the log remembers.
const MAX_PUSHES: usize = 100_000;

/// One downlink that a push or replace queued.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// For which device.
    pub device: DeviceName,
    /// How it entered the queue.
    pub operation: Operation,
    /// As queued, with the sender's correlation ids first.
    pub downlink: Downlink,
    /// When, in milliseconds since 1970 UTC.
    pub time_ms: i64,
}

/// An emulated Things Stack.
#[derive(Debug)]
pub struct ThingsStack {
    url: String,
    api_key: String,
    stamps: Stamps,
    state: Mutex<State>,
    outbox: Arc<Outbox>,
    /// Counts pushes and messages that met their end.
    changed: watch::Sender<u64>,
    /// Counts changes that are worth saving.
    dirty: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    keys: Keys,
    faults: Faults,
    shelves: Shelves,
    pushes: VecDeque<Push>,
    /// Pushes so far.
    pushed: u64,
}

impl ThingsStack {
    pub(super) fn new(
        url: String,
        open: bool,
        saved: Saved,
        stamps: Stamps,
        outbox: Arc<Outbox>,
        changed: watch::Sender<u64>,
    ) -> Self {
        let mut keys = Keys::default();
        keys.add(saved.api_key.clone(), Right::ALL.to_vec());
        let state = Mutex::new(State {
            registry: Registry::new(open, saved.devices),
            keys,
            faults: Faults::default(),
            shelves: Shelves::default(),
            pushes: VecDeque::new(),
            pushed: 0,
        });
        let dirty = watch::channel(0).0;
        Self { url, api_key: saved.api_key, stamps, state, outbox, changed, dirty }
    }

    /// `http://localhost:1885`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The key that may do everything with every application.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// A new key with these rights only.
    pub fn add_key(&self, rights: &[Right]) -> String {
        let key = keys::random();
        self.lock().keys.add(key.clone(), rights.to_vec());
        key
    }

    /// Changed with each push and each message that went to the webhook, or did not.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// All downlinks that were queued by pushes and replaces; the latest 100,000, oldest first.
    pub fn pushes(&self) -> Vec<Push> {
        self.lock().pushes.iter().cloned().collect()
    }

    /// The same from a number on, counted from 0 since the start, at most `limit`; and the number of the first.
    pub fn pushes_from(&self, from: u64, limit: usize) -> (u64, Vec<Push>) {
        let state = self.lock();
        let oldest = state.pushed - state.pushes.len() as u64;
        let first = from.clamp(oldest, state.pushed);
        let skip = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        (first, state.pushes.iter().skip(skip).take(limit).cloned().collect())
    }

    /// How many downlinks were queued by pushes and replaces so far.
    pub fn pushed(&self) -> u64 {
        self.lock().pushed
    }

    /// A device's queue, oldest first; empty for an unknown device.
    pub fn queue(&self, device: &DeviceName) -> Vec<Downlink> {
        let state = self.lock();
        state.registry.get(device).map(|device| device.queue().iter().cloned().collect()).unwrap_or_default()
    }

    /// The latest 10,000 messages to the webhook with what became of them, oldest first.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.outbox.log()
    }

    /// What became of all messages to the webhook.
    pub fn counts(&self) -> DeliveryCounts {
        self.outbox.counts()
    }

    /// Sends messages to another webhook from now on, or to none.
    ///
    /// # Errors
    /// The URL or a header cannot be used.
    pub fn set_webhook(&self, webhook: Option<Webhook>) -> Result<(), Refusal> {
        webhook.as_ref().map_or(Ok(()), Webhook::check)?;
        self.outbox.set_webhook(webhook);
        Ok(())
    }

    /// The configured webhook.
    pub fn webhook(&self) -> Option<Arc<Webhook>> {
        self.outbox.webhook()
    }

    /// Makes the next calls of the API go wrong, after those that were asked for before.
    ///
    /// # Errors
    /// A value is out of range, or too many wait.
    pub fn fault(&self, fault: Fault) -> Result<(), Refusal> {
        self.lock().faults.add(fault)
    }

    /// No more faults.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Changes how much the Storage Integration keeps of each application, or takes it away.
    ///
    /// # Errors
    /// It would keep too much.
    pub fn set_storage(&self, storage: Storage) -> Result<(), Refusal> {
        self.lock().shelves.set(storage)
    }

    /// Empties the Storage Integration.
    pub fn clear_storage(&self) {
        self.lock().shelves.clear();
    }

    /// What it keeps, as the API streams it.
    pub(super) fn stored(
        &self,
        application_id: &str,
        device_id: Option<&str>,
        query: &Query,
    ) -> Result<String, Refusal> {
        self.lock().shelves.rows(application_id, device_id, query)
    }

    /// Registers a device that has not joined yet. Nothing changes if it is there.
    ///
    /// # Errors
    /// There are too many devices.
    pub fn create_device(&self, device: &DeviceName) -> Result<(), Refusal> {
        self.lock().registry.create(device)?;
        self.touch();
        Ok(())
    }

    /// Sets what the radio knows a device by, 16 hexadecimal digits each.
    ///
    /// # Errors
    /// The device is unknown, or a value is no EUI.
    pub fn set_euis(&self, device: &DeviceName, dev_eui: &str, join_eui: &str) -> Result<(), Refusal> {
        let is_eui = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_eui(dev_eui) || !is_eui(join_eui) {
            return Err(Refusal::invalid((EMULATOR, "invalid_eui"), "an EUI has 16 hexadecimal digits"));
        }
        let euis = Euis { dev_eui: dev_eui.to_uppercase(), join_eui: join_eui.to_uppercase() };
        self.with_device(device, |device| {
            device.euis = euis;
            Ok(Vec::new())
        })
    }

    /// Changes when a device listens. Class C gets what is queued at once.
    ///
    /// # Errors
    /// The device is unknown.
    pub fn set_class(&self, device: &DeviceName, class: Class) -> Result<(), Refusal> {
        self.with_device(device, |device| Ok(device.set_class(class)))
    }

    /// Gives a device a downlink formatter, or takes it away. It makes the bytes of the JSON text of what it gets.
    ///
    /// # Errors
    /// The device is unknown.
    pub fn set_formatter(&self, device: &DeviceName, formatter: bool) -> Result<(), Refusal> {
        self.with_device(device, |device| {
            device.formatter = formatter;
            Ok(Vec::new())
        })
    }

    /// Plays an uplink, with what it means for downlinks: ack or nack, then the uplink, then the next downlink is sent.
    ///
    /// # Errors
    /// The device is unknown or never joined, or the uplink cannot be.
    pub fn uplink(&self, device: &DeviceName, uplink: &Uplink) -> Result<(), Refusal> {
        self.with_device(device, |device| device.uplink(uplink))
    }

    /// Plays a join: a new session.
    ///
    /// # Errors
    /// The device is unknown.
    pub fn join(&self, device: &DeviceName, invalidated: Invalidated) -> Result<(), Refusal> {
        let started = self.stamps.next();
        self.with_device(device, |device| Ok(device.join(started, invalidated)))
    }

    /// Plays what makes a queue invalid without a join: the network took a frame counter for itself.
    ///
    /// # Errors
    /// The device is unknown or never joined.
    pub fn invalidate(&self, device: &DeviceName, invalidated: Invalidated) -> Result<(), Refusal> {
        self.with_device(device, |device| device.invalidate(invalidated))
    }

    /// Queues downlinks. What is returned ends when the last `downlink_queued` met its end at the webhook.
    pub(super) fn push(
        &self,
        device: &DeviceName,
        items: Vec<Downlink>,
        operation: Operation,
    ) -> Result<Option<oneshot::Receiver<()>>, Refusal> {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.registry.check_room()?;
        let mut queued = Vec::new();
        let mut ends = self.change(state, device, |device| {
            let pushed = device.push(items, operation)?;
            queued = pushed.queued;
            Ok(pushed.ups)
        })?;
        let (count, time_ms) = (queued.len(), self.stamps.now_ms());
        for downlink in queued {
            state.pushes.push_back(Push { device: device.clone(), operation, downlink, time_ms });
            state.pushed += 1;
            if state.pushes.len() > MAX_PUSHES {
                state.pushes.pop_front();
            }
        }
        drop(guard);
        self.changed.send_modify(|version| *version += 1);
        Ok(if count == 0 { None } else { Some(ends.swap_remove(count - 1)) })
    }

    /// Sends a message as it is, marked as simulated.
    pub(super) fn simulate(
        &self,
        device: &DeviceName,
        kind: &'static str,
        (correlation_ids, body): (Vec<String>, Value),
    ) -> Result<(), Refusal> {
        let play =
            |device: &mut Device| Ok(vec![Up { simulated: true, ..device.up(kind, correlation_ids, body) }]);
        self.with_device(device, play)
    }

    /// Reads a device. In an open registry one that was never used is new, but not kept.
    pub(super) fn read<T>(&self, name: &DeviceName, read: impl FnOnce(&Device) -> T) -> Result<T, Refusal> {
        self.lock().registry.read(name, &self.stamps, read)
    }

    /// Checks the value of an `Authorization` header.
    pub(super) fn authorize(&self, authorization: Option<&str>, needed: &[Right]) -> Result<(), Refusal> {
        self.lock().keys.check(authorization, needed)
    }

    /// The webhook that a downlink goes through: 404 for an unknown one. Gives whether it is paused.
    pub(super) fn is_paused(&self, webhook_id: &str) -> Result<bool, Refusal> {
        let webhook = self.outbox.webhook().filter(|webhook| webhook.id == webhook_id);
        match webhook {
            Some(webhook) => Ok(webhook.paused),
            None if is_id(webhook_id) && self.lock().registry.is_open() => Ok(false),
            None => {
                let name = (AS_WEB, "webhook_not_found");
                Err(Refusal::new(Code::NotFound, name, "there is no such webhook"))
            }
        }
    }

    /// Takes the fault for a call.
    pub(super) fn take_fault(&self, writes: bool) -> Option<Fault> {
        self.lock().faults.take(writes)
    }

    /// How long the webhook may take for its answer.
    pub(super) fn webhook_timeout(&self) -> Duration {
        self.outbox.timeout()
    }

    /// The time in milliseconds since 1970 UTC.
    pub(super) fn now_ms(&self) -> i64 {
        self.stamps.now_ms()
    }

    /// Everything worth keeping.
    pub(super) fn saved(&self) -> Saved {
        Saved { api_key: self.api_key.clone(), devices: self.lock().registry.all() }
    }

    /// Changed when something is worth saving.
    pub(super) fn dirty(&self) -> watch::Receiver<u64> {
        self.dirty.subscribe()
    }

    fn with_device(
        &self,
        name: &DeviceName,
        change: impl FnOnce(&mut Device) -> Result<Vec<Up>, Refusal>,
    ) -> Result<(), Refusal> {
        self.change(&mut self.lock(), name, change).map(drop)
    }

    /// Changes a device and puts what that means into its lane. Gives the end of each message.
    fn change(
        &self,
        state: &mut State,
        name: &DeviceName,
        change: impl FnOnce(&mut Device) -> Result<Vec<Up>, Refusal>,
    ) -> Result<Vec<oneshot::Receiver<()>>, Refusal> {
        let (device, ups) = state.registry.change(name, &self.stamps, change)?;
        let shelves = &mut state.shelves;
        let send = |up: Up| {
            let (kind, message) = (up.kind, up.json(name, &device.euis, &self.stamps));
            if kind == "uplink_message" {
                shelves.keep(name, &message);
            }
            self.outbox.send(name, kind, message)
        };
        let ends = ups.into_iter().map(send).collect();
        self.touch();
        Ok(ends)
    }

    fn touch(&self) {
        self.dirty.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
