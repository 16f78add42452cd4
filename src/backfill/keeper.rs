//! Writes marks, and what was seen last of each device, into the small state beside the queue; now and then, not for
//! every uplink. What a crash loses of it is found again: the mark is then older, and what is fetched twice is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::application::Application;
use super::mark::Mark;
use super::ports::{Store, Unstored};

const MARKS: &str = "backfill";
const SEEN: &str = "backfill-seen";
/// Between two looks whether marks have changed.
const MARKS_EVERY: Duration = Duration::from_secs(10);
/// Between two writes of what was seen last: some 50 bytes a device.
const SEEN_EVERY: Duration = Duration::from_secs(300);
/// A key that sorts as its number.
const DIGITS: usize = 6;

/// What was stored by an earlier start.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) mark: Option<Mark>,
    pub(super) seen: Vec<Vec<u8>>,
}

/// Keeps the state of all applications.
#[derive(Debug)]
pub(super) struct Keeper<T> {
    store: T,
    marks: BTreeMap<String, Mark>,
    /// Pieces of what was seen, by application.
    pieces: BTreeMap<String, usize>,
}

impl<T: Store> Keeper<T> {
    /// Reads what is stored. What is of other applications than those named is deleted: while backfill is off nothing
    /// is remembered of them, so their marks are worth nothing.
    pub(super) async fn load(
        store: T,
        applications: &[String],
    ) -> Result<(Self, BTreeMap<String, Stored>), Unstored> {
        let mut all: BTreeMap<String, Stored> = BTreeMap::new();
        for (key, value) in store.load(MARKS).await? {
            if applications.contains(&key) {
                // One that can't be read is begun anew, which is the safe side.
                all.entry(key).or_default().mark = serde_json::from_slice(&value).ok();
            } else {
                store.delete(MARKS, &key).await?;
            }
        }
        let mut pieces: BTreeMap<String, usize> = BTreeMap::new();
        for (key, value) in store.load(SEEN).await? {
            let application = key.rsplit_once('/').map_or("", |(application, _)| application);
            if applications.iter().any(|known| known == application) {
                all.entry(application.to_owned()).or_default().seen.push(value.to_vec());
                *pieces.entry(application.to_owned()).or_default() += 1;
            } else {
                store.delete(SEEN, &key).await?;
            }
        }
        Ok((Self { store, marks: BTreeMap::new(), pieces }, all))
    }

    /// Writes the marks that have changed.
    pub(super) async fn save_marks(&mut self, applications: &[Arc<Application>]) -> Result<(), Unstored> {
        for application in applications {
            let mark = application.mark();
            if self.marks.get(&application.id) != Some(&mark) {
                let value = serde_json::to_vec(&mark).map_err(|error| Unstored(error.to_string()))?;
                self.store.put(MARKS, &application.id, value).await?;
                self.marks.insert(application.id.clone(), mark);
            }
        }
        Ok(())
    }

    async fn save_seen(&mut self, applications: &[Arc<Application>]) -> Result<(), Unstored> {
        for application in applications {
            let id = &application.id;
            let pieces = application.seen();
            let count = pieces.len();
            for (number, piece) in pieces.into_iter().enumerate() {
                self.store.put(SEEN, &format!("{id}/{number:0DIGITS$}"), piece).await?;
            }
            let before = self.pieces.insert(id.clone(), count).unwrap_or_default();
            for number in count..before {
                self.store.delete(SEEN, &format!("{id}/{number:0DIGITS$}")).await?;
            }
        }
        Ok(())
    }

    /// Writes now and then, until it is dropped.
    pub(super) async fn run(&mut self, applications: &[Arc<Application>]) {
        let mut seen_at = Instant::now() + SEEN_EVERY;
        loop {
            sleep(MARKS_EVERY).await;
            let mut saved = self.save_marks(applications).await;
            if saved.is_ok() && Instant::now() >= seen_at {
                saved = self.save_seen(applications).await;
                seen_at = Instant::now() + SEEN_EVERY;
            }
            warn_of(saved);
        }
    }

    /// The last write.
    pub(super) async fn save(&mut self, applications: &[Arc<Application>]) {
        warn_of(self.save_seen(applications).await);
        warn_of(self.save_marks(applications).await);
    }
}

fn warn_of(saved: Result<(), Unstored>) {
    if let Err(error) = saved {
        warn!(%error, "What was received last can't be written down yet; after a crash more than needed would be fetched.");
    }
}
