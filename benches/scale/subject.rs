//! Who is measured: starts the connector, or the webhook on Microsoft's SDK, against the emulated hub.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use super::arguments::Who;
use super::baseline;
use super::process::Process;
use super::support::{self, BINARY, Running, metric, wait_for};

/// What runs, and where.
pub(crate) struct Subject {
    pub(crate) running: Running,
    pub(crate) webhook: u16,
    /// The connector's.
    pub(crate) admin: Option<u16>,
}

/// How to start one.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) who: Who,
    /// Instead of the one that cargo built.
    pub(crate) binary: Option<PathBuf>,
    /// AMQP at another port than the hub's own.
    pub(crate) amqp_port: Option<u16>,
    /// Further settings of the connector.
    pub(crate) settings: Vec<(String, String)>,
}

impl Plan {
    pub(crate) fn of(who: Who, binary: Option<PathBuf>) -> Self {
        // It is started in another folder.
        let binary = binary.map(|path| path.canonicalize().expect("that binary exists"));
        Self { who, binary, amqp_port: None, settings: Vec::new() }
    }

    /// The connector with downlinks by these routes, and with no pace of attaches but the hub's own.
    pub(crate) fn with_downlinks(binary: Option<PathBuf>, ready: &serde_json::Value, routes: &str) -> Self {
        let text = |name: &str| ready[name].as_str().expect("a text");
        let settings = [
            ("DOWNLINK__ROUTES", routes),
            ("AZURE__ATTACH_RATE", "10000"),
            ("THINGS_STACK__BASE_URL", text("thingsStackUrl")),
            ("THINGS_STACK__APPLICATIONS__SOAK__API_KEY", text("thingsStackApiKey")),
        ];
        let settings = settings.map(|(name, value)| (format!("TTI_CONNECTOR__{name}"), value.to_owned()));
        Self { settings: settings.to_vec(), ..Self::of(Who::Connector, binary) }
    }

    /// Returns once the webhook takes connections.
    pub(crate) fn start(&self, dir: &Path, ready: &serde_json::Value, webhook: u16, admin: u16) -> Subject {
        let subject = match self.who {
            Who::Connector => {
                Subject { running: self.connector(dir, ready, webhook, admin), webhook, admin: Some(admin) }
            }
            Who::Node | Who::NodeAtOnce => {
                let at_once = self.who == Who::NodeAtOnce;
                Subject { running: baseline::start(ready, webhook, at_once), webhook, admin: None }
            }
        };
        wait_for("the webhook listens", || TcpStream::connect(("127.0.0.1", webhook)).is_ok());
        subject
    }

    fn connector(&self, dir: &Path, ready: &serde_json::Value, webhook: u16, admin: u16) -> Running {
        let binary = self.binary.as_deref().unwrap_or(Path::new(BINARY));
        let string = ready["hubs"][0]["serviceConnectionString"].as_str().expect("a text");
        let mut command = support::connector(binary, dir, ready, webhook, admin);
        command.env("TTI_CONNECTOR__AZURE__IOT_HUB__CONNECTION_STRING", string);
        if let Some(port) = self.amqp_port {
            command.env("TTI_CONNECTOR__AZURE__AMQP_PORT", port.to_string());
        }
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        Running(command.spawn().expect("the connector starts"))
    }
}

impl Subject {
    pub(crate) fn process(&self) -> Process {
        Process(self.running.0.id())
    }

    /// A number of the connector's metrics; 0 of anybody else.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.admin.map_or(0, |admin| metric(admin, name))
    }
}
