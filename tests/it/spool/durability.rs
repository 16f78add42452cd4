//! What is acknowledged is on disk, under a number of its own, for the one process that may work on it.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use tti_connector::model::{Clock, ParkReason};
use tti_connector::spool::{NewRecord, Seq, Spool, SpoolError, State};

use super::{Place, keyed, record, seqs, stored, take, within};

#[tokio::test]
async fn the_database_is_in_wal_mode_and_can_give_pages_back() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let sqlite = place.sqlite();
    let pragma = |name: &str| -> String {
        sqlite
            .query_row(&format!("SELECT CAST({name} AS TEXT) FROM pragma_{name}"), [], |row| row.get(0))
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("auto_vacuum"), "2");
    assert_eq!(pragma("page_size"), "4096");
    drop(sqlite);
    spool.close().await;
}

#[tokio::test]
async fn the_folder_is_for_its_owner_only() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let mode = std::fs::metadata(&place.config.directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    spool.close().await;
}

#[tokio::test]
async fn an_acknowledged_record_is_seen_by_another_connection_at_once() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let sqlite = place.sqlite();
    for turn in 0..20 {
        let seq = stored(&spool, record("a", format!("body {turn}"))).await;
        let body: Vec<u8> =
            sqlite.query_row("SELECT body FROM msg WHERE seq = ?", [seq.0], |row| row.get(0)).unwrap();
        assert_eq!(body, format!("body {turn}").as_bytes());
    }
}

#[tokio::test]
async fn appends_that_wait_together_share_one_commit() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    stored(&spool, record("first", "x")).await;
    assert_eq!(spool.stats().commits, 1);
    // While another connection holds the write lock, all of them come to wait.
    let sqlite = place.sqlite();
    sqlite.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut appends: Vec<_> =
        (0..256).map(|device| Box::pin(stored(&spool, record(&format!("device {device}"), "x")))).collect();
    for append in &mut appends {
        assert!(futures_util::poll!(append).is_pending());
    }
    assert_eq!((spool.stats().appended, spool.stats().pending), (1, 1));
    sqlite.execute_batch("COMMIT").unwrap();
    let mut numbers = HashSet::new();
    for append in appends {
        numbers.insert(within(append).await);
    }
    assert_eq!(numbers.len(), 256);
    assert_eq!(take(&mut claim, 257).await.len(), 257);
    // The first few may have been taken before the others came.
    assert!(spool.stats().commits <= 3, "{}", spool.stats().commits);
    spool.close().await;
}

#[tokio::test]
async fn numbers_are_never_used_again_even_when_all_records_are_gone() {
    let place = Place::new();
    let mut highest = Seq(0);
    for _ in 0..3 {
        let (spool, _claim) = place.open();
        for _ in 0..2 {
            let seq = stored(&spool, record("a", "x")).await;
            assert!(seq > highest);
            highest = seq;
            spool.done(seq);
        }
        spool.close().await;
    }
}

#[tokio::test]
async fn a_restart_finds_what_was_pending_and_parked_and_nothing_that_was_done() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let done = stored(&spool, record("a", "done")).await;
    let pending = stored(&spool, record("a", "pending")).await;
    let parked = stored(&spool, record("b", "parked")).await;
    spool.done(done);
    spool.park(parked, ParkReason::TooLarge, "too much").await.unwrap();
    let before = spool.stats();
    spool.close().await;

    let (spool, mut claim) = place.open();
    let after = spool.stats();
    assert_eq!(
        (after.pending, after.pending_bytes, after.parked, after.parked_bytes),
        (before.pending, before.pending_bytes, before.parked, before.parked_bytes)
    );
    assert_eq!((after.pending, after.pending_bytes, after.parked, after.parked_bytes), (1, 7, 1, 6));
    assert_eq!(seqs(&take(&mut claim, 1).await), [pending]);
    assert_eq!(spool.state_of(done).await, State::Gone);
    assert_eq!(spool.state_of(pending).await, State::Pending);
    assert_eq!(
        spool.state_of(parked).await,
        State::Parked { reason: ParkReason::TooLarge, detail: "too much".to_owned() }
    );
    assert_eq!(spool.body(pending).await.unwrap().unwrap(), "pending");
    assert_eq!(spool.body(done).await.unwrap(), None);
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_has_closed() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    assert!(matches!(Spool::open(&place.config, Clock::system()), Err(SpoolError::InUse(_))));
    spool.close().await;
    let (spool, _claim) = place.open();
    assert!(spool.stats().healthy);
}

#[tokio::test]
async fn closing_commits_what_was_handed_in_and_ends_the_claim() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let seq = stored(&spool, record("a", "x")).await;
    take(&mut claim, 1).await;
    spool.done(seq);
    spool.close().await;
    assert!(within(claim.next()).await.is_none());
    assert_eq!(spool.append(record("a", "x")).await, Err(SpoolError::Closed));
    assert_eq!(spool.body(seq).await, Err(SpoolError::Closed));
    assert_eq!(spool.flush().await, Err(SpoolError::Closed));
    assert_eq!(place.open().0.stats().pending, 0);
}

#[tokio::test]
async fn dropping_every_handle_closes_the_spool_too() {
    let place = Place::new();
    let (spool, claim) = place.open();
    let seq = stored(&spool, keyed(1, "x")).await;
    spool.done(seq);
    drop((spool, claim));
    let mut opened = None;
    super::until("the folder is free", || {
        opened = Spool::open(&place.config, place.clock.clone()).ok();
        opened.is_some()
    })
    .await;
    assert_eq!(opened.unwrap().0.stats().pending, 0);
}

#[tokio::test]
async fn a_waiter_travels_with_its_record() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let (waiter, told) = tokio::sync::oneshot::channel();
    spool.append(NewRecord { waiter: Some(waiter), ..record("a", "x") }).await.unwrap();
    let taken = take(&mut claim, 1).await.remove(0);
    taken.waiter.expect("came along").send(tti_connector::model::Outcome::Skipped).unwrap();
    assert_eq!(within(told).await, Ok(tti_connector::model::Outcome::Skipped));
}
