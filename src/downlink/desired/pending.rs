//! One desired property on its way into The Things Stack's queue.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::azure::HubDevice;
use crate::downlink::retry::Pace;
use crate::downlink::translate::Request;
use crate::downlink::{EntryId, NewEntry, Progress, Source};
use crate::model::EndDevice;

/// Between two tries of one property.
const PACE: Pace = Pace { first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// A property that is to be queued.
pub(super) struct Pending {
    pub(super) value: Value,
    pub(super) hash: String,
    pub(super) version: u64,
    pub(super) request: Request,
    pub(super) entry: NewEntry,
    /// Tries that failed.
    pub(super) failures: u32,
    /// The last one may have queued it.
    pub(super) unsure: bool,
    pub(super) due: Instant,
    pub(super) since: Instant,
}

/// A queued property whose end is awaited.
pub(super) struct Following {
    pub(super) value: Value,
    pub(super) version: u64,
    pub(super) progress: watch::Receiver<Progress>,
}

/// Whose property it is.
pub(super) struct Owner<'a> {
    pub(super) device: &'a EndDevice,
    pub(super) hub_device: &'a HubDevice,
}

impl Pending {
    /// `change` is the property's place in the device's history: a change that is seen again after a crash has the same
    /// identity, and the next one, even to the same value, another.
    pub(super) fn new(
        owner: &Owner<'_>,
        name: &str,
        (value, hash): (Value, String),
        version: u64,
        change: u64,
        request: Request,
    ) -> Self {
        let id = EntryId::of(&[
            owner.hub_device.hub.host.as_bytes(),
            owner.hub_device.device_id.as_bytes(),
            b"twin",
            name.as_bytes(),
            hash.as_bytes(),
            &change.to_le_bytes(),
        ]);
        let entry = NewEntry {
            id,
            device: owner.device.clone(),
            source: Source::Desired,
            correlation: id.to_string(),
            f_port: request.downlink.f_port,
            confirmed: request.downlink.confirmed,
            operation: request.operation,
        };
        let now = Instant::now();
        Self { value, hash, version, request, entry, failures: 0, unsure: false, due: now, since: now }
    }

    /// A try failed. True if it was tried for long enough.
    pub(super) fn failed(&mut self, unsure: bool, after: Option<Duration>, expiry: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.unsure = unsure;
        let now = Instant::now();
        self.due = now.checked_add(PACE.wait(self.failures, after)).unwrap_or(now + PACE.longest);
        now.duration_since(self.since) >= expiry
    }
}
