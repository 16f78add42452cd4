//! A connector between emulated hubs and an emulated Things Stack that know each other's addresses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tti_connector::app::Connector;
use tti_connector::config::{Config, ThingsStackApplication};
use tti_connector::emulator::things_stack::{
    Class, Delivery, DeviceName, Fault, ThingsStack, Uplink, Webhook,
};
use tti_connector::emulator::{CloudMessage, DeadLetter, Event, Hub};
use tti_connector::model::Secret;

use crate::messages::DEADLINE;
use crate::world::{Poster, World};

/// The application of all devices here.
pub(crate) const APPLICATION: &str = "house";

/// Of the emulated Things Stack.
const DOMAIN: &str = "localhost";

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
        Self::on(World::new(1).await, change).await
    }

    /// The same in a world of its own making; devices are the hub's own, without DPS.
    pub(crate) async fn on(world: World, change: impl FnOnce(&mut Config)) -> Self {
        let config = changed(with_things_stack(world.config_with_policy(), &world), change);
        let connector = Connector::start(config).await.expect("the connector starts");
        let stage = Self { world, connector };
        stage.point_webhook();
        stage
    }

    /// Several hubs, to which DPS assigns devices.
    pub(crate) async fn with_dps(hubs: usize) -> Self {
        let world = World::new(hubs).await;
        let connector = Connector::start(config(&world)).await.expect("the connector starts");
        let stage = Self { world, connector };
        stage.point_webhook();
        stage
    }

    /// The Things Stack posts to the connector from now on.
    pub(crate) fn point_webhook(&self) {
        self.stack().set_webhook(Some(self.webhook())).expect("a sound webhook");
    }

    /// The webhook as it is configured at The Things Stack.
    pub(crate) fn webhook(&self) -> Webhook {
        let url = format!("http://{}/webhook", self.connector.webhook());
        Webhook::new(url.parse().expect("a URL"))
    }

    /// A new connector on the same spool, after the former was stopped.
    pub(crate) async fn restart(self, change: impl FnOnce(&mut Config)) -> Self {
        self.restart_after(|_| {}, change).await
    }

    /// The same; something happens while no connector runs.
    pub(crate) async fn restart_after(
        self,
        meanwhile: impl FnOnce(&World),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let Self { world, connector } = self;
        connector.stop().await;
        meanwhile(&world);
        Self::on(world, change).await
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

    /// An uplink that says nothing.
    pub(crate) fn hello(&self, device: &str) {
        self.uplink(device, Uplink::default());
    }

    pub(crate) fn set_class(&self, device: &str, class: Class) {
        self.stack().set_class(&name(device), class).expect("a device");
    }

    /// The device is made at the hub; then its first uplink, and its arrival at the hub: from then on it is known, and
    /// its links are open or opening.
    pub(crate) async fn meet(&self, device: &str) {
        self.hub().create_device(device, None).expect("a new device");
        self.hello(device);
        self.until(|| self.telemetry(device).first().map(drop)).await;
    }

    /// The same with DPS, which makes it at one of the hubs; gives which.
    pub(crate) async fn meet_anywhere(&self, device: &str) -> usize {
        self.hello(device);
        let arrived = |hub: &Arc<Hub>| hub.all_events().iter().any(|event| event.device_id == device);
        self.until(|| self.world.emulator.hubs().iter().position(arrived)).await
    }

    /// What the hub got from a device, downlink reports left out.
    pub(crate) fn telemetry(&self, device: &str) -> Vec<Event> {
        let events = self.hub().all_events().into_iter();
        events.filter(|event| event.device_id == device && property(event, "kind").is_none()).collect()
    }

    /// A cloud-to-device message, as a service sends it.
    pub(crate) fn send(&self, device: &str, id: &str, properties: &[(&str, &str)], body: &str) {
        self.hub().send_cloud_message(device, message(id, properties, body)).expect("the hub takes it");
    }

    /// Calls a direct method as soon as the device takes them; gives the status and the answer.
    pub(crate) async fn call(&self, device: &str, method: &str, payload: &Value) -> (i32, Value) {
        self.until(|| self.hub().takes_methods(device).then_some(())).await;
        let answer = self.hub().invoke_method(device, method, payload, DEADLINE).await.expect("an answer");
        (answer.status, answer.json())
    }

    /// Sets desired properties.
    pub(crate) fn desire(&self, device: &str, patch: &Value) {
        self.hub().update_desired(device, patch).expect("a device");
    }

    /// Waits until a reported property is acknowledged with this `ac`; gives it.
    pub(crate) async fn acknowledged(&self, device: &str, property: &str, ac: u64) -> Value {
        let look = || {
            let twin = self.hub().twin(device)?;
            twin.reported.properties.get(property).filter(|told| told["ac"] == ac).cloned()
        };
        self.until(look).await
    }

    /// The reports about one request so far, in order of arrival.
    pub(crate) fn reports(&self, correlation: &str) -> Vec<Value> {
        let hubs = self.world.emulator.hubs().iter();
        let ours = hubs.flat_map(|hub| hub.all_events()).filter(|event| {
            property(event, "kind").as_deref() == Some("downlink")
                && property(event, "CorrelationId").as_deref() == Some(correlation)
        });
        ours.map(|event| serde_json::from_slice(&event.body).expect("JSON")).collect()
    }

    /// Waits for exactly these states in this order; gives the last report.
    pub(crate) async fn reported(&self, correlation: &str, states: &[&str]) -> Value {
        let enough = self.until(|| Some(self.reports(correlation)).filter(|all| all.len() >= states.len()));
        let late = tokio::time::sleep(DEADLINE - DEADLINE / 10);
        let reports = tokio::select! {
            reports = enough => reports,
            () = late => self.reports(correlation),
        };
        let seen: Vec<_> =
            reports.iter().map(|report| report["State"].as_str().unwrap_or_default()).collect();
        assert_eq!(seen, states, "{reports:?}");
        reports.last().cloned().unwrap_or_default()
    }

    /// Waits until the device's queue at the hub is empty.
    pub(crate) async fn completed(&self, device: &str) {
        self.until(|| self.hub().cloud_queue(device).is_empty().then_some(())).await;
        assert_eq!(self.hub().dead_letters(device), [], "completed, and not rejected");
    }

    /// Waits until a message is dead-lettered; gives it.
    pub(crate) async fn dead(&self, device: &str, id: &str) -> DeadLetter {
        let is_it = |letter: &DeadLetter| letter.queued.message.message_id.as_deref() == Some(id);
        self.until(|| self.hub().dead_letters(device).into_iter().find(is_it)).await
    }

    /// The next calls of the API go wrong.
    pub(crate) fn fault(&self, fault: Fault) {
        self.stack().fault(fault).expect("a sound fault");
    }

    /// All downlinks queued so far, as JSON.
    pub(crate) fn pushed(&self) -> Vec<Value> {
        let pushes = self.stack().pushes().into_iter();
        pushes.map(|push| serde_json::to_value(push.downlink).expect("JSON")).collect()
    }

    /// Messages of a kind to the webhook so far, delivered or not.
    pub(crate) fn told(&self, kind: &str) -> Vec<Delivery> {
        self.stack().deliveries().into_iter().filter(|delivery| delivery.kind == kind).collect()
    }

    /// Posts a message to the webhook as The Things Stack would, of whatever origin; gives the status.
    pub(crate) async fn post(&self, message: &Value) -> u16 {
        self.post_as(DOMAIN, message).await
    }

    /// The same from another cluster or tenant.
    pub(crate) async fn post_as(&self, domain: &str, message: &Value) -> u16 {
        let request = Poster::to(&self.connector).request(message).header("x-tts-domain", domain);
        request.send().await.expect("an answer").status().as_u16()
    }

    /// Waits until everything that the webhook took from this device so far is at the hub: an uplink is behind it.
    pub(crate) async fn settled(&self, device: &str) {
        let before = self.telemetry(device).len();
        let taken = self.told("uplink_message").len();
        self.hello(device);
        self.until(|| (self.told("uplink_message").len() > taken).then_some(())).await;
        self.until(|| (self.telemetry(device).len() > before).then_some(())).await;
    }

    /// Waits until `look` finds something; looks again whenever anything happens at a hub or at The Things Stack.
    pub(crate) async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        let mut changes = vec![self.stack().changes()];
        for hub in self.world.emulator.hubs() {
            changes.extend([hub.arrivals(), hub.cloud_changes(), hub.twin_changes(), hub.method_changes()]);
        }
        let found = async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                let any = changes.iter_mut().map(|change| Box::pin(change.changed()));
                futures_util::future::select_all(any).await.0.expect("all parties live");
            }
        };
        tokio::time::timeout(DEADLINE, found).await.expect("it happens in time")
    }

    /// Waits until a metric of the connector's, named without prefix, has this value; nothing tells when they change.
    pub(crate) async fn until_metric(&self, text: &str) {
        let poster = Poster::to(&self.connector);
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let metrics = poster.metrics(&self.connector).await;
            if metrics.lines().any(|line| line.strip_prefix("tti_connector_") == Some(text)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "no {text} in {metrics}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn end(self) {
        self.connector.stop().await;
        self.world.emulator.shutdown().await;
    }
}

