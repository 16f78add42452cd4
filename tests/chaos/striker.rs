//! Does what the plan says, each strike at its time and for its hold, and writes down when what was cut.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tti_connector::emulator::things_stack::{Effect, Fault as ApiFault};
use tti_connector::emulator::{DeviceStatus, Fault as HubFault, FaultKind, Hub, Tier, TierSettings};

use super::asking::{Gate, hub_of, queued};
use super::cloud::{Cloud, id, now_ms};
use super::health::Whom;
use super::plan::{Fault, Strike, Way};
use super::process::Process;
use super::relay::Mode;
use super::state::State;

/// How long queues of messages may take to be empty before the cloud restarts: it forgets them, which Azure does not.
const EMPTY: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Striker {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) state: Arc<State>,
    pub(crate) process: Arc<Mutex<Process>>,
    pub(crate) gate: Gate,
    /// Devices from here on may be deleted and so on.
    pub(crate) steady: usize,
    pub(crate) random: fastrand::Rng,
    /// The longest that a stop took.
    pub(crate) longest_stop: Arc<std::sync::Mutex<Duration>>,
}

impl Striker {
    /// Until all strikes are over, and what they broke is mended.
    pub(crate) async fn run(mut self, plan: Vec<Strike>) {
        let (began, mut under_way) = (Instant::now(), JoinSet::new());
        for strike in plan {
            sleep_until(began + strike.at).await;
            let striker = Self { random: self.random.fork(), ..self.clone() };
            under_way.spawn(striker.strike(strike));
        }
        under_way.join_all().await;
        for way in [Way::AllHubs, Way::Dps, Way::Webhook, Way::ThingsStack] {
            self.cloud.set(way, Mode::Pass);
        }
        self.cloud.refuse_registrations(None).await;
        let now = self.cloud.now();
        now.stack.clear_faults();
        for hub in now.hubs {
            hub.end_faults();
            hub.set_tier(TierSettings::new(Tier::Standard, 1));
        }
    }

    async fn strike(mut self, Strike { hold, fault, .. }: Strike) {
        self.state.struck(fault.name());
        if fault.is_great() {
            println!("      at {}: {fault:?} for {:.1} s", now_ms(), hold.as_secs_f64());
        }
        match fault {
            Fault::Kill => self.restart_connector(hold / 3, false).await,
            Fault::Terminate => self.restart_connector(hold / 10, true).await,
            Fault::CloudRestarts { rough } => self.restart_cloud(rough, hold / 2).await,
            Fault::Cut { way, then } => {
                let window = self.open(whom(way), false);
                self.cloud.set(way, then);
                self.cut(whom(way));
                self.cloud.cut_all(way);
                sleep(hold).await;
                self.cloud.set(way, Mode::Pass);
                self.close(window);
            }
            Fault::Hinder { way, mode } => {
                let window = self.open(whom(way), false);
                self.cloud.set(way, mode);
                sleep(hold).await;
                self.cloud.set(way, Mode::Pass);
                self.close(window);
            }
            Fault::Hub { hub, kind } => {
                let window = self.open(Some(Whom::Hub(hub)), cuts(kind));
                self.inject(&self.cloud.now().hubs[hub], HubFault::new(kind).lasting(hold));
                sleep(hold).await;
                self.close(window);
            }
            Fault::Throttled { hub } => {
                let window = self.open(Some(Whom::Hub(hub)), false);
                self.cloud.now().hubs[hub].set_tier(slow());
                sleep(hold).await;
                self.cloud.now().hubs[hub].set_tier(TierSettings::new(Tier::Standard, 1));
                self.close(window);
            }
            Fault::Link { device, kind } => {
                let now = self.cloud.now();
                if let Some(hub) = hub_of(&now, device) {
                    let at = now.hubs.iter().position(|other| Arc::ptr_eq(other, &hub));
                    self.cut(match (kind, at) {
                        (FaultKind::KillAmqpSession, Some(at)) => Some(Whom::SessionAt(at)),
                        _ => Some(Whom::Device(device)),
                    });
                    self.inject(&hub, HubFault::new(kind).of(id(device)));
                }
            }
            Fault::Ailing { ailing, kind } => {
                let (device, now) = (self.steady + ailing, self.cloud.now());
                if let Some(hub) = hub_of(&now, device) {
                    let mut books = self.state.downlinks();
                    if kind == FaultKind::HubMoved {
                        books.deleted.extend(queued(&now, device));
                    }
                    self.cut(Some(Whom::Device(device)));
                    self.inject(&hub, HubFault::new(kind).of(id(device)).lasting(hold));
                }
            }
            Fault::CutOne { way } => {
                let (first, random) = (if let Way::Hub(hub) = way { hub } else { 0 }, &mut self.random);
                if let Some(chosen) = self.cloud.cut_one(way, random)
                    && matches!(way, Way::Hub(_) | Way::AllHubs)
                {
                    self.cut(Some(Whom::Hub(first + chosen)));
                }
            }
            Fault::Delete { ailing } => self.delete(self.steady + ailing),
            Fault::Disable { ailing } => {
                let device = self.steady + ailing;
                self.update(device, DeviceStatus::Disabled, None);
                sleep(hold).await;
                self.update(device, DeviceStatus::Enabled, None);
            }
            Fault::NewKeys { ailing } => {
                let (device, key) = (self.steady + ailing, || "bmV3IGtleQ==".to_owned());
                self.update(device, DeviceStatus::Enabled, Some((key(), key())));
                sleep(hold).await;
                self.delete(device);
            }
            Fault::DpsRefuses { status } => {
                self.cloud.refuse_registrations(Some(status)).await;
                sleep(hold).await;
                self.cloud.refuse_registrations(None).await;
            }
            Fault::ApiFails { kind } => {
                _ = self.cloud.now().stack.fault(api_faults().swap_remove(kind));
            }
        }
    }

