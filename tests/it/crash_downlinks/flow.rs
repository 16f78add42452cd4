//! A connector as a process that is killed again and again, between a hub and a Things Stack that live on; the service
//! that sends messages meanwhile, and the radio.

use std::collections::{BTreeMap, HashSet};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Child;
use tti_connector::emulator::CloudMessage;
use tti_connector::emulator::things_stack::{DeviceName, Fault, Push, ThingsStack, Uplink, Webhook};

use crate::crash::up;
use crate::world::{World, free_port};

const APPLICATION: &str = "house";
/// The hub keeps fifty for a device; a service that sends more is refused.
const QUEUE: usize = 45;
/// Without any change for this long, it hangs. Longer than the hub's lock, after which a message comes again.
const SILENCE: Duration = Duration::from_secs(90);
/// Longest wait for a push that is to come before a kill.
const LIFE_EXTENDED: Duration = Duration::from_secs(20);

/// What happens besides the kills.
pub(super) struct Mix {
    pub(super) devices: usize,
    /// The first so many devices send uplinks, after which their downlinks leave the queue.
    pub(super) talking: usize,
    /// Faults of The Things Stack to choose from, one for about every third message.
    pub(super) faults: Vec<Fault>,
    /// Longest life between two kills, counted from the moment the webhook answers.
    pub(super) life: Duration,
}

/// The three parties.
pub(super) struct Flow {
    pub(super) world: World,
    port: u16,
    child: Child,
    mix: Mix,
    random: fastrand::Rng,
    sent: u32,
    /// Messages to each device, in the order sent.
    pub(super) order: BTreeMap<String, Vec<u32>>,
}

impl Flow {
    /// All devices known, their links open or about to be.
    pub(super) async fn start(mix: Mix, seed: u64) -> Self {
        let world = World::new(2).await;
        let port = free_port();
        let webhook = Webhook::new(format!("http://127.0.0.1:{port}/webhook").parse().expect("a URL"));
        stack(&world).set_webhook(Some(webhook)).expect("a sound webhook");
        let child = connector(&world, port);
        up(port).await;
        for device in 0..mix.devices {
            stack(&world).uplink(&name(&id(device)), &Uplink::default()).expect("a device");
        }
        world.arrived(mix.devices).await;
        let random = fastrand::Rng::with_seed(seed);
        Self { world, port, child, mix, random, sent: 0, order: BTreeMap::new() }
    }

    /// Kills the connector `kills` times while `messages` messages are sent, evenly over all lives and deaths.
    pub(super) async fn kill(&mut self, kills: u32, messages: u32) {
        for kill in 1..=kills {
            let share = messages * kill / kills - self.sent;
            let longest = u64::try_from(self.mix.life.as_millis()).expect("fits");
            // The random moment itself, not a wait for something.
            let life = Duration::from_millis(self.random.u64(5..longest));
            let port = self.port;
            let lives = async {
                up(port).await;
                tokio::time::sleep(life).await;
            };
            tokio::pin!(lives);
            let mut left = share;
            // A start takes about a quarter of a second.
            let pace = (life + Duration::from_millis(250)) / (2 * share.max(1));
            loop {
                tokio::select! {
                    () = &mut lives => break,
                    () = tokio::time::sleep(self.random.u32(1..4) * pace) => {
                        if left > 0 {
                            self.send();
                            left -= 1;
                        }
                        self.talk();
                    }
                }
            }
            let pushed = self.pushes().len();
            if self.random.bool() || pushed <= kill as usize {
                self.pushes_more_than(pushed.max(kill as usize)).await;
            }
            self.child.start_kill().expect("it runs");
            self.child.wait().await.expect("it ended");
            for _ in 0..left {
                self.send();
                self.talk();
            }
            self.child = connector(&self.world, self.port);
        }
        up(self.port).await;
    }

    /// One message to some device that has room.
    fn send(&mut self) {
        let device = loop {
            let device = id(self.random.usize(..self.mix.devices));
            if self.queued(&device) < QUEUE {
                break device;
            }
        };
        if !self.mix.faults.is_empty() && self.random.u8(..3) == 0 {
            let fault = self.random.choice(&self.mix.faults).expect("one of them").clone();
            stack(&self.world).fault(fault).expect("there is room for faults");
        }
        let number = self.sent;
        self.sent += 1;
        let message = CloudMessage {
            message_id: Some(message_id(number)),
            properties: vec![("Port".to_owned(), "10".to_owned())],
            ..CloudMessage::new(STANDARD.encode(number.to_be_bytes()))
        };
        let hubs = self.world.emulator.hubs();
        let hub = hubs.iter().find(|hub| hub.device(&device).is_some()).expect("it is registered");
        hub.send_cloud_message(&device, message).expect("the hub takes it");
        self.order.entry(device).or_default().push(number);
    }

