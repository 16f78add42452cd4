//! A running emulated Things Stack: state from the emulator's folder, its listeners and tasks, the last write.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::error::EmulatorError;
use super::super::hub::Hub;
use super::super::listeners::{self, Bound};
use super::outbox::Outbox;
use super::saved::{Saved, Saver};
use super::serve::{self, Site};
use super::stack::ThingsStack;
use super::up::Stamps;
use crate::model::Clock;

/// Connections at once.
const MAX_CONNECTIONS: usize = 1024;

/// A Things Stack that listens.
#[derive(Debug)]
pub(in super::super) struct Running {
    stack: Arc<ThingsStack>,
    saver: Arc<Saver>,
}

impl Running {
    /// Loads or makes the state in `dir` and serves the listeners until `stop`, with the controls of `hubs`.
    ///
    /// # Errors
    /// [`EmulatorError`] says what to change.
    pub(in super::super) fn start(
        dir: &Path,
        (bound, hubs): (Bound, &[Arc<Hub>]),
        (open, webhook_timeout): (bool, Duration),
        clock: Clock,
        (tasks, stop): (&TaskTracker, &CancellationToken),
    ) -> Result<Self, EmulatorError> {
        let url = format!("http://localhost:{}", bound.port);
        let changed = watch::channel(0).0;
        let outbox =
            Outbox::new((url.clone(), webhook_timeout), changed.clone(), (tasks.clone(), stop.clone()))
                .map_err(EmulatorError::HttpClient)?;
        let saved = Saved::load(dir)?;
        let stack =
            Arc::new(ThingsStack::new(url, open, saved, Stamps::new(clock), Arc::new(outbox), changed));
        let saver = Arc::new(Saver::new(dir, Arc::clone(&stack)));
        saver.save()?;
        tasks.spawn(Arc::clone(&saver).run(stop.clone()));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let site = Arc::new(Site { stack: Arc::clone(&stack), hubs: hubs.to_vec() });
        for (_, listener) in bound.listeners {
            let (site, places, stop) = (Arc::clone(&site), Arc::clone(&places), stop.clone());
            let end = stop.clone();
            let serve = move |stream| serve::serve(Arc::clone(&site), stream, end.clone());
            tasks.spawn(listeners::accept_plain(listener, (places, tasks.clone(), stop), serve));
        }
        Ok(Self { stack, saver })
    }

    pub(in super::super) fn stack(&self) -> &Arc<ThingsStack> {
        &self.stack
    }

    /// The last write.
    pub(in super::super) async fn save_or_warn(&self) {
        self.saver.save_or_warn().await;
    }
}
