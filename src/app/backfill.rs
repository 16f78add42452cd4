//! Joins the backfill: what it says it needs, others have. No logic of its own.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::way_back::Network;
use super::{AppError, downlinks};
use crate::backfill::ports::{self, Fetched, Put, Unstored};
use crate::backfill::{Backfill, Identity, Options, Order, OrderError, Parts, Progress, Remembered, Summary};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::{Clock, EndDevice, Lane};
use crate::net::tls::client_config;
use crate::net::{Schemes, http_client};
use crate::spool::control::{Clerk, Working};
use crate::spool::{Appended, DedupKey, NewRecord, Remember, Spool, SpoolError};
use crate::things_stack::{ApiError, StoredPage, StoredQuery};

/// Missed uplinks, joined.
pub(super) type Backfills = Backfill<Network, Outbox, Store>;

/// Whether anybody sends what is put into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// The pump of this process.
    Pump,
    /// Nobody before the next start.
    Later,
}

/// Reads what earlier starts left.
pub(super) async fn load(
    config: &Config,
    network: Network,
    (spool, sender): (&Spool, Sender),
    metrics: &Metrics,
    clock: Clock,
) -> Result<Backfills, AppError> {
    let on = config.things_stack.applications.iter().filter(|(_, application)| application.backfill);
    let options = Options {
        applications: on.map(|(id, _)| id.clone()).collect(),
        rate: config.backfill.rate,
        window: config.backfill.window,
        delay: config.backfill.delay,
        default_tenant: host(config.things_stack.base_url.as_deref()),
    };
    let parts = Parts {
        storage: network,
        outbox: Outbox { spool: spool.clone(), sender },
        store: Store(spool.clone()),
        observer: Arc::new(metrics.clone()),
        clock,
    };
    Backfill::load(options, parts).await.map_err(|error| AppError::State(error.to_string()))
}

/// Carries out an operator's order on the files of a spool that no instance uses: what is fetched waits in it for the
/// next start.
///
/// # Errors
/// The configuration or the spool does not allow it, or the order failed; the text says which.
pub async fn order_without_instance(
    config: &Config,
    spool: &Spool,
    order: &Order,
    told: mpsc::Sender<Progress>,
) -> Result<Summary, OrderFailed> {
    let tls = client_config(config.azure.ca_file.as_deref()).map_err(AppError::from)?;
    let azure = &config.azure;
    let http = http_client(&tls, azure.proxy.as_deref(), azure.connect_timeout, Schemes::HttpToo);
    let network = downlinks::network(config, http.map_err(AppError::from)?)?;
    let to = (spool, Sender::Later);
    let backfills = load(config, network, to, &Metrics::new(), Clock::system()).await?;
    Ok(backfills.order(order, told).await?)
}

