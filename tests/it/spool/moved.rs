//! Files that are taken away under a running spool.

use std::fs;

use tti_connector::spool::SpoolError;

use super::{Place, keyed, record, seqs, stored, take, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_removed_is_made_again_with_all_that_was_accepted() {
    let place = Place::new();
    let (spool, mut claim) = place.open();
    let before = stored(&spool, record("a", "before")).await;
    fs::remove_dir_all(&place.config.directory).unwrap();
    let refused = spool.append(keyed(1, "after")).await;
    let Err(SpoolError::Io(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("were removed"), "{why}");
    within(spool.healthy().wait_for(|healthy| *healthy)).await.unwrap();
    // The refused one was in the files that were saved, so posting it again finds it.
    spool.append(keyed(1, "after")).await.unwrap();
    let last = stored(&spool, record("a", "last")).await;
    assert_eq!(spool.body(before).await.unwrap().unwrap(), "before");
    assert_eq!(seqs(&take(&mut claim, 3).await).last(), Some(&last));
    spool.close().await;
    let (spool, mut claim) = place.open();
    let bodies = take(&mut claim, 3).await;
    assert_eq!(spool.body(bodies[0].seq).await.unwrap().unwrap(), "before");
    assert_eq!(spool.body(bodies[1].seq).await.unwrap().unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_in_its_place_is_left_alone_and_nothing_accepted_until_it_is_gone() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let file = place.config.directory.join("spool.db");
    let away = place.config.directory.join("away.db");
    fs::rename(&file, &away).unwrap();
    fs::write(&file, "somebody else's").unwrap();
    let refused = spool.append(record("a", "x")).await;
    let Err(SpoolError::Io(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("another database"), "{why}");
    assert_eq!(fs::read(&file).unwrap(), b"somebody else's");
    fs::rename(&away, &file).unwrap();
    within(spool.healthy().wait_for(|healthy| *healthy)).await.unwrap();
    stored(&spool, record("a", "y")).await;
}

#[tokio::test]
async fn a_log_without_its_database_is_not_thrown_away() {
    let place = Place::new();
    let (spool, _claim) = place.open();
    let seq = stored(&spool, record("a", "x")).await;
    // As a crash leaves it: copied while it runs.
    let copy = Place::new();
    fs::create_dir(&copy.config.directory).unwrap();
    fs::copy(place.config.directory.join("spool.db-wal"), copy.config.directory.join("spool.db-wal"))
        .unwrap();
    drop(spool);
    let (spool, _claim) = copy.open();
    assert!(spool.stats().set_aside);
    assert_eq!(spool.body(seq).await.unwrap().unwrap(), "x");
}
