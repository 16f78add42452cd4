//! The composition root: builds bottom-up, spawns, drains; alone sees siblings together.

mod backfill;
mod downlinks;
mod error;
mod first_contact;
mod joints;
mod parts;
mod way_back;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use backfill::{OrderFailed, order_without_instance};
use downlinks::{Neighbours, WayBackParts, WayBackTasks, c2d_credit};
pub use error::AppError;
use first_contact::{Answered, FirstContact};
use joints::{DeviceStore, Vitals};
use parts::{Missing, Part};

use crate::config::{Config, Transport};
use crate::devices::{Directory, HubIdRule, Options as DirectoryOptions, Routes, relocate};
use crate::iot_hub::{IotHub, IotHubOptions};
use crate::metrics::Metrics;
use crate::model::{Backoff, Clock};
use crate::net::proxy::Proxy;
use crate::net::tls::client_config;
use crate::net::{Schemes, http_client};
use crate::spool::control::Clerk;
use crate::spool::{Spool, control};
use crate::uplink::{Pump, PumpOptions};
use crate::{admin, webhook};

/// Kept back from the grace period for closing links and the database.
const CLOSING: Duration = Duration::from_secs(3);

/// The webhook's clients get this part of the grace period to finish their requests.
const WEBHOOK_SHARE: u32 = 4;

/// A running connector.
pub struct Connector {
    webhook: SocketAddr,
    admin: SocketAddr,
    spool: Spool,
    hubs: IotHub,
    tasks: Tasks,
    missing: Missing,
    grace: Duration,
}

/// What runs, in the order in which it stops.
struct Tasks {
    webhook: Part,
    control: Part,
    first_contact: Part,
    relocation: Part,
    way_back: WayBackTasks,
    backfill: Part,
    pump: Part,
    admin: Part,
}

/// Runs the connector until `stop`, then drains it within `shutdown.grace`.
///
/// # Errors
/// It could not start, or one of its parts ended while it ran: then it was drained, too, and should be started anew.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), AppError> {
    let connector = Connector::start(config).await?;
    let missed = tokio::select! {
        () = stop.cancelled() => None,
        part = connector.missed() => Some(part),
    };
    connector.stop().await;
    missed.map_or(Ok(()), |part| Err(AppError::PartEnded(part)))
}

