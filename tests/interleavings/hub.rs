//! The hub's side of AMQP, frame by frame, in the client's own thread: holds back what it would answer, keeps account
//! of sessions and links, and complains about a client that breaks the rules. What it answers is next door.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use fe2o3_amqp::frames::amqp::{Frame, FrameBody};
use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::messaging::TargetArchetype;
use fe2o3_amqp_types::performatives::{Attach, Flow, Transfer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::parts::{Connection, Held, Kind, Link, Place, Session};
use super::wire;

/// The client asks to hear from us every 20 s.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// An answer held for longer than this may cost the connection: the client can't tell it from one that never comes.
pub(super) const SLOW: Duration = Duration::from_secs(20);

/// Longer than the client waits for the answers to Detach and End together.
const SPIN: Duration = Duration::from_secs(16);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) holds: Vec<Kind>,
    /// Refuses connections.
    pub(super) away: bool,
    /// The client was told to close.
    pub(super) leaving: bool,
    pub(super) connections: Vec<Connection>,
    pub(super) held: Vec<Held>,
    pub(super) complaints: Vec<String>,
    /// How often the hub accepted a message.
    pub(super) accepted: HashMap<String, u32>,
    pub(super) trace: Vec<(Duration, String)>,
    pub(super) devices_per_session: usize,
    began: Option<Instant>,
    serial: u64,
}

/// Handle to the hub. Its tasks end when `wires` does.
#[derive(Clone, Debug, Default)]
pub(super) struct Hub {
    state: Arc<Mutex<State>>,
    /// An End came that is not answered at once.
    pub(super) spinning: Arc<Notify>,
}

impl Hub {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Serves every stream that comes.
    pub(super) async fn listen(self, mut wires: mpsc::UnboundedReceiver<DuplexStream>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                stream = wires.recv() => match stream {
                    Some(_) if self.state().away => {}
                    Some(stream) => _ = connections.spawn(self.clone().serve(stream)),
                    None => break,
                },
                Some(served) = connections.join_next() => served.unwrap(),
            }
        }
        while let Some(served) = connections.join_next().await {
            served.unwrap();
        }
    }

    async fn serve(self, stream: DuplexStream) {
        let (out, mut orders) = mpsc::unbounded_channel::<Vec<u8>>();
        let number = {
            let mut state = self.state();
            state.connections.push(Connection { out: Some(out), ..Connection::default() });
            state.connections.len() - 1
        };
        let (mut read, mut write) = tokio::io::split(stream);
        let mut header = [0; 8];
        if read.read_exact(&mut header).await.is_err() || write.write_all(&wire::HEADER).await.is_err() {
            return self.state().lost(number);
        }
        assert_eq!(header, wire::HEADER);
        let reading = async {
            while let Some(frame) = wire::read_frame(&mut read).await {
                let doubtful = self.state().incoming(number, frame);
                if self.state().may_spin() {
                    self.spinning.notify_one();
                }
                if let Some(device) = doubtful {
                    // The end of its former connection may be noticed just now.
                    let hub = self.clone();
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(1)).await;
                        hub.state().check_one_session(&device);
                    });
                }
            }
        };
        let writing = async {
            loop {
                match timeout(HEARTBEAT, orders.recv()).await {
                    Ok(Some(bytes)) => _ = write.write_all(&bytes).await,
                    Ok(None) => return,
                    Err(_) if self.state().connections[number].mute => {}
                    Err(_) => _ = write.write_all(&wire::EMPTY_FRAME).await,
                }
            }
        };
        tokio::select! {
            biased;
            () = writing => {}
            () = reading => self.state().lost(number),
        }
    }
}

impl State {
    /// The client ended the stream.
    fn lost(&mut self, number: usize) {
        if self.connections[number].out.is_some() && !self.connections[number].closing {
            self.check_end(number, "cut the stream");
        }
        self.connections[number].out = None;
        self.forget_dead();
    }

    /// Complains if the client had no reason to end a connection.
    fn check_end(&mut self, number: usize, how: &str) {
        let held_long = |held: &&Held| held.place.connection == number && held.since.elapsed() >= SLOW;
        let slow = self.held.iter().find(held_long).is_some();
        let connection = &self.connections[number];
        let live = connection
            .sessions
            .values()
            .filter(|session| session.is_live() && session.links.values().any(|link| link.device().is_some()))
            .count();
        if connection.excuse.is_none() && !self.leaving && !slow && live > 0 {
            self.complain(format!("the client {how} of connection {number} with {live} sessions on it"));
        }
    }

