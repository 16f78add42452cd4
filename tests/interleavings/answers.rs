//! What the test hub says: the answers it held back, kind or unkind, and the faults that come from its side.

use fe2o3_amqp_types::definitions::{DeliveryTag, Handle, Role};
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState, MessageId, Rejected, Released};
use fe2o3_amqp_types::performatives::{
    Begin, Close, Detach, Disposition, End, Flow, Open, Performative, Transfer,
};
use tokio::time::Instant;

use super::hub::{SLOW, State};
use super::parts::{Held, Kind, Link, Place};
use super::wire;

/// Messages that the client may send over one link, more than any run sends.
const CREDIT: u32 = 500;
const WINDOW: u32 = 5_000;

/// How an answer turns out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Yes.
    Grant,
    /// No, for now.
    Refuse,
    /// No, as the device is not known here.
    Deny,
    /// Silence for ever.
    Forget,
}

impl State {
    pub(super) fn hold(&mut self, kind: Kind, place: Place) {
        self.hold_for(kind, place, None, 0, String::new());
    }

    pub(super) fn hold_for(
        &mut self,
        kind: Kind,
        place: Place,
        id: Option<MessageId>,
        delivery: u32,
        operation: String,
    ) {
        let held = Held { kind, place, since: Instant::now(), id, delivery, operation };
        if self.holds.contains(&kind) {
            self.held.push(held);
        } else {
            self.answer(held, Turn::Grant);
        }
    }

    /// Drops answers for which nobody waits any more.
    pub(super) fn forget_dead(&mut self) {
        let held = std::mem::take(&mut self.held);
        for held in held {
            if self.is_awaited(&held) {
                self.held.push(held);
            } else {
                self.note_slow(&held);
            }
        }
    }

    fn is_awaited(&mut self, held: &Held) -> bool {
        let place = held.place;
        let connection = &self.connections[place.connection];
        let live = connection.out.is_some() && !connection.closing && !connection.mute;
        // One that the client gives up may have its answer on the way already.
        let session = self.session(place).filter(|session| !session.ended_by_us);
        let link = |wanted: fn(&Link) -> bool| {
            session.as_ref().is_some_and(|session| session.links.get(&place.handle).is_some_and(wanted))
        };
        match held.kind {
            Kind::Open => live,
            Kind::Begin | Kind::End => session.is_some(),
            Kind::Attach => link(|link| !link.attached && !link.detached_by_us),
            Kind::Detach => link(|link| !link.detached_by_us),
            Kind::Credit | Kind::Put | Kind::Outcome | Kind::Twin => {
                link(|link| link.attached && !link.detached_by_us)
            }
        }
    }

    fn note_slow(&mut self, held: &Held) {
        if held.since.elapsed() >= SLOW {
            self.connections[held.place.connection].excuse = Some("the hub was slow");
        }
    }

    /// Answers the held one with this index.
    pub(super) fn answer_held(&mut self, index: usize, turn: Turn) {
        let held = self.held.remove(index);
        self.answer(held, turn);
    }

    /// From now on answers everything at once.
    pub(super) fn heal(&mut self) {
        self.holds.clear();
        self.away = false;
        self.forget_dead();
        while !self.held.is_empty() {
            self.answer_held(0, Turn::Grant);
        }
    }

