//! One message is stored once, however often it is posted within the window.

use std::time::Duration;

use tti_connector::model::ParkReason;
use tti_connector::spool::{Appended, Selection, State};

use super::{Place, keyed, stored, take, within};

#[tokio::test]
async fn a_repeat_within_the_window_gets_the_first_number_and_stores_nothing() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let first = stored(&spool, keyed(1, "x")).await;
    assert_eq!(spool.append(keyed(1, "x")).await, Ok(Appended::Duplicate(first)));
    stored(&spool, keyed(2, "x")).await;
    let stats = spool.stats();
    assert_eq!((stats.pending, stats.duplicates, stats.appended), (2, 1, 2));
}

#[tokio::test]
async fn a_repeat_is_known_after_done_and_after_a_restart() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let first = stored(&spool, keyed(1, "x")).await;
    spool.done(first);
    spool.close().await;
    let (spool, _claim) = place.open();
    assert_eq!(spool.append(keyed(1, "x")).await, Ok(Appended::Duplicate(first)));
    assert_eq!(spool.stats().pending, 0);
}

#[tokio::test]
async fn after_the_window_it_is_a_new_message_and_before_its_end_not() {
    let mut place = Place::new();
    place.config.dedup_window = Duration::from_secs(10);
    let (spool, _claim) = place.open();
    let first = stored(&spool, keyed(1, "x")).await;
    place.clock.advance(9_999);
    assert_eq!(spool.append(keyed(1, "x")).await, Ok(Appended::Duplicate(first)));
    place.clock.advance(1);
    assert!(stored(&spool, keyed(1, "x")).await > first);
}

#[tokio::test]
async fn no_window_means_no_duplicates() {
    let mut place = Place::new();
    place.config.dedup_window = Duration::ZERO;
    let (spool, _claim) = place.open();
    stored(&spool, keyed(1, "x")).await;
    stored(&spool, keyed(1, "x")).await;
}

#[tokio::test]
async fn of_equal_posts_at_the_same_moment_one_is_stored() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    // The lock makes them wait together, so that they come into one transaction.
    let sqlite = place.sqlite();
    sqlite.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut posts: Vec<_> = (0..64).map(|_| Box::pin(spool.append(keyed(1, "x")))).collect();
    for post in &mut posts {
        assert!(futures_util::poll!(post).is_pending());
    }
    sqlite.execute_batch("COMMIT").unwrap();
    let mut stored = 0;
    for post in posts {
        stored += i32::from(matches!(within(post).await, Ok(Appended::Stored(_))));
    }
    assert_eq!((stored, spool.stats().pending, spool.stats().duplicates), (1, 1, 63));
    assert!(spool.stats().commits <= 2, "{}", spool.stats().commits);
}

#[tokio::test]
async fn old_keys_are_forgotten_while_nothing_comes() {
    let mut place = Place::new();
    place.config.dedup_window = Duration::from_secs(10);
    let (spool, _claim) = place.open();
    for key in 0..100 {
        stored(&spool, keyed(key, "x")).await;
    }
    place.clock.advance(10_000);
    let sqlite = place.sqlite();
    let rows = || sqlite.query_row("SELECT count(*) FROM dedup", [], |row| row.get::<_, i64>(0)).unwrap();
    super::until("no key is left", || rows() == 0).await;
    let counted: i64 = sqlite.query_row("SELECT dedup FROM ledger", [], |row| row.get(0)).unwrap();
    assert_eq!(counted, 0);
}

#[tokio::test]
async fn keys_are_bounded_even_within_the_window() {
    let mut place = Place::new();
    place.config.max_messages = 5;
    let (spool, _claim) = place.open();
    for key in 0..60 {
        let seq = stored(&spool, keyed(key, "x")).await;
        spool.done(seq);
    }
    spool.flush().await.unwrap();
    spool.close().await;
    let rows: i64 = place.sqlite().query_row("SELECT count(*) FROM dedup", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 20, "four for each message that may wait");
}

#[tokio::test]
async fn a_repeat_of_a_requeued_record_finds_it_under_its_new_number() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let first = stored(&spool, keyed(1, "x")).await;
    take(&mut claim, 1).await;
    spool.park(first, ParkReason::NotConfigured, "").await.unwrap();
    assert_eq!(spool.append(keyed(1, "x")).await, Ok(Appended::Duplicate(first)));
    spool.requeue(&Selection::Seqs(vec![first])).await.unwrap();
    let again = take(&mut claim, 1).await[0].seq;
    assert_eq!(spool.append(keyed(1, "x")).await, Ok(Appended::Duplicate(again)));
    assert_eq!(spool.state_of(first).await, State::Gone);
    assert_eq!(spool.state_of(again).await, State::Pending);
}
