//! The durable spool through its public interface, on real files.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod bounds;
mod damage;
mod dedup;
mod durability;
mod failure;
mod model;
mod moved;
mod operator;
mod order;
mod remembered;
mod space;
mod start;
mod state;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tti_connector::config;
use tti_connector::model::Clock;
use tti_connector::spool::{Appended, Claim, DedupKey, NewRecord, Pending, Seq, Spool, SpoolError};

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);
const NOW_MS: i64 = 1_800_000_000_000;

/// A folder with its settings; opened as often as a test likes.
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

    fn open(&self) -> (Spool, Claim) {
        Spool::open(&self.config, self.clock.clone()).unwrap()
    }

    /// A further connection, as an operator's tool would have.
    fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.config.directory.join("spool.db")).unwrap()
    }
}

fn record(device: &str, body: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        lane: format!("\u{1f}app\u{1f}{device}").into(),
        group: Arc::from("app"),
        dedup: None,
        body: body.into(),
        waiter: None,
    }
}

fn of_group(group: &str, body: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        lane: format!("\u{1f}{group}\u{1f}device").into(),
        group: Arc::from(group),
        ..record("", body)
    }
}

fn keyed(key: u8, body: impl Into<Bytes>) -> NewRecord {
    NewRecord { dedup: Some(DedupKey([key; 16])), ..record("device", body) }
}

async fn stored(spool: &Spool, record: NewRecord) -> Seq {
    match spool.append(record).await {
        Ok(Appended::Stored(seq)) => seq,
        other => panic!("not stored: {other:?}"),
    }
}

/// The next `count` records.
async fn take(claim: &mut Claim, count: usize) -> Vec<Pending> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.extend(within(claim.next()).await.expect("the spool is open"));
    }
    assert_eq!(taken.len(), count, "more than were expected");
    taken
}

fn seqs(records: &[Pending]) -> Vec<Seq> {
    records.iter().map(|record| record.seq).collect()
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("within the deadline")
}

/// Waits until `holds`; for what the threads do by themselves and nobody announces.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_full(result: &Result<Appended, SpoolError>) -> bool {
    matches!(result, Err(SpoolError::Full(_)))
}
