//! The emulated hubs, DPS and Things Stack, which may go and come back on the same ports, and the relays before them.
//!
//! Knows nothing of what is sent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tti_connector::emulator::things_stack::{Class, DeviceName, ThingsStack, Webhook};
use tti_connector::emulator::{Emulator, Hub, Options, Ready, Refusal};

use super::plan::Way;
use super::ports::free_port;
use super::relay::{Mode, Relay};

pub(crate) const APPLICATION: &str = "chaos";

/// What lives until the next restart.
#[derive(Clone)]
pub(crate) struct Generation {
    pub(crate) number: usize,
    pub(crate) hubs: Vec<Arc<Hub>>,
    pub(crate) stack: Arc<ThingsStack>,
}

/// Where the connector finds each party: at its relay.
pub(crate) struct Addresses {
    pub(crate) amqp_port: u16,
    pub(crate) dps_port: u16,
    pub(crate) api_port: u16,
    pub(crate) webhook_port: u16,
    /// The connector's own, behind the relay.
    pub(crate) connector_port: u16,
    pub(crate) admin_port: u16,
}

pub(crate) struct Cloud {
    options: Options,
    devices: usize,
    emulator: tokio::sync::Mutex<Option<Emulator>>,
    generation: Mutex<Generation>,
    pub(crate) ready: Ready,
    pub(crate) at: Addresses,
    hubs: Vec<Relay>,
    dps: Relay,
    api: Relay,
    webhook: Relay,
}

impl Cloud {
    pub(crate) async fn start(dir: &Path, hubs: usize, devices: usize) -> Self {
        let all: Vec<IpAddr> = (1..=hubs).map(|index| address(index).into()).collect();
        let options = Options {
            amqp_port: free_port(&all),
            https_port: free_port(&all),
            things_stack_port: Some(free_port(&all[..1])),
            hubs,
            dps_work: Duration::from_millis(50),
            dps_retry_after_s: 0,
            ..Options::new(dir.join("emulator"))
        };
        let emulator = Emulator::start(options.clone()).await.expect("the emulator starts");
        let ready = emulator.ready().clone();
        let at = Addresses {
            amqp_port: free_port(&all),
            dps_port: free_port(&all),
            api_port: free_port(&all),
            webhook_port: free_port(&all),
            connector_port: free_port(&all),
            admin_port: free_port(&all),
        };
        let mut hub_relays = Vec::new();
        for host in &all {
            hub_relays.push(relay(*host, at.amqp_port, options.amqp_port).await);
        }
        let stack_port = options.things_stack_port.expect("given above");
        let (dps, api, webhook) = (
            relay(all[0], at.dps_port, options.https_port).await,
            relay(all[0], at.api_port, stack_port).await,
            relay(all[0], at.webhook_port, at.connector_port).await,
        );
        let generation = Mutex::new(generation(&emulator, 0));
        let cloud = Self {
            emulator: tokio::sync::Mutex::new(Some(emulator)),
            hubs: hub_relays,
            options,
            devices,
            generation,
            ready,
            at,
            dps,
            api,
            webhook,
        };
        cloud.introduce();
        cloud
    }

    /// The parties of this moment.
    pub(crate) fn now(&self) -> Generation {
        self.generation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All ends; what it held can still be looked at in the old generation. Starts again after `away`.
    pub(crate) async fn restart(&self, rough: bool, away: Duration) {
        let mut emulator = self.emulator.lock().await;
        if rough {
            self.set(Way::AllHubs, Mode::Refuse);
            self.relays(Way::AllHubs).for_each(Relay::cut_all);
            self.api.cut_all();
        }
        emulator.take().expect("it runs").shutdown().await;
        tokio::time::sleep(away).await;
        let started = Emulator::start(self.options.clone()).await.expect("the emulator starts again");
        let number = self.now().number + 1;
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = generation(&started, number);
        *emulator = Some(started);
        self.introduce();
        if rough {
            self.set(Way::AllHubs, Mode::Pass);
        }
    }

    /// DPS refuses every call, or none.
    pub(crate) async fn refuse_registrations(&self, status: Option<u16>) {
        let refusal = status.map(|status| Refusal {
            status,
            error_code: u32::from(status) * 1000 + 1,
            message: "as told".to_owned(),
            retry_after_s: None,
        });
        if let Some(emulator) = self.emulator.lock().await.as_ref() {
            emulator.dps().set_refusal(refusal);
        }
    }

    pub(crate) fn set(&self, way: Way, mode: Mode) {
        self.relays(way).for_each(|relay| relay.set(mode));
    }

    pub(crate) fn cut_all(&self, way: Way) {
        self.relays(way).for_each(Relay::cut_all);
    }

    /// Resets one connection of a way; gives the number of the relay within the way.
    pub(crate) fn cut_one(&self, way: Way, random: &mut fastrand::Rng) -> Option<usize> {
        let relays: Vec<_> = self.relays(way).collect();
        let chosen = random.usize(..relays.len());
        relays[chosen].cut_one(random).then_some(chosen)
    }

    /// Ends the emulator.
    pub(crate) async fn end(&self) {
        if let Some(emulator) = self.emulator.lock().await.take() {
            emulator.shutdown().await;
        }
    }

    fn relays(&self, way: Way) -> Box<dyn Iterator<Item = &Relay> + '_> {
        match way {
            Way::Hub(number) => Box::new(self.hubs.get(number).into_iter()),
            Way::AllHubs => Box::new(self.hubs.iter()),
            Way::Dps => Box::new(std::iter::once(&self.dps)),
            Way::Webhook => Box::new(std::iter::once(&self.webhook)),
            Way::ThingsStack => Box::new(std::iter::once(&self.api)),
        }
    }

    /// What The Things Stack does not keep, or what is new to it: the webhook, and devices that always listen.
    fn introduce(&self) {
        let stack = self.now().stack;
        let url = format!("http://127.0.0.1:{}/webhook", self.at.webhook_port);
        stack.set_webhook(Some(Webhook::new(url.parse().expect("a URL")))).expect("a sound webhook");
        for device in 0..self.devices {
            stack.set_class(&name(device), Class::C).expect("a device");
        }
    }
}

fn generation(emulator: &Emulator, number: usize) -> Generation {
    let stack = Arc::clone(emulator.things_stack().expect("it was asked for"));
    Generation { number, hubs: emulator.hubs().to_vec(), stack }
}

fn address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(index).expect("few hubs"))
}

async fn relay(host: IpAddr, port: u16, target: u16) -> Relay {
    let (at, target) = (SocketAddr::new(host, port), SocketAddr::new(host, target));
    // The connector's webhook is on the first address only, like all that is not a hub.
    Relay::start(at, target).await.expect("the relay listens")
}

/// A device's id on both sides.
pub(crate) fn id(device: usize) -> String {
    format!("sensor-{device:05}")
}

/// And back.
pub(crate) fn number(id: &str) -> Option<usize> {
    id.strip_prefix("sensor-")?.parse().ok()
}

pub(crate) fn name(device: usize) -> DeviceName {
    DeviceName::new(APPLICATION, &id(device)).expect("valid ids")
}

/// Milliseconds since 1970 UTC, as the emulator stamps events.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
