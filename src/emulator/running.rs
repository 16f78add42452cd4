//! The composition of a running emulator: state from its folder, sockets, tasks, and their end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::certificates::{Certificates, Renewal};
use super::dps::Dps;
use super::error::EmulatorError;
use super::files;
use super::https::{self, Site};
use super::hub::Hub;
use super::listeners::{self, Bound, Reception};
use super::options::{MAX_HUBS, Options};
use super::ready::{self, Ready, ReadyHub};
use super::saved::{Saved, Saver};
use super::things_stack::{self, ThingsStack};
use super::tier::TierSettings;

const LOCK_FILE: &str = "emulator.lock";
/// AMQP connections, and separately HTTPS connections. Ten thousand devices with a connection each, and spare.
const MAX_CONNECTIONS: usize = 16_384;

/// Hubs, a DPS and maybe a Things Stack that listen. Ends at [`shutdown`](Self::shutdown), or roughly when dropped.
#[derive(Debug)]
pub struct Emulator {
    dir: PathBuf,
    hubs: Vec<Arc<Hub>>,
    dps: Arc<Dps>,
    things_stack: Option<things_stack::Running>,
    certificates: Certificates,
    ready: Ready,
    saver: Arc<Saver>,
    tasks: TaskTracker,
    stop: DropGuard,
    /// Held until the last write.
    lock: File,
}

impl Emulator {
    /// Loads or makes the state in the options' folder and listens. A stale `ready.json` is removed; writing the new
    /// one is left to the caller, who may have more to start.
    ///
    /// # Errors
    /// [`EmulatorError`] says which file or address, and what to change.
    pub async fn start(options: Options) -> Result<Self, EmulatorError> {
        if !(1..=MAX_HUBS).contains(&options.hubs) {
            return Err(EmulatorError::Hubs(options.hubs));
        }
        let (dir, lock) = open(&options.dir)?;
        files::remove(&dir.join(ready::FILE))?;
        let mut saved = Saved::load(&dir)?;
        let certificates = Certificates::load_or_make(&dir)?;
        let amqp = listeners::bind(options.hubs, options.amqp_port, "--amqp-port").await?;
        let https = listeners::bind(options.hubs, options.https_port, "--https-port").await?;
        let plain = match options.things_stack_port {
            Some(port) => Some(listeners::bind(1, port, "--things-stack-port").await?),
            None => None,
        };

        let hubs: Vec<_> = (0..options.hubs)
            .map(|index| saved.take_hub(&listeners::host(index), options.clock.clone()))
            .map(|hub| {
                hub.set_tier(TierSettings {
                    cut_after: options.cut_throttled,
                    ..TierSettings::new(options.tier, options.units)
                });
                Arc::new(hub.with_cloud(options.cloud.clone()))
            })
            .collect();
        let dps = Arc::new(Dps::new(
            (saved.id_scope.clone(), saved.group_key.clone()),
            (options.clock.clone(), options.dps_work, options.dps_retry_after_s),
            hubs.clone(),
            std::mem::take(&mut saved.registrations),
        ));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let guard = stop.clone().drop_guard();
        let choices = (options.things_stack_open, options.webhook_timeout);
        let start = |bound| {
            things_stack::Running::start(
                &dir,
                (bound, &hubs),
                choices,
                options.clock.clone(),
                (&tasks, &stop),
            )
        };
        let things_stack = plain.map(start).transpose()?;
        let stack = things_stack.as_ref().map(things_stack::Running::stack);
        let ready = Ready {
            hubs: hubs.iter().map(|hub| ReadyHub::new(hub, amqp.port)).collect(),
            https_port: https.port,
            ca_file: certificates.ca_file.display().to_string(),
            id_scope: dps.id_scope().to_owned(),
            group_enrollment_key: dps.group_key().to_owned(),
            dps_endpoint: format!("{}:{}", listeners::host(0), https.port),
            webhook_url: None,
            things_stack_url: stack.map(|stack| stack.url().to_owned()),
            things_stack_api_key: stack.map(|stack| stack.api_key().to_owned()),
            things_stack_webhook: None,
        };
        let saver = Arc::new(Saver::new(&dir, hubs.clone(), Arc::clone(&dps), saved));
        saver.save()?;

        tasks.spawn(Arc::clone(&saver).run(saver.versions(), stop.clone()));
        let site = Arc::new(Site {
            hubs: hubs.clone(),
            dps: Arc::clone(&dps),
            clock: options.clock,
            tasks: tasks.clone(),
            stop: stop.clone(),
            amqp_places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        });
        listen_amqp(&site, amqp, certificates.server_config(&[])?.into());
        listen_https(&site, https, certificates.server_config(&["http/1.1"])?.into());
        Ok(Self { dir, hubs, dps, things_stack, certificates, ready, saver, tasks, stop: guard, lock })
    }

