//! Fuzz targets: rows of the ledger, and any events in any order about a downlink that is in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::book::Book;
use super::{Ledger, row};
use crate::downlink::ports::{Outbox, Store, Unstored};
use crate::downlink::{Begun, EntryId, NewEntry, Progress, Report, Source};
use crate::model::{Clock, EndDevice};
use crate::things_stack::{self, Operation};
use crate::uplink;

/// 2025-03-14T07:00:00Z.
const NOW_MS: i64 = 1_741_935_600_000;
/// The correlation id of the downlink that events are about.
pub(crate) const CORRELATION: &str = "tti-connector:0123456789abcdef0123456789abcdef";

/// A row is read as it was written.
pub(in crate::downlink) fn row(json: &[u8]) {
    let id = EntryId::parse(CORRELATION).expect("ours");
    let Some(kept) = row::read(id, json) else { return };
    let (stage, order) = (kept.stage.clone(), kept.order);
    let mut book = Book::default();
    book.restore(kept);
    let Some(entry) = book.get(id) else { return };
    let again = row::read(id, &row::write(entry)).expect("its own");
    assert_eq!((again.stage, again.order), (stage, order));
}

/// Keeps rows and reports in memory.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    rows: BTreeMap<String, Vec<u8>>,
    reports: Vec<Report>,
}

impl Disk {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Disk {
    async fn put(&self, _: &'static str, key: &str, value: Vec<u8>, _: i64) -> Result<(), Unstored> {
        self.kept().rows.insert(key.to_owned(), value);
        Ok(())
    }

    async fn get(&self, _: &'static str, key: &str) -> Result<Option<Bytes>, Unstored> {
        Ok(self.kept().rows.get(key).cloned().map(Bytes::from))
    }

    async fn load(&self, _: &'static str) -> Result<Vec<(String, Bytes)>, Unstored> {
        Ok(self.kept().rows.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect())
    }
}

impl Outbox for Disk {
    async fn post(&self, report: &Report) -> Result<(), Unstored> {
        self.kept().reports.push(report.clone());
        Ok(())
    }
}

/// One event a line. The downlink only ever gets further, a restart knows as much, and each event's reports can be sent.
pub(crate) fn events(data: &[u8]) {
    at_once(async {
        let disk = Disk::default();
        let load =
            || Ledger::load(disk.clone(), disk.clone(), Duration::from_secs(86_400), Clock::manual(NOW_MS));
        let device = EndDevice::new("", "application", "device").expect("good ids");
        let id = EntryId::parse(CORRELATION).expect("ours");
        let mut ledger = load().await.expect("empty");
        let entry = NewEntry {
            id,
            device: device.clone(),
            source: Source::CloudMessage,
            correlation: "message-1".to_owned(),
            f_port: 10,
            confirmed: data.first().is_some_and(|byte| byte % 2 == 0),
            operation: Operation::Push,
        };
        assert_eq!(ledger.begin(entry).await, Ok(Begun::New));
        let mut before = 0;
        for line in data.split(|byte| *byte == b'\n') {
            let Some(event) = things_stack::fuzzing::event(line) else { continue };
            ledger.witness(&device, &event).await.expect("memory does not fail");
            for report in ledger.reports(&device, None, &event, NOW_MS).await.expect("memory does not fail") {
                assert_eq!(report.id, id);
                uplink::fuzzing::assert_sound(&report.to_telemetry());
            }
            let now = rank(ledger.progress(id).await.expect("memory does not fail"));
            assert!(now >= before, "from {before} back to {now}");
            before = now;
        }
        let known = ledger.progress(id).await.expect("memory does not fail");
        ledger = load().await.expect("its own");
        assert_eq!(ledger.progress(id).await, Ok(known));
    });
}

fn rank(progress: Option<Progress>) -> u8 {
    match progress.expect("it was begun") {
        Progress::Pushing => 0,
        Progress::Queued => 1,
        Progress::Sent => 2,
        Progress::Ended(_) => 3,
    }
}

fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory is never waited for")
}
