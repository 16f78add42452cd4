//! One emulated end device: its session, its downlink queue, and what each radio event makes of them. Pure.
//!
//! Knows no HTTP and no other device.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::downlink::{Downlink, encode};
use super::name::{DeviceName, Euis, correlation_id};
use super::radio;
use super::refusal::{AS, Code, NS, Refusal};
use super::session::Session;
use super::up::Up;

/// Downlinks that one session's queue takes, as the real Network Server.
pub(super) const QUEUE_CAPACITY: usize = 10_000;
/// Times a confirmed downlink is tried if it does not say otherwise.
pub(super) const DEFAULT_ATTEMPTS: u32 = 8;
/// Most tries that a confirmed downlink may ask for.
const MAX_ATTEMPTS: u32 = 32;
/// Sent downlinks the Network Server remembers.
const RECENT: usize = 5;

/// When a device listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// After its own uplinks.
    #[default]
    A,
    /// Always.
    C,
}

/// How a push changes the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Adds at the end.
    Push,
    /// Drops what is queued, without telling anybody.
    Replace,
}

/// What becomes of queued downlinks that a new session, or the network's own downlink, makes invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invalidated {
    /// The webhook is told, and the Application Server queues them anew.
    #[default]
    Reported,
    /// They are queued anew and nobody is told: the real one's way with ordinary devices.
    Hidden,
    /// The webhook is told and they are gone: the real one's way with devices whose payloads it does not decrypt.
    Dropped,
}

/// An uplink to play.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uplink {
    /// FPort, 1 if absent; 0 for an uplink of MAC commands only.
    pub f_port: Option<u8>,
    /// Base64.
    pub frm_payload: Option<String>,
    /// As an uplink formatter would have made it.
    pub decoded_payload: Option<Map<String, Value>>,
    /// Whether the device acknowledges the confirmed downlink that waits for it; if absent, yes.
    pub ack: Option<bool>,
    /// Whether the device wants an acknowledgement.
    pub confirmed: bool,
}

/// What a push made.
pub(super) struct Pushed {
    /// The downlinks as they were queued.
    pub(super) queued: Vec<Downlink>,
    /// First one `downlink_queued` for each.
    pub(super) ups: Vec<Up>,
}

/// One end device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Device {
    pub(super) name: DeviceName,
    pub(super) euis: Euis,
    pub(super) class: Class,
    /// Whether a downlink formatter makes bytes of decoded payloads.
    pub(super) formatter: bool,
    pub(super) session: Option<Session>,
    /// The confirmed downlink that was sent last and has no answer.
    pub(super) waiting: Option<Downlink>,
    queue: VecDeque<Downlink>,
    /// Newest last.
    pub(super) recent: VecDeque<Downlink>,
    /// Bytes of the queue, roughly.
    weight: usize,
}

impl Device {
    /// A device that never joined.
    pub(super) fn new(name: DeviceName) -> Self {
        Self {
            euis: Euis::of(&name),
            name,
            class: Class::A,
            formatter: false,
            session: None,
            waiting: None,
            queue: VecDeque::new(),
            recent: VecDeque::new(),
            weight: 0,
        }
    }

    /// What waits to be sent, oldest first.
    pub(super) fn queue(&self) -> &VecDeque<Downlink> {
        &self.queue
    }

    /// Bytes of its queue, roughly.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Queues downlinks, all or none.
    pub(super) fn push(&mut self, items: Vec<Downlink>, operation: Operation) -> Result<Pushed, Refusal> {
        let items = items.into_iter().map(|item| self.prepare(item)).collect::<Result<Vec<_>, _>>()?;
        if self.session.is_none() {
            return Err(no_session());
        }
        let kept = match operation {
            Operation::Push => self.queue.len(),
            Operation::Replace => 0,
        };
        if kept + items.len() > QUEUE_CAPACITY {
            return Err(over_capacity());
        }
        if operation == Operation::Replace {
            self.queue.clear();
            self.weight = 0;
        }
        let (mut ups, first) = (Vec::with_capacity(items.len()), self.queue.len());
        for mut item in items {
            ups.push(self.up("downlink_queued", item.correlation_ids.clone(), item.as_asked().json()));
            if !self.formatter {
                // The Network Server keeps bytes only; nothing makes JSON of them again.
                item.decoded_payload = None;
            }
            self.enqueue(item);
        }
        let queued = self.queue.iter().skip(first).cloned().collect();
        if self.class == Class::C {
            ups.extend(self.transmit());
        }
        Ok(Pushed { queued, ups })
    }