    async fn restart_connector(&self, away: Duration, kindly: bool) {
        let mut process = self.process.lock().await;
        let window = self.open(Some(Whom::All), false);
        if kindly {
            match process.terminate().await {
                Ok(took) => {
                    let mut longest = self.longest_stop.lock().expect("no panic");
                    *longest = took.max(*longest);
                }
                Err(error) => self.state.breach(error),
            }
        } else {
            self.cut(Some(Whom::All));
            if let Err(error) = process.kill().await {
                self.state.breach(error);
            }
        }
        sleep(away).await;
        if let Err(error) = process.start().await {
            self.state.breach(error);
        }
        self.close(window);
    }

    async fn restart_cloud(&self, rough: bool, away: Duration) {
        let _closed = self.gate.write().await;
        let until = Instant::now() + EMPTY;
        let waiting = |striker: &Self| {
            let now = striker.cloud.now();
            (0..striker.state.devices()).any(|device| !queued(&now, device).is_empty())
        };
        while waiting(self) {
            if Instant::now() > until {
                self.state.struck("(cloud restarts left out: messages wait)");
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let window = self.open(Some(Whom::All), true);
        self.cloud.restart(rough, away).await;
        self.close(window);
    }

    /// The device's waiting messages go with it.
    fn delete(&self, device: usize) {
        let now = self.cloud.now();
        let Some(hub) = hub_of(&now, device) else { return };
        let mut books = self.state.downlinks();
        books.deleted.extend(queued(&now, device));
        self.cut(Some(Whom::Device(device)));
        _ = hub.delete_device(&id(device), None);
    }

    fn update(&self, device: usize, status: DeviceStatus, keys: Option<(String, String)>) {
        let Some(hub) = hub_of(&self.cloud.now(), device) else { return };
        self.cut(Some(Whom::Device(device)));
        _ = hub.update_device(&id(device), status, keys, None);
    }

    fn inject(&self, hub: &Hub, fault: HubFault) {
        if let Err(error) = hub.inject(fault) {
            self.state.breach(format!("the plan asks for what a hub can't do: {error}"));
        }
    }

    fn cut(&self, whom: Option<Whom>) {
        if let Some(whom) = whom {
            self.state.health().moment(whom, now_ms());
        }
    }

    fn open(&self, whom: Option<Whom>, cut: bool) -> Option<usize> {
        whom.map(|whom| self.state.health().open(whom, cut, now_ms()))
    }

    fn close(&self, window: Option<usize>) {
        if let Some(window) = window {
            self.state.health().close(window, now_ms());
        }
    }
}

/// Whose telemetry a fault of this way holds up. The webhook takes nothing meanwhile, and DPS is only asked for new
/// devices: neither explains a stall.
fn whom(way: Way) -> Option<Whom> {
    match way {
        Way::Hub(hub) => Some(Whom::Hub(hub)),
        Way::AllHubs => Some(Whom::All),
        Way::Dps | Way::Webhook | Way::ThingsStack => None,
    }
}

/// Whether this lets go of links on which something may be under way.
fn cuts(kind: FaultKind) -> bool {
    !matches!(
        kind,
        FaultKind::InvokeThrottling
            | FaultKind::InvokeMaxMessageQuota
            | FaultKind::Silence
            | FaultKind::SlowReads
    )
}

/// Some 25 messages a second instead of a hundred.
fn slow() -> TierSettings {
    TierSettings { speed: 0.25, ..TierSettings::new(Tier::S1, 1) }
}

/// How the API can fail.
pub(crate) fn api_faults() -> Vec<ApiFault> {
    let wait = [("x-rate-limit-retry".to_owned(), "1".to_owned())];
    vec![
        ApiFault { status: Some(429), headers: wait.into(), count: 5, ..ApiFault::default() },
        ApiFault { status: Some(500), count: 3, ..ApiFault::default() },
        ApiFault { status: Some(500), effect: Effect::After, ..ApiFault::default() },
        ApiFault { close: true, count: 3, ..ApiFault::default() },
        ApiFault { close: true, effect: Effect::After, count: 3, ..ApiFault::default() },
        ApiFault { status: Some(503), effect: Effect::After, delay_ms: 300, ..ApiFault::default() },
    ]
}