    /// Writes down what happens, and when.
    pub(super) fn note(&mut self, text: String) {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.trace.push((began.elapsed(), text));
    }

    pub(super) fn complain(&mut self, text: String) {
        self.note(format!("COMPLAINT: {text}"));
        self.complaints.push(text);
    }

    /// The client breaks the rules of AMQP. After a very late answer the crate does so; then a hub closes the connection.
    pub(super) fn protest(&mut self, number: usize, text: String) {
        if self.connections[number].excuse.is_some() {
            self.note(text);
            self.close(number);
        } else {
            self.complain(text);
        }
    }

    fn incoming(&mut self, number: usize, frame: Frame) -> Option<String> {
        let Frame { channel, body } = frame;
        if !matches!(body, FrameBody::Empty) {
            let what = wire::name(&body);
            self.note(format!("<- {number}/{channel} {what}"));
        }
        let connection = &mut self.connections[number];
        if connection.mute {
            if matches!(body, FrameBody::End(_)) {
                connection.end_came = Some(Instant::now());
            }
            return None;
        }
        let place = Place { connection: number, channel, serial: 0, handle: 0 };
        match body {
            FrameBody::Empty => {}
            FrameBody::Close(close) => {
                if !connection.closing {
                    if let Some(error) = close.error {
                        let spoilt = connection.excuse.is_none();
                        let text = format!("the client closed connection {number} for {error}");
                        self.note(text.clone());
                        if spoilt {
                            self.complain(text);
                        }
                    }
                    self.check_end(number, "closed");
                    self.say_close(number, None);
                }
                self.connections[number].out = None;
                self.forget_dead();
            }
            _ if connection.closing => {}
            FrameBody::Open(_) => self.hold(Kind::Open, place),
            FrameBody::Begin(_) => {
                self.serial += 1;
                let session = Session {
                    serial: self.serial,
                    begun: false,
                    ended_by_us: false,
                    ended_by_client: false,
                    links: BTreeMap::new(),
                    next_out: 0,
                    next_in: 0,
                };
                if connection.sessions.insert(channel, session).is_some() {
                    self.protest(number, format!("channel {channel} of connection {number} began twice"));
                }
                self.hold(Kind::Begin, Place { serial: self.serial, ..place });
            }
            body => {
                let Some(session) = connection.sessions.get_mut(&channel) else {
                    let text = format!("{} on channel {channel}, where no session is", wire::name(&body));
                    self.protest(number, text);
                    return None;
                };
                let place = Place { serial: session.serial, ..place };
                return self.in_session(place, body);
            }
        }
        None
    }

    /// A frame of a session. Gives the device if it is new on it.
    fn in_session(&mut self, place: Place, body: FrameBody) -> Option<String> {
        let session = self.session(place)?;
        if session.ended_by_client {
            let text = format!("{} after End on channel {}", wire::name(&body), place.channel);
            self.protest(place.connection, text);
            return None;
        }
        let by_us = session.ended_by_us;
        match body {
            FrameBody::End(_) if by_us => {
                self.connections[place.connection].sessions.remove(&place.channel);
            }
            FrameBody::End(_) => {
                session.ended_by_client = true;
                self.connections[place.connection].end_came = Some(Instant::now());
                self.forget_dead();
                self.hold(Kind::End, place);
            }
            _ if by_us => {}
            FrameBody::Attach(attach) => return self.attach(place, attach),
            FrameBody::Flow(flow) => {
                let Flow { handle: Some(handle), delivery_count, link_credit, .. } = flow else {
                    return None;
                };
                if let Some(link) = session.links.get_mut(&handle.0) {
                    link.limit = delivery_count.unwrap_or(0).wrapping_add(link_credit.unwrap_or(0));
                }
            }
            FrameBody::Transfer { performative, payload } => self.transfer(place, performative, &payload),
            FrameBody::Detach(detach) => {
                let place = Place { handle: detach.handle.0, ..place };
                match session.links.get_mut(&place.handle) {
                    None => self.protest(place.connection, "Detach of a link that is none".to_owned()),
                    Some(link) if link.detached_by_us => _ = session.links.remove(&place.handle),
                    Some(link) => {
                        link.detached_by_client = true;
                        self.forget_dead();
                        self.hold(Kind::Detach, place);
                    }
                }
            }
            FrameBody::Disposition(_) | FrameBody::Empty => {}
            FrameBody::Open(_) | FrameBody::Begin(_) | FrameBody::Close(_) => {}
        }
        None
    }

