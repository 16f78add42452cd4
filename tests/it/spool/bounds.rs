//! The budgets of pending and parked records.

use tti_connector::model::ParkReason;
use tti_connector::spool::{Appended, Selection, SpoolError};

use super::{Place, is_full, keyed, of_group, record, stored};

#[tokio::test]
async fn too_many_messages_are_refused_until_one_is_done() {
    let mut place = Place::new();
    place.config.max_messages = 2;
    let (spool, _claim) = place.open();
    let first = stored(&spool, keyed(1, "x")).await;
    stored(&spool, record("b", "x")).await;
    assert!(is_full(&spool.append(record("c", "x")).await));
    assert_eq!(spool.append(keyed(1, "x")).await, Ok(Appended::Duplicate(first)), "a repeat needs no place");
    assert!(spool.stats().healthy, "full is not broken");
    spool.done(first);
    spool.flush().await.unwrap();
    stored(&spool, record("c", "x")).await;
}

#[tokio::test]
async fn too_many_bytes_are_refused_also_after_a_restart() {
    let mut place = Place::new();
    place.config.max_bytes = 10;
    let (spool, _claim) = place.open();
    stored(&spool, record("a", "123456")).await;
    assert!(is_full(&spool.append(record("a", "12345")).await));
    spool.close().await;
    let (spool, _claim) = place.open();
    assert!(is_full(&spool.append(record("a", "12345")).await));
    stored(&spool, record("a", "1234")).await;
}

#[tokio::test]
async fn a_used_up_parked_budget_refuses_only_the_applications_it_is_used_by() {
    let mut place = Place::new();
    place.config.parked_max_messages = 1;
    let (spool, _claim) = place.open();
    let bad = stored(&spool, of_group("bad", "x")).await;
    spool.park(bad, ParkReason::NotConfigured, "no hub").await.unwrap();
    let refused = spool.append(of_group("bad", "x")).await;
    assert_eq!(refused, Err(SpoolError::ParkedFull("bad".into())));
    stored(&spool, of_group("good", "x")).await;
    spool.close().await;

    let (spool, _claim) = place.open();
    assert_eq!(spool.append(of_group("bad", "x")).await, refused, "known after a restart");
    spool.discard(&Selection::Seqs(vec![bad])).await.unwrap();
    stored(&spool, of_group("bad", "x")).await;
}

#[tokio::test]
async fn parked_bytes_have_their_budget_too() {
    let mut place = Place::new();
    place.config.parked_max_bytes = 4;
    let (spool, _claim) = place.open();
    let bad = stored(&spool, of_group("bad", "12345")).await;
    spool.park(bad, ParkReason::TooLarge, "").await.unwrap();
    assert!(matches!(spool.append(of_group("bad", "x")).await, Err(SpoolError::ParkedFull(_))));
    stored(&spool, of_group("good", "x")).await;
}

#[tokio::test]
async fn parking_is_never_refused_and_all_together_stays_bounded() {
    let mut place = Place::new();
    place.config.max_messages = 4;
    place.config.parked_max_messages = 2;
    let (spool, _claim) = place.open();
    // Each application is new, so that none owns parked records when it begins.
    for round in 0..5 {
        let mut mine = Vec::new();
        while let Ok(Appended::Stored(seq)) = spool.append(of_group(&format!("app{round}"), "x")).await {
            mine.push(seq);
        }
        for seq in mine {
            spool.park(seq, ParkReason::NotConfigured, "").await.unwrap();
        }
        let stats = spool.stats();
        assert!(stats.pending + stats.parked <= 6, "{stats:?}");
    }
    assert_eq!(spool.stats().parked, 6);
    assert!(is_full(&spool.append(of_group("another", "x")).await));
    assert_eq!(spool.discard(&Selection::Matching(Default::default())).await, Ok(6));
    stored(&spool, of_group("another", "x")).await;
}

#[tokio::test]
async fn parking_twice_or_after_done_changes_nothing() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let seq = stored(&spool, record("a", "x")).await;
    spool.park(seq, ParkReason::Rejected, "first").await.unwrap();
    spool.park(seq, ParkReason::TooLarge, "second").await.unwrap();
    spool.done(seq);
    spool.flush().await.unwrap();
    assert_eq!((spool.stats().pending, spool.stats().parked), (0, 1));
    assert_eq!(spool.show(seq).await.unwrap().unwrap().0.detail, "first");
    let gone = stored(&spool, record("a", "x")).await;
    spool.done(gone);
    spool.park(gone, ParkReason::Rejected, "").await.unwrap();
    assert_eq!((spool.stats().pending, spool.stats().parked), (0, 1));
}

#[tokio::test]
async fn a_long_detail_is_cut_at_a_character() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let seq = stored(&spool, record("a", "x")).await;
    spool.park(seq, ParkReason::Rejected, &"é".repeat(1000)).await.unwrap();
    assert_eq!(spool.show(seq).await.unwrap().unwrap().0.detail, "é".repeat(500));
}