/// Why [`order_without_instance`] failed.
#[derive(Debug, thiserror::Error)]
pub enum OrderFailed {
    /// The parts can't be built.
    #[error(transparent)]
    App(#[from] AppError),
    /// The order itself.
    #[error(transparent)]
    Order(#[from] OrderError),
}

/// What The Things Stack sends as `X-Tts-Domain`.
fn host(base_url: Option<&str>) -> String {
    let url = base_url.and_then(|url| url::Url::parse(url).ok());
    url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

impl ports::Storage for Network {
    async fn page(&self, query: &StoredQuery<'_>) -> Result<StoredPage, ApiError> {
        // A configured key, which is the application's whatever the tenant and the device.
        let device = EndDevice::new("", query.application_id, query.device_id.unwrap_or("any"));
        let device = device.map_err(|error| ApiError::Refused { status: None, detail: error.to_string() })?;
        self.client.stored_uplinks(&*self.access(&device)?, query).await
    }
}

/// The spool.
#[derive(Clone)]
pub(super) struct Outbox {
    spool: Spool,
    sender: Sender,
}

impl ports::Outbox for Outbox {
    async fn known(&self, all: Vec<Identity>) -> Result<Vec<bool>, Unstored> {
        let keys = |identity: Identity| identity.known_by.into_iter().map(DedupKey).collect();
        self.spool.remembers(all.into_iter().map(keys).collect()).await.map_err(unstored)
    }

    async fn forgot(&self) -> Result<Option<i64>, Unstored> {
        self.spool.forgot().await.map_err(unstored)
    }

    async fn put(&self, fetched: Fetched) -> Result<Put, Unstored> {
        let Fetched { device, body, dedup, identity, until_ms } = fetched;
        let (waiter, told) = match self.sender {
            Sender::Pump => {
                let (waiter, told) = oneshot::channel();
                (Some(waiter), Some(told))
            }
            Sender::Later => (None, None),
        };
        let record = NewRecord {
            group: device.application_id().into(),
            lane: Lane::backfilled(device).key(),
            dedup: Some(DedupKey(dedup)),
            body,
            waiter,
        };
        match self.spool.append_once(record, remember(Remembered { identity, until_ms })).await {
            Ok(Appended::Stored(_)) => Ok(Put::New(told)),
            Ok(Appended::Duplicate(_)) => Ok(Put::Known),
            Err(error) => Err(unstored(error)),
        }
    }
}

/// In the spool's words.
pub(super) fn remember(remembered: Remembered) -> Remember {
    let Remembered { identity, until_ms } = remembered;
    let known_by = identity.known_by.into_iter().map(DedupKey).collect();
    Remember { key: DedupKey(identity.key), known_by, until_ms }
}

/// The spool's small state.
#[derive(Clone)]
pub(super) struct Store(Spool);

impl ports::Store for Store {
    async fn put(&self, namespace: &'static str, key: &str, value: Vec<u8>) -> Result<(), Unstored> {
        self.0.state().put(namespace, key, value.into(), None).await.map_err(unstored)
    }

    async fn delete(&self, namespace: &'static str, key: &str) -> Result<(), Unstored> {
        self.0.state().delete(namespace, key).await.map_err(unstored)
    }

    async fn load(&self, namespace: &'static str) -> Result<Vec<(String, Bytes)>, Unstored> {
        let rows = self.0.state().load(namespace).await.map_err(unstored)?;
        Ok(rows.into_iter().map(|row| (row.key, row.value)).collect())
    }

    fn is_new(&self) -> bool {
        // A database that was set aside had taken in much that the new one knows nothing of.
        self.0.is_new() && !self.0.stats().set_aside
    }
}

fn unstored(error: SpoolError) -> Unstored {
    Unstored(error.to_string())
}

impl ports::Observer for Metrics {
    fn gap(&self, _: u64) {
        self.backfill_gap();
    }

    fn queued(&self) {
        self.backfill_queued();
    }

    fn failed(&self, reason: &'static str) {
        self.backfill_failed(reason);
    }

    fn bad_rows(&self, count: u64) {
        self.backfill_bad_rows(count);
    }

    fn lost(&self, reason: &'static str, count: u64) {
        self.backfill_lost(reason, count);
    }
}

/// Carries out what an operator orders over the control socket.
pub(super) struct Desk(pub(super) Backfills);

impl Clerk for Desk {
    fn work<'a>(&'a self, order: Value, told: mpsc::Sender<Value>) -> Working<'a> {
        Box::pin(async move {
            let order: Order = serde_json::from_value(order)
                .map_err(|error| format!("the order can't be read; is it another version? {error}"))?;
            let (progress, mut seen) = mpsc::channel(1);
            let mut ordered = std::pin::pin!(self.0.order(&order, progress));
            let summary = loop {
                tokio::select! {
                    summary = &mut ordered => break summary,
                    Some(progress) = seen.recv() => {
                        // Whoever is slow misses one.
                        let _ = told.try_send(serde_json::to_value(progress).unwrap_or_default());
                    }
                }
            };
            let summary = summary.map_err(|error| error.to_string())?;
            serde_json::to_value(summary).map_err(|error| error.to_string())
        })
    }
}
