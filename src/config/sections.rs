//! The configuration's sections as plain values, one struct each. `config.example.toml` explains them to operators.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::sections_backfill::Backfill;
use super::sections_downlink::{Downlink, Twin};
use crate::azure::Tier;
use crate::model::Secret;

/// The whole configuration after defaults, file and environment are joined and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where The Things Stack posts to.
    pub webhook: Webhook,
    /// The durable queue.
    pub spool: Spool,
    /// From the spool to the hub: retries and windows.
    pub uplink: Uplink,
    /// Hubs, DPS, and how to reach them.
    pub azure: Azure,
    /// Who a device is at Azure.
    pub devices: Devices,
    /// The Things Stack's API, for downlinks.
    pub things_stack: ThingsStack,
    /// Missed uplinks.
    pub backfill: Backfill,
    /// From the cloud to the device.
    pub downlink: Downlink,
    /// Reported twin properties.
    pub twin: Twin,
    /// The shape of telemetry.
    pub telemetry: TelemetrySection,
    /// Health and metrics.
    pub admin: Admin,
    /// Logs.
    pub log: Log,
    /// How to stop.
    pub shutdown: Shutdown,
}

/// `[webhook]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Accepted secrets; two may live during a rotation. Empty: no check, loopback only.
    pub secrets: Vec<Secret>,
    /// Longest request body, before and after inflation, in bytes.
    pub max_body_bytes: u64,
    /// The cap on `Prefer: wait=N`.
    pub max_wait: Duration,
    /// Longest time a client may take to send its request.
    pub read_timeout: Duration,
    /// Connections served at once; a further one takes the place of the oldest without a successful request, or waits.
    pub max_connections: usize,
}

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spool {
    /// Folder of the database; created when absent.
    pub directory: PathBuf,
    /// Bodies kept at most, pending ones, in bytes.
    pub max_bytes: u64,
    /// Pending messages kept at most.
    pub max_messages: u64,
    /// How long an uplink posted again is recognised.
    pub dedup_window: Duration,
    /// Parked messages kept at most; beyond it their applications are refused.
    pub parked_max_messages: u64,
    /// Parked bodies kept at most, in bytes.
    pub parked_max_bytes: u64,
    /// Bodies of pending messages kept in memory, in bytes; older ones are read back from disk.
    pub memory_bytes: u64,
}

/// `[uplink]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// First wait after a failed send.
    pub retry_initial: Duration,
    /// Longest wait between two tries.
    pub retry_max: Duration,
    /// Messages on their way to one hub at once.
    pub max_in_flight: usize,
    /// Longest wait for the hub's answer to one message before the link is given up.
    pub send_timeout: Duration,
}

/// `[azure]`
#[derive(Clone, PartialEq, Eq)]
pub struct Azure {
    /// How to reach hubs.
    pub transport: Transport,
    /// TCP port of AMQP over TLS.
    pub amqp_port: u16,
    /// TCP port of AMQP over WebSocket.
    pub websocket_port: u16,
    /// PEM file with further CA certificates, beside the platform's.
    pub ca_file: Option<PathBuf>,
    /// HTTP proxy for hub and DPS, `http://[user:password@]host:port`; environment `HTTPS_PROXY` when unset.
    /// It may hold a password, so `Debug` leaves it out.
    pub proxy: Option<String>,
    /// Life of the tokens we sign; renewed at 85 %.
    pub token_lifetime: Duration,
    /// Something is sent at least this often on a quiet connection.
    pub keep_alive: Duration,
    /// Longest time for TCP, TLS and AMQP to open.
    pub connect_timeout: Duration,
    /// Devices on one connection at most (IoT Hub: 995 over TCP, 500 over WebSocket).
    pub max_devices_per_connection: usize,
    /// Devices that share an AMQP session at most: they lose their links together when it ends.
    pub max_devices_per_session: usize,
    /// Tier of the hubs; learnt from their answers when unset.
    pub tier: Option<Tier>,
    /// Units of that tier that each hub has.
    pub units: u32,
    /// Devices per second that are attached at one hub at most, for their downlinks; three seconds' worth at once. What
    /// the tier allows when unset, without one 100.
    pub attach_rate: Option<u32>,
    /// After a hub could not be reached for this long, DPS is asked where its devices live now.
    pub relocate_after: Duration,
    /// DTDL model id for applications that name none.
    pub model_id: Option<String>,
    /// A hub by connection string, for every application that has no section of its own.
    pub iot_hub: IotHub,
    /// DPS, likewise.
    pub dps: Dps,
    /// Per application of The Things Stack, overriding the two above.
    pub applications: BTreeMap<String, Application>,
}

impl fmt::Debug for Azure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Azure")
            .field("transport", &self.transport)
            .field("amqp_port", &self.amqp_port)
            .field("websocket_port", &self.websocket_port)
            .field("ca_file", &self.ca_file)
            .field("proxy", &self.proxy.as_ref().map(Secret::new))
            .field("token_lifetime", &self.token_lifetime)
            .field("keep_alive", &self.keep_alive)
            .field("connect_timeout", &self.connect_timeout)
            .field("max_devices_per_connection", &self.max_devices_per_connection)
            .field("max_devices_per_session", &self.max_devices_per_session)
            .field("tier", &self.tier)
            .field("units", &self.units)
            .field("attach_rate", &self.attach_rate)
            .field("relocate_after", &self.relocate_after)
            .field("model_id", &self.model_id)
            .field("iot_hub", &self.iot_hub)
            .field("dps", &self.dps)
            .field("applications", &self.applications)
            .finish()
    }
}

