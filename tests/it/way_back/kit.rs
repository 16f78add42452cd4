//! A connector between an emulated hub and an emulated Things Stack that know each other's addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tti_connector::app::Connector;
use tti_connector::config::{Config, ThingsStackApplication};
use tti_connector::emulator::things_stack::{DeviceName, ThingsStack, Uplink, Webhook};
use tti_connector::emulator::{CloudMessage, Event, Hub};
use tti_connector::model::Secret;

use crate::messages::DEADLINE;
use crate::world::World;

/// The application of all devices here.
pub(crate) const APPLICATION: &str = "house";

/// The three parties.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) connector: Connector,
}

impl Stage {
    /// One hub, one Things Stack whose key is configured, and the connector.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with changes to the connector's configuration.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let world = World::new(1).await;
        let mut config = config(&world);
        change(&mut config);
        let connector = Connector::start(config).await.expect("the connector starts");
        let stage = Self { world, connector };
        stage.point_webhook();
        stage
    }

    /// The Things Stack posts to the connector from now on.
    pub(crate) fn point_webhook(&self) {
        let url = format!("http://{}/webhook", self.connector.webhook());
        let webhook = Webhook::new(url.parse().expect("a URL"));
        self.stack().set_webhook(Some(webhook)).expect("a sound webhook");
    }

    /// A new connector on the same spool, after the former was stopped.
    pub(crate) async fn restart(self, change: impl FnOnce(&mut Config)) -> Self {
        let Self { world, connector } = self;
        connector.stop().await;
        let mut config = config(&world);
        change(&mut config);
        let connector = Connector::start(config).await.expect("the connector starts");
        let stage = Self { world, connector };
        stage.point_webhook();
        stage
    }

    pub(crate) fn stack(&self) -> &Arc<ThingsStack> {
        self.world.emulator.things_stack().expect("it was asked for")
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        self.world.hub(0)
    }

    /// An uplink of the device over the emulated radio.
    pub(crate) fn uplink(&self, device: &str, uplink: Uplink) {
        self.stack().uplink(&name(device), &uplink).expect("a device");
    }

    /// The device's first uplink, and its arrival at the hub: from then on it is known, and its links are open.
    pub(crate) async fn meet(&self, device: &str) {
        self.uplink(device, Uplink::default());
        self.until(|| self.telemetry(device).first().map(drop)).await;
    }

    /// What the hub got from a device, downlink reports left out.
    pub(crate) fn telemetry(&self, device: &str) -> Vec<Event> {
        let events = self.hub().all_events().into_iter();
        events.filter(|event| event.device_id == device && property(event, "kind").is_none()).collect()
    }

    /// A cloud-to-device message, as a service sends it.
    pub(crate) fn send(&self, device: &str, id: &str, properties: &[(&str, &str)], body: &str) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let message = CloudMessage {
            message_id: Some(id.to_owned()),
            properties: properties.iter().map(owned).collect(),
            ..CloudMessage::new(body.to_owned())
        };
        self.hub().send_cloud_message(device, message).expect("the hub takes it");
    }

    /// The reports about one request so far, in order of arrival.
    pub(crate) fn reports(&self, correlation: &str) -> Vec<Value> {
        let events = self.hub().all_events().into_iter();
        let ours = events.filter(|event| {
            property(event, "kind").as_deref() == Some("downlink")
                && property(event, "CorrelationId").as_deref() == Some(correlation)
        });
        ours.map(|event| serde_json::from_slice(&event.body).expect("JSON")).collect()
    }

    /// Waits for exactly these states in this order; gives the last report.
    pub(crate) async fn reported(&self, correlation: &str, states: &[&str]) -> Value {
        let reports =
            self.until(|| Some(self.reports(correlation)).filter(|all| all.len() >= states.len())).await;
        let seen: Vec<_> =
            reports.iter().map(|report| report["State"].as_str().unwrap_or_default()).collect();
        assert_eq!(seen, states, "{reports:?}");
        reports.last().cloned().unwrap_or_default()
    }

    /// Waits until the device's queue at the hub is empty.
    pub(crate) async fn completed(&self, device: &str) {
        self.until(|| self.hub().cloud_queue(device).is_empty().then_some(())).await;
    }

    /// Waits until `look` finds something; looks again whenever anything happens at the hub or at The Things Stack.
    pub(crate) async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        let (mut arrivals, mut cloud) = (self.hub().arrivals(), self.hub().cloud_changes());
        let (mut twins, mut stack) = (self.hub().twin_changes(), self.stack().changes());
        let found = async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                tokio::select! {
                    changed = arrivals.changed() => changed.expect("the hub lives"),
                    changed = cloud.changed() => changed.expect("the hub lives"),
                    changed = twins.changed() => changed.expect("the hub lives"),
                    changed = stack.changed() => changed.expect("The Things Stack lives"),
                }
            }
        };
        tokio::time::timeout(DEADLINE, found).await.expect("it happens in time")
    }

    pub(crate) async fn end(self) {
        self.connector.stop().await;
        self.world.emulator.shutdown().await;
    }
}

/// The configuration: this world's DPS and Things Stack.
pub(crate) fn config(world: &World) -> Config {
    let mut config = world.config();
    let stack = world.emulator.things_stack().expect("it was asked for");
    config.things_stack.base_url = Some(stack.url().to_owned());
    let application =
        ThingsStackApplication { api_key: Some(Secret::new(stack.api_key().to_owned())), webhook_id: None };
    config.things_stack.applications = BTreeMap::from([(APPLICATION.to_owned(), application)]);
    config
}

pub(crate) fn name(device: &str) -> DeviceName {
    DeviceName::new(APPLICATION, device).expect("valid ids")
}

/// An application property of an event.
pub(crate) fn property(event: &Event, name: &str) -> Option<String> {
    event.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}
