//! One interleaving: a fresh client and hub in one thread under paused time, one event after the other, then healing.
//!
//! What must hold while it runs, and once the hub is well again, is next door.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep_until};
use tti_connector::azure::{Credential, HubAddress, HubDevice, Settlement, SigningKey, Telemetry};
use tti_connector::iot_hub::{DeviceEvent, IotHub, IotHubOptions, Links, SendError};
use tti_connector::net::tls::client_config_with;

use super::answers::Turn;
use super::event::{DEVICES, Event, Scene};
use super::hub::{Hub, State};
use super::parts::Place;
use super::wire;

/// Passes only when all tasks wait, so after it everything has happened that can.
const MOMENT: Duration = Duration::from_millis(1);
/// Rounds of all tasks in which everything happens that can without time passing.
const YIELDS: usize = 30;
/// Steps in which time is pushed.
const STEPS: u32 = 6;
/// Messages of one device under way at once; more add nothing new.
const MOST_SENDS: usize = 2;
const MOST_REKEYS: usize = 2;
/// A device's sessions idle out within this.
pub(super) const IDLE: Duration = Duration::from_secs(100);
pub(super) const ALL: Links = Links { c2d: true, methods: true, twin: true };
pub(super) const LESS: Links = Links { c2d: true, methods: false, twin: false };

thread_local! {
    /// What panicked in this thread's runs.
    pub(super) static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// How a run went.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) events: Vec<Event>,
    /// What does not hold.
    pub(super) complaints: Vec<String>,
    pub(super) trace: Vec<(Duration, String)>,
}

/// A message under way.
pub(super) struct Sending {
    pub(super) id: String,
    pub(super) since: Instant,
    pub(super) task: JoinHandle<Result<(), SendError>>,
}

/// A device as its caller sees it.
pub(super) struct Caller {
    pub(super) device: Arc<HubDevice>,
    pub(super) wished: Links,
    pub(super) sending: VecDeque<Sending>,
    rekeys: usize,
    numbers: usize,
}

pub(super) struct World {
    pub(super) hub: Hub,
    pub(super) client: IotHub,
    pub(super) callers: Vec<Caller>,
    events: mpsc::Receiver<DeviceEvent>,
    pub(super) leaving: Option<(Instant, JoinHandle<Duration>)>,
    pub(super) complaints: Vec<String>,
    /// Tasks that are not the client's.
    pub(super) ours: usize,
    last: Option<Event>,
}

/// Runs one interleaving; with an even seed, two devices share a session. `choose` gives the next event of those possible, or `None` to end.
pub(super) fn run(scene: &Scene, seed: u64, mut choose: impl FnMut(&[Event]) -> Option<Event>) -> Run {
    fastrand::seed(seed);
    PANICS.take();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut run = Run::default();
    runtime.block_on(async {
        let mut world = World::new(scene.devices, seed.is_multiple_of(2));
        for event in scene.before {
            world.act(*event).await;
        }
        world.hub.state().holds = scene.holds.to_vec();
        while world.sound() {
            let possible: Vec<Event> =
                scene.alphabet().into_iter().filter(|event| world.is_possible(*event)).collect();
            let Some(event) = choose(&possible) else { break };
            run.events.push(event);
            world.act(event).await;
        }
        if world.sound() {
            world.heal().await;
        }
        run.complaints = std::mem::take(&mut world.complaints);
        let mut hub = world.hub.state();
        run.complaints.append(&mut hub.complaints);
        run.trace = std::mem::take(&mut hub.trace);
    });
    run.complaints.extend(PANICS.take().into_iter().map(|text| format!("a task panicked: {text}")));
    run
}

/// Whom to trust: nobody, as no TLS is spoken. Costs time to make.
fn tls() -> Arc<ClientConfig> {
    static TLS: LazyLock<Arc<ClientConfig>> =
        LazyLock::new(|| client_config_with(RootCertStore::empty()).unwrap());
    TLS.clone()
}

impl Scene {
    pub(super) fn alphabet(&self) -> Vec<Event> {
        if self.events.is_empty() { Event::all(self.devices) } else { self.events.to_vec() }
    }
}

impl World {
    /// Each device has its own session, or they may `share` one.
    fn new(devices: usize, share: bool) -> Self {
        let (wires, streams) = mpsc::unbounded_channel();
        let hub = Hub::default();
        tokio::spawn(hub.clone().listen(streams));
        let mut options = IotHubOptions::new(tls());
        options.wires = Some(wires);
        options.token_lifetime = Duration::from_secs(200);
        options.idle_timeout = IDLE;
        options.max_devices_per_session = if share { devices } else { 1 };
        hub.state().devices_per_session = options.max_devices_per_session;
        let (client, events) = IotHub::with_events(options);
        let address = HubAddress { host: "hub".into(), port: 5671 };
        let caller = |name: &&str| Caller {
            device: Arc::new(HubDevice {
                hub: address.clone(),
                device_id: (*name).into(),
                credential: Credential::Device { key: SigningKey::from_bytes(b"first") },
                model_id: None,
                provisioned: false,
            }),
            wished: Links::NONE,
            sending: VecDeque::new(),
            rekeys: 0,
            numbers: 0,
        };
        let callers = DEVICES.iter().take(devices).map(caller).collect();
        let (leaving, complaints, last) = (None, Vec::new(), None);
        Self { hub, client, callers, events, leaving, complaints, ours: 1, last }
    }

