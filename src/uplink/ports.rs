//! What the uplink flow needs of its neighbours. `app` implements these for the real ones; tests for small ones.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::limits::HubLimits;
use crate::azure::{HubAddress, HubDevice, Telemetry};
use crate::devices::ResolveError;
use crate::iot_hub::SendError;
use crate::model::{EndDevice, ParkReason};
use crate::spool::{Seq, SpoolError};

/// The durable queue.
pub trait Records: Send + Sync + 'static {
    /// Reads back a record: its time of receipt (milliseconds since 1970 UTC) and body. `None` if it is gone.
    fn read(&self, seq: Seq) -> impl Future<Output = Result<Option<(i64, Bytes)>, SpoolError>> + Send;
    /// The record is finished. Losing this on a crash means one duplicate.
    fn done(&self, seq: Seq);
    /// Sets the record aside; resolves once that is on disk.
    fn park(
        &self,
        seq: Seq,
        reason: ParkReason,
        detail: &str,
    ) -> impl Future<Output = Result<(), SpoolError>> + Send;
}

/// Who a device is at Azure.
pub trait Devices: Send + Sync + 'static {
    /// What is known without I/O.
    fn cached(&self, device: &EndDevice) -> Option<Arc<HubDevice>>;
    /// Finds out, asking DPS if need be.
    fn resolve(
        &self,
        device: &EndDevice,
        dev_eui: Option<&str>,
    ) -> impl Future<Output = Result<Arc<HubDevice>, ResolveError>> + Send;
    /// The hub does not know or refuses the device: forget what was cached.
    fn lost(&self, device: &EndDevice, seen: &Arc<HubDevice>, reason: ParkReason);
}

/// The hubs.
pub trait Hubs: Send + Sync + 'static {
    /// Sends one message and waits for the hub's outcome.
    fn send(
        &self,
        device: &Arc<HubDevice>,
        message: &Telemetry,
    ) -> impl Future<Output = Result<(), SendError>> + Send;
}

/// The way back, as far as uplinks touch it. `()` is for a connector without one.
pub trait Downlinks: Send + Sync + 'static {
    /// The telemetry that reports on downlinks, which a stored message gives that is no uplink. None of it when the
    /// message concerns no downlink of ours.
    ///
    /// # Errors
    /// It can't be told yet; the text says why.
    fn reports(
        &self,
        device: &EndDevice,
        body: &[u8],
        received_ms: i64,
    ) -> impl Future<Output = Result<Reports, String>> + Send;
    /// The hub accepted the telemetry of this uplink.
    fn delivered(&self, device: &EndDevice, hub_device: &Arc<HubDevice>, body: &Bytes, received_ms: i64);
}

/// What a message about downlinks gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// To be sent in this order.
    pub telemetry: Vec<Telemetry>,
    /// The DevEUI, 16 upper-case hexadecimal digits, when the message told it.
    pub dev_eui: Option<String>,
}

impl Downlinks for () {
    async fn reports(&self, _: &EndDevice, _: &[u8], _: i64) -> Result<Reports, String> {
        Ok(Reports::default())
    }

    fn delivered(&self, _: &EndDevice, _: &Arc<HubDevice>, _: &Bytes, _: i64) {}
}

/// Told what happens, for metrics.
pub trait Observer: Send + Sync + 'static {
    /// The hub accepted a message this long after its receipt.
    fn sent(&self, since_receipt: Duration);
    /// A message was set aside.
    fn parked(&self, reason: ParkReason);
    /// A try failed; the message waits.
    fn retried(&self, reason: &'static str);
    /// A stored message turned out to carry no telemetry.
    fn skipped(&self);
    /// The message just sent had been fetched later.
    fn backfilled(&self) {}
    /// What a hub takes now, told when it changes and once a second at most besides.
    fn limited(&self, _hub: &HubAddress, _limits: HubLimits) {}
}
