//! Joins the way back: what the downlink flow says it needs, others have. No logic of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tracing::warn;

use super::backfill::{self, Backfills};
use super::joints;
use crate::azure::HubDevice;
use crate::devices::{Directory, ResolveError};
use crate::downlink::ports::{self, Unstored};
use crate::downlink::translate::Rules;
use crate::downlink::{self, Report, Source};
use crate::iot_hub::{IotHub, Links, SendError};
use crate::metrics::Metrics;
use crate::model::{EndDevice, ParkReason};
use crate::spool::{DedupKey, NewRecord, Spool, SpoolError, StateStore};
use crate::things_stack::{
    Access, ApiError, Client, Downlink, DownlinkEvent, DownlinkOffer, Keys, Learnt, Operation,
    QueuedDownlink, Whereabouts,
};
use crate::uplink::ports::{Downlinks, Reports};
use crate::uplink::{TwinReports, Twins};
use crate::webhook::{Intake, NewMessage, StoreError, Stored};

pub(super) type Ledger = downlink::Ledger<State, Outbox>;
pub(super) type Roster = downlink::Roster<Directory, Network, IotHub>;

/// The Things Stack, with the key of each application.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) client: Client,
    pub(super) keys: Keys,
}

impl Network {
    pub(super) fn access(&self, device: &EndDevice) -> Result<Arc<Access>, ApiError> {
        self.keys.access(device).ok_or_else(|| ApiError::NotNow {
            detail: format!(
                "no API key is known for application {}; set things_stack.applications.{}.api_key",
                device.application_id(),
                device.application_id()
            ),
            after: None,
        })
    }
}

impl ports::Network for Network {
    fn serves(&self, application_id: &str) -> bool {
        self.keys.serves(application_id)
    }

    async fn push(
        &self,
        device: &EndDevice,
        operation: Operation,
        downlink: &Downlink,
    ) -> Result<(), ApiError> {
        self.client.push(&*self.access(device)?, device, operation, downlink).await
    }

    async fn whereabouts(&self, device: &EndDevice, correlation_id: &str) -> Result<Whereabouts, ApiError> {
        self.client.whereabouts(&*self.access(device)?, device, correlation_id).await
    }

    async fn queue(&self, device: &EndDevice) -> Result<Vec<QueuedDownlink>, ApiError> {
        self.client.queue(&*self.access(device)?, device).await
    }

    async fn clear(&self, device: &EndDevice) -> Result<(), ApiError> {
        self.client.clear(&*self.access(device)?, device).await
    }
}

/// The spool's small state.
#[derive(Clone)]
pub(super) struct State(pub(super) StateStore);

impl ports::Store for State {
    async fn put(
        &self,
        namespace: &'static str,
        key: &str,
        value: Vec<u8>,
        expires_ms: i64,
    ) -> Result<(), Unstored> {
        self.0.put(namespace, key, value.into(), Some(expires_ms)).await.map_err(unstored)
    }

    async fn get(&self, namespace: &'static str, key: &str) -> Result<Option<Bytes>, Unstored> {
        self.0.get(namespace, key).await.map_err(unstored)
    }

    async fn load(&self, namespace: &'static str) -> Result<Vec<(String, Bytes)>, Unstored> {
        let rows = self.0.load(namespace).await.map_err(unstored)?;
        Ok(rows.into_iter().map(|row| (row.key, row.value)).collect())
    }
}

/// Reports wait in the spool, in their device's lane.
#[derive(Clone)]
pub(super) struct Outbox(pub(super) Spool);

impl ports::Outbox for Outbox {
    async fn post(&self, report: &Report) -> Result<(), Unstored> {
        let record = NewRecord {
            lane: report.device.key().into(),
            group: report.device.application_id().into(),
            dedup: Some(DedupKey(report.dedup())),
            body: report.to_stored(),
            waiter: None,
        };
        self.0.append(record).await.map(|_| ()).map_err(unstored)
    }
}

fn unstored(error: SpoolError) -> Unstored {
    Unstored(error.to_string())
}

impl ports::Devices for Directory {
    fn known(&self) -> Vec<(EndDevice, Arc<HubDevice>)> {
        Self::known(self)
    }

    async fn resolve(&self, device: &EndDevice) -> Result<Arc<HubDevice>, ResolveError> {
        Self::resolve(self, device, None).await
    }

    fn lost(&self, device: &EndDevice, seen: &Arc<HubDevice>, reason: ParkReason) {
        Self::lost(self, device, seen, reason);
    }
}

impl ports::Hubs for IotHub {
    fn keep_open(&self, device: &Arc<HubDevice>, links: Links) {
        Self::keep_open(self, device, links);
    }

    async fn report(&self, device: &Arc<HubDevice>, patch: &Map<String, Value>) -> Result<u64, SendError> {
        Self::report(self, device, patch).await
    }
}

impl ports::Observer for Metrics {
    fn queued(&self, source: Source, since_receipt: Duration) {
        self.downlink_queued(source.as_str(), since_receipt);
    }