    /// Nothing is wrong so far.
    pub(super) fn sound(&self) -> bool {
        self.complaints.is_empty() && self.hub.state().complaints.is_empty()
    }

    /// Where telemetry's, or the way back's, open link of a device is.
    pub(super) fn link(&self, device: usize, node: &str) -> Option<Place> {
        let mut state = self.hub.state();
        state.sessions_of(DEVICES[device]).into_iter().find_map(|place| {
            let links = &state.session(place)?.links;
            let (handle, _) = links.iter().find(|(_, link)| {
                link.is_open()
                    && link.device() == Some(DEVICES[device])
                    && link.address.ends_with(node)
                    && (node != BACK || !link.from_client)
            })?;
            Some(Place { handle: *handle, ..place })
        })
    }

    fn connection(&self) -> Option<usize> {
        let state = self.hub.state();
        state.connections.iter().rposition(|one| one.out.is_some() && !one.closing && !one.mute && one.opened)
    }

    fn tokens(&self) -> Option<Place> {
        let connection = self.connection()?;
        let state = self.hub.state();
        let mut sessions = state.connections[connection].sessions.iter();
        sessions.find_map(|(channel, session)| {
            let tokens = session.links.values().any(|link| link.address == "$cbs" && link.attached);
            let place = Place { connection, channel: *channel, serial: session.serial, handle: 0 };
            (tokens && session.is_live()).then_some(place)
        })
    }

    fn is_possible(&self, event: Event) -> bool {
        let held = self.hub.state().held.len();
        let gone = self.leaving.is_some();
        match event {
            Event::Send(device) => self.callers[device].sending.len() < MOST_SENDS,
            Event::GiveUp(device) => !self.callers[device].sending.is_empty(),
            Event::Wish(device) => !gone && self.callers[device].wished != ALL,
            Event::WishLess(device) => !gone && self.callers[device].wished == ALL,
            Event::Unwish(device) => !gone && self.callers[device].wished.any(),
            Event::Rekey(device) => !gone && self.callers[device].rekeys < MOST_REKEYS,
            Event::Leave => !gone,
            Event::Answer | Event::Refuse | Event::Deny | Event::Forget => held > 0,
            Event::AnswerLast => held > 1,
            Event::Deliver(device) => {
                let place = self.link(device, BACK);
                place.is_some_and(|place| {
                    let mut state = self.hub.state();
                    let link = state.session(place).and_then(|session| session.links.get(&place.handle));
                    link.is_some_and(|link| link.count != link.limit)
                })
            }
            Event::Detach(device) | Event::Steal(device) => self.link(device, TELEMETRY).is_some(),
            Event::DetachBack(device) => self.link(device, BACK).is_some(),
            Event::End(device) => !self.hub.state().sessions_of(DEVICES[device]).is_empty(),
            Event::EndTokens => self.tokens().is_some(),
            Event::CloseAll | Event::Cut | Event::Mute => self.connection().is_some(),
            Event::GoAway => !self.hub.state().away,
            Event::ComeBack => self.hub.state().away,
            Event::Second | Event::HalfMinute => self.last != Some(event),
            Event::Minutes => true,
        }
    }