    /// An uplink of some device that talks: its next downlink leaves the queue.
    fn talk(&mut self) {
        if self.mix.talking > 0 {
            let device = id(self.random.usize(..self.mix.talking));
            stack(&self.world).uplink(&name(&device), &Uplink::default()).expect("a device");
        }
    }

    fn queued(&self, device: &str) -> usize {
        self.world.emulator.hubs().iter().map(|hub| hub.cloud_queue(device).len()).sum()
    }

    /// Waits until the hub has no message left and each one was reported; then the connector ends.
    pub(super) async fn drain(&mut self) {
        let empty = |flow: &Self| flow.order.keys().all(|device| flow.queued(device) == 0);
        self.until("all messages are answered", empty).await;
        let reported = |flow: &Self| flow.unreported().is_empty();
        self.until("all messages are reported", reported).await;
        self.child.start_kill().expect("it runs");
        self.child.wait().await.expect("it ended");
    }

    /// A busy machine may take longer to start and attach than this life lasts: then it gets some more of it, up to a push.
    async fn pushes_more_than(&self, count: usize) {
        let hubs = self.world.emulator.hubs();
        let mut changes: Vec<_> = hubs.iter().map(|hub| hub.cloud_changes()).collect();
        let pushed = async {
            while self.pushes().len() <= count {
                let any = changes.iter_mut().map(|change| Box::pin(change.changed()));
                futures_util::future::select_all(any).await.0.expect("the hubs live");
            }
        };
        // There may be nothing to push, or faults in its way.
        _ = tokio::time::timeout(LIFE_EXTENDED, pushed).await;
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let hubs = self.world.emulator.hubs();
        let mut changes: Vec<_> = hubs.iter().flat_map(|hub| [hub.cloud_changes(), hub.arrivals()]).collect();
        while !done(self) {
            let any = changes.iter_mut().map(|change| Box::pin(change.changed()));
            let changed = tokio::time::timeout(SILENCE, futures_util::future::select_all(any)).await;
            assert!(
                changed.is_ok(),
                "nothing happens any more before {what}: {} of {} pushed, not reported {:?}",
                self.pushes().len(),
                self.sent,
                self.unreported()
            );
        }
    }

    /// All pushes with the numbers of their messages, in the order in which The Things Stack took them.
    pub(super) fn pushes(&self) -> Vec<(u32, Push)> {
        let number = |push: &Push| {
            let payload = push.downlink.frm_payload.as_deref().expect("a payload");
            u32::from_be_bytes(payload.try_into().expect("four bytes"))
        };
        stack(&self.world).pushes().into_iter().map(|push| (number(&push), push)).collect()
    }

    /// The messages that were not reported as queued. A kill may cost the webhook's event that one was queued, which is told
    /// once; if a device that talks made it leave the queue before the next life could look for it, it must be reported as sent.
    pub(super) fn unreported(&self) -> HashSet<String> {
        let mut told = self.reported("queued");
        if self.mix.talking > 0 {
            told.extend(self.reported("sent"));
        }
        (0..self.sent).map(message_id).filter(|id| !told.contains(id)).collect()
    }

    /// The messages that were reported to be in this state.
    pub(super) fn reported(&self, state: &str) -> HashSet<String> {
        let events = self.world.emulator.hubs().iter().flat_map(|hub| hub.all_events());
        let correlation = |properties: Vec<(String, String)>| {
            let is =
                |name: &str, value: &str| properties.iter().any(|(key, text)| key == name && text == value);
            let ours = is("kind", "downlink") && is("State", state);
            ours.then(|| {
                properties.iter().find(|(key, _)| key == "CorrelationId").expect("always there").1.clone()
            })
        };
        events.filter_map(|event| correlation(event.properties)).collect()
    }
}

/// The message's id at the hub.
pub(super) fn message_id(number: u32) -> String {
    format!("message-{number}")
}

fn id(device: usize) -> String {
    format!("valve-{device:02}")
}

fn name(device: &str) -> DeviceName {
    DeviceName::new(APPLICATION, device).expect("valid ids")
}

fn stack(world: &World) -> &ThingsStack {
    world.emulator.things_stack().expect("it was asked for")
}

fn connector(world: &World, port: u16) -> Child {
    let mut command = world.connector(port);
    command
        .env("TTI_CONNECTOR__THINGS_STACK__BASE_URL", stack(world).url())
        .env("TTI_CONNECTOR__THINGS_STACK__APPLICATIONS__HOUSE__API_KEY", stack(world).api_key())
        .env("TTI_CONNECTOR__UPLINK__RETRY_INITIAL", "50ms")
        .env("TTI_CONNECTOR__LOG__LEVEL", "error");
    command.stdout(Stdio::null()).spawn().expect("the connector starts")
}
