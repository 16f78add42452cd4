//! `[downlink]` and `[twin]` as plain values. `config.example.toml` explains them to operators.

use std::collections::BTreeMap;
use std::time::Duration;

/// `[downlink]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downlink {
    /// By which of the hub's ways the cloud reaches devices. Links are opened for these alone, and only for
    /// applications with an API key.
    pub routes: Vec<DownlinkRoute>,
    /// When a cloud-to-device message is completed at the hub.
    pub complete_on: CompleteOn,
    /// A downlink of which nothing final is heard for this long is reported as expired.
    pub expiry: Duration,
    /// FPort (1 to 223) for a request that names none.
    pub port: Option<u8>,
    /// What a direct method or an IoT Central command of this name sends.
    pub methods: BTreeMap<String, Command>,
    /// Desired properties that are sent on a port of their own.
    pub properties: BTreeMap<String, Command>,
    /// Per application of The Things Stack, overriding the above.
    pub applications: BTreeMap<String, DownlinkApplication>,
}

/// `[downlink.applications.<id>]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownlinkApplication {
    /// Instead of `downlink.routes`.
    pub routes: Option<Vec<DownlinkRoute>>,
    /// Instead of `downlink.port`.
    pub port: Option<u8>,
    /// Beside `downlink.methods`; of one name this one holds.
    pub methods: BTreeMap<String, Command>,
    /// Beside `downlink.properties`; of one name this one holds.
    pub properties: BTreeMap<String, Command>,
}

/// `[downlink.methods.<name>]` and `[downlink.properties.<name>]`: what a request of this name sends when it does not
/// say so itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// FPort, 1 to 223.
    pub port: Option<u8>,
    /// Whether the device must acknowledge.
    pub confirmed: Option<bool>,
    /// The Things Stack's name of it.
    pub priority: Option<String>,
    /// `push` or `replace`.
    pub queue: Option<String>,
    /// JSON text: what is sent when the request carries nothing (`@`, or no payload).
    pub payload: Option<String>,
}

/// A way from the cloud to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DownlinkRoute {
    /// Cloud-to-device messages.
    C2d,
    /// Direct methods.
    Method,
    /// Desired and reported properties.
    Twin,
}

/// When a cloud-to-device message is completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompleteOn {
    /// The Things Stack queued the downlink.
    #[default]
    Queued,
    /// A gateway sent it. Until then the hub hands the message out again each minute.
    Sent,
    /// The device acknowledged it; an unconfirmed one, when it was sent.
    Confirmed,
}

/// `[twin]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// Whether devices report their last uplink as twin properties.
    pub reported: bool,
    /// Shortest time between two reports of one device.
    pub min_interval: Duration,
    /// Reports per second at one hub at most. Half of what the tier allows when unset, without one 10.
    pub max_rate: Option<u32>,
}

impl Default for Downlink {
    fn default() -> Self {
        Self {
            routes: vec![DownlinkRoute::C2d, DownlinkRoute::Method, DownlinkRoute::Twin],
            complete_on: CompleteOn::Queued,
            expiry: Duration::from_secs(24 * 3600),
            port: None,
            methods: BTreeMap::new(),
            properties: BTreeMap::new(),
            applications: BTreeMap::new(),
        }
    }
}

impl Default for Twin {
    fn default() -> Self {
        Self { reported: true, min_interval: Duration::from_secs(5 * 60), max_rate: None }
    }
}