    /// Lets an event happen, and everything that follows from it.
    pub(super) async fn act(&mut self, event: Event) {
        let before = self.live_neighbours(event);
        let mut moment = MOMENT;
        self.hub.state().note(event.name());
        match event {
            Event::Send(device) => self.send(device),
            Event::GiveUp(device) => {
                if let Some(sending) = self.callers[device].sending.pop_front() {
                    sending.task.abort();
                }
            }
            Event::Wish(device) => self.wish(device, ALL),
            Event::WishLess(device) => self.wish(device, LESS),
            Event::Unwish(device) => self.wish(device, Links::NONE),
            Event::Rekey(device) => self.rekey(device),
            Event::Leave => {
                self.hub.state().leaving = true;
                let client = self.client.clone();
                let since = Instant::now();
                let task = tokio::spawn(async move {
                    client.close().await;
                    since.elapsed()
                });
                self.leaving = Some((since, task));
            }
            Event::Answer => self.answer(false, Turn::Grant),
            Event::AnswerLast => self.answer(true, Turn::Grant),
            Event::Refuse => self.answer(false, Turn::Refuse),
            Event::Deny => self.answer(false, Turn::Deny),
            Event::Forget => self.answer(false, Turn::Forget),
            Event::Deliver(device) => self.at_link(device, BACK, |state, place| {
                state.send_back(place, BACK, &wire::cloud_message("c2d"));
            }),
            Event::Detach(device) => self.at_link(device, TELEMETRY, |state, place| {
                state.detach(place, "amqp:link:detach-forced");
            }),
            Event::Steal(device) => self.at_link(device, TELEMETRY, |state, place| {
                state.detach(place, "amqp:link:stolen");
            }),
            Event::DetachBack(device) => self.at_link(device, BACK, |state, place| {
                state.detach(place, "amqp:link:detach-forced");
            }),
            Event::End(device) => {
                let mut state = self.hub.state();
                for place in state.sessions_of(DEVICES[device]) {
                    state.end(place, "amqp:internal-error");
                }
            }
            Event::EndTokens => {
                if let Some(place) = self.tokens() {
                    self.hub.state().end(place, "amqp:internal-error");
                }
            }
            Event::CloseAll => self.at_connection(|state, number| state.close(number)),
            Event::Cut => self.at_connection(|state, number| state.cut(number)),
            Event::Mute => self.at_connection(|state, number| state.mute(number)),
            Event::GoAway => self.hub.state().away = true,
            Event::ComeBack => self.hub.state().away = false,
            Event::Second => moment = Duration::from_secs(1),
            Event::HalfMinute => moment = Duration::from_secs(31),
            Event::Minutes => moment = Duration::from_secs(130),
        }
        self.last = Some(event);
        self.pass(moment).await;
        self.check_neighbours(event, &before);
    }

    /// Lets time pass, and reads what comes meanwhile.
    pub(super) async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time + MOMENT;
        while Instant::now() < until {
            if self.hub.state().may_spin() {
                self.push(until, time).await;
                continue;
            }
            let spinning = self.hub.spinning.clone();
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.read(event),
                () = spinning.notified() => {}
                () = sleep_until(until) => {}
            }
        }
        while let Some(Some(event)) = self.events.recv().now_or_never() {
            self.read(event);
        }
        self.check();
    }

    /// Moves time on although a task never rests.
    async fn push(&mut self, until: Instant, whole: Duration) {
        for _ in 0..YIELDS {
            yield_now().await;
            while let Some(Some(event)) = self.events.recv().now_or_never() {
                self.read(event);
            }
        }
        let left = until - Instant::now();
        advance(left.min((whole / STEPS).max(MOMENT))).await;
    }

    fn read(&mut self, event: DeviceEvent) {
        match event {
            // Who reads late may not be there any more.
            DeviceEvent::CloudMessage { settle, .. } => _ = settle.send(Settlement::Complete),
            DeviceEvent::Method { .. } | DeviceEvent::Desired { .. } => {}
            DeviceEvent::Lost { device, .. } => {
                let caller = self.callers.iter_mut().find(|one| one.device.device_id == device.device_id);
                // A wish made since is another one.
                if let Some(caller) = caller.filter(|caller| caller.device == device) {
                    caller.wished = Links::NONE;
                }
            }
        }
    }

    pub(super) fn send(&mut self, device: usize) {
        let caller = &mut self.callers[device];
        caller.numbers += 1;
        let id = format!("{}{}", DEVICES[device], caller.numbers);
        let message = Telemetry {
            body: Bytes::from_static(b"{}"),
            message_id: id.clone(),
            correlation_id: None,
            properties: Vec::new(),
        };
        let (client, device) = (self.client.clone(), caller.device.clone());
        let task = tokio::spawn(async move { client.send(&device, &message).await });
        caller.sending.push_back(Sending { id, since: Instant::now(), task });
    }

    pub(super) fn wish(&mut self, device: usize, links: Links) {
        let caller = &mut self.callers[device];
        caller.wished = links;
        self.client.keep_open(&caller.device, links);
    }

    fn rekey(&mut self, device: usize) {
        let caller = &mut self.callers[device];
        caller.rekeys += 1;
        let key = SigningKey::from_bytes(format!("key {}", caller.rekeys).as_bytes());
        let mut changed = (*caller.device).clone();
        changed.credential = Credential::Device { key };
        caller.device = Arc::new(changed);
        if caller.wished.any() {
            self.client.keep_open(&caller.device, caller.wished);
        }
    }

    fn answer(&self, last: bool, turn: Turn) {
        let mut state = self.hub.state();
        let count = state.held.len();
        if count > 0 {
            state.answer_held(if last { count - 1 } else { 0 }, turn);
        }
    }

    fn at_link(&self, device: usize, node: &str, act: impl Fn(&mut State, Place)) {
        if let Some(place) = self.link(device, node) {
            act(&mut self.hub.state(), place);
        }
    }

    fn at_connection(&self, act: impl Fn(&mut State, usize)) {
        if let Some(number) = self.connection() {
            act(&mut self.hub.state(), number);
        }
    }
}

pub(super) const TELEMETRY: &str = "/messages/events";
pub(super) const BACK: &str = "/messages/devicebound";
