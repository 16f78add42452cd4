//! `demo`: connector and emulators in one process; prints in plain words what arrives at the hub.
//!
//! Knows nothing of how either works.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::args::DemoArgs;
use super::emulate::{Folder, failed, post_to};
use super::{CliError, Exit, print};
use crate::app::{AppError, Connector};
use crate::config::{Config, ThingsStackApplication};
use crate::emulator::things_stack::{DeviceName, ThingsStack, Webhook};
use crate::emulator::{Emulator, Event, Hub, Options, PARTITIONS, Ready};
use crate::model::Secret;

/// What the curl line posts: the ordinary uplink of the project's payloads.
const EXAMPLE: &str = include_str!("../../payloads/uplink_message.json");

const EXAMPLE_APPLICATION: &str = "vineyard";
const EXAMPLE_DEVICE: &str = "cellar-climate-01";

/// Starts all, prints a curl line to try, then every arrival, until `stop`.
///
/// # Errors
/// A port is taken, or the folder can't be used.
pub(super) async fn demo(args: DemoArgs, stop: CancellationToken) -> Result<(), CliError> {
    let folder = Folder::new(args.dir)?;
    let dir = folder.path();
    let options = Options {
        amqp_port: args.amqp_port,
        https_port: args.https_port,
        things_stack_port: Some(args.things_stack_port),
        ..Options::new(dir.join("emulator"))
    };
    let emulator = Emulator::start(options).await.map_err(failed)?;
    let connector = match Connector::start(config(&dir, args.webhook_port, emulator.ready())).await {
        Ok(connector) => connector,
        Err(error) => {
            emulator.shutdown().await;
            return Err(match error {
                AppError::Listen { key: "webhook.listen", address, source } => port_taken(address, source),
                other => super::app_error(other),
            });
        }
    };
    let url = format!("http://{}/webhook", connector.webhook());
    let ready = Ready {
        webhook_url: Some(url.clone()),
        things_stack_webhook: Some(url.clone()),
        ..emulator.ready().clone()
    };
    if let Some(stack) = emulator.things_stack() {
        know_example(stack)?;
        let webhook = url.parse().map_err(|error| CliError::setup("the webhook has no URL", error))?;
        post_to(stack, Webhook::new(webhook))?;
    }
    ready.write(&dir).map_err(failed)?;
    let example = dir.join("uplink_message.json");
    std::fs::write(&example, EXAMPLE)
        .map_err(|error| CliError::setup("the example uplink can't be written into the folder", error))?;
    print(&greeting(&ready, &connector, &url, &dir, &example));

    let mut watchers = JoinSet::new();
    for hub in emulator.hubs() {
        watchers.spawn(watch(Arc::clone(hub)));
    }
    stop.cancelled().await;
    connector.stop().await;
    watchers.shutdown().await;
    emulator.shutdown().await;
    // What it says is no longer true. A folder that is gone already is fine.
    _ = std::fs::remove_file(dir.join("ready.json"));
    Ok(())
}

/// The device of the example is one and the same, whichever way its uplinks come.
fn know_example(stack: &ThingsStack) -> Result<(), CliError> {
    let example: Value = serde_json::from_str(EXAMPLE)
        .map_err(|error| CliError::setup("the example uplink is damaged", error))?;
    let text = |pointer: &str| example.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let Some(device) = DeviceName::new(EXAMPLE_APPLICATION, EXAMPLE_DEVICE) else { return Ok(()) };
    stack
        .set_euis(&device, text("/end_device_ids/dev_eui"), text("/end_device_ids/join_eui"))
        .map_err(|error| CliError::setup("the example's device can't be made", error))
}

/// There is no configuration to change here, only an option.
fn port_taken(address: SocketAddr, source: std::io::Error) -> CliError {
    let text = match source.kind() {
        ErrorKind::AddrInUse => {
            format!("{address} is taken by another program; stop it or choose another port (--webhook-port)")
        }
        _ => format!("can't listen on {address}: {source}; choose another port (--webhook-port)"),
    };
    CliError::failed(Exit::Unavailable, text)
}

fn config(dir: &Path, webhook_port: u16, ready: &Ready) -> Config {
    let mut config = Config::default();
    config.webhook.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, webhook_port));
    // The demo must start beside anything; `ready` and `metrics` are a bonus whose address it prints.
    config.admin.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.spool.directory = dir.join("spool");
    config.azure.amqp_port = ready.hubs.first().map_or(config.azure.amqp_port, |hub| hub.amqp_port);
    config.azure.ca_file = Some(ready.ca_file.clone().into());
    config.azure.dps.endpoint = Some(ready.dps_endpoint.clone());
    config.azure.dps.id_scope = Some(ready.id_scope.clone());
    config.azure.dps.group_enrollment_key = Some(Secret::new(ready.group_enrollment_key.clone()));
    config.things_stack.base_url = ready.things_stack_url.clone();
    let api_key = ready.things_stack_api_key.clone().map(Secret::new);
    // Other applications' keys are learned from the headers of their uplinks.
    let application = ThingsStackApplication { api_key, ..ThingsStackApplication::default() };
    config.things_stack.applications.insert(EXAMPLE_APPLICATION.to_owned(), application);
    config
}

