//! Gauges whose values others own: taken together at the moment of a scrape.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The state of spool, directory and hub connections at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages in the spool that wait to be sent.
    pub pending_messages: u64,
    /// Their bodies, in bytes.
    pub pending_bytes: u64,
    /// How long the oldest of them has waited; `None` when there is none.
    pub oldest_age: Option<Duration>,
    /// Messages that wait for an operator.
    pub parked_messages: u64,
    /// Their bodies, in bytes.
    pub parked_bytes: u64,
    /// The spool keeps messages.
    pub spool_writable: bool,
    /// Damaged databases that were moved aside and lie in the spool's folder.
    pub damaged_files: u64,
    /// End devices whose hub is known.
    pub devices_known: u64,
    /// End devices with an open session at their hub.
    pub devices_connected: u64,
    /// Open connections to hubs.
    pub hub_connections: u64,
    /// End devices whose hub device another client took from us more than once lately.
    pub devices_contended: u64,
    /// Times since the start that a hub device was taken back from another client.
    pub device_takeovers: u64,
    /// End devices whose links for what the cloud sends are kept open.
    pub devices_kept_open: u64,
    /// Downlinks in the ledger that nothing ended yet.
    pub downlinks_open: u64,
    /// Times since the start that the webhook was told something of a downlink that is another device's.
    pub downlinks_forged: u64,
    /// Tasks of the runtime that have not ended.
    pub tasks: u64,
}

type Whole = Gauge<u64, AtomicU64>;
type Fraction = Gauge<f64, AtomicU64>;

/// The gauges themselves.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pending_messages: Whole,
    pending_bytes: Whole,
    oldest_age: Fraction,
    parked_messages: Whole,
    parked_bytes: Whole,
    spool_writable: Whole,
    damaged_files: Whole,
    devices_known: Whole,
    devices_connected: Whole,
    hub_connections: Whole,
    devices_contended: Whole,
    device_takeovers: Whole,
    devices_kept_open: Whole,
    downlinks_open: Whole,
    downlinks_forged: Whole,
    tasks: Whole,
}

impl Gauges {
    pub(super) fn register(&self, to: &mut Registry) {
        let whole = [
            ("spool_pending_messages", "Messages in the spool that wait to be sent", &self.pending_messages),
            ("spool_pending_bytes", "Bodies of the messages that wait to be sent", &self.pending_bytes),
            (
                "spool_parked_messages",
                "Messages in the spool that wait for an operator",
                &self.parked_messages,
            ),
            ("spool_parked_bytes", "Bodies of the messages that wait for an operator", &self.parked_bytes),
            (
                "spool_writable",
                "1 while the spool keeps messages, 0 while its disk fails",
                &self.spool_writable,
            ),
            (
                "spool_damaged_files",
                "Damaged databases that were moved aside and lie in the spool's folder",
                &self.damaged_files,
            ),
            ("known_devices", "End devices whose hub is known", &self.devices_known),
            ("connected_devices", "End devices with an open session at their hub", &self.devices_connected),
            ("hub_connections", "Open connections to hubs", &self.hub_connections),
            (
                "contended_devices",
                "End devices whose identity at their hub another client uses too, lately; look for a second connector",
                &self.devices_contended,
            ),
            (
                "device_takeovers",
                "Times since the start that a device was taken back from another client of the same identity",
                &self.device_takeovers,
            ),
            (
                "downlink_kept_open_devices",
                "End devices whose links for messages, methods or twins are kept open at their hub",
                &self.devices_kept_open,
            ),
            (
                "downlink_open_entries",
                "Downlinks in the ledger of which nothing final was heard yet",
                &self.downlinks_open,
            ),
            (
                "downlink_forged_events",
                "Events about downlinks since the start that named another device's; they are ignored",
                &self.downlinks_forged,
            ),
            ("tasks", "Tasks of the runtime that have not ended", &self.tasks),
        ];
        for (name, help, gauge) in whole {
            to.register(name, help, gauge.clone());
        }
        to.register(
            "spool_oldest_age_seconds",
            "How long the oldest message in the spool has waited to be sent; 0 when none waits",
            self.oldest_age.clone(),
        );
    }

    pub(super) fn set(&self, snapshot: &Snapshot) {
        self.pending_messages.set(snapshot.pending_messages);
        self.pending_bytes.set(snapshot.pending_bytes);
        self.oldest_age.set(snapshot.oldest_age.unwrap_or_default().as_secs_f64());
        self.parked_messages.set(snapshot.parked_messages);
        self.parked_bytes.set(snapshot.parked_bytes);
        self.spool_writable.set(u64::from(snapshot.spool_writable));
        self.damaged_files.set(snapshot.damaged_files);
        self.devices_known.set(snapshot.devices_known);
        self.devices_connected.set(snapshot.devices_connected);
        self.hub_connections.set(snapshot.hub_connections);
        self.devices_contended.set(snapshot.devices_contended);
        self.device_takeovers.set(snapshot.device_takeovers);
        self.devices_kept_open.set(snapshot.devices_kept_open);
        self.downlinks_open.set(snapshot.downlinks_open);
        self.downlinks_forged.set(snapshot.downlinks_forged);
        self.tasks.set(snapshot.tasks);
    }
}