    /// Plays an uplink: the answer to a confirmed downlink, then the uplink itself, then what the device hears after.
    pub(super) fn uplink(&mut self, uplink: &Uplink) -> Result<Vec<Up>, Refusal> {
        let radio = correlation_id("gs:uplink");
        let Some(session) = &mut self.session else { return Err(no_session()) };
        let body = radio::uplink_message(session, uplink)?;
        let mut ups = self.answer(uplink.ack.unwrap_or(true), &radio);
        ups.push(self.up("uplink_message", vec![radio], body));
        ups.extend(self.transmit());
        Ok(ups)
    }

    /// Plays a join: a new session, to which the queue is carried over.
    pub(super) fn join(&mut self, started_at: String, how: Invalidated) -> Vec<Up> {
        let session = Session::new(started_at);
        let mut body = json!({ "session_key_id": encode(&session.session_key_id) });
        self.session = Some(session);
        let invalid = self.carry_over(how);
        if how != Invalidated::Hidden && !invalid.is_empty() {
            body["invalidated_downlinks"] = invalid.iter().map(Downlink::json).collect();
        }
        vec![self.up("join_accept", vec![correlation_id("gs:uplink")], body)]
    }

    /// Plays a downlink of the network's own that takes the frame counter of the queue's first.
    pub(super) fn invalidate(&mut self, how: Invalidated) -> Result<Vec<Up>, Refusal> {
        let Some(session) = &mut self.session else { return Err(no_session()) };
        session.last_f_cnt_down = session.last_f_cnt_down.saturating_add(1);
        let (key, last) = (encode(&session.session_key_id), session.last_f_cnt_down);
        let invalid = self.carry_over(how);
        if how == Invalidated::Hidden {
            return Ok(Vec::new());
        }
        let body = json!({
            "downlinks": invalid.iter().map(Downlink::json).collect::<Vec<_>>(),
            "last_f_cnt_down": last,
            "session_key_id": key,
        });
        Ok(vec![self.up("downlink_queue_invalidated", vec![correlation_id("ns:downlink")], body)])
    }

    /// Sends what can be sent without an uplink.
    pub(super) fn set_class(&mut self, class: Class) -> Vec<Up> {
        self.class = class;
        if class == Class::C { self.transmit() } else { Vec::new() }
    }

    /// A message about this device.
    pub(super) fn up(&self, kind: &'static str, correlation_ids: Vec<String>, body: Value) -> Up {
        let dev_addr = self.session.as_ref().map(|session| session.dev_addr.clone());
        Up { kind, correlation_ids, dev_addr, body, simulated: false }
    }

    fn prepare(&self, mut item: Downlink) -> Result<Downlink, Refusal> {
        if item.f_port == 0 {
            return Err(Refusal::invalid((AS, "no_f_port"), "no FPort"));
        }
        match (&item.frm_payload, &item.decoded_payload) {
            (None, None) => return Err(Refusal::invalid((AS, "no_payload"), "no payload")),
            // Without a formatter this stays an empty payload, and nobody objects.
            (None, Some(decoded)) if self.formatter => {
                let bytes = Value::Object(decoded.clone()).to_string().into_bytes();
                if bytes.len() > radio::MAX_PAYLOAD_BYTES {
                    let message = format!("formatter output of {} bytes is too long", bytes.len());
                    return Err(Refusal::invalid((AS, "output_length"), message));
                }
                item.frm_payload = Some(bytes);
            }
            (None | Some(_), _) => {}
        }
        if item.confirmed {
            let retry = item.confirmed_retry.get_or_insert_default();
            // The real one counts the first try only where the sender gave no `confirmed_retry`.
            if retry.max_attempts.is_none() && retry.attempt == 0 {
                retry.attempt = 1;
            }
            if retry.max_attempts.unwrap_or_default() > MAX_ATTEMPTS {
                let message = "confirmed_retry.max_attempts is over the maximum of {max}";
                let refusal = Refusal::invalid((AS, "downlink_max_retries_invalid"), message);
                return Err(refusal.with("max", MAX_ATTEMPTS));
            }
        }
        item.correlation_ids.push(correlation_id("as:downlink"));
        Ok(item)
    }

