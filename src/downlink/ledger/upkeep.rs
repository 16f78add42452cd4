//! Brings the ledger's entries to disk, and ends those that nothing else ends.
//!
//! Decides nothing about an entry but when it is too old.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::super::EntryId;
use super::super::ports::{Outbox, Store, Unstored};
use super::{Ledger, NAMESPACE, REDELIVERED_FOR, UNATTENDED_FOR, WRITES};
use crate::model::EndDevice;

/// Between two looks for entries that are too old.
const LOOK: Duration = Duration::from_secs(10);
/// After a failed write, until the next try.
const RETRY: Duration = Duration::from_secs(2);

impl<S: Store, O: Outbox> Ledger<S, O> {
    /// Until `stop`: writes what nobody waits for, tries failed writes again, and ends and reports as expired the
    /// entries that nothing ended for `expiry`. Writes once more before it returns.
    pub async fn run(&self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        let mut retry_at = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = look.tick() => self.expire(),
                () = self.0.dirtied.notified(), if !failing => {}
                () = tokio::time::sleep_until(retry_at), if failing => {}
            }
            match self.write_all().await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!(error = %error, "the ledger of downlinks can't be written; it is tried again until it succeeds");
                    }
                    failing = true;
                    retry_at = Instant::now() + RETRY;
                }
            }
        }
        if let Err(error) = self.write_all().await {
            tracing::warn!(error = %error, "the last changes to the ledger of downlinks are not on disk; after the start these downlinks are looked up once more");
        }
    }

    fn expire(&self) {
        let now_ms = self.0.clock.now_ms();
        self.book().expire(now_ms.saturating_sub(millis(self.0.expiry)), now_ms);
    }

    async fn write_all(&self) -> Result<(), Unstored> {
        let devices = self.book().dirty_devices();
        each(devices, |device| async move {
            let _turn = self.turn(&device).await;
            self.write_device(&device).await
        })
        .await
    }

    /// Writes all that is to be written of a device. The caller has its turn.
    pub(super) async fn write_device(&self, device: &EndDevice) -> Result<(), Unstored> {
        let (first, then) = self.book().dirty(device);
        each(first, |id| self.write(id)).await?;
        each(then, |id| self.write(id)).await
    }

    /// Writes one entry, if there is anything to write. The caller has its device's turn. What it owes to its sender is
    /// posted first: a crash in between repeats the report, and the outbox keeps it once.
    pub(super) async fn write(&self, id: EntryId) -> Result<(), Unstored> {
        let Some(due) = self.book().due(id) else { return Ok(()) };
        for report in &due.reports {
            self.0.outbox.post(report).await?;
            self.book().posted(id);
        }
        let expires_ms = match due.begun_ms {
            Some(begun_ms) => begun_ms.saturating_add(millis(self.0.expiry.saturating_add(UNATTENDED_FOR))),
            None => self.0.clock.now_ms().saturating_add(millis(self.0.expiry.max(REDELIVERED_FOR))),
        };
        self.0.store.put(NAMESPACE, &id.to_string(), due.row.clone(), expires_ms).await?;
        self.book().stored(id, &due);
        Ok(())
    }
}

/// Does it with all of them, whatever fails; gives the first failure.
async fn each<T, F: Future<Output = Result<(), Unstored>>>(
    all: Vec<T>,
    work: impl Fn(T) -> F,
) -> Result<(), Unstored> {
    let results = stream::iter(all).map(work).buffer_unordered(WRITES);
    results.fold(Ok(()), async |so_far: Result<(), Unstored>, result| so_far.and(result)).await
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
