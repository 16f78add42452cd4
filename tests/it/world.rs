//! A connector and an emulated hub for a test: real sockets on loopback, state in a temporary folder.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tti_connector::app::Connector;
use tti_connector::config::Config;
use tti_connector::emulator::{Emulator, Event, Hub, Options, Ready};
use tti_connector::model::Secret;

use crate::messages::DEADLINE;

/// An emulator with its folder.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) emulator: Emulator,
}

impl World {
    pub(crate) async fn new(hubs: usize) -> Self {
        Self::with(hubs, |_| {}).await
    }

    /// The same with changes to the emulator's options.
    pub(crate) async fn with(hubs: usize, change: impl FnOnce(&mut Options)) -> Self {
        crate::watch::logs();
        let dir = TempDir::new().expect("a temporary folder");
        let mut options = options(&dir, hubs);
        change(&mut options);
        let emulator = Emulator::start(options).await.expect("the emulator starts");
        Self { dir, emulator }
    }

    /// Starts the emulator again on the ports it had, with the state it kept.
    pub(crate) async fn start_on(dir: TempDir, ready: &Ready) -> Self {
        let things_stack = ready.things_stack_url.as_deref().and_then(|url| url.rsplit_once(':'));
        let options = Options {
            amqp_port: ready.hubs[0].amqp_port,
            https_port: ready.https_port,
            things_stack_port: things_stack.map(|(_, port)| port.parse().expect("a port")),
            ..options(&dir, ready.hubs.len())
        };
        Self { emulator: Emulator::start(options).await.expect("the emulator starts again"), dir }
    }

    /// `tti-connector run` as a process of its own with DPS of this emulator, its webhook on `port`.
    pub(crate) fn connector(&self, port: u16) -> Command {
        let ready = self.emulator.ready();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tti-connector"));
        command
            .arg("run")
            .current_dir(self.dir.path())
            .env("TTI_CONNECTOR__WEBHOOK__LISTEN", format!("127.0.0.1:{port}"))
            .env("TTI_CONNECTOR__ADMIN__LISTEN", "127.0.0.1:0")
            .env("TTI_CONNECTOR__SPOOL__DIRECTORY", self.dir.path().join("spool"))
            .env("TTI_CONNECTOR__AZURE__AMQP_PORT", ready.hubs[0].amqp_port.to_string())
            .env("TTI_CONNECTOR__AZURE__CA_FILE", &ready.ca_file)
            .env("TTI_CONNECTOR__AZURE__DPS__ENDPOINT", &ready.dps_endpoint)
            .env("TTI_CONNECTOR__AZURE__DPS__ID_SCOPE", &ready.id_scope)
            .env("TTI_CONNECTOR__AZURE__DPS__GROUP_ENROLLMENT_KEY", &ready.group_enrollment_key)
            .stderr(crate::watch::stderr())
            .kill_on_drop(true);
        command
    }

    /// A connector's configuration: free ports, DPS of this emulator.
    pub(crate) fn config(&self) -> Config {
        let ready = self.emulator.ready();
        let mut config = self.bare_config();
        config.azure.dps.endpoint = Some(ready.dps_endpoint.clone());
        config.azure.dps.id_scope = Some(ready.id_scope.clone());
        config.azure.dps.group_enrollment_key = Some(Secret::new(ready.group_enrollment_key.clone()));
        config
    }

    /// The same with the hub's policy connection string instead.
    pub(crate) fn config_with_policy(&self) -> Config {
        let mut config = self.bare_config();
        let string = self.emulator.hubs()[0].connection_string("iothubowner").expect("a policy");
        config.azure.iot_hub.connection_string = Some(Secret::new(string));
        config
    }

    fn bare_config(&self) -> Config {
        let ready = self.emulator.ready();
        let mut config = Config::default();
        config.webhook.listen = "127.0.0.1:0".parse().expect("an address");
        config.admin.listen = config.webhook.listen;
        config.spool.directory = self.dir.path().join("spool");
        config.azure.amqp_port = ready.hubs[0].amqp_port;
        config.azure.websocket_port = ready.https_port;
        config.azure.ca_file = Some(PathBuf::from(&ready.ca_file));
        config.uplink.retry_initial = Duration::from_millis(20);
        config.uplink.retry_max = Duration::from_millis(500);
        config.shutdown.grace = Duration::from_secs(10);
        config
    }

