//! The ledger: which requests of the cloud became downlinks, how far each is, and what its sender was told. On disk
//! before the push, so that one request gives one downlink, whatever crashes or comes twice in between.
//!
//! Knows neither the hub nor The Things Stack's API. [`book`] holds the open entries and decides; this file makes it
//! durable; [`upkeep`] writes what nobody waits for. An ended entry leaves memory and stays on disk as long as its
//! request may come again: there `begin` and late events find it.

mod book;
mod found;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(in crate::downlink) mod fuzzing;
mod hearing;
mod lookup;
mod row;
mod stage;
mod upkeep;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use self::book::Book;
use self::found::{Found, reason};
use self::hearing::Hearing;
use self::row::Kept;
use self::stage::Stage;
use super::ports::{Outbox, Store, Unstored};
use super::{Begun, EntryId, NewEntry, Progress, Report, ReportState};
use crate::model::{Clock, EndDevice, dev_eui};
use crate::things_stack::{DownlinkEvent, DownlinkState, NamedDownlink, Whereabouts};

/// Under which the entries are kept.
pub const NAMESPACE: &str = "downlink";
/// How long IoT Hub may hand out a message again (two days at most), and an hour for clocks that differ.
const REDELIVERED_FOR: Duration = Duration::from_hours(49);
/// How long an open entry outlives its expiry on disk while no connector runs that would report it.
const UNATTENDED_FOR: Duration = Duration::from_hours(30 * 24);
/// Devices whose entries are written at the same time share a turn when these run out; each turn is some 40 bytes.
const TURNS: usize = 1024;
/// Writes under way at once: a quarter of one transaction of the spool.
const WRITES: usize = 256;
/// Correlation ids of one downlink that are looked up on disk at most; we give it one.
const LOOKED_UP: usize = 4;

/// The ledger. Cheap to clone.
pub struct Ledger<S, O>(Arc<Inner<S, O>>);

struct Inner<S, O> {
    store: S,
    outbox: O,
    expiry: Duration,
    clock: Clock,
    book: Mutex<Book>,
    hearing: Mutex<Hearing>,
    /// Who writes entries of a device holds its turn, so that an older state never comes after a newer one.
    turns: Box<[tokio::sync::Mutex<()>]>,
    hasher: RandomState,
    /// Something became dirty that nobody waits for.
    dirtied: Notify,
    forged: AtomicU64,
}