    /// What clients must know.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The hubs, the first being `localhost`.
    pub fn hubs(&self) -> &[Arc<Hub>] {
        &self.hubs
    }

    /// The DPS instance.
    pub fn dps(&self) -> &Dps {
        &self.dps
    }

    /// Changes the certificate that new connections to hubs and DPS are shown; those that are open stay.
    ///
    /// # Errors
    /// The CA was made by an earlier process, or the folder can't be written.
    pub fn renew_certificate(&self, how: Renewal) -> Result<(), EmulatorError> {
        self.certificates.renew(how)
    }

    /// The emulated Things Stack, if the options gave it a port.
    pub fn things_stack(&self) -> Option<&Arc<ThingsStack>> {
        self.things_stack.as_ref().map(things_stack::Running::stack)
    }

    /// Ends all connections and tasks, saves the state and removes `ready.json`. Takes a few seconds at most.
    pub async fn shutdown(self) {
        let Self { dir, saver, things_stack, tasks, stop, lock, .. } = self;
        stop.disarm().cancel();
        tasks.close();
        tasks.wait().await;
        saver.save_or_warn().await;
        if let Some(things_stack) = things_stack {
            things_stack.save_or_warn().await;
        }
        if let Err(error) = files::remove(&dir.join(ready::FILE)) {
            tracing::warn!(%error, "Cannot remove ready.json of the stopped emulator.");
        }
        drop(lock);
    }
}

/// Makes the folder and takes its lock. The path is made absolute, for `ready.json`.
fn open(dir: &Path) -> Result<(PathBuf, File), EmulatorError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| EmulatorError::File { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let dir = dir.canonicalize().map_err(failed(dir))?;
    let path = dir.join(LOCK_FILE);
    let lock = File::options().create(true).append(true).open(&path).map_err(failed(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok((dir, lock)),
        Err(fs::TryLockError::WouldBlock) => Err(EmulatorError::Locked(dir)),
        Err(fs::TryLockError::Error(source)) => Err(failed(&path)(source)),
    }
}

fn listen_amqp(site: &Arc<Site>, bound: Bound, tls: TlsAcceptor) {
    let places = Arc::clone(&site.amqp_places);
    let reception = Reception { tls, places, tasks: site.tasks.clone(), stop: site.stop.clone() };
    for (index, listener) in bound.listeners {
        let (hub, stop) = (Arc::clone(&site.hubs[index]), site.stop.clone());
        let gate = Arc::clone(&hub);
        let open = move || !gate.is_down();
        site.tasks.spawn(listeners::accept(listener, reception.clone(), open, move |stream| {
            listeners::serve_amqp_connection(stream, Arc::clone(&hub), stop.clone())
        }));
    }
}

fn listen_https(site: &Arc<Site>, bound: Bound, tls: TlsAcceptor) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let reception = Reception { tls, places, tasks: site.tasks.clone(), stop: site.stop.clone() };
    for (index, listener) in bound.listeners {
        let (hub, site) = (Arc::clone(&site.hubs[index]), Arc::clone(site));
        let tasks = site.tasks.clone();
        tasks.spawn(listeners::accept(
            listener,
            reception.clone(),
            || true,
            move |stream| https::serve(Arc::clone(&site), Arc::clone(&hub), stream),
        ));
    }
}
