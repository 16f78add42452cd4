//! The connector as a process: its settings, its ends, what /proc and its metrics say of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::cloud::{APPLICATION, Cloud};

/// `shutdown.grace` of the run, and what the process may take beyond it to be gone.
const GRACE: Duration = Duration::from_secs(20);
const GONE: Duration = Duration::from_secs(2);
/// A start takes less than this even with a backlog; else it failed.
const START: Duration = Duration::from_secs(30);

pub(crate) struct Process {
    command: Settings,
    child: Option<Child>,
    /// Lives so far.
    pub(crate) life: usize,
    admin_port: u16,
    http: reqwest::Client,
}

/// What every start of it shares.
struct Settings {
    dir: PathBuf,
    environment: Vec<(String, String)>,
}

impl Settings {
    fn command(&self, words: &[&str]) -> Command {
        let built = || env!("CARGO_BIN_EXE_tti-connector").into();
        let mut command = Command::new(std::env::var_os("TTI_CHAOS_BINARY").unwrap_or_else(built));
        command.args(words).current_dir(&self.dir).kill_on_drop(true);
        let own = |(name, _): &(std::ffi::OsString, _)| name.to_string_lossy().starts_with("TTI_CONNECTOR__");
        for (name, _) in std::env::vars_os().filter(own) {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Process {
    pub(crate) fn new(dir: &Path, cloud: &Cloud, http: reqwest::Client) -> Self {
        let (at, ready) = (&cloud.at, &cloud.ready);
        let settings = [
            ("WEBHOOK__LISTEN", format!("127.0.0.1:{}", at.connector_port)),
            ("ADMIN__LISTEN", format!("127.0.0.1:{}", at.admin_port)),
            ("SPOOL__DIRECTORY", dir.join("spool").display().to_string()),
            ("AZURE__AMQP_PORT", at.amqp_port.to_string()),
            ("AZURE__CA_FILE", ready.ca_file.clone()),
            ("AZURE__DPS__ENDPOINT", format!("localhost:{}", at.dps_port)),
            ("AZURE__DPS__ID_SCOPE", ready.id_scope.clone()),
            ("AZURE__DPS__GROUP_ENROLLMENT_KEY", ready.group_enrollment_key.clone()),
            ("THINGS_STACK__BASE_URL", format!("http://localhost:{}", at.api_port)),
            (
                &*format!("THINGS_STACK__APPLICATIONS__{}__API_KEY", APPLICATION.to_uppercase()),
                cloud.now().stack.api_key().to_owned(),
            ),
            // A run is short: what is refused for a moment must not wait for a minute.
            ("UPLINK__RETRY_MAX", "10s".to_owned()),
            ("DEVICES__NEGATIVE_TTL", "3s".to_owned()),
            ("DOWNLINK__EXPIRY", "10m".to_owned()),
            // Its keys take memory until the window is full, which is within the warm-up then.
            ("SPOOL__DEDUP_WINDOW", "5m".to_owned()),
            ("SHUTDOWN__GRACE", format!("{}s", GRACE.as_secs())),
            ("LOG__LEVEL", std::env::var("TTI_CHAOS_LOG").unwrap_or_else(|_| "warn".to_owned())),
        ];
        let environment =
            settings.into_iter().map(|(name, value)| (format!("TTI_CONNECTOR__{name}"), value)).collect();
        let command = Settings { dir: dir.to_owned(), environment };
        Self { command, child: None, life: 0, admin_port: at.admin_port, http }
    }

    pub(crate) async fn start(&mut self) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.log_file()).map_err(text)?;
        let mut command = self.command.command(&["run"]);
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().map_err(text)?);
        self.life += 1;
        let began = Instant::now();
        while self.get("live").await.is_none() {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("the connector ended at its start: {status}"));
            }
            if began.elapsed() > START {
                return Err(format!("the connector is not live after {START:?}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        self.child.take().ok_or("it does not run")?.kill().await.map_err(text)
    }

    /// SIGTERM; it must end well and in time. Gives how long that took.
    pub(crate) async fn terminate(&mut self) -> Result<Duration, String> {
        let mut child = self.child.take().ok_or("it does not run")?;
        let id = child.id().ok_or("it has ended by itself")?.to_string();
        let began = Instant::now();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await.map_err(text)?;
        if !sent.success() {
            return Err(format!("SIGTERM could not be sent: {sent}"));
        }
        match timeout(GRACE + GONE, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(began.elapsed()),
            Ok(Ok(status)) => Err(format!("the connector ended with {status} after SIGTERM")),
            Ok(Err(error)) => Err(text(error)),
            Err(_) => Err(format!("the connector is still there {:?} after SIGTERM", GRACE + GONE)),
        }
    }

    /// Whether it ended although nobody asked it to.
    pub(crate) fn ended_by_itself(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        Some(format!("the connector ended by itself: {status}"))
    }

    /// Resident kilobytes, open files, threads.
    pub(crate) fn measure(&self) -> Option<(f64, f64, f64)> {
        let id = self.child.as_ref()?.id()?;
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let field = |name: &str| -> Option<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let files = fs::read_dir(format!("/proc/{id}/fd")).ok()?.count();
        Some((field("VmRSS:")?, files as f64, field("Threads:")?))
    }

    /// A metric's value, named without prefix.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.get("metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix("tti_connector_")?.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    /// `tti-connector spool …`; gives what it prints.
    pub(crate) async fn spool(&self, words: &[&str]) -> Result<String, String> {
        let words: Vec<_> = std::iter::once("spool").chain(words.iter().copied()).collect();
        let output = self.command.command(&words).output().await.map_err(text)?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{words:?} failed: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.command.dir.join("connector.log")
    }

    /// Panics that it logged.
    pub(crate) fn panics(&self) -> usize {
        let log = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains("panicked")).count()
    }

    async fn get(&self, path: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}/{path}", self.admin_port);
        let answer = self.http.get(url).timeout(Duration::from_secs(2)).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