impl<S, O> Clone for Ledger<S, O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Store, O: Outbox> Ledger<S, O> {
    /// Reads what is open. `expiry`: an entry that nothing ended for this long is ended and reported as expired.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn load(store: S, outbox: O, expiry: Duration, clock: Clock) -> Result<Self, Unstored> {
        let mut book = Book::default();
        let mut unreadable = 0_u64;
        for (key, json) in store.load(NAMESPACE).await? {
            match EntryId::from_hex(&key).and_then(|id| row::read(id, &json)) {
                Some(Kept { stage: Stage::Ended(_), .. }) => {}
                Some(kept) => book.restore(kept),
                None => unreadable += 1,
            }
        }
        if unreadable > 0 {
            tracing::warn!(
                entries = unreadable,
                "the ledger of downlinks holds entries that can't be read, perhaps of a newer version; they are kept, and their requests are not pushed"
            );
        }
        Ok(Self(Arc::new(Inner {
            store,
            outbox,
            expiry,
            clock,
            book: Mutex::new(book),
            hearing: Mutex::default(),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect(),
            hasher: RandomState::new(),
            dirtied: Notify::new(),
            forged: AtomicU64::new(0),
        })))
    }

    /// Enters a downlink before it is pushed; durable when it returns. Whoever calls this works on one id alone until
    /// it told the outcome (`queued`, `put_back`, `reject`) or gave up: a second caller gets [`Begun::Unsure`], looks
    /// into The Things Stack's queue and may find nothing there yet.
    ///
    /// # Errors
    /// Nothing may be pushed; try again later. Also when too many downlinks are open, or when the entry on disk can't be
    /// read.
    pub async fn begin(&self, entry: NewEntry) -> Result<Begun, Unstored> {
        let _turn = self.turn_for(&entry).await;
        if let Some(begun) = self.begin_again(&entry).await? {
            return Ok(begun);
        }
        let begun = match self.kept(entry.id).await? {
            Some(Kept { stage: Stage::Ended(end), .. }) => return Ok(Begun::Ended(end)),
            // Its write failed, as far as we could tell.
            Some(_) => Begun::Unsure,
            None => Begun::New,
        };
        self.book().enter(&entry, self.0.clock.now_ms())?;
        if let Err(error) = self.write(entry.id).await {
            let mut book = self.book();
            if book.get(entry.id).is_some_and(|entry| entry.stage == Stage::Pushing) {
                book.forget(entry.id);
            }
            return Err(error);
        }
        Ok(begun)
    }

    async fn begin_again(&self, entry: &NewEntry) -> Result<Option<Begun>, Unstored> {
        let known = self.book().again(entry, self.0.clock.now_ms());
        let Some(begun) = known else { return Ok(None) };
        if matches!(begun, Begun::New | Begun::Unsure)
            && let Err(error) = self.write(entry.id).await
        {
            if begun == Begun::New {
                self.book().put_back(entry.id);
            }
            return Err(error);
        }
        Ok(Some(begun))
    }

    /// The Things Stack took it. The disk follows while nobody waits: should a crash come first, the request is looked
    /// up in the queue once more. A replace ends the device's entries that wait in the queue, and reports them.
    #[expect(clippy::unused_async, reason = "callers need not know whether it waits")]
    pub async fn queued(&self, id: EntryId) {
        let now_ms = self.0.clock.now_ms();
        if self.book().advance(id, Stage::Queued, now_ms) {
            self.note_pushed(id, now_ms);
            self.0.dirtied.notify_one();
        }
    }

    /// A look found it after a push without an answer; durable when it returns. If no event told of it, this reports it
    /// as queued, and as sent if it was taken. Nothing happens when it was nowhere.
    ///
    /// # Errors
    /// Known, but perhaps not on disk; call it again.
    pub async fn found(&self, id: EntryId, at: Whereabouts) -> Result<(), Unstored> {
        let owner = {
            let mut book = self.book();
            book.found(id, at, self.0.clock.now_ms());
            book.get(id).map(|entry| entry.device.clone())
        };
        let Some(device) = owner else { return Ok(()) };
        let _turn = self.turn(&device).await;
        self.write_device(&device).await
    }

    /// The downlinks whose push was under way when a former life of the program ended, and of which nothing was heard
    /// since.
    pub fn left_open(&self) -> Vec<(EntryId, EndDevice)> {
        self.book().left_open()
    }

    /// Certainly not queued, to be tried later: the next `begin` gives [`Begun::New`]. Nothing happens when an event
    /// proved that it was queued. Also the right call before `begin` when [`Begun::Unsure`] was followed by a look that
    /// found nothing, if the downlink is a replace: then it displaces what was queued in between.
    #[expect(clippy::unused_async, reason = "callers need not know whether it waits")]
    pub async fn put_back(&self, id: EntryId) {
        self.book().put_back(id);
    }

    /// Never to be queued: ends it and reports `rejected` with the reason; durable when it returns. The entry need not
    /// have begun: an invalid request is rejected so too. Nothing happens when it ended before, or when an event proved
    /// that it was queued.
    ///
    /// # Errors
    /// Perhaps not reported; try again.
    pub async fn reject(&self, entry: &NewEntry, reason: &str) -> Result<(), Unstored> {
        let _turn = self.turn_for(entry).await;
        let now_ms = self.0.clock.now_ms();
        if self.book().get(entry.id).is_none() {
            if let Some(Kept { stage: Stage::Ended(_), .. }) = self.kept(entry.id).await? {
                return Ok(());
            }
            self.book().enter(entry, now_ms)?;
        }
        self.book().reject(entry.id, reason, now_ms);
        self.write_device(&entry.device).await
    }

    /// Takes in what a webhook event proves about entries of `device`, in any order and any number of times; durable
    /// when it returns. Call it before the webhook's 2xx, and again when the event's record is sent.
    ///
    /// # Errors
    /// Known, but perhaps not on disk; call it again.
    pub async fn witness(&self, device: &EndDevice, event: &DownlinkEvent) -> Result<(), Unstored> {
        let owners = {
            let now_ms = self.0.clock.now_ms();
            let mut book = self.book();
            let mut owners = Vec::new();
            for named in &event.downlinks {
                let Some((id, owner, confirmed)) = Self::owned(&book, device, named) else { continue };
                if !owners.contains(&owner) {
                    owners.push(owner);
                }
                book.advance(id, Stage::proven_by(event.state, confirmed, event.error.as_deref()), now_ms);
            }
            owners
        };
        if !owners.is_empty() {
            self.note_told(device);
        }
        // The device itself, maybe under both its names: with and without its tenant.
        for owner in owners {
            let _turn = self.turn(&owner).await;
            self.write_device(&owner).await?;
        }
        Ok(())
    }

    /// A call of ours emptied the device's queue: ends and reports as replaced those of `waited` that still wait there,
    /// with `reason`. What was queued while the call was under way may have come after it, so ask [`Ledger::waiting`]
    /// before.
    ///
    /// # Errors
    /// Known, but perhaps not on disk; it is tried again while [`Ledger::run`] runs.
    pub async fn cleared(
        &self,
        device: &EndDevice,
        waited: &[EntryId],
        reason: &str,
    ) -> Result<(), Unstored> {
        self.book().cleared(device, waited, reason, self.0.clock.now_ms());
        let _turn = self.turn(device).await;
        self.write_device(device).await
    }

    /// The reports that this event gives, for entries of `device`, ended ones too: one for each of its downlinks that is
    /// ours. To be sent in the device's order. `received_ms` (milliseconds since 1970 UTC) is when the event came, for
    /// one that does not say.
    ///
    /// # Errors
    /// The store can't be read; try again.
    pub async fn reports(
        &self,
        device: &EndDevice,
        dev_eui: Option<&str>,
        event: &DownlinkEvent,
        received_ms: i64,
    ) -> Result<Vec<Report>, Unstored> {
        let dev_eui = dev_eui.and_then(self::dev_eui);
        let mut reports = Vec::new();
        for named in &event.downlinks {
            let Some((id, entry)) = self.find(device, named).await? else { continue };
            reports.push(Report {
                id,
                device: device.clone(),
                dev_eui: dev_eui.clone(),
                source: entry.source,
                correlation: entry.correlation,
                state: ReportState::from(event.state),
                reason: reason(event, named),
                f_port: if named.f_port == 0 { entry.f_port } else { named.f_port },
                // It gets its counter when it is sent; until then the event has none.
                f_cnt: Some(named.f_cnt).filter(|f_cnt| *f_cnt > 0 || event.state != DownlinkState::Queued),
                confirmed: entry.confirmed,
                at_ms: event.received_ms.unwrap_or(received_ms),
            });
        }
        Ok(reports)
    }

    /// What becomes of an entry from now on, and what it is now. `None` when it is not open, that is, unknown or ended:
    /// `begin` tells. So ask before the push. The channel closes after [`Progress::Ended`].
    pub fn watch(&self, id: EntryId) -> Option<watch::Receiver<Progress>> {
        self.book().watch(id)
    }

    /// Open entries, for gauges.
    pub fn open(&self) -> usize {
        self.book().len()
    }

    /// Times since the start that an event named another device's entry, for gauges.
    pub fn forged(&self) -> u64 {
        self.0.forged.load(Ordering::Relaxed)
    }
}

