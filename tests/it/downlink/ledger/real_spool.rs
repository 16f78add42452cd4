//! The ledger on the spool it really lives on, over restarts.

use std::time::Instant;

use tempfile::TempDir;
use tti_connector::config;
use tti_connector::downlink::ReportState;
use tti_connector::spool::{Claim, DedupKey, NewRecord, Spool, SpoolError, StateStore};

use super::*;

struct State(StateStore);
struct Reports(Spool);

fn unstored(error: SpoolError) -> Unstored {
    Unstored(error.to_string())
}

impl Store for State {
    async fn put(
        &self,
        namespace: &'static str,
        key: &str,
        value: Vec<u8>,
        expires_ms: i64,
    ) -> Result<(), Unstored> {
        self.0.put(namespace, key, value.into(), Some(expires_ms)).await.map_err(unstored)
    }

    async fn get(&self, namespace: &'static str, key: &str) -> Result<Option<Bytes>, Unstored> {
        self.0.get(namespace, key).await.map_err(unstored)
    }

    async fn load(&self, namespace: &'static str) -> Result<Vec<(String, Bytes)>, Unstored> {
        let rows = self.0.load(namespace).await.map_err(unstored)?;
        Ok(rows.into_iter().map(|row| (row.key, row.value)).collect())
    }
}

impl Outbox for Reports {
    async fn post(&self, report: &Report) -> Result<(), Unstored> {
        let record = NewRecord {
            lane: report.device.key().into(),
            group: report.device.application_id().into(),
            dedup: Some(DedupKey(report.dedup())),
            body: report.to_stored(),
            waiter: None,
        };
        self.0.append(record).await.map(drop).map_err(unstored)
    }
}

struct Place {
    _folder: TempDir,
    config: config::Spool,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config::Spool { directory: folder.path().join("spool"), ..config::Spool::default() };
        Self { _folder: folder, config, clock: Clock::manual(NOW_MS) }
    }

    async fn open(&self) -> (Spool, Claim, Ledger<State, Reports>) {
        let (spool, claim) = Spool::open(&self.config, self.clock.clone()).unwrap();
        let (state, reports) = (State(spool.state()), Reports(spool.clone()));
        let ledger = Ledger::load(state, reports, EXPIRY, self.clock.clone()).await.unwrap();
        (spool, claim, ledger)
    }
}

#[tokio::test]
async fn entries_ends_and_reports_are_there_after_a_restart() {
    let place = Place::new();
    let (spool, _claim, ledger) = place.open().await;
    let cellar = device("cellar");
    for new in [entry("waits"), confirmed("sent"), entry("unsure"), entry("done"), replace("new")] {
        assert_eq!(ledger.begin(new).await.unwrap(), Begun::New);
    }
    for (state, name) in [
        (DownlinkState::Queued, "waits"),
        (DownlinkState::Sent, "sent"),
        (DownlinkState::Sent, "done"),
        (DownlinkState::Queued, "new"),
    ] {
        ledger.witness(&cellar, &event(state, &[name])).await.unwrap();
    }
    ledger.reject(&entry("bad"), "FPort 300").await.unwrap();
    drop(ledger);
    spool.close().await;

    let (spool, mut claim, ledger) = place.open().await;
    assert_eq!(ledger.open(), 3);
    for (new, expected) in [
        (entry("waits"), Begun::Ended(End::Replaced)),
        (confirmed("sent"), Begun::Queued { sent: true }),
        (entry("unsure"), Begun::Unsure),
        (entry("done"), Begun::Ended(End::Sent)),
        (replace("new"), Begun::Queued { sent: false }),
        (entry("bad"), Begun::Ended(End::Rejected("FPort 300".to_owned()))),
    ] {
        assert_eq!(ledger.begin(new).await.unwrap(), expected);
    }
    let late = ledger.reports(&cellar, None, &event(DownlinkState::Ack, &["done"]), NOW_MS).await.unwrap();
    assert_eq!(late.len(), 1);
    let mut reported = Vec::new();
    while reported.len() < 2 {
        for record in within(claim.next()).await.unwrap() {
            let report = Report::from_stored(&spool.body(record.seq).await.unwrap().unwrap()).unwrap();
            reported.push((report.correlation, report.state));
        }
    }
    assert_eq!(
        reported,
        [("waits".to_owned(), ReportState::Replaced), ("bad".to_owned(), ReportState::Rejected)]
    );

    // Three days later the ends are forgotten, and what stayed open is still there.
    place.clock.advance(72 * HOUR_MS);
    assert_eq!(ledger.open(), 3);
    assert_eq!(ledger.begin(entry("done")).await.unwrap(), Begun::New);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_downlinks_at_once_share_their_commits() {
    let place = Place::new();
    let (spool, _claim, ledger) = place.open().await;
    let before = spool.stats().commits;
    let started = Instant::now();
    let mut lives = tokio::task::JoinSet::new();
    for number in 0..1000 {
        let ledger = ledger.clone();
        lives.spawn(async move {
            let name = format!("m{number}");
            let new = NewEntry { device: device(&name), ..entry(&name) };
            assert_eq!(ledger.begin(new.clone()).await.unwrap(), Begun::New);
            for state in [DownlinkState::Queued, DownlinkState::Sent] {
                ledger.witness(&new.device, &event(state, &[&name])).await.unwrap();
            }
            assert_eq!(ledger.begin(new).await.unwrap(), Begun::Ended(End::Sent));
        });
    }
    within(lives.join_all()).await;
    let commits = spool.stats().commits - before;
    println!("1,000 downlinks, 3,000 durable steps: {:?}, {commits} commits", started.elapsed());
    assert!(commits < 1000, "{commits} commits for 3,000 durable steps");
    assert_eq!(ledger.open(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_open_entries_load_quickly() {
    let place = Place::new();
    let (spool, _claim, ledger) = place.open().await;
    let mut begins = tokio::task::JoinSet::new();
    for part in 0..50 {
        let ledger = ledger.clone();
        begins.spawn(async move {
            for number in 0..200 {
                let name = format!("m{}", part * 200 + number);
                let new = NewEntry { device: device(&name), ..entry(&name) };
                assert_eq!(ledger.begin(new).await.unwrap(), Begun::New);
            }
        });
    }
    within(begins.join_all()).await;
    drop(ledger);
    spool.close().await;
    let (spool, claim) = Spool::open(&place.config, place.clock.clone()).unwrap();
    let started = Instant::now();
    let (state, reports) = (State(spool.state()), Reports(spool.clone()));
    let ledger = Ledger::load(state, reports, EXPIRY, place.clock.clone()).await.unwrap();
    println!("10,000 open entries loaded in {:?}", started.elapsed());
    assert_eq!(ledger.open(), 10_000);
    assert!(started.elapsed().as_secs() < 5, "some 100 ms when nothing else runs");
    drop(claim);
}
