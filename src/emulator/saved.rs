//! What survives a restart, as one small JSON file: policy keys, devices, id scope, group key, assignments.
//!
//! Telemetry does not survive, nor what a test forced upon DPS. Written a moment after each change and at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
use crate::model::Clock;

const FILE: &str = "emulator.json";
/// Changes within this time are written together.
const GATHER: Duration = Duration::from_millis(100);

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
        Hub::restore(host, clock, &saved.policies, saved.devices)
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
            (hub.host().to_owned(), SavedHub { policies, devices: hub.devices() })
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
    pub(super) fn versions(&self) -> Vec<watch::Receiver<u64>> {
        let hubs = self.hubs.iter().map(|hub| hub.registry_version());
        hubs.chain([self.dps.version()]).collect()
    }

    /// Waits on: a change of a hub's registry, a finished assignment, the end. The last write is the caller's.
    pub(super) async fn run(
        self: Arc<Self>,
        mut versions: Vec<watch::Receiver<u64>>,
        stop: CancellationToken,
    ) {
        loop {
            let changed = select_all(versions.iter_mut().map(|version| Box::pin(version.changed())));
            tokio::select! {
                _ = changed => {}
                () = stop.cancelled() => return,
            }
            if tokio::time::timeout(GATHER, stop.cancelled()).await.is_ok() {
                return;
            }
            for version in &mut versions {
                version.mark_unchanged();
            }
            self.save_or_warn().await;
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