    fn answer(&mut self, held: Held, turn: Turn) {
        if !self.is_awaited(&held) {
            return;
        }
        self.note_slow(&held);
        let Held { kind, place, id, delivery, operation, .. } = held;
        self.note(format!("   {turn:?} {kind:?} {operation}"));
        if turn == Turn::Forget {
            self.connections[place.connection].excuse = Some("the hub kept silent");
            return;
        }
        let kind_turn = turn == Turn::Grant;
        match kind {
            Kind::Open if kind_turn => {
                self.connections[place.connection].opened = true;
                let open = Open {
                    container_id: "hub".into(),
                    hostname: None,
                    max_frame_size: (64 * 1024).into(),
                    channel_max: 8191.into(),
                    idle_time_out: None,
                    outgoing_locales: None,
                    incoming_locales: None,
                    offered_capabilities: None,
                    desired_capabilities: None,
                    properties: None,
                };
                self.say(place, &Performative::Open(open), &[]);
            }
            Kind::Open => self.cut(place.connection),
            Kind::Begin => {
                let begin = Begin {
                    remote_channel: Some(place.channel),
                    next_outgoing_id: 0,
                    incoming_window: WINDOW,
                    outgoing_window: WINDOW,
                    handle_max: Handle(u32::MAX),
                    offered_capabilities: None,
                    desired_capabilities: None,
                    properties: None,
                };
                if let Some(session) = self.session(place) {
                    session.begun = true;
                }
                self.say(place, &Performative::Begin(begin), &[]);
                if !kind_turn {
                    self.end(place, refusal(turn));
                }
            }
            Kind::Attach => self.answer_attach(place, turn),
            Kind::Credit => self.give_credit(place),
            Kind::Put => {
                let status = match turn {
                    Turn::Grant => 200,
                    Turn::Refuse => 500,
                    Turn::Deny | Turn::Forget => 401,
                };
                let Some(id) = id else { return self.complain("a put-token without an id".to_owned()) };
                self.send_back(place, "$cbs", &wire::token_reply(id, status));
            }
            Kind::Twin => self.send_back(place, "/twin", &wire::twin_answer(id, &operation)),
            Kind::Outcome => {
                let state = match turn {
                    Turn::Grant => {
                        let Some(MessageId::String(id)) = id else {
                            return self.complain("telemetry without an id".to_owned());
                        };
                        *self.accepted.entry(id).or_default() += 1;
                        DeliveryState::Accepted(Accepted {})
                    }
                    Turn::Refuse => DeliveryState::Released(Released {}),
                    Turn::Deny | Turn::Forget => {
                        DeliveryState::Rejected(Rejected { error: Some(wire::error(refusal(turn))) })
                    }
                };
                self.say_outcome(place, delivery, state);
            }
            Kind::Detach => {
                let detach = Detach { handle: Handle(place.handle), closed: true, error: None };
                if let Some(session) = self.session(place) {
                    session.links.remove(&place.handle);
                }
                self.say(place, &Performative::Detach(detach), &[]);
            }
            Kind::End => {
                self.connections[place.connection].sessions.remove(&place.channel);
                self.say(place, &Performative::End(End { error: None }), &[]);
            }
        }
    }

    fn answer_attach(&mut self, place: Place, turn: Turn) {
        let Some(link) = self.session(place).and_then(|session| session.links.get_mut(&place.handle)) else {
            return;
        };
        link.attached = true;
        let from_client = link.from_client;
        let telemetry = link.address.ends_with("/messages/events");
        let tokens = link.address == "$cbs";
        let mut attach = link.attach.clone();
        attach.role = if from_client { Role::Receiver } else { Role::Sender };
        attach.initial_delivery_count = (!from_client).then_some(0);
        attach.max_message_size = Some(262_144);
        attach.unsettled = None;
        self.say(place, &Performative::Attach(attach), &[]);
        match turn {
            Turn::Grant if from_client => self.hold(Kind::Credit, place),
            Turn::Grant => {}
            Turn::Refuse | Turn::Deny | Turn::Forget => {
                if tokens {
                    self.connections[place.connection].excuse = Some("the hub refused the token link");
                }
                // A further link that is denied would count as a way that the hub does not offer, for hours.
                let turn = if telemetry { turn } else { Turn::Refuse };
                self.detach(place, refusal(turn));
            }
        }
    }

    fn give_credit(&mut self, place: Place) {
        let Some(session) = self.session(place) else { return };
        let flow = Flow {
            next_incoming_id: Some(session.next_in),
            incoming_window: WINDOW,
            next_outgoing_id: session.next_out,
            outgoing_window: WINDOW,
            handle: Some(Handle(place.handle)),
            delivery_count: Some(0),
            link_credit: Some(CREDIT),
            available: None,
            drain: false,
            echo: false,
            properties: None,
        };
        self.say(place, &Performative::Flow(flow), &[]);
    }

