//! The ledger of downlinks on a disk that crashes and fails when a test wants, and on the real spool.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod crash;
mod events;
mod expiry;
mod found;
mod model;
mod real_spool;
mod replace;
mod reports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tti_connector::downlink::ports::{Outbox, Store, Unstored};
use tti_connector::downlink::{Begun, End, EntryId, Ledger, NAMESPACE, NewEntry, Report, Source};
use tti_connector::model::{Clock, EndDevice};
use tti_connector::things_stack::{DownlinkEvent, DownlinkState, NamedDownlink, NamedPayload, Operation};

const NOW_MS: i64 = 1_800_000_000_000;
const HOUR_MS: i64 = 3_600_000;
const EXPIRY: Duration = Duration::from_secs(24 * 3600);
const DEADLINE: Duration = Duration::from_secs(60);

/// What survives a crash, and how it fails. A write that was not awaited to its end is lost.
#[derive(Clone)]
struct Disk {
    kept: Arc<Mutex<Kept>>,
    crashed: watch::Sender<bool>,
    clock: Clock,
}

#[derive(Default)]
struct Kept {
    rows: BTreeMap<String, (Vec<u8>, i64)>,
    reports: Vec<Report>,
    dedup: BTreeSet<[u8; 16]>,
    /// Each write that succeeded, in order.
    journal: Vec<String>,
    /// This many writes succeed, then the program crashes.
    fuse: Option<usize>,
    /// After this many writes that succeed, one fails.
    fails_after: Option<usize>,
    failing: bool,
    /// A failing write is on disk nevertheless.
    kept_though_failing: bool,
    /// Reports of this correlation are refused.
    refused: Option<String>,
    gets: usize,
}

impl Disk {
    fn new() -> Self {
        Self { kept: Arc::default(), crashed: watch::Sender::new(false), clock: Clock::manual(NOW_MS) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    async fn load(&self) -> Ledger<Self, Self> {
        Ledger::load(self.clone(), self.clone(), EXPIRY, self.clock.clone()).await.unwrap()
    }

    /// Runs `life` until it ends or the fuse burns. True if it ended.
    async fn until_crash(&self, life: impl Future<Output = ()>) -> bool {
        let mut crashed = self.crashed.subscribe();
        let ended = tokio::select! {
            biased;
            () = life => true,
            _ = crashed.wait_for(|crashed| *crashed) => false,
        };
        self.crashed.send_replace(false);
        self.kept().fuse = None;
        ended
    }

    async fn write(&self, what: String, write: impl FnOnce(&mut Kept)) -> Result<(), Unstored> {
        tokio::task::yield_now().await;
        let burnt = {
            let mut kept = self.kept();
            let fails = kept.failing || kept.fails_after == Some(0);
            kept.fails_after = kept.fails_after.and_then(|left| left.checked_sub(1));
            if fails {
                if kept.kept_though_failing {
                    write(&mut kept);
                }
                return Err(Unstored("the disk fails".to_owned()));
            }
            let burnt = kept.fuse == Some(0);
            if !burnt {
                kept.fuse = kept.fuse.map(|left| left - 1);
                write(&mut kept);
                kept.journal.push(what);
            }
            burnt
        };
        if burnt {
            self.crashed.send_replace(true);
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn states(&self) -> Vec<String> {
        let tell = |report: &Report| format!("{} {}", report.correlation, report.state.as_str());
        self.kept().reports.iter().map(tell).collect()
    }
}

impl Store for Disk {
    async fn put(
        &self,
        namespace: &'static str,
        key: &str,
        value: Vec<u8>,
        expires_ms: i64,
    ) -> Result<(), Unstored> {
        assert_eq!(namespace, NAMESPACE);
        let stage = String::from_utf8(value.clone()).unwrap();
        let stage = stage.split("\"stage\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let correlation = String::from_utf8(value.clone()).unwrap();
        let correlation = correlation.split("\"correlation\":\"").nth(1).unwrap();
        let what = format!("put {} {stage}", correlation.split('"').next().unwrap());
        self.write(what, |kept| drop(kept.rows.insert(key.to_owned(), (value, expires_ms)))).await
    }

    async fn get(&self, _: &'static str, key: &str) -> Result<Option<Bytes>, Unstored> {
        tokio::task::yield_now().await;
        let now_ms = self.clock.now_ms();
        let mut kept = self.kept();
        kept.gets += 1;
        if kept.failing {
            return Err(Unstored("the disk fails".to_owned()));
        }
        let live = kept.rows.get(key).filter(|(_, expires_ms)| *expires_ms > now_ms);
        Ok(live.map(|(value, _)| Bytes::from(value.clone())))
    }

    async fn load(&self, _: &'static str) -> Result<Vec<(String, Bytes)>, Unstored> {
        let now_ms = self.clock.now_ms();
        let kept = self.kept();
        let live = kept.rows.iter().filter(|(_, (_, expires_ms))| *expires_ms > now_ms);
        Ok(live.map(|(key, (value, _))| (key.clone(), Bytes::from(value.clone()))).collect())
    }
}

impl Outbox for Disk {
    async fn post(&self, report: &Report) -> Result<(), Unstored> {
        let report = report.clone();
        if self.kept().refused.as_ref() == Some(&report.correlation) {
            return Err(Unstored("its application's parked budget is used up".to_owned()));
        }
        let what = format!("post {} {}", report.correlation, report.state.as_str());
        self.write(what, |kept| {
            if kept.dedup.insert(report.dedup()) {
                kept.reports.push(report);
            }
        })
        .await
    }
}

fn device(name: &str) -> EndDevice {
    EndDevice::new("eu1.cloud.thethings.industries", "vineyard", name).unwrap()
}

fn id(name: &str) -> EntryId {
    EntryId::of(&[name.as_bytes()])
}

/// An unconfirmed push for the device `cellar`.
fn entry(name: &str) -> NewEntry {
    NewEntry {
        id: id(name),
        device: device("cellar"),
        source: Source::CloudMessage,
        correlation: name.to_owned(),
        f_port: 20,
        confirmed: false,
        operation: Operation::Push,
    }
}

fn confirmed(name: &str) -> NewEntry {
    NewEntry { confirmed: true, ..entry(name) }
}

fn replace(name: &str) -> NewEntry {
    NewEntry { operation: Operation::Replace, ..entry(name) }
}

fn event(state: DownlinkState, names: &[&str]) -> DownlinkEvent {
    let named = |name: &&str| NamedDownlink {
        correlation_ids: vec!["as:downlink:01JPJ7X9ZY".to_owned(), id(name).correlation_id()],
        f_port: 20,
        f_cnt: 41,
        confirmed: false,
        payload: NamedPayload::Bytes,
    };
    let error =
        (state == DownlinkState::Failed).then(|| "pkg/applicationserver:max_retries: gave up".to_owned());
    DownlinkEvent { state, downlinks: names.iter().map(named).collect(), error, received_ms: None }
}

fn failed() -> End {
    End::Failed("pkg/applicationserver:max_retries: gave up".to_owned())
}

async fn begun(ledger: &Ledger<Disk, Disk>, entry: NewEntry) -> Begun {
    ledger.begin(entry).await.unwrap()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("within the deadline")
}
