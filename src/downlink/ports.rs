//! What the downlink flow needs of its neighbours. `app` implements these for the real ones; tests for small ones.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Report, Source};
use crate::azure::{Desired, HubDevice, MethodReply, MethodRequest};
use crate::devices::ResolveError;
use crate::iot_hub::{Links, SendError};
use crate::model::{EndDevice, ParkReason};
use crate::things_stack::{ApiError, Downlink, Operation, QueuedDownlink, Whereabouts};

/// The Things Stack.
pub trait Network: Send + Sync + 'static {
    /// Whether a key is known for the application, so that calls can succeed at all.
    fn serves(&self, application_id: &str) -> bool;
    /// Queues one downlink.
    fn push(
        &self,
        device: &EndDevice,
        operation: Operation,
        downlink: &Downlink,
    ) -> impl Future<Output = Result<(), ApiError>> + Send;
    /// Where the downlink with this correlation id is.
    fn whereabouts(
        &self,
        device: &EndDevice,
        correlation_id: &str,
    ) -> impl Future<Output = Result<Whereabouts, ApiError>> + Send;
    /// Lists the device's queue.
    fn queue(&self, device: &EndDevice)
    -> impl Future<Output = Result<Vec<QueuedDownlink>, ApiError>> + Send;
    /// Empties the device's queue.
    fn clear(&self, device: &EndDevice) -> impl Future<Output = Result<(), ApiError>> + Send;
}

/// Small durable state, text to bytes.
pub trait Store: Send + Sync + 'static {
    /// Keeps a value, replacing what was there; returns once it is on disk. It may be dropped from `expires_ms`
    /// (milliseconds since 1970 UTC) on.
    fn put(
        &self,
        namespace: &'static str,
        key: &str,
        value: Vec<u8>,
        expires_ms: i64,
    ) -> impl Future<Output = Result<(), Unstored>> + Send;
    /// One value, if it is there and has not expired.
    fn get(
        &self,
        namespace: &'static str,
        key: &str,
    ) -> impl Future<Output = Result<Option<Bytes>, Unstored>> + Send;
    /// All of a namespace that has not expired.
    fn load(
        &self,
        namespace: &'static str,
    ) -> impl Future<Output = Result<Vec<(String, Bytes)>, Unstored>> + Send;
}

/// Where reports wait to be sent, among the device's uplinks.
pub trait Outbox: Send + Sync + 'static {
    /// Keeps a report; returns once it is on disk. The same report (entry, state, `f_cnt`) is kept once.
    fn post(&self, report: &Report) -> impl Future<Output = Result<(), Unstored>> + Send;
}

/// Nothing was kept; it may be tried again.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Unstored(pub String);

/// Who a device is at Azure.
pub trait Devices: Send + Sync + 'static {
    /// All end devices whose hub device is known.
    fn known(&self) -> Vec<(EndDevice, Arc<HubDevice>)>;
    /// Finds out, asking DPS if need be.
    fn resolve(
        &self,
        device: &EndDevice,
    ) -> impl Future<Output = Result<Arc<HubDevice>, ResolveError>> + Send;
    /// The hub refuses the device: forget what was known.
    fn lost(&self, device: &EndDevice, seen: &Arc<HubDevice>, reason: ParkReason);
}

/// The hubs.
pub trait Hubs: Send + Sync + 'static {
    /// Keeps the device's links open from now on, through every loss. Another call for the same hub device replaces
    /// the wish; [`Links::NONE`] ends it.
    fn keep_open(&self, device: &Arc<HubDevice>, links: Links);
    /// Changes reported properties (`null` removes one); gives their new version.
    fn report(
        &self,
        device: &Arc<HubDevice>,
        patch: &Map<String, Value>,
    ) -> impl Future<Output = Result<u64, SendError>> + Send;
}

/// What the cloud asks besides messages.
pub trait Commands: Send + Sync + 'static {
    /// Answers a direct method. Always ends, whatever the peers do.
    fn answer(
        &self,
        device: &EndDevice,
        hub_device: &Arc<HubDevice>,
        request: MethodRequest,
    ) -> impl Future<Output = MethodReply> + Send;
    /// Takes in desired properties, in the order their hub told them; returns at once.
    fn desired(&self, device: &EndDevice, hub_device: &Arc<HubDevice>, desired: Desired);
}

/// Told what happens, for metrics. Every reason is one of a few words.
pub trait Observer: Send + Sync + 'static {
    /// The Things Stack queued a downlink, this long after its request came from the hub.
    fn queued(&self, source: Source, since_receipt: Duration);
    /// A request was refused for good: `invalid`, or `refused` by The Things Stack.
    fn rejected(&self, source: Source, reason: &'static str);
    /// A cloud-to-device message went back to the hub, which hands it out again.
    fn abandoned(&self, reason: &'static str);
    /// A try failed; the request waits for the next.
    fn retried(&self, reason: &'static str);
    /// A direct method was answered with this status.
    fn answered(&self, status: i32);
}