    /// At the queue's end, with the session's next frame counter.
    fn enqueue(&mut self, mut item: Downlink) {
        if let Some(session) = &mut self.session {
            session.last_f_cnt_down = session.last_f_cnt_down.saturating_add(1);
            item.f_cnt = session.last_f_cnt_down;
            item.session_key_id = session.session_key_id.clone();
        }
        self.weight += item.weight();
        self.queue.push_back(item);
    }

    /// The device's next uplink says whether the confirmed downlink arrived. On a nack the Application Server
    /// queues it again itself; when it gives up, its word comes before the Network Server's nack.
    fn answer(&mut self, ack: bool, radio: &str) -> Vec<Up> {
        let Some(mut sent) = self.waiting.take() else { return Vec::new() };
        let mut ids = sent.correlation_ids.clone();
        ids.push(radio.to_owned());
        // A device in a new session can't acknowledge what came in the old one.
        let same = self.session.as_ref().is_some_and(|session| session.session_key_id == sent.session_key_id);
        if ack && same {
            return vec![self.up("downlink_ack", ids, sent.json())];
        }
        let retry = sent.confirmed_retry.get_or_insert_default();
        retry.attempt = retry.attempt.saturating_add(1);
        let most = retry.max_attempts.unwrap_or(DEFAULT_ATTEMPTS);
        let failure = if retry.attempt > most {
            let message = "gave up a confirmed downlink after {max_retries} retries";
            let refusal = Refusal::new(Code::Aborted, (AS, "max_retries_reached"), message);
            Some(refusal.with("max_retries", most))
        } else if self.queue.len() >= QUEUE_CAPACITY {
            Some(over_capacity())
        } else {
            self.enqueue(sent.clone());
            None
        };
        let mut ups = Vec::new();
        if let Some(failure) = failure {
            let body = json!({ "downlink": sent.json(), "error": failure.details() });
            ups.push(self.up("downlink_failed", sent.correlation_ids.clone(), body));
        }
        ups.push(self.up("downlink_nack", ids, sent.json()));
        ups
    }

    /// Class A hears one downlink after its uplink; class C all, up to a confirmed one that it has to answer first.
    fn transmit(&mut self) -> Vec<Up> {
        let mut ups = Vec::new();
        while self.waiting.is_none() {
            // `class_b_c` keeps a downlink out of class A's receive windows.
            let hears = |item: &Downlink| self.class == Class::C || item.class_b_c.is_none();
            if !self.queue.front().is_some_and(hears) {
                break;
            }
            let Some(item) = self.queue.pop_front() else { break };
            self.weight = self.weight.saturating_sub(item.weight());
            let mut sent = item.as_sent();
            sent.correlation_ids.push(correlation_id("ns:transmission"));
            ups.push(self.up("downlink_sent", sent.correlation_ids.clone(), sent.json()));
            // The Network Server keeps the correlation ids of the last one only.
            if let Some(last) = self.recent.back_mut() {
                last.correlation_ids.clear();
            }
            self.recent.push_back(sent);
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
            if item.confirmed {
                self.waiting = Some(item);
            }
            if self.class == Class::A {
                break;
            }
        }
        ups
    }

    /// Queues everything anew with fresh counters, or drops it. Gives what was queued before.
    fn carry_over(&mut self, how: Invalidated) -> Vec<Downlink> {
        let invalid = Vec::from(std::mem::take(&mut self.queue));
        self.weight = 0;
        if how != Invalidated::Dropped {
            for item in &invalid {
                self.enqueue(item.clone());
            }
        }
        invalid
    }
}

pub(super) fn no_session() -> Refusal {
    let message = "the device has no session; did it join?";
    Refusal::new(Code::FailedPrecondition, (AS, "no_device_session"), message)
}

pub(super) fn over_capacity() -> Refusal {
    Refusal::new(Code::ResourceExhausted, (NS, "downlink_queue_capacity"), "the downlink queue is full")
}