impl Connector {
    /// Builds everything and listens. Appends are served as soon as this returns, whatever the backlog.
    ///
    /// # Errors
    /// Says which key, file or port; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, AppError> {
        Self::start_at(config, Clock::system()).await
    }

    /// As [`Connector::start`], by another clock.
    ///
    /// # Errors
    /// As there.
    pub async fn start_at(config: Config, clock: Clock) -> Result<Self, AppError> {
        let routes = Routes::new(&config.azure).map_err(AppError::Routes)?;
        let rule = HubIdRule::parse(&config.devices.hub_id)?;
        let tls = client_config(config.azure.ca_file.as_deref())?;
        let http =
            |schemes| http_client(&tls, config.azure.proxy.as_deref(), config.azure.connect_timeout, schemes);
        let (to_dps, to_things_stack) = (http(Schemes::HttpsOnly)?, http(Schemes::HttpToo)?);
        let hub_options = hub_options(&config, Arc::clone(&tls), clock.clone())?;
        let first_contact = FirstContact::new(&routes, &hub_options);
        let webhook_listener = listen("webhook.listen", config.webhook.listen).await?;
        let admin_listener = listen("admin.listen", config.admin.listen).await?;
        let (webhook_at, admin_at) = (local(&webhook_listener), local(&admin_listener));

        let (spool, claim) = Spool::open(&config.spool, clock.clone())?;
        let directory = Directory::load(
            routes,
            rule,
            DeviceStore(spool.state()),
            DirectoryOptions::from(&config.devices),
            to_dps,
            clock.clone(),
        )
        .await
        .map_err(|error| AppError::State(error.to_string()))?;
        let (hubs, events) = IotHub::with_events(hub_options);
        let metrics = Metrics::new();
        let way_back = WayBackParts::new(
            &config,
            to_things_stack,
            Neighbours {
                spool: spool.clone(),
                directory: directory.clone(),
                hubs: hubs.clone(),
                events,
                metrics: metrics.clone(),
                clock: clock.clone(),
            },
        )
        .await?;
        let sender = backfill::Sender::Pump;
        let backfills =
            backfill::load(&config, way_back.network(), (&spool, sender), &metrics, clock.clone()).await?;
        let (answered, missing) = (Answered::default(), Missing::default());
        let vitals = Vitals {
            answered: answered.clone(),
            missing: missing.clone(),
            spool: spool.clone(),
            hubs: hubs.clone(),
            directory: directory.clone(),
            ledger: way_back.ledger(),
            clock: clock.clone(),
        };
        let gauges = vitals.clone();
        metrics.set_snapshot(move || gauges.snapshot());

        let pump = Pump::new(
            spool.clone(),
            way_back.residents(),
            hubs.clone(),
            metrics.clone(),
            way_back.way_back(),
            hubs.hub_up(),
            PumpOptions {
                backoff: Backoff { initial: config.uplink.retry_initial, max: config.uplink.retry_max },
                max_in_flight: config.uplink.max_in_flight,
                rate: config.send_rate().map(f64::from),
                format: config.telemetry.format,
                clock,
            },
        );
        let grace = config.shutdown.grace;
        let desk = way_back.desk(backfills.clone());
        let clerk = Arc::new(backfill::Desk(backfills.clone()));
        let relocation = {
            let (hubs, roster, after) =
                (hubs.clone(), way_back.residents().roster, config.azure.relocate_after);
            let gone = move || hubs.absent(after);
            move |stop| {
                relocate(directory, gone, move |device, hub_device| roster.meet(device, hub_device), stop)
            }
        };
        let parts = &missing;
        let tasks = Tasks {
            relocation: parts.spawn("relocation", relocation),
            way_back: way_back.run(parts, grace.saturating_sub(CLOSING) / 2),
            pump: parts.spawn("pump", |stop| pump.run(claim, stop, grace.saturating_sub(CLOSING))),
            first_contact: parts.spawn_finite("first contact", |stop| first_contact.run(answered, stop)),
            control: parts.spawn_finite("control socket", |stop| serve_control(spool.clone(), clerk, stop)),
            // Where it is on for no application it has nothing to do.
            backfill: parts.spawn_finite("backfill", |stop| backfills.run(stop)),
            admin: parts
                .spawn("admin", |stop| admin::serve(admin_listener, Arc::new(vitals), metrics.clone(), stop)),
            webhook: parts.spawn("webhook", |stop| {
                webhook::serve(webhook_listener, desk, config.webhook, metrics, stop)
            }),
        };
        let stats = spool.stats();
        info!(webhook = %webhook_at, admin = %admin_at, pending = stats.pending, parked = stats.parked, "The connector is up.");
        Ok(Self { webhook: webhook_at, admin: admin_at, spool, hubs, tasks, missing, grace })
    }

    /// Where the webhook listens.
    pub fn webhook(&self) -> SocketAddr {
        self.webhook
    }

    /// The durable queue, for what only an operator or a test asks.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Where health and metrics are served.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until a part has ended that nobody told to, which is a defect, and gives its name. `/ready` tells it, too.
    pub async fn missed(&self) -> &'static str {
        self.missing.first().await
    }

    /// Stops taking messages, sends what can be sent at once, closes links, syncs the spool: within the grace period.
    /// What was not sent stays in the spool.
    pub async fn stop(self) {
        let began = Instant::now();
        let deadline = began + self.grace;
        // A client in the middle of a slow upload must not use up the time of what is on its way to the hubs: it
        // was told nothing yet, and posts again.
        let uploads = began + self.grace / WEBHOOK_SHARE;
        let sends = began + self.grace.saturating_sub(CLOSING) + Duration::from_millis(500);
        let Tasks { webhook, control, first_contact, relocation, way_back, backfill, pump, admin } =
            self.tasks;
        webhook.end(uploads).await;
        first_contact.end(deadline).await;
        relocation.end(deadline).await;
        // Behind the webhook, so that it writes down what came last.
        backfill.end(deadline).await;
        // Both at once: a Things Stack that does not answer must not use up the time of what is on its way to the hubs.
        tokio::join!(way_back.dispatcher.end(sends.min(deadline)), pump.end(sends.min(deadline)),);
        if timeout_at(deadline, self.hubs.close()).await.is_err() {
            warn!("Hub connections did not close in time; dropped.");
        }
        way_back.beside.end(deadline).await;
        control.end(deadline).await;
        // The database is safe without it; closing only tidies up, so it may pass the deadline a little.
        if timeout(CLOSING, self.spool.close()).await.is_err() {
            warn!("The spool did not close in time; its next start recovers.");
        }
        admin.end(deadline).await;
        info!("The connector has stopped.");
    }
}

fn hub_options(
    config: &Config,
    tls: Arc<rustls::ClientConfig>,
    clock: Clock,
) -> Result<IotHubOptions, AppError> {
    let azure = &config.azure;
    let proxy = match &azure.proxy {
        Some(address) => Some(Proxy::parse(address)?),
        None => Proxy::from_environment(|name| std::env::var(name).ok())?,
    };
    Ok(IotHubOptions {
        transport: match azure.transport {
            Transport::Amqp => crate::iot_hub::Transport::Tls,
            Transport::AmqpWs => crate::iot_hub::Transport::WebSocket,
        },
        websocket_port: azure.websocket_port,
        proxy,
        keep_alive: azure.keep_alive,
        token_lifetime: azure.token_lifetime,
        connect_timeout: azure.connect_timeout,
        send_timeout: config.uplink.send_timeout,
        max_devices_per_connection: azure.max_devices_per_connection,
        max_devices_per_session: azure.max_devices_per_session,
        idle_timeout: config.devices.idle_timeout,
        c2d_credit: c2d_credit(config.downlink.complete_on),
        attach_rate: config.attach_rate(),
        connect_rate: config.connect_rate(),
        clock,
        ..IotHubOptions::new(tls)
    })
}

/// Operators' commands while we hold the spool. Without the socket all else works.
async fn serve_control(spool: Spool, clerk: Arc<dyn Clerk>, stop: CancellationToken) {
    if let Err(error) = control::serve_with(spool, Some(clerk), stop).await {
        warn!(%error, "No control socket: `spool` and `backfill` commands can't reach this instance.");
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { key, address, source })
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a bound listener has an address")
}
