//! The tasks that the composition root spawns: each has a name and a token of its own, and is missed when it ends
//! before it was told to.
//!
//! Knows not what they do.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

/// Parts that ended though nobody told them to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    parts: Mutex<Vec<&'static str>>,
    any: CancellationToken,
}

/// A part that runs.
#[derive(Debug)]
pub(super) struct Part {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Missing {
    /// Starts a part that runs until its token says stop. The connector can't do without it.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) -> Part {
        self.start(name, true, task)
    }

    /// The same for one that may end by itself; only a panic makes it missed.
    pub(super) fn spawn_finite<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) -> Part {
        self.start(name, false, task)
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        needed: bool,
        task: impl FnOnce(CancellationToken) -> F,
    ) -> Part {
        let stop = CancellationToken::new();
        let (work, missing, stopped) = (task(stop.clone()), self.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let ended = AssertUnwindSafe(work).catch_unwind().await;
            if ended.is_err() || (needed && !stopped.is_cancelled()) {
                missing.note(name);
            }
        });
        Part { name, stop, task }
    }

    fn note(&self, part: &'static str) {
        error!(
            part,
            "A part of the connector has ended, which is a defect. The connector stops, to be started anew."
        );
        self.parts().push(part);
        self.0.any.cancel();
    }

    /// Waits until a part is missed, and gives the first one's name.
    pub(super) async fn first(&self) -> &'static str {
        self.0.any.cancelled().await;
        self.parts().first().copied().unwrap_or("unknown")
    }

    /// The names of those missed.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.parts().clone()
    }

    fn parts(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// Tells it to stop and waits until `deadline`; then it is dropped where it stands.
    pub(super) async fn end(self, deadline: Instant) {
        let Self { name, stop, mut task } = self;
        stop.cancel();
        match timeout_at(deadline, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(part = name, %error, "A part ended abnormally."),
            Err(_) => {
                task.abort();
                warn!(part = name, "A part did not end within the grace period; dropped.");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn a_part_that_panics_or_ends_by_itself_is_missed() {
        let missing = Missing::default();
        let panics = missing.spawn_finite("panics", |_| async { panic!("as told") });
        assert_eq!(missing.first().await, "panics");
        let ends = missing.spawn("ends", |_| async {});
        panics.end(soon()).await;
        // It may only be told to stop once it has ended by itself.
        while missing.names().len() < 2 {
            tokio::task::yield_now().await;
        }
        ends.end(soon()).await;
        assert_eq!(missing.names(), ["panics", "ends"]);
    }

    #[tokio::test]
    async fn a_part_that_is_told_to_end_or_may_end_is_not() {
        let missing = Missing::default();
        let told = missing.spawn("told", |stop| async move { stop.cancelled().await });
        let finite = missing.spawn_finite("finite", |_| async {});
        finite.end(soon()).await;
        told.end(soon()).await;
        assert!(missing.names().is_empty() && !missing.0.any.is_cancelled());
    }
}
