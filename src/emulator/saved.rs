//! What survives a restart, as one small JSON file: policy keys, devices, twins, id scope, group key, assignments.
//!
//! Telemetry does not survive, nor what a test forced upon DPS. Written a moment after each change and at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::select_all;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::device::Device;
use super::dps::Dps;
use super::error::EmulatorError;
use super::files;
use super::hub::Hub;
use super::registration::Registration;
use super::twin::Twin;
use crate::model::Clock;

const FILE: &str = "emulator.json";
/// Changes within this time are written together.
const GATHER: Duration = Duration::from_millis(100);
/// Changes of twins within this time are written together.
const TWINS_GATHER: Duration = Duration::from_secs(1);
/// The pause before twins are written again, in times that the last write took: many large ones must not keep the
/// emulator writing.
const TWINS_SHARE: u32 = 20;

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    /// `0ne` and eight hexadecimal digits.
    pub(super) id_scope: String,
    /// Base64 of 64 bytes.
    pub(super) group_key: String,
    /// By host; more than run if the emulator was started with fewer hubs than before.
    pub(super) hubs: BTreeMap<String, SavedHub>,
    /// Finished assignments.
    pub(super) registrations: Vec<Registration>,
}

/// One hub of the file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedHub {
    policies: BTreeMap<String, String>,
    devices: Vec<Device>,
    #[serde(default)]
    twins: BTreeMap<String, Twin>,
}

impl Saved {
    /// Reads the file of a folder; without one, makes a new DPS instance without hubs.
    ///
    /// # Errors
    /// `File` if it cannot be read, `Damaged` if it is not what we wrote.
    pub(super) fn load(dir: &Path) -> Result<Self, EmulatorError> {
        let path = dir.join(FILE);
        match files::read(&path)? {
            Some(text) => {
                serde_json::from_slice(&text).map_err(|source| EmulatorError::Damaged { path, source })
            }
            None => Ok(Self::fresh()),
        }
    }

    fn fresh() -> Self {
        let mut key = [0; 64];
        fastrand::fill(&mut key);
        Self {
            id_scope: format!("0ne{:08X}", fastrand::u32(..)),
            group_key: STANDARD.encode(key),
            hubs: BTreeMap::new(),
            registrations: Vec::new(),
        }
    }

    /// Takes a hub out of the file, or makes a new one.
    pub(super) fn take_hub(&mut self, host: &str, clock: Clock) -> Hub {
        let saved = self.hubs.remove(host).unwrap_or_default();
        Hub::restore(host, clock, &saved.policies, saved.devices, saved.twins)
    }
}

/// What is waited on: changes of twins come at any rate and wait longer for each other.
#[derive(Debug)]
pub(super) struct Versions {
    rare: Vec<watch::Receiver<u64>>,
    twins: Vec<watch::Receiver<u64>>,
}

impl Versions {
    /// Waits for a change, and then for others that come soon; for twins up to `pause`.
    async fn due(&mut self, pause: Duration) {
        tokio::select! {
            biased;
            () = changed(&mut self.rare) => {}
            () = changed(&mut self.twins) => tokio::select! {
                () = changed(&mut self.rare) => {}
                () = tokio::time::sleep(pause) => {}
            },
        }
        tokio::time::sleep(GATHER).await;
    }

    fn mark_unchanged(&mut self) {
        self.rare.iter_mut().chain(&mut self.twins).for_each(watch::Receiver::mark_unchanged);
    }
}

/// Waits for a change of any.
async fn changed(versions: &mut [watch::Receiver<u64>]) {
    let all = versions.iter_mut().map(|version| Box::pin(version.changed()));
    if select_all(all).await.0.is_err() {
        // The hubs are gone.
        std::future::pending().await
    }
}

/// Writes the state whenever it changes.
#[derive(Debug)]
pub(super) struct Saver {
    path: PathBuf,
    hubs: Vec<Arc<Hub>>,
    dps: Arc<Dps>,
    /// Hubs that do not run this time.
    others: Vec<(String, SavedHub)>,
}

impl Saver {
    /// Watches `hubs` and `dps`; `rest` is what was not taken from the file.
    pub(super) fn new(dir: &Path, hubs: Vec<Arc<Hub>>, dps: Arc<Dps>, rest: Saved) -> Self {
        Self { path: dir.join(FILE), hubs, dps, others: rest.hubs.into_iter().collect() }
    }

    /// Writes the file now.
    ///
    /// # Errors
    /// `File` if it cannot be written.
    pub(super) fn save(&self) -> Result<(), EmulatorError> {
        let hub = |hub: &Arc<Hub>| {
            let policies = hub.policies().map(|(name, key)| (name.to_owned(), key.to_owned())).collect();
            // A twin whose device is not in the list is dropped when read; a device without one gets a fresh one.
            let saved = SavedHub { policies, devices: hub.devices(), twins: hub.used_twins() };
            (hub.host().to_owned(), saved)
        };
        files::write_json(
            &self.path,
            &Saved {
                id_scope: self.dps.id_scope().to_owned(),
                group_key: self.dps.group_key().to_owned(),
                hubs: self.hubs.iter().map(hub).chain(self.others.iter().cloned()).collect(),
                registrations: self.dps.finished(),
            },
        )
    }

    /// What [`run`](Self::run) waits on, taken early so that no change is missed before it runs.
    pub(super) fn versions(&self) -> Versions {
        let hubs = self.hubs.iter().map(|hub| hub.registry_version());
        let twins = self.hubs.iter().map(|hub| hub.twin_changes()).collect();
        Versions { rare: hubs.chain([self.dps.version()]).collect(), twins }
    }

    /// Waits on: a change of a hub's registry, a finished assignment, a change of a twin, the end. The last write is
    /// the caller's.
    pub(super) async fn run(self: Arc<Self>, mut versions: Versions, stop: CancellationToken) {
        let mut pause = TWINS_GATHER;
        loop {
            tokio::select! {
                () = versions.due(pause) => {}
                () = stop.cancelled() => return,
            }
            versions.mark_unchanged();
            let started = Instant::now();
            // To its end, so that the last write is the caller's.
            self.save_or_warn().await;
            pause = TWINS_GATHER.max(started.elapsed() * TWINS_SHARE);
        }
    }

    /// Writes the file on a thread that may block; a failure is only logged, the next change tries again.
    pub(super) async fn save_or_warn(self: &Arc<Self>) {
        let saver = Arc::clone(self);
        match tokio::task::spawn_blocking(move || saver.save()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "Cannot save the emulator's state; new keys and devices may be lost.");
            }
            Err(error) => tracing::warn!(%error, "Saving the emulator's state was interrupted."),
        }
    }
}
