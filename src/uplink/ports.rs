//! What the uplink flow needs of its neighbours. `app` implements these for the real ones; tests for small ones.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::azure::{HubDevice, Telemetry};
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
}
