//! What a look into The Things Stack finds, when the events went by unheard.

use tti_connector::things_stack::Whereabouts;

use super::*;

#[tokio::test]
async fn a_downlink_found_in_the_queue_after_a_crash_is_reported_as_queued_at_once() {
    let disk = Disk::new();
    assert_eq!(disk.load().await.begin(entry("a")).await, Ok(Begun::New));
    let ledger = disk.load().await;
    assert_eq!(ledger.begin(entry("a")).await, Ok(Begun::Unsure));
    ledger.found(id("a"), Whereabouts::Queued).await.unwrap();
    assert_eq!(disk.states(), ["a queued"]);
    // A crash right after asks nobody and reports nothing again.
    let ledger = disk.load().await;
    assert_eq!(ledger.begin(entry("a")).await, Ok(Begun::Queued { sent: false }));
    ledger.found(id("a"), Whereabouts::Queued).await.unwrap();
    assert_eq!(disk.states(), ["a queued"]);
}

#[tokio::test]
async fn a_downlink_found_to_be_taken_is_reported_as_queued_and_sent() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    for new in [entry("a"), confirmed("c")] {
        assert_eq!(ledger.begin(new.clone()).await, Ok(Begun::New));
        ledger.found(new.id, Whereabouts::Taken).await.unwrap();
    }
    assert_eq!(disk.states(), ["a queued", "a sent", "c queued", "c sent"]);
    assert_eq!(ledger.begin(entry("a")).await, Ok(Begun::Ended(End::Sent)));
    assert_eq!(ledger.begin(confirmed("c")).await, Ok(Begun::Queued { sent: true }));
}

#[tokio::test]
async fn what_an_event_told_is_not_told_again_and_nowhere_tells_nothing() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(ledger.begin(entry("a")).await, Ok(Begun::New));
    ledger.found(id("a"), Whereabouts::Nowhere).await.unwrap();
    assert_eq!(ledger.begin(entry("a")).await, Ok(Begun::Unsure));
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["a"])).await.unwrap();
    ledger.found(id("a"), Whereabouts::Queued).await.unwrap();
    ledger.found(id("stranger"), Whereabouts::Queued).await.unwrap();
    assert_eq!(disk.states(), [""; 0]);
}

#[tokio::test]
async fn a_find_that_the_disk_does_not_take_is_kept_for_the_next_try() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(ledger.begin(entry("a")).await, Ok(Begun::New));
    disk.kept().failing = true;
    ledger.found(id("a"), Whereabouts::Queued).await.unwrap_err();
    disk.kept().failing = false;
    ledger.found(id("a"), Whereabouts::Queued).await.unwrap();
    assert_eq!(disk.states(), ["a queued"]);
}

#[tokio::test]
async fn a_replace_found_in_the_queue_displaces_what_was_there_and_both_are_reported() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    for new in [entry("a"), replace("r")] {
        assert_eq!(ledger.begin(new).await, Ok(Begun::New));
    }
    ledger.found(id("a"), Whereabouts::Queued).await.unwrap();
    ledger.found(id("r"), Whereabouts::Queued).await.unwrap();
    assert_eq!(disk.states(), ["a queued", "a replaced", "r queued"]);
}

#[tokio::test]
async fn a_downlink_displaced_while_its_find_is_written_is_reported_as_both() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    for new in [entry("a"), replace("r")] {
        assert_eq!(ledger.begin(new).await, Ok(Begun::New));
    }
    let (found, ()) =
        tokio::join!(biased; ledger.found(id("a"), Whereabouts::Queued), ledger.queued(id("r")));
    found.unwrap();
    ledger.found(id("r"), Whereabouts::Queued).await.unwrap();
    assert_eq!(disk.states(), ["a queued", "a replaced"]);
}

#[tokio::test]
async fn pushes_that_a_former_life_left_open_are_listed_until_they_are_decided() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    for new in [entry("a"), entry("b"), entry("c")] {
        assert_eq!(ledger.begin(new).await, Ok(Begun::New));
    }
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["c"])).await.unwrap();
    assert_eq!(ledger.left_open(), [], "these are of this life");
    let ledger = disk.load().await;
    let mut expected = [(id("a"), device("cellar")), (id("b"), device("cellar"))];
    expected.sort_by_key(|(id, _)| *id);
    assert_eq!(ledger.left_open(), expected);
    ledger.found(id("a"), Whereabouts::Queued).await.unwrap();
    assert_eq!(ledger.left_open(), [(id("b"), device("cellar"))]);
}