/// The configuration: this world's DPS and Things Stack.
pub(crate) fn config(world: &World) -> Config {
    with_things_stack(world.config(), world)
}

fn with_things_stack(mut config: Config, world: &World) -> Config {
    let stack = world.emulator.things_stack().expect("it was asked for");
    config.things_stack.base_url = Some(stack.url().to_owned());
    config.things_stack.applications =
        BTreeMap::from([(APPLICATION.to_owned(), application(stack.api_key()))]);
    config
}

fn changed(mut config: Config, change: impl FnOnce(&mut Config)) -> Config {
    change(&mut config);
    config
}

/// An application's section with this key.
pub(crate) fn application(api_key: &str) -> ThingsStackApplication {
    ThingsStackApplication {
        api_key: Some(Secret::new(api_key.to_owned())),
        webhook_id: None,
        backfill: false,
    }
}

/// A cloud-to-device message.
pub(crate) fn message(id: &str, properties: &[(&str, &str)], body: &str) -> CloudMessage {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    CloudMessage {
        message_id: Some(id.to_owned()),
        properties: properties.iter().map(owned).collect(),
        ..CloudMessage::new(body.to_owned())
    }
}

pub(crate) fn name(device: &str) -> DeviceName {
    DeviceName::new(APPLICATION, device).expect("valid ids")
}

/// An application property of an event.
pub(crate) fn property(event: &Event, name: &str) -> Option<String> {
    event.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}