    /// Sends a message over the session's link to the client whose address ends so, if its credit allows.
    pub(super) fn send_back(&mut self, place: Place, address: &str, payload: &[u8]) {
        let Some(session) = self.session(place) else { return };
        let of = |link: &Link| link.address.ends_with(address) && !link.from_client && link.is_open();
        let Some((handle, link)) = session.links.iter_mut().find(|(_, link)| of(link)) else { return };
        if link.count == link.limit {
            return;
        }
        link.count = link.count.wrapping_add(1);
        let id = session.next_out;
        session.next_out = id.wrapping_add(1);
        let transfer = Transfer {
            handle: Handle(*handle),
            delivery_id: Some(id),
            delivery_tag: Some(DeliveryTag::from(id.to_be_bytes().to_vec())),
            message_format: Some(0),
            settled: Some(address != "/messages/devicebound"),
            more: false,
            rcv_settle_mode: None,
            state: None,
            resume: false,
            aborted: false,
            batchable: false,
        };
        self.say(place, &Performative::Transfer(transfer), payload);
    }

    /// Takes a link away.
    pub(super) fn detach(&mut self, place: Place, condition: &str) {
        let Some(link) = self.session(place).and_then(|session| session.links.get_mut(&place.handle)) else {
            return;
        };
        link.detached_by_us = true;
        let error = Some(wire::error(condition));
        let detach = Detach { handle: Handle(place.handle), closed: true, error };
        self.say(place, &Performative::Detach(detach), &[]);
        self.forget_dead();
    }

    /// Ends a session.
    pub(super) fn end(&mut self, place: Place, condition: &str) {
        let Some(session) = self.session(place) else { return };
        session.ended_by_us = true;
        if session.links.values().any(|link| link.address == "$cbs") {
            self.connections[place.connection].excuse = Some("the hub ended the tokens' session");
        }
        self.say(place, &Performative::End(End { error: Some(wire::error(condition)) }), &[]);
        self.forget_dead();
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, number: usize) {
        self.say_close(number, Some("amqp:connection:forced"));
        self.connections[number].closing = true;
        self.forget_dead();
    }

    /// Cuts a connection's stream.
    pub(super) fn cut(&mut self, number: usize) {
        self.connections[number].out = None;
        self.forget_dead();
    }

    /// Says nothing more on a connection, and hears nothing.
    pub(super) fn mute(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        (connection.mute, connection.excuse) = (true, Some("the hub fell silent"));
        self.forget_dead();
    }

    pub(super) fn say_close(&mut self, number: usize, condition: Option<&str>) {
        let place = Place { connection: number, channel: 0, serial: 0, handle: 0 };
        self.say(place, &Performative::Close(Close::new(condition.map(wire::error))), &[]);
    }

    pub(super) fn say_accepted(&mut self, place: Place, delivery: u32) {
        self.say_outcome(place, delivery, DeliveryState::Accepted(Accepted {}));
    }

    fn say_outcome(&mut self, place: Place, delivery: u32, state: DeliveryState) {
        let disposition = Disposition {
            role: Role::Receiver,
            first: delivery,
            last: None,
            settled: true,
            state: Some(state),
            batchable: false,
        };
        self.say(place, &Performative::Disposition(disposition), &[]);
    }

    fn say(&mut self, place: Place, performative: &Performative, payload: &[u8]) {
        let bytes = wire::frame(place.channel, performative, payload);
        if let Some(out) = &self.connections[place.connection].out {
            // It may have gone just now.
            _ = out.send(bytes);
        }
    }
}

fn refusal(turn: Turn) -> &'static str {
    match turn {
        Turn::Grant | Turn::Refuse | Turn::Forget => "amqp:internal-error",
        Turn::Deny => "amqp:not-found",
    }
}
