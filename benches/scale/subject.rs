//! Who is measured: starts the connector, or the webhook on Microsoft's SDK, against the emulated hub.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::arguments::Who;
use super::baseline;
use super::process::Process;
use super::support::{BINARY, Running, metric, wait_for};

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
        let hub = &ready["hubs"][0];
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let amqp_port = self.amqp_port.map_or_else(|| hub["amqpPort"].to_string(), |port| port.to_string());
        let mut command = Command::new(self.binary.as_deref().unwrap_or(Path::new(BINARY)));
        command
            .arg("run")
            .current_dir(dir)
            .env("TTI_CONNECTOR__WEBHOOK__LISTEN", format!("127.0.0.1:{webhook}"))
            .env("TTI_CONNECTOR__ADMIN__LISTEN", format!("127.0.0.1:{admin}"))
            .env("TTI_CONNECTOR__SPOOL__DIRECTORY", dir.join("spool"))
            .env("TTI_CONNECTOR__AZURE__AMQP_PORT", amqp_port)
            .env("TTI_CONNECTOR__AZURE__CA_FILE", text(&ready["caFile"]))
            .env("TTI_CONNECTOR__AZURE__IOT_HUB__CONNECTION_STRING", text(&hub["serviceConnectionString"]))
            .env("TTI_CONNECTOR__LOG__LEVEL", "warn")
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
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