/// `[azure.applications.<id>]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Application {
    /// DTDL model id of its devices.
    pub model_id: Option<String>,
    /// Its hub.
    pub iot_hub: IotHub,
    /// Its DPS.
    pub dps: Dps,
}

/// `[azure.iot_hub]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IotHub {
    /// A hub policy's (`SharedAccessKeyName`) or a single device's (`DeviceId`).
    pub connection_string: Option<Secret>,
}

/// `[azure.dps]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dps {
    /// The instance's id scope, `0ne…`.
    pub id_scope: Option<String>,
    /// The enrollment group's symmetric key, base64.
    pub group_enrollment_key: Option<Secret>,
    /// Host, `host:port` or `https://…` of the device endpoint; Azure's global one when unset.
    pub endpoint: Option<String>,
}

/// How AMQP travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// AMQP over TLS, port 5671.
    #[default]
    Amqp,
    /// AMQP over WebSocket, port 443, for networks that pass nothing else.
    AmqpWs,
}

/// `[devices]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// `device_id`, `dev_eui`, or a template with `{device_id}`, `{application_id}`, `{dev_eui}`, `{tenant}`.
    pub hub_id: String,
    /// A device that sent nothing for this long gives its AMQP session back.
    pub idle_timeout: Duration,
    /// How long a DPS assignment is trusted.
    pub assignment_ttl: Duration,
    /// How long a failed resolution is remembered.
    pub negative_ttl: Duration,
    /// DPS registrations under way at once.
    pub max_registrations: usize,
}

/// `[things_stack]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThingsStack {
    /// For instance `https://eu1.cloud.thethings.network`.
    pub base_url: Option<String>,
    /// Further hosts (`host` or `host:port`) whose `X-Downlink-*` headers are believed.
    pub allowed_hosts: Vec<String>,
    /// Longest wait for one answer of the API.
    pub request_timeout: Duration,
    /// Requests to the API at once.
    pub max_in_flight: usize,
    /// Per application.
    pub applications: BTreeMap<String, ThingsStackApplication>,
}

/// `[things_stack.applications.<id>]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThingsStackApplication {
    /// API key with the right to write downlinks.
    pub api_key: Option<Secret>,
    /// The webhook's id in the console.
    pub webhook_id: Option<String>,
    /// Missed uplinks are fetched from the Storage Integration.
    pub backfill: bool,
}

/// `[telemetry]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetrySection {
    /// The shape of the body.
    pub format: TelemetryFormat,
}

/// What a telemetry body looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TelemetryFormat {
    /// The documented connector's fields.
    #[default]
    Connector,
    /// The whole message of The Things Stack.
    ThingsStack,
    /// The decoded payload alone, for IoT Central.
    Decoded,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address and port of `/live`, `/ready` and `/metrics`.
    pub listen: SocketAddr,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a `tracing` filter such as `info,tti_connector::spool=debug`.
    pub level: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `[shutdown]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Longest time from SIGTERM until exit.
    pub grace: Duration,
}

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

impl Default for Webhook {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(LOOPBACK, 8080),
            secrets: Vec::new(),
            max_body_bytes: 1024 * 1024,
            max_wait: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
            max_connections: 4096,
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("tti-connector-data"),
            max_bytes: 8 * 1024 * 1024 * 1024,
            max_messages: 5_000_000,
            // The Things Stack's paid retries reach 72 minutes.
            dedup_window: Duration::from_secs(90 * 60),
            parked_max_messages: 100_000,
            parked_max_bytes: 512 * 1024 * 1024,
            memory_bytes: 32 * 1024 * 1024,
        }
    }
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            retry_initial: Duration::from_millis(500),
            retry_max: Duration::from_secs(60),
            max_in_flight: 1024,
            send_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for Azure {
    fn default() -> Self {
        Self {
            transport: Transport::Amqp,
            amqp_port: 5671,
            websocket_port: 443,
            ca_file: None,
            proxy: None,
            token_lifetime: Duration::from_secs(3600),
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(20),
            max_devices_per_connection: 995,
            max_devices_per_session: 16,
            tier: None,
            units: 1,
            attach_rate: None,
            relocate_after: Duration::from_secs(5 * 60),
            model_id: None,
            iot_hub: IotHub::default(),
            dps: Dps::default(),
            applications: BTreeMap::new(),
        }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            hub_id: "device_id".to_owned(),
            idle_timeout: Duration::from_secs(15 * 60),
            assignment_ttl: Duration::from_secs(7 * 24 * 3600),
            negative_ttl: Duration::from_secs(30),
            max_registrations: 16,
        }
    }
}

impl Default for ThingsStack {
    fn default() -> Self {
        Self {
            base_url: None,
            allowed_hosts: Vec::new(),
            request_timeout: Duration::from_secs(10),
            max_in_flight: 64,
            applications: BTreeMap::new(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::new(LOOPBACK, 9090) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(20) }
    }
}
