//! Joins the rooms: what one says it needs, another has. No logic of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::first_contact::Answered;
use super::parts::Missing;
use super::way_back::Ledger;
use crate::admin::{Health, NotReady};
use crate::azure::{HubAddress, HubDevice, Telemetry};
use crate::devices::{Directory, Store, StoreError};
use crate::iot_hub::{IotHub, SendError};
use crate::metrics::{Metrics, Snapshot};
use crate::model::{Clock, Outcome, ParkReason};
use crate::spool::{Appended, DedupKey, NewRecord, Remember, Seq, Spool, SpoolError, State, StateStore};
use crate::uplink::HubLimits;
use crate::uplink::ports::{Hubs, Observer, Records};
use crate::webhook::{self, Intake, NewMessage, Stored};

impl Records for Spool {
    async fn read(&self, seq: Seq) -> Result<Option<(i64, Bytes)>, SpoolError> {
        self.record(seq).await
    }

    fn done(&self, seq: Seq) {
        Self::done(self, seq);
    }

    async fn park(&self, seq: Seq, reason: ParkReason, detail: &str) -> Result<(), SpoolError> {
        Self::park(self, seq, reason, detail).await
    }
}

impl Hubs for IotHub {
    async fn send(&self, device: &Arc<HubDevice>, message: &Telemetry) -> Result<(), SendError> {
        Self::send(self, device, message).await
    }
}

impl Observer for Metrics {
    fn sent(&self, since_receipt: Duration) {
        Self::sent(self, since_receipt);
    }

    fn parked(&self, reason: ParkReason) {
        Self::parked(self, reason.as_str());
    }

    fn retried(&self, reason: &'static str) {
        Self::retried(self, reason);
    }

    fn skipped(&self) {
        self.ignored("no_telemetry");
    }

    fn backfilled(&self) {
        self.backfill_sent();
    }

    fn limited(&self, hub: &HubAddress, limits: HubLimits) {
        self.hub_limits(&hub.host, limits.pace, limits.quota_used_up, limits.throttled);
    }
}

impl Intake for Spool {
    async fn store(&self, message: NewMessage) -> Result<Stored, webhook::StoreError> {
        store(self, message, None).await
    }
}

/// Keeps a message of the webhook; one that is to be remembered is not kept if it is.
pub(super) async fn store(
    spool: &Spool,
    message: NewMessage,
    remember: Option<Remember>,
) -> Result<Stored, webhook::StoreError> {
    let NewMessage { device, dedup, body, waiter, frame: _, about_downlinks: _ } = message;
    let record = NewRecord {
        lane: device.key().into(),
        group: device.application_id().into(),
        dedup: dedup.map(DedupKey),
        body,
        waiter,
    };
    let appended = match remember {
        Some(remember) => spool.append_once(record, remember).await,
        None => spool.append(record).await,
    };
    match appended {
        Ok(Appended::Stored(_)) => Ok(Stored::New),
        Ok(Appended::Duplicate(seq)) => Ok(Stored::Duplicate(match spool.state_of(seq).await {
            State::Parked { reason, detail } => Some(Outcome::Parked { reason, detail }),
            State::Pending | State::Gone => None,
        })),
        Err(error) => Err(match error {
            SpoolError::Full(_) => webhook::StoreError::Full,
            SpoolError::ParkedFull(application) => webhook::StoreError::ParkedFull { application },
            SpoolError::Io(_)
            | SpoolError::Damaged(_)
            | SpoolError::Closed
            | SpoolError::InUse(_)
            | SpoolError::Incompatible(_) => webhook::StoreError::Unavailable,
        }),
    }
}

/// The spool's small state as the directory's store.
pub(super) struct DeviceStore(pub(super) StateStore);

impl Store for DeviceStore {
    fn put<'a>(
        &'a self,
        namespace: &'static str,
        key: &'a str,
        value: Vec<u8>,
        expires_ms: i64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.0.put(namespace, key, value.into(), Some(expires_ms)).await.map_err(store_error)
        })
    }

    fn delete<'a>(&'a self, namespace: &'static str, key: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.0.delete(namespace, key).await.map_err(store_error) })
    }

    fn load<'a>(
        &'a self,
        namespace: &'static str,
    ) -> BoxFuture<'a, Result<Vec<(String, Vec<u8>)>, StoreError>> {
        Box::pin(async move {
            let rows = self.0.load(namespace).await.map_err(store_error)?;
            Ok(rows.into_iter().map(|row| (row.key, row.value.into())).collect())
        })
    }
}

fn store_error(error: SpoolError) -> StoreError {
    StoreError(error.to_string())
}

/// Readiness and gauges, asked of the parts at each probe or scrape.
#[derive(Clone)]
pub(super) struct Vitals {
    pub(super) answered: Answered,
    pub(super) missing: Missing,
    pub(super) spool: Spool,
    pub(super) hubs: IotHub,
    pub(super) directory: Directory,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
}

impl Health for Vitals {
    fn not_ready(&self) -> Vec<NotReady> {
        let missing = self.missing.names().into_iter();
        let mut reasons: Vec<_> = missing
            .map(|part| {
                let reason =
                    "it ended unexpectedly, a defect; the connector stops, so that it is started anew"
                        .to_owned();
                NotReady { part, reason }
            })
            .collect();
        if let Some(why) = self.spool.trouble() {
            let reason = format!("the spool can't work, so no message is accepted: {why}");
            reasons.push(NotReady { part: "spool", reason });
        }
        if !self.answered.load(Ordering::Relaxed) && !self.hubs.status().reached {
            let reason =
                "no hub and no DPS could be reached since the start; messages are kept meanwhile".to_owned();
            reasons.push(NotReady { part: "hub", reason });
        }
        reasons
    }
}

impl Vitals {
    /// The gauges of this moment.
    pub(super) fn snapshot(&self) -> Snapshot {
        let (spool, hubs) = (self.spool.stats(), self.hubs.status());
        let age = |received_ms: i64| u64::try_from(self.clock.now_ms() - received_ms).unwrap_or(0);
        Snapshot {
            pending_messages: spool.pending,
            pending_bytes: spool.pending_bytes,
            oldest_age: spool.oldest_received_ms.map(|received_ms| Duration::from_millis(age(received_ms))),
            parked_messages: spool.parked,
            parked_bytes: spool.parked_bytes,
            spool_writable: spool.healthy,
            damaged_files: spool.damaged_files,
            devices_known: self.directory.len() as u64,
            devices_connected: hubs.devices as u64,
            hub_connections: hubs.connections as u64,
            devices_contended: hubs.contended as u64,
            device_takeovers: hubs.takeovers,
            devices_kept_open: hubs.kept as u64,
            downlinks_open: self.ledger.open() as u64,
            downlinks_forged: self.ledger.forged(),
            tasks: Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks() as u64),
        }
    }
}