    fn rejected(&self, _: Source, reason: &'static str) {
        self.downlink_rejected(reason);
    }

    fn abandoned(&self, reason: &'static str) {
        self.downlink_abandoned(reason);
    }

    fn retried(&self, reason: &'static str) {
        self.downlink_retried(reason);
    }

    fn answered(&self, status: i32) {
        self.method_answered(status);
    }
}

impl Twins for IotHub {
    async fn report(&self, device: &Arc<HubDevice>, patch: &Map<String, Value>) -> Result<u64, SendError> {
        Self::report(self, device, patch).await
    }
}

/// Directory and roster: whoever is resolved for an uplink is kept open for downlinks.
#[derive(Clone)]
pub(super) struct Residents {
    pub(super) directory: Directory,
    pub(super) roster: Roster,
}

impl crate::uplink::ports::Devices for Residents {
    fn cached(&self, device: &EndDevice) -> Option<Arc<HubDevice>> {
        self.directory.cached(device, None).ok().flatten()
    }

    async fn resolve(
        &self,
        device: &EndDevice,
        dev_eui: Option<&str>,
    ) -> Result<Arc<HubDevice>, ResolveError> {
        let resolved = self.directory.resolve(device, dev_eui).await?;
        self.roster.meet(device, &resolved);
        Ok(resolved)
    }

    fn lost(&self, device: &EndDevice, seen: &Arc<HubDevice>, reason: ParkReason) {
        self.directory.lost(device, seen, reason);
    }
}

/// What the pump asks about stored messages, and tells of accepted uplinks.
#[derive(Clone)]
pub(super) struct WayBack {
    pub(super) ledger: Ledger,
    pub(super) keys: Keys,
    pub(super) rules: Arc<Rules>,
    /// `None` when nothing is to be reported.
    pub(super) twins: Option<TwinReports<IotHub>>,
}

impl Downlinks for WayBack {
    async fn reports(&self, device: &EndDevice, body: &[u8], received_ms: i64) -> Result<Reports, String> {
        if let Some(report) = Report::from_stored(body).filter(|report| report.device == *device) {
            return Ok(Reports { telemetry: vec![report.to_telemetry()], dev_eui: report.dev_eui });
        }
        // It could be read when it was stored; then it told of no downlink, or another version stored it.
        let Ok(Some(event)) = DownlinkEvent::parse(body) else { return Ok(Reports::default()) };
        let dev_eui = crate::things_stack::Envelope::parse(body)
            .ok()
            .and_then(|envelope| envelope.dev_eui.as_deref().and_then(crate::model::dev_eui));
        let witnessed = self.ledger.witness(device, &event).await;
        witnessed.map_err(|error| error.to_string())?;
        let reports = self.ledger.reports(device, dev_eui.as_deref(), &event, received_ms).await;
        let reports = reports.map_err(|error| error.to_string())?;
        Ok(Reports { telemetry: reports.iter().map(Report::to_telemetry).collect(), dev_eui })
    }

    fn delivered(&self, device: &EndDevice, hub_device: &Arc<HubDevice>, body: &Bytes, received_ms: i64) {
        let application = device.application_id();
        if let Some(twins) = &self.twins
            && self.rules.links(application).twin
            && self.keys.serves(application)
        {
            twins.note(hub_device, body, received_ms);
        }
    }
}

/// What the webhook hands its messages to: the spool, and the ledger for those about downlinks.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) spool: Spool,
    pub(super) ledger: Ledger,
    pub(super) keys: Keys,
    pub(super) roster: Roster,
    pub(super) backfill: Backfills,
}

impl Intake for Desk {
    async fn store(&self, message: NewMessage) -> Result<Stored, StoreError> {
        let event = message.about_downlinks.then(|| (message.device.clone(), message.body.clone()));
        let frame = message.frame.as_ref();
        let remembered = frame.and_then(|frame| self.backfill.remembered(&message.device, frame));
        let counted = remembered.as_ref().and(frame).map(|frame| (message.device.clone(), frame.clone()));
        let stored = joints::store(&self.spool, message, remembered.map(backfill::remember)).await?;
        if let (Stored::New, Some((device, frame))) = (&stored, counted) {
            self.backfill.received(&device, &frame);
        }
        if let Some((device, body)) = event
            && let Ok(Some(event)) = DownlinkEvent::parse(&body)
            && let Err(error) = self.ledger.witness(&device, &event).await
        {
            // The pump tells the ledger once more when it comes to this message.
            warn!(%device, %error, "A downlink's event is stored, but can't be entered in the ledger yet.");
        }
        Ok(stored)
    }

    fn downlink_access(&self, device: &EndDevice, offer: DownlinkOffer<'_>) {
        match self.keys.learn(device, offer) {
            Learnt::New => {
                let (roster, application) = (self.roster.clone(), device.application_id().to_owned());
                // It walks through all known devices.
                tokio::task::spawn_blocking(move || roster.application_served(&application));
            }
            Learnt::Renewed | Learnt::Known | Learnt::Ignored(_) => {}
        }
    }
}
