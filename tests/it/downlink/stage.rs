//! A small disk, Things Stack and hub that keep count, fail as told and crash anywhere: what the flows of methods and
//! desired properties need of their neighbours.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use tti_connector::azure::{Credential, HubAddress, HubDevice, SigningKey};
use tti_connector::config;
use tti_connector::downlink::ports::{Hubs, Network, Observer, Outbox, Store, Unstored};
use tti_connector::downlink::translate::Rules;
use tti_connector::downlink::{Ledger, Report, Source};
use tti_connector::iot_hub::{Links, SendError};
use tti_connector::model::{Clock, EndDevice};
use tti_connector::things_stack::{
    ApiError, Downlink, DownlinkEvent, DownlinkState, NamedDownlink, NamedPayload, Operation, QueuedDownlink,
    Whereabouts,
};

pub(super) const EXPIRY: Duration = Duration::from_secs(24 * 3600);

/// Everything around the flows. Each clone of one life dies with it at a crash: it does nothing more, ever.
#[derive(Clone)]
pub(super) struct Stage {
    inner: Arc<Mutex<Inner>>,
    life: u32,
}

#[derive(Default)]
pub(super) struct Inner {
    life: u32,
    /// So many steps until the crash.
    fuse: Option<usize>,
    rows: BTreeMap<(&'static str, String), Vec<u8>>,
    pub(super) disk_fails: bool,
    pub(super) reports: Vec<Report>,
    /// All that was queued, in order.
    pub(super) pushed: Vec<(EndDevice, Operation, Downlink)>,
    /// Answers of the next pushes; with `true` the downlink is queued nevertheless.
    pub(super) push_errors: VecDeque<(ApiError, bool)>,
    /// An answer for all pushes for a device.
    pub(super) refusing: BTreeMap<EndDevice, ApiError>,
    pub(super) tries: usize,
    pub(super) queue: Vec<QueuedDownlink>,
    pub(super) api_error: Option<ApiError>,
    /// What the hub holds, by device.
    pub(super) reported: BTreeMap<String, Map<String, Value>>,
    pub(super) report_errors: VecDeque<SendError>,
    pub(super) reports_taken: usize,
    /// What was counted: `queued twin`, `rejected method invalid`, `retried unsure`.
    pub(super) counted: Vec<String>,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self { inner: Arc::default(), life: 0 }
    }

    pub(super) fn now(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The next life after a crash or a restart.
    pub(super) fn again(&self) -> Self {
        let mut inner = self.now();
        inner.life += 1;
        inner.fuse = None;
        Self { inner: Arc::clone(&self.inner), life: inner.life }
    }

    pub(super) fn crash_after(&self, steps: usize) {
        self.now().fuse = Some(steps);
    }

    pub(super) fn crashed(&self) -> bool {
        self.now().life != self.life
    }

    pub(super) async fn ledger(&self) -> Ledger<Self, Self> {
        Ledger::load(self.clone(), self.clone(), EXPIRY, Clock::system()).await.unwrap()
    }

    /// Forgets what is on disk.
    pub(super) fn lose_disk(&self) {
        self.now().rows.clear();
    }

    /// One thing after which a crash may come. Never ends in a life that is over.
    async fn step(&self) {
        tokio::task::yield_now().await;
        let dead = {
            let mut inner = self.now();
            if inner.life == self.life {
                if inner.fuse == Some(0) {
                    inner.life += 1;
                } else {
                    inner.fuse = inner.fuse.map(|left| left - 1);
                }
            }
            inner.life != self.life
        };
        if dead {
            pending::<()>().await;
        }
    }

    /// Does something, with a possible crash before and after.
    async fn act<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        self.step().await;
        let outcome = act(&mut self.now());
        self.step().await;
        outcome
    }
}

impl Store for Stage {
    async fn put(
        &self,
        namespace: &'static str,
        key: &str,
        value: Vec<u8>,
        _expires_ms: i64,
    ) -> Result<(), Unstored> {
        self.act(|inner| {
            if inner.disk_fails {
                return Err(Unstored("the disk is full".to_owned()));
            }
            inner.rows.insert((namespace, key.to_owned()), value);
            Ok(())
        })
        .await
    }

    async fn get(&self, namespace: &'static str, key: &str) -> Result<Option<Bytes>, Unstored> {
        self.act(|inner| {
            if inner.disk_fails {
                return Err(Unstored("the disk is gone".to_owned()));
            }
            Ok(inner.rows.get(&(namespace, key.to_owned())).map(|value| Bytes::from(value.clone())))
        })
        .await
    }

    async fn load(&self, namespace: &'static str) -> Result<Vec<(String, Bytes)>, Unstored> {
        let inner = self.now();
        let own = inner.rows.iter().filter(|((of, _), _)| *of == namespace);
        Ok(own.map(|((_, key), value)| (key.clone(), Bytes::from(value.clone()))).collect())
    }
}

impl Outbox for Stage {
    async fn post(&self, report: &Report) -> Result<(), Unstored> {
        self.act(|inner| inner.reports.push(report.clone())).await;
        Ok(())
    }
}

impl Network for Stage {
    fn serves(&self, _application_id: &str) -> bool {
        true
    }