impl<S: Store, O: Outbox> Ledger<S, O> {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, device: &EndDevice) -> tokio::sync::MutexGuard<'_, ()> {
        let turns = &self.0.turns;
        let at = usize::try_from(self.0.hasher.hash_one(device) % turns.len() as u64).unwrap_or(0);
        turns[at].lock().await
    }

    /// The turn for a request that may be known under the device's former owner.
    async fn turn_for(&self, new: &NewEntry) -> tokio::sync::MutexGuard<'_, ()> {
        let owner = self.book().get(new.id).map(|entry| entry.device.clone());
        self.turn(owner.as_ref().unwrap_or(&new.device)).await
    }

    /// What lies on disk under an id.
    async fn kept(&self, id: EntryId) -> Result<Option<Kept>, Unstored> {
        let Some(json) = self.0.store.get(NAMESPACE, &id.to_string()).await? else { return Ok(None) };
        row::read(id, &json).map(Some).ok_or_else(|| {
            Unstored(format!(
                "entry {id} of the ledger can't be read, perhaps a newer version wrote it; start that again"
            ))
        })
    }

    /// The open entry that a downlink of an event names, if it is the device's own; its owner, and whether it is
    /// confirmed.
    fn owned(book: &Book, device: &EndDevice, named: &NamedDownlink) -> Option<(EntryId, EndDevice, bool)> {
        ids(named).find_map(|id| {
            let entry = book.get(id)?;
            entry.device.is_same(device).then(|| (id, entry.device.clone(), entry.confirmed))
        })
    }

    /// The entry that a downlink of an event names, open or not, if it is the device's own.
    async fn find(
        &self,
        device: &EndDevice,
        named: &NamedDownlink,
    ) -> Result<Option<(EntryId, Found)>, Unstored> {
        for id in ids(named).take(LOOKED_UP) {
            let open = self.book().get(id).map(|entry| (entry.device.clone(), Found::from(entry)));
            let (owner, found) = match open {
                Some(open) => open,
                None => match self.0.store.get(NAMESPACE, &id.to_string()).await? {
                    Some(json) => match row::read(id, &json) {
                        Some(kept) => (kept.new.device.clone(), Found::from(kept)),
                        None => continue,
                    },
                    None => continue,
                },
            };
            if owner.is_same(device) {
                return Ok(Some((id, found)));
            }
            self.0.forged.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(device = %device, entry = %id, "an event names another device's downlink; it is ignored");
        }
        Ok(None)
    }
}

fn ids(named: &NamedDownlink) -> impl Iterator<Item = EntryId> {
    named.correlation_ids.iter().filter_map(|id| EntryId::parse(id))
}
