//! Records come out once each, in order within their lane, from disk and from memory alike.

use tti_connector::model::ParkReason;
use tti_connector::spool::{Pending, Selection};

use super::{Place, record, seqs, stored, take, within};

#[tokio::test]
async fn live_records_come_with_their_bodies_while_the_memory_budget_lasts() {
    let mut place = Place::new();
    place.config.memory_bytes = 10;
    let (spool, mut claim) = place.open();
    stored(&spool, record("a", "12345678")).await;
    let big = stored(&spool, record("a", "abcdefgh")).await;
    stored(&spool, record("a", "12")).await;
    let taken = take(&mut claim, 3).await;
    let bodies: Vec<_> = taken.iter().map(|record| record.body.as_deref()).collect();
    assert_eq!(bodies, [Some(&b"12345678"[..]), None, Some(b"12")]);
    assert_eq!(spool.stats().memory_bytes, 10);
    assert_eq!(spool.body(big).await.unwrap().unwrap(), "abcdefgh");
    drop(taken);
    assert_eq!(spool.stats().memory_bytes, 0);
}

#[tokio::test]
async fn records_appended_while_the_backlog_streams_come_after_it_and_each_once() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let mut expected = Vec::new();
    for turn in 0..3000 {
        let spool = spool.clone();
        expected.push(tokio::spawn(async move { stored(&spool, record(["a", "b"][turn % 2], "x")).await }));
    }
    for append in expected {
        within(append).await.unwrap();
    }
    spool.close().await;

    let (spool, mut claim) = place.open();
    let mut taken: Vec<Pending> = Vec::new();
    let mut appended = 0;
    while taken.len() < 3000 + appended || appended < 5 {
        taken.extend(within(claim.next()).await.unwrap());
        if appended < 5 {
            stored(&spool, record("a", "late")).await;
            appended += 1;
        }
    }
    assert_eq!(taken.len(), 3005);
    assert!(taken.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    let lanes: std::collections::HashSet<_> =
        taken[..1024].iter().map(|record| record.lane.as_ptr()).collect();
    assert_eq!(lanes.len(), 2, "one text for each lane, shared");
    assert!(futures_util::poll!(Box::pin(claim.next())).is_pending());
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let place = Place::new();
    let (spool, claim) = place.open();
    for _ in 0..10 {
        stored(&spool, record("a", "x")).await;
    }
    drop(claim);
    spool.close().await;
    let (_spool, mut claim) = place.open();
    for _ in 0..100 {
        // Polled once, so that it is dropped in the middle of the read.
        tokio::select! {
            biased;
            taken = claim.next() => {
                assert_eq!(taken.unwrap().len(), 10);
                return;
            }
            () = std::future::ready(()) => {}
        }
    }
    assert_eq!(take(&mut claim, 10).await.len(), 10);
}

#[tokio::test]
async fn a_requeued_record_comes_at_the_end_of_its_lane_at_once() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let first = stored(&spool, record("a", "first")).await;
    let second = stored(&spool, record("a", "second")).await;
    take(&mut claim, 2).await;
    spool.park(first, ParkReason::Unauthorized, "the hub says no").await.unwrap();
    place.clock.advance(5000);
    assert_eq!(spool.requeue(&Selection::Seqs(vec![first, second, first])).await, Ok(1));
    let again = take(&mut claim, 1).await;
    assert!(again[0].seq > second);
    assert_eq!(again[0].received_ms, super::NOW_MS, "still when it was received");
    assert_eq!(spool.body(again[0].seq).await.unwrap().unwrap(), "first");
    spool.close().await;
    let (_spool, mut claim) = place.open();
    assert_eq!(seqs(&take(&mut claim, 2).await), [second, again[0].seq]);
}

#[tokio::test]
async fn the_oldest_pending_record_can_be_told() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    assert_eq!(spool.stats().oldest_received_ms, None);
    let first = stored(&spool, record("a", "x")).await;
    place.clock.advance(1000);
    let second = stored(&spool, record("a", "x")).await;
    assert_eq!(spool.stats().oldest_received_ms, Some(super::NOW_MS));
    spool.done(first);
    super::until("the second is the oldest", || {
        spool.stats().oldest_received_ms == Some(super::NOW_MS + 1000)
    })
    .await;
    spool.done(second);
    spool.flush().await.unwrap();
    assert_eq!(spool.stats().oldest_received_ms, None);
}