    /// Waits until the hubs together hold `count` messages; gives them.
    pub(crate) async fn arrived(&self, count: usize) -> Vec<Event> {
        let hubs = self.emulator.hubs();
        let mut arrivals: Vec<_> = hubs.iter().map(|hub| hub.arrivals()).collect();
        let enough = async {
            loop {
                let events: Vec<_> = hubs.iter().flat_map(|hub| hub.all_events()).collect();
                if events.len() >= count {
                    return events;
                }
                let changes = arrivals.iter_mut().map(|arrival| Box::pin(arrival.changed()));
                futures_util::future::select_all(changes).await.0.expect("the hub lives");
            }
        };
        match tokio::time::timeout(DEADLINE, enough).await {
            Ok(events) => events,
            Err(_) => panic!("{} of {count} messages arrived", self.total()),
        }
    }

    /// Messages that arrived at all hubs so far.
    pub(crate) fn total(&self) -> usize {
        self.emulator.hubs().iter().map(|hub| hub.all_events().len()).sum()
    }

    pub(crate) fn hub(&self, index: usize) -> &Arc<Hub> {
        &self.emulator.hubs()[index]
    }
}

/// A port for a listener that comes back.
pub(crate) fn free_port() -> u16 {
    crate::ports::free_port(&[Ipv4Addr::LOCALHOST.into()])
}

fn options(dir: &TempDir, hubs: usize) -> Options {
    Options {
        amqp_port: 0,
        https_port: 0,
        hubs,
        dps_work: Duration::from_millis(10),
        dps_retry_after_s: 0,
        things_stack_port: Some(0),
        ..Options::new(dir.path().join("emulator"))
    }
}

/// The frame counter of a telemetry message in the connector's format.
pub(crate) fn frame_counter(event: &Event) -> u64 {
    let body: Value = serde_json::from_slice(&event.body).expect("JSON");
    body["FrameCounter"].as_u64().unwrap_or_else(|| panic!("no FrameCounter in {body}"))
}

/// Posts to a connector's webhook.
#[derive(Clone)]
pub(crate) struct Poster {
    client: reqwest::Client,
    url: String,
}

impl Poster {
    pub(crate) fn to(connector: &Connector) -> Self {
        Self::to_url(format!("http://{}/webhook", connector.webhook()))
    }

    pub(crate) fn to_url(url: String) -> Self {
        // Plain HTTP: the client is built with a TLS backend, but never uses it.
        let tls = tti_connector::net::tls::client_config(None).expect("a TLS configuration");
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .no_proxy()
            .timeout(DEADLINE)
            .build()
            .expect("a client");
        Self { client, url }
    }

    /// A post that is not sent yet, for headers of its own.
    pub(crate) fn request(&self, message: &Value) -> reqwest::RequestBuilder {
        self.client.post(&self.url).json(message)
    }

    /// The connector's metrics as text.
    pub(crate) async fn metrics(&self, connector: &Connector) -> String {
        let url = format!("http://{}/metrics", connector.admin());
        let answer = self.client.get(url).send().await.expect("an answer");
        answer.text().await.expect("a text")
    }

    /// Status and body of `/ready`.
    pub(crate) async fn ready(&self, connector: &Connector) -> (u16, String) {
        let url = format!("http://{}/ready", connector.admin());
        let answer = self.client.get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    }

    /// Waits until `/ready` says so.
    pub(crate) async fn until_ready(&self, connector: &Connector) {
        let ready = async {
            while self.ready(connector).await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("ready in time");
    }

    /// Posts and gives the status; panics when the connection fails.
    pub(crate) async fn post(&self, message: &Value) -> u16 {
        self.try_post(message).await.expect("an answer")
    }

    /// Posts and gives the status, or `None` when the connection failed.
    pub(crate) async fn try_post(&self, message: &Value) -> Option<u16> {
        self.request(message).send().await.ok().map(|answer| answer.status().as_u16())
    }

    /// Posts with `Prefer: wait=30`; gives status and body.
    pub(crate) async fn post_and_wait(&self, message: &Value) -> (u16, Value) {
        let answer = self.request(message).header("prefer", "wait=30").send().await;
        let answer = answer.expect("an answer");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}