fn greeting(ready: &Ready, connector: &Connector, url: &str, dir: &Path, example: &Path) -> String {
    let mut text =
        String::from("The connector, an emulated Azure IoT Hub and an emulated Things Stack are running\n\n");
    _ = writeln!(text, "  webhook  {url}");
    for hub in &ready.hubs {
        _ = writeln!(text, "  hub      {} AMQP {}, HTTPS {}", hub.host_name, hub.amqp_port, ready.https_port);
    }
    if let Some(url) = &ready.things_stack_url {
        _ = writeln!(text, "  LoRaWAN  {url} (the emulated Things Stack)");
    }
    _ = writeln!(text, "  metrics  http://{}/metrics", connector.admin());
    _ = writeln!(text, "  files    {} (ready.json has all keys and connection strings)", dir.display());
    _ = writeln!(text, "\nPost an uplink from another terminal, as The Things Stack would:\n");
    _ = writeln!(
        text,
        "  curl -i -H 'Content-Type: application/json' --data-binary @'{}' {url}\n",
        example.display()
    );
    if let Some(url) = &ready.things_stack_url {
        _ = writeln!(text, "Or let a device of the emulated Things Stack send one, as often as you like:\n");
        _ = writeln!(
            text,
            "  curl -i -d '{{\"f_port\":2,\"decoded_payload\":{{\"temperature\":13.5}}}}' \\\n    \
             {url}/emulator/applications/{EXAMPLE_APPLICATION}/devices/{EXAMPLE_DEVICE}/uplink\n"
        );
        if let Some(hub) = ready.hubs.first() {
            _ = writeln!(
                text,
                "After its first uplink the cloud knows the device. Send it two bytes (base64) as a cloud-to-device \
                 message; they are\nqueued as a downlink, sent after the device's next uplink, and acknowledged by the \
                 one after that:\n"
            );
            _ = writeln!(
                text,
                "  curl -i -d AQI= \\\n    \
                 '{url}/emulator/hubs/{}/devices/{EXAMPLE_DEVICE}/messages?Port=10&Confirmed=true'\n",
                hub.host_name
            );
        }
    }
    _ = writeln!(text, "Each message that arrives at the hub is shown here. Stop with Ctrl-C\n");
    text
}

/// Prints what arrives at one hub, in order per device.
async fn watch(hub: Arc<Hub>) {
    let mut arrivals = hub.arrivals();
    let mut next: HashMap<usize, i64> = HashMap::new();
    loop {
        for partition in 0..PARTITIONS {
            let from = next.entry(partition).or_insert_with(|| hub.bounds(partition).0);
            for event in hub.events(partition, *from, usize::MAX) {
                *from = event.sequence_number + 1;
                print(&in_words(hub.host(), &event));
            }
        }
        if arrivals.changed().await.is_err() {
            return;
        }
    }
}

fn in_words(host: &str, event: &Event) -> String {
    let property = |name: &str| {
        event.properties.iter().find(|(key, _)| key == name).map_or("unknown", |(_, value)| value.as_str())
    };
    if property("kind") == "downlink" {
        return format!(
            "Downlink {} to device {} (application {}) {}, told hub {host}:\n  {}\n\n",
            property("CorrelationId"),
            event.device_id,
            property("ApplicationId"),
            state_in_words(property("State")),
            String::from_utf8_lossy(&event.body),
        );
    }
    format!(
        "Telemetry from device {} (application {}, FPort {}, received {}) arrived at hub {host}:\n  {}\n\n",
        event.device_id,
        property("ApplicationId"),
        property("port"),
        property("iothub-creation-time-utc"),
        String::from_utf8_lossy(&event.body),
    )
}

fn state_in_words(state: &str) -> &str {
    match state {
        "queued" => "is queued at The Things Stack until the device's next uplink",
        "sent" => "was sent by a gateway",
        "ack" => "was acknowledged by the device",
        "nack" => "was not acknowledged; The Things Stack tries again",
        "invalidated" => "lost its place in a new session; The Things Stack queues it anew",
        "failed" => "failed",
        "rejected" => "was rejected, nothing is queued",
        "replaced" => "was dropped by a later one",
        "expired" => "is given up, nothing was heard of it",
        other => other,
    }
}
