//! Builds the way back and runs it: dispatcher, ledger, roster, twin reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::warn;

use super::AppError;
use super::backfill::Backfills;
use super::parts::{Missing, Part};
use super::way_back::{Desk, Ledger, Network, Outbox, Residents, Roster, State, WayBack};
use crate::config::{CompleteOn, Config};
use crate::devices::Directory;
use crate::downlink::ports::Observer;
use crate::downlink::translate::Rules;
use crate::downlink::{
    CloudMessages, DesiredFlow, DesiredParts, Dispatcher, Methods, MethodsAndDesired, recollect,
};
use crate::iot_hub::{DeviceEvent, IotHub};
use crate::metrics::Metrics;
use crate::model::Clock;
use crate::spool::Spool;
use crate::things_stack::{Access, Client, ClientOptions, KeyOptions, Keys};
use crate::uplink::TwinReports;

/// Cloud-to-device messages of one device that the hub hands out before the first is answered, when answers wait for
/// the device: the hub's own queue takes 50.
const WAITING_MESSAGES: u32 = 16;

/// How many messages of a device are handed out at once.
pub(super) fn c2d_credit(complete_on: CompleteOn) -> u32 {
    match complete_on {
        CompleteOn::Queued => 1,
        CompleteOn::Sent | CompleteOn::Confirmed => WAITING_MESSAGES,
    }
}

/// What the way back is built of.
pub(super) struct Neighbours {
    pub(super) spool: Spool,
    pub(super) directory: Directory,
    pub(super) hubs: IotHub,
    pub(super) events: mpsc::Receiver<DeviceEvent>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

/// The way back, at rest.
pub(super) struct WayBackParts {
    ledger: Ledger,
    roster: Roster,
    network: Network,
    keys: Keys,
    rules: Arc<Rules>,
    twins: Option<TwinReports<IotHub>>,
    desired: DesiredFlow<Network, State, Outbox, IotHub>,
    dispatcher: Dispatch,
    events: mpsc::Receiver<DeviceEvent>,
    neighbours: (Spool, Directory),
}

type Dispatch = Dispatcher<
    Directory,
    Network,
    IotHub,
    State,
    Outbox,
    Metrics,
    MethodsAndDesired<Network, State, Outbox, IotHub>,
>;

/// The tasks of the way back.
pub(super) struct WayBackTasks {
    pub(super) dispatcher: Part,
    pub(super) beside: Part,
}

impl WayBackParts {
    /// Reads the ledger and joins the parts. `http` is for The Things Stack.
    pub(super) async fn new(
        config: &Config,
        http: reqwest::Client,
        neighbours: Neighbours,
    ) -> Result<Self, AppError> {
        let Neighbours { spool, directory, hubs, events, metrics, clock } = neighbours;
        let rules = Arc::new(Rules::new(&config.downlink)?);
        let network = network(config, http)?;
        let keys = network.keys.clone();
        let (store, outbox) = (State(spool.state()), Outbox(spool.clone()));
        let expiry = config.downlink.expiry;
        let ledger = Ledger::load(store.clone(), outbox, expiry, clock.clone())
            .await
            .map_err(|error| AppError::State(error.to_string()))?;
        let roster = Roster::new(directory.clone(), network.clone(), hubs.clone(), Arc::clone(&rules));
        let observer: Arc<dyn Observer> = Arc::new(metrics.clone());
        let desired = DesiredFlow::new(DesiredParts {
            network: network.clone(),
            ledger: ledger.clone(),
            store,
            hubs: hubs.clone(),
            rules: Arc::clone(&rules),
            expiry,
            clock,
            observer: Arc::clone(&observer),
        });
        let commands = MethodsAndDesired {
            methods: Methods::new(network.clone(), ledger.clone(), Arc::clone(&rules), observer),
            desired: desired.clone(),
        };
        let cloud_messages = CloudMessages {
            network: network.clone(),
            ledger: ledger.clone(),
            rules: Arc::clone(&rules),
            complete_on: config.downlink.complete_on,
            observer: metrics,
        };
        let dispatcher = Dispatcher::new(roster.clone(), cloud_messages, commands);
        let twin = &config.twin;
        let twins = twin.reported.then(|| TwinReports::new(hubs, twin.min_interval, config.report_rate()));
        let neighbours = (spool, directory);
        Ok(Self { ledger, roster, network, keys, rules, twins, desired, dispatcher, events, neighbours })
    }

    /// What the webhook hands its messages to.
    pub(super) fn desk(&self, backfill: Backfills) -> Desk {
        let (ledger, keys, roster) = (self.ledger.clone(), self.keys.clone(), self.roster.clone());
        Desk { spool: self.neighbours.0.clone(), ledger, keys, roster, backfill }
    }

    /// The Things Stack, with the key of each application.
    pub(super) fn network(&self) -> Network {
        self.network.clone()
    }

    /// Who the pump asks for devices.
    pub(super) fn residents(&self) -> Residents {
        Residents { directory: self.neighbours.1.clone(), roster: self.roster.clone() }
    }

    /// What the pump asks about downlinks.
    pub(super) fn way_back(&self) -> WayBack {
        WayBack {
            ledger: self.ledger.clone(),
            keys: self.keys.clone(),
            rules: Arc::clone(&self.rules),
            twins: self.twins.clone(),
        }
    }

    /// Open ledger entries, for gauges.
    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// Keeps the links of all known devices open and takes what comes over them. When the dispatcher is stopped, calls
    /// to The Things Stack under way may end within `patience`, be they for messages, methods or properties.
    pub(super) fn run(self, parts: &Missing, patience: Duration) -> WayBackTasks {
        let Self { ledger, roster, network, twins, desired, dispatcher, events, .. } = self;
        let dispatcher = parts.spawn("dispatcher", |stop| async move {
            let properties = async {
                stop.cancelled().await;
                if timeout(patience, desired.stop()).await.is_err() {
                    warn!(
                        "Some desired properties were not queued in time; they are looked at again after the start."
                    );
                }
            };
            tokio::join!(dispatcher.run(events, stop.clone(), patience), properties);
        });
        let beside = parts.spawn("ledger", |stop| async move {
            let reports = async {
                if let Some(twins) = twins {
                    twins.run(stop.clone()).await;
                }
            };
            let looks = recollect(&network, &ledger, stop.clone());
            tokio::join!(ledger.run(stop.clone()), reports, looks);
        });
        // It walks through all known devices.
        tokio::task::spawn_blocking(move || roster.start());
        WayBackTasks { dispatcher, beside }
    }
}

/// The Things Stack's API with the configured keys. `http` is for it.
pub(super) fn network(config: &Config, http: reqwest::Client) -> Result<Network, AppError> {
    let things_stack = &config.things_stack;
    let keys = Keys::new(KeyOptions {
        base_url: things_stack.base_url.clone(),
        allowed_hosts: things_stack.allowed_hosts.clone(),
        configured: configured(config),
    })?;
    let client = Client::new(
        http,
        ClientOptions {
            base_url: things_stack.base_url.clone(),
            request_timeout: things_stack.request_timeout,
            max_in_flight: things_stack.max_in_flight,
        },
    )?;
    Ok(Network { client, keys })
}

fn configured(config: &Config) -> BTreeMap<String, Access> {
    let applications = &config.things_stack.applications;
    let access = |(id, application): (&String, &crate::config::ThingsStackApplication)| {
        let key = application.api_key.clone()?;
        Some((id.clone(), Access::new(key, application.webhook_id.clone())))
    };
    applications.iter().filter_map(access).collect()
}