    fn attach(&mut self, place: Place, attach: Attach) -> Option<String> {
        let place = Place { handle: attach.handle.0, ..place };
        let from_client = attach.role == Role::Sender;
        let address = match (&attach.target, &attach.source) {
            (Some(target), _) if from_client => match &**target {
                TargetArchetype::Target(target) => target.address.clone(),
            },
            (_, Some(source)) => source.address.clone(),
            (_, None) => None,
        };
        let address = address.unwrap_or_default();
        let session = self.session(place)?;
        let twice = session
            .links
            .values()
            .any(|link| link.address == address && link.from_client == from_client && !link.detached_by_us);
        let (attached, detached_by_us, detached_by_client) = (false, false, false);
        let (count, limit) = (0, 0);
        let link = Link {
            attach,
            address: address.clone(),
            from_client,
            attached,
            detached_by_us,
            detached_by_client,
            count,
            limit,
        };
        let device = link.device().map(str::to_owned);
        let mixed = session.links.values().any(|other| other.device().is_some() != device.is_some());
        let news = device.filter(|device| !session.serves(device));
        let taken = session.links.insert(place.handle, link).is_some();
        let devices: BTreeSet<_> = session.links.values().filter_map(Link::device).collect();
        let crowded = devices.len() > self.devices_per_session;
        if twice || mixed || crowded || taken {
            self.protest(
                place.connection,
                format!("a session has a second link for {address}, or one too many"),
            );
        }
        self.hold(Kind::Attach, place);
        news
    }

    fn transfer(&mut self, place: Place, transfer: Transfer, payload: &Bytes) {
        let Some(session) = self.session(place) else { return };
        session.next_in = session.next_in.wrapping_add(1);
        let place = Place { handle: transfer.handle.0, ..place };
        let Some(link) = session.links.get(&place.handle) else {
            return self.protest(place.connection, "Transfer over a link that is none".to_owned());
        };
        if !link.is_open() {
            return;
        }
        let message = wire::read_message(payload);
        let delivery = transfer.delivery_id.unwrap_or_default();
        let settled = transfer.settled.unwrap_or(false);
        if link.address == "$cbs" {
            let operation = message.audience.unwrap_or_default();
            if !settled {
                self.say_accepted(place, delivery);
            }
            self.hold_for(Kind::Put, place, message.id, 0, operation);
        } else if link.address.ends_with("/messages/events") {
            self.hold_for(Kind::Outcome, place, message.id, delivery, String::new());
        } else if link.address.ends_with("/twin") {
            let operation = message.operation.unwrap_or_default();
            self.hold_for(Kind::Twin, place, message.correlation, 0, operation);
        }
    }

    /// Whether the crate's session engine may be asking its closed queue over and over, as it does while it waits for the
    /// answer to End. It never rests then, so that time must be pushed. The client waits for some seconds at most.
    pub(super) fn may_spin(&self) -> bool {
        let waits = |one: &Connection| {
            one.out.is_some()
                && one.end_came.is_some_and(|at| at.elapsed() < SPIN)
                && (one.mute || one.sessions.values().any(|session| session.ended_by_client))
        };
        self.connections.iter().any(waits)
    }

    /// The invariant: a hub device has at most one session at any time.
    pub(super) fn check_one_session(&mut self, device: &str) {
        let live = self.sessions_of(device).len();
        if live > 1 {
            self.complain(format!("device {device} has {live} sessions at once"));
        }
    }

    /// The live sessions of a device.
    pub(super) fn sessions_of(&self, device: &str) -> Vec<Place> {
        let mut places = Vec::new();
        for (connection, one) in self
            .connections
            .iter()
            .enumerate()
            .filter(|(_, one)| one.out.is_some() && !one.closing && !one.mute)
        {
            for (channel, session) in &one.sessions {
                if session.serves(device) {
                    places.push(Place { connection, channel: *channel, serial: session.serial, handle: 0 });
                }
            }
        }
        places
    }

    pub(super) fn session(&mut self, place: Place) -> Option<&mut Session> {
        let connection = &mut self.connections[place.connection];
        let live = connection.out.is_some() && !connection.closing && !connection.mute;
        let session = connection.sessions.get_mut(&place.channel).filter(|_| live)?;
        (session.serial == place.serial).then_some(session)
    }
}
