//! The small state beside the queue.

use std::time::Instant;

use bytes::Bytes;
use tti_connector::spool::{SpoolError, StateRow};

use super::{NOW_MS, Place, within};

#[tokio::test]
async fn values_are_there_after_a_restart_and_namespaces_are_apart() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let state = spool.state();
    state.put("a", "key", Bytes::from_static(b"old"), None).await.unwrap();
    state.put("a", "key", Bytes::from_static(b"new"), Some(NOW_MS + 10)).await.unwrap();
    state.put("a", "gone", Bytes::from_static(b"x"), None).await.unwrap();
    state.put("b", "key", Bytes::from_static(b"other"), None).await.unwrap();
    state.delete("a", "gone").await.unwrap();
    spool.close().await;
    let (spool, _claim) = place.open();
    let row = |key: &str, value: &'static str, expires_ms| StateRow {
        key: key.to_owned(),
        value: Bytes::from_static(value.as_bytes()),
        expires_ms,
    };
    assert_eq!(spool.state().load("a").await.unwrap(), [row("key", "new", Some(NOW_MS + 10))]);
    assert_eq!(spool.state().load("b").await.unwrap(), [row("key", "other", None)]);
    place.clock.advance(10);
    assert_eq!(spool.state().load("a").await.unwrap(), []);
    let sqlite = place.sqlite();
    let rows = || sqlite.query_row("SELECT count(*) FROM state", [], |row| row.get::<_, i64>(0)).unwrap();
    super::until("the expired row is deleted", || rows() == 1).await;
}

#[tokio::test]
async fn one_value_is_what_the_last_answered_change_left() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let state = spool.state();
    let get = async |namespace, key| state.get(namespace, key).await.unwrap();
    assert_eq!(get("a", "key").await, None);
    for round in 0..200_u32 {
        let value = Bytes::from(round.to_string());
        state.put("a", "key", value.clone(), Some(NOW_MS + 10)).await.unwrap();
        assert_eq!(get("a", "key").await, Some(value), "read right after its answer");
    }
    assert_eq!(get("b", "key").await, None);
    assert_eq!(get("a", "ke").await, None);
    place.clock.advance(10);
    assert_eq!(get("a", "key").await, None, "expired");
    state.put("a", "key", Bytes::from_static(b"for ever"), None).await.unwrap();
    assert_eq!(get("a", "key").await, Some(Bytes::from_static(b"for ever")));
    state.delete("a", "key").await.unwrap();
    assert_eq!(get("a", "key").await, None);
    spool.close().await;
    assert_eq!(state.get("a", "key").await, Err(SpoolError::Closed));
}

#[tokio::test]
async fn a_key_or_value_that_is_too_long_is_refused() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let long = "k".repeat(2000);
    let refused = spool.state().put("a", &long, Bytes::new(), None).await;
    assert!(matches!(refused, Err(SpoolError::Full(_))));
    let refused = spool.state().put("a", "k", Bytes::from(vec![0; 100_000]), None).await;
    assert!(matches!(refused, Err(SpoolError::Full(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_assignments_load_quickly() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let mut writers = tokio::task::JoinSet::new();
    for part in 0..50 {
        let state = spool.state();
        writers.spawn(async move {
            for device in 0..1000 {
                let key = format!("tenant\u{1f}application\u{1f}device-{}", part * 1000 + device);
                state.put("assignments", &key, Bytes::from(vec![7; 150]), None).await.unwrap();
            }
        });
    }
    within(writers.join_all()).await;
    spool.close().await;
    let (spool, _claim) = place.open();
    let started = Instant::now();
    let rows = spool.state().load("assignments").await.unwrap();
    let took = started.elapsed();
    assert_eq!(rows.len(), 50_000);
    assert!(rows.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert!(took.as_secs() < 5, "{took:?}: some 50 ms when nothing else runs");
}
