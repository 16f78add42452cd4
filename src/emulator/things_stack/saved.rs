//! What survives a restart: the API key, and devices with their sessions and queues. Written a moment after changes.
//!
//! Messages on their way to the webhook, logs, faults and the webhook itself do not survive.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::super::error::EmulatorError;
use super::super::files;
use super::device::Device;
use super::keys;
use super::stack::ThingsStack;

const FILE: &str = "things_stack.json";
/// Changes within this time are written together; a thousand devices' queues are some hundred kilobytes.
const GATHER: Duration = Duration::from_millis(500);
/// A write is followed by a pause this many times as long, so that many devices don't cost a core.
const PAUSE_FACTOR: u32 = 20;

/// The file's content.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) api_key: String,
    pub(super) devices: Vec<Device>,
}

impl Saved {
    /// Reads the file of a folder; without one, makes a new key and no devices.
    ///
    /// # Errors
    /// `File` if it cannot be read, `Damaged` if it is not what we wrote.
    pub(super) fn load(dir: &Path) -> Result<Self, EmulatorError> {
        let path = dir.join(FILE);
        match files::read(&path)? {
            Some(text) => {
                serde_json::from_slice(&text).map_err(|source| EmulatorError::Damaged { path, source })
            }
            None => Ok(Self { api_key: keys::random(), devices: Vec::new() }),
        }
    }
}

/// Writes the state whenever it changes.
#[derive(Debug)]
pub(super) struct Saver {
    path: PathBuf,
    stack: Arc<ThingsStack>,
}

impl Saver {
    pub(super) fn new(dir: &Path, stack: Arc<ThingsStack>) -> Self {
        Self { path: dir.join(FILE), stack }
    }

    /// Writes the file now.
    ///
    /// # Errors
    /// `File` if it cannot be written.
    pub(super) fn save(&self) -> Result<(), EmulatorError> {
        files::write_json(&self.path, &self.stack.saved())
    }

    /// Waits on: a change of the state, the end. The last write is the caller's.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut dirty = self.stack.dirty();
        let mut pause = GATHER;
        loop {
            tokio::select! {
                _ = dirty.changed() => {}
                () = stop.cancelled() => return,
            }
            if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
                return;
            }
            dirty.mark_unchanged();
            let began = Instant::now();
            self.save_or_warn().await;
            pause = GATHER.max(began.elapsed() * PAUSE_FACTOR);
        }
    }

    /// Writes the file on a thread that may block; a failure is only logged, the next change tries again.
    pub(super) async fn save_or_warn(self: &Arc<Self>) {
        let saver = Arc::clone(self);
        match tokio::task::spawn_blocking(move || saver.save()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "Cannot save the emulated Things Stack; queues may be lost.");
            }
            Err(error) => tracing::warn!(%error, "Saving the emulated Things Stack was interrupted."),
        }
    }
}