    async fn push(
        &self,
        device: &EndDevice,
        operation: Operation,
        downlink: &Downlink,
    ) -> Result<(), ApiError> {
        self.act(|inner| {
            inner.tries += 1;
            if let Some(error) = inner.refusing.get(device) {
                return Err(error.clone());
            }
            let error = inner.push_errors.pop_front();
            if error.as_ref().is_none_or(|(_, queued)| *queued) {
                inner.pushed.push((device.clone(), operation, downlink.clone()));
            }
            error.map_or(Ok(()), |(error, _)| Err(error))
        })
        .await
    }

    async fn whereabouts(&self, _device: &EndDevice, correlation_id: &str) -> Result<Whereabouts, ApiError> {
        self.act(|inner| {
            if let Some(error) = &inner.api_error {
                return Err(error.clone());
            }
            let queued = |(_, _, downlink): &(_, _, Downlink)| {
                downlink.correlation_ids.iter().any(|id| id == correlation_id)
            };
            let queued = inner.pushed.iter().any(queued);
            Ok(if queued { Whereabouts::Queued } else { Whereabouts::Nowhere })
        })
        .await
    }

    async fn queue(&self, _device: &EndDevice) -> Result<Vec<QueuedDownlink>, ApiError> {
        let inner = self.now();
        inner.api_error.clone().map_or_else(|| Ok(inner.queue.clone()), Err)
    }

    async fn clear(&self, _device: &EndDevice) -> Result<(), ApiError> {
        let mut inner = self.now();
        inner.queue.clear();
        inner.api_error.clone().map_or(Ok(()), Err)
    }
}

impl Hubs for Stage {
    fn keep_open(&self, _device: &Arc<HubDevice>, _links: Links) {}

    async fn report(&self, device: &Arc<HubDevice>, patch: &Map<String, Value>) -> Result<u64, SendError> {
        self.act(|inner| {
            if let Some(error) = inner.report_errors.pop_front() {
                return Err(error);
            }
            inner.reports_taken += 1;
            let reported = inner.reported.entry(device.device_id.to_string()).or_default();
            merge(reported, patch);
            Ok(1)
        })
        .await
    }
}

impl Observer for Stage {
    fn queued(&self, source: Source, _: Duration) {
        self.now().counted.push(format!("queued {}", source.as_str()));
    }

    fn rejected(&self, source: Source, reason: &'static str) {
        self.now().counted.push(format!("rejected {} {reason}", source.as_str()));
    }

    fn abandoned(&self, _: &'static str) {}

    fn retried(&self, reason: &'static str) {
        self.now().counted.push(format!("retried {reason}"));
    }

    fn answered(&self, _: i32) {}
}

/// As a twin takes a patch.
fn merge(into: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match (into.get_mut(name), value) {
            (_, Value::Null) => _ = into.remove(name),
            (Some(Value::Object(before)), Value::Object(change)) => merge(before, change),
            (_, Value::Object(change)) => {
                let mut fresh = Map::new();
                merge(&mut fresh, change);
                into.insert(name.clone(), Value::Object(fresh));
            }
            (_, value) => _ = into.insert(name.clone(), value.clone()),
        }
    }
}

pub(super) fn device(id: &str) -> EndDevice {
    EndDevice::new("", "app", id).unwrap()
}

pub(super) fn hub_device(id: &str) -> Arc<HubDevice> {
    Arc::new(HubDevice {
        hub: HubAddress { host: "hub.example".into(), port: 5671 },
        device_id: id.into(),
        credential: Credential::Device { key: SigningKey::from_bytes(b"key") },
        model_id: None,
        provisioned: false,
    })
}

/// `valve` on port 10, confirmed; `setpoint` on port 20; port 1 for all else.
pub(super) fn rules() -> Arc<Rules> {
    let command = |port, confirmed| config::Command { port, confirmed, ..config::Command::default() };
    let mut downlink = config::Downlink { port: Some(1), ..config::Downlink::default() };
    let valve =
        config::Command { payload: Some("{\"open\":true}".to_owned()), ..command(Some(10), Some(true)) };
    downlink.methods.insert("valve".to_owned(), valve);
    downlink.properties.insert("setpoint".to_owned(), command(Some(20), None));
    downlink.properties.insert("mode".to_owned(), command(Some(21), Some(true)));
    Arc::new(Rules::new(&downlink).unwrap())
}

/// An event about a downlink that was pushed.
pub(super) fn event(downlink: &Downlink, state: DownlinkState) -> DownlinkEvent {
    let named = NamedDownlink {
        correlation_ids: downlink.correlation_ids.clone(),
        f_port: downlink.f_port,
        f_cnt: 1,
        confirmed: downlink.confirmed,
        payload: NamedPayload::Bytes,
    };
    let error = (state == DownlinkState::Failed).then(|| "ns:max_retries: too many".to_owned());
    DownlinkEvent { state, downlinks: vec![named], error, received_ms: None }
}

/// Until `condition`, at most two days of paused time.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for turn in 0..174_000 {
        if condition() {
            return;
        }
        // Closely at first, then by the second.
        let pause = if turn < 1000 { 10 } else { 1000 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    panic!("never: {what}");
}
