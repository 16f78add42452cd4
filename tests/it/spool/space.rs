//! Space comes back.

use bytes::Bytes;
use tti_connector::spool::Selection;

use super::{Place, record, stored, until, within};

fn bytes_of(place: &Place, file: &str) -> u64 {
    std::fs::metadata(place.config.directory.join(file)).map_or(0, |file| file.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_shrink_back_after_a_drain_while_it_runs() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let spool = spool.clone();
        writers.spawn(async move {
            let mut mine = Vec::new();
            for _ in 0..1000 {
                mine.push(
                    stored(&spool, record(&format!("device {writer}"), Bytes::from(vec![7; 2000]))).await,
                );
            }
            mine
        });
    }
    let appended = within(writers.join_all()).await.concat();
    let full = bytes_of(&place, "spool.db") + bytes_of(&place, "spool.db-wal");
    assert!(full > 32_000_000, "{full}");
    for seq in appended {
        spool.done(seq);
    }
    spool.flush().await.unwrap();
    until("the database is small again", || bytes_of(&place, "spool.db") < 3_000_000).await;
    until("its log too", || bytes_of(&place, "spool.db-wal") < 3_000_000).await;
    stored(&spool, record("a", "still works")).await;
    spool.close().await;
    assert_eq!(bytes_of(&place, "spool.db-wal"), 0);
}

#[tokio::test]
async fn parked_bodies_give_their_space_back_when_discarded() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    for _ in 0..20 {
        let seq = stored(&spool, record("a", Bytes::from(vec![7; 500_000]))).await;
        spool.park(seq, tti_connector::model::ParkReason::TooLarge, "").await.unwrap();
    }
    assert_eq!(spool.stats().parked_bytes, 10_000_000);
    assert_eq!(spool.discard(&Selection::Matching(Default::default())).await, Ok(20));
    assert_eq!((spool.stats().parked, spool.stats().parked_bytes), (0, 0));
    until("the database is small again", || bytes_of(&place, "spool.db") < 3_000_000).await;
}
