//! Keys that are remembered longer than the window of repeated posts, with their records or not at all.

use tti_connector::spool::{Appended, DedupKey, Remember, Seq};

use super::{NOW_MS, Place, record};

fn key(n: u8) -> DedupKey {
    DedupKey([n; 16])
}

fn remember(n: u8, until_ms: i64) -> Remember {
    Remember { key: key(n), known_by: vec![key(n), key(n + 100)], until_ms }
}

#[tokio::test]
async fn a_remembered_record_is_a_duplicate_until_its_time_also_after_a_restart() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    assert!(spool.is_new());
    let hour = 3_600_000;
    let first = spool.append_once(record("a", "x"), remember(1, NOW_MS + 30 * hour)).await;
    assert!(matches!(first, Ok(Appended::Stored(_))));
    // Taken in without being asked whether it is known, as an uplink without a time is.
    let unasked = Remember { key: key(102), known_by: Vec::new(), until_ms: NOW_MS + 30 * hour };
    for _ in 0..2 {
        let appended = spool.append_once(record("a", "y"), unasked.clone()).await;
        assert!(matches!(appended, Ok(Appended::Stored(_))));
    }
    spool.close().await;

    let (spool, _claim) = place.open();
    assert!(!spool.is_new());
    place.clock.advance(29 * hour);
    let known = spool.remembers(vec![vec![key(1)], vec![key(2)], vec![key(3), key(102)]]).await;
    assert_eq!(known, Ok(vec![true, false, true]));
    for again in [1, 2] {
        let appended = spool.append_once(record("a", "z"), remember(again, i64::MAX)).await;
        assert_eq!(appended, Ok(Appended::Duplicate(Seq(0))), "{again}");
    }
    assert_eq!(spool.stats().pending, 3);
    place.clock.advance(hour);
    let appended = spool.append_once(record("a", "z"), remember(1, i64::MAX)).await;
    assert!(matches!(appended, Ok(Appended::Stored(_))), "forgotten");
    assert_eq!(spool.forgot().await, Ok(None));
    spool.close().await;
}

#[tokio::test]
async fn what_is_refused_is_not_remembered() {
    let mut place = Place::new();
    place.config.max_messages = 1;
    let (spool, _claim) = place.open();
    spool.append(record("a", "x")).await.unwrap();
    assert!(spool.append_once(record("a", "y"), remember(1, i64::MAX)).await.is_err(), "full");
    assert_eq!(spool.remembers(vec![vec![key(1)]]).await, Ok(vec![false]));
    spool.close().await;
}
