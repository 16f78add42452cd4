//! `emulate`: the emulated IoT Hub, DPS and Things Stack alone, for whoever tests an IoT device or a connector.
//!
//! Knows nothing of how the emulator works.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::args::{EmulateArgs, TierArg};
use super::{CliError, Exit, print};
use crate::emulator::things_stack::{ThingsStack, Webhook};
use crate::emulator::{CloudSettings, Emulator, EmulatorError, Options, Ready, Tier};
use crate::model::Secret;

/// A folder that the user named, or a temporary one that goes with the process.
pub(super) enum Folder {
    Named(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    pub(super) fn new(dir: Option<PathBuf>) -> Result<Self, CliError> {
        match dir {
            Some(dir) => Ok(Self::Named(dir)),
            None => tempfile::Builder::new().prefix("tti-connector-").tempdir().map(Self::Temporary).map_err(
                |error| CliError::setup("no temporary folder can be made; name one with --dir", error),
            ),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Named(dir) => dir.clone(),
            Self::Temporary(dir) => dir.path().to_owned(),
        }
    }
}

/// Starts the emulator, tells how to use it, and runs until `stop`.
///
/// # Errors
/// A port is taken, or the folder can't be used.
pub(super) async fn emulate(args: EmulateArgs, stop: CancellationToken) -> Result<(), CliError> {
    let folder = Folder::new(args.dir)?;
    let options = Options {
        amqp_port: args.amqp_port,
        https_port: args.https_port,
        hubs: usize::from(args.hubs),
        things_stack_port: Some(args.things_stack_port),
        tier: match args.tier {
            TierArg::Standard => Tier::Standard,
            TierArg::Basic => Tier::Basic,
            TierArg::F1 => Tier::F1,
            TierArg::B1 => Tier::B1,
            TierArg::B2 => Tier::B2,
            TierArg::B3 => Tier::B3,
            TierArg::S1 => Tier::S1,
            TierArg::S2 => Tier::S2,
            TierArg::S3 => Tier::S3,
        },
        units: args.units,
        cut_throttled: args.cut_throttled,
        cloud: CloudSettings { feedback_delay: args.feedback_delay, ..CloudSettings::default() },
        ..Options::new(folder.path())
    };
    let secret = args.webhook_secret_file.as_deref().map(read_secret).transpose()?;
    let emulator = Emulator::start(options).await.map_err(failed)?;
    let mut ready = emulator.ready().clone();
    if let (Some(url), Some(stack)) = (args.webhook, emulator.things_stack()) {
        ready.things_stack_webhook = Some(url.to_string());
        post_to(stack, Webhook { secret, ..Webhook::new(url) })?;
    }
    ready.write(&folder.path()).map_err(failed)?;
    print(&greeting(&ready, &folder.path()));
    stop.cancelled().await;
    emulator.shutdown().await;
    Ok(())
}

/// Lets the emulated Things Stack post to a webhook, with its own API key for the downlinks that come back.
pub(super) fn post_to(stack: &ThingsStack, webhook: Webhook) -> Result<(), CliError> {
    let downlink_api_key = Some(Secret::new(stack.api_key()));
    stack
        .set_webhook(Some(Webhook { downlink_api_key, ..webhook }))
        .map_err(|error| CliError::setup("the emulated Things Stack can't post to the webhook", error))
}

fn read_secret(path: &Path) -> Result<Secret, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::setup("the file of --webhook-secret-file can't be read", error))?;
    Ok(Secret::new(text.trim()))
}

pub(super) fn failed(error: EmulatorError) -> CliError {
    let exit = if error.is_unavailable() { Exit::Unavailable } else { Exit::Failure };
    CliError::failed(exit, error)
}

fn greeting(ready: &Ready, dir: &std::path::Path) -> String {
    let mut text = String::from("An emulated Azure IoT Hub is ready\n\n");
    for hub in &ready.hubs {
        _ = writeln!(
            text,
            "  hub      {} AMQP {}, HTTPS and WebSocket {}",
            hub.host_name, hub.amqp_port, ready.https_port
        );
        _ = writeln!(text, "           {}", hub.service_connection_string);
        _ = writeln!(text, "  events   {}", hub.event_hub_connection_string);
    }
    _ = writeln!(text, "  DPS      {} id scope {}", ready.dps_endpoint, ready.id_scope);
    _ = writeln!(text, "           group enrollment key {}", ready.group_enrollment_key);
    _ = writeln!(text, "  trust    {}", ready.ca_file);
    if let Some(url) = &ready.things_stack_url {
        _ = writeln!(text, "  LoRaWAN  {url}, The Things Stack (its API key is in ready.json)");
    }
    if let Some(webhook) = &ready.things_stack_webhook {
        _ = writeln!(text, "           posts its messages to {webhook}");
    }
    _ = writeln!(text, "\nAll of it for programs: {}\nStop with Ctrl-C", dir.join("ready.json").display());
    text
}
