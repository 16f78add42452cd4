//! A replace drops what is queued, and The Things Stack tells nobody.

use super::*;

async fn queued(ledger: &Ledger<Disk, Disk>, new: NewEntry) {
    let id = new.id;
    assert_eq!(begun(ledger, new).await, Begun::New);
    ledger.queued(id).await;
}

#[tokio::test]
async fn a_replace_ends_what_waits_in_the_devices_queue_and_nothing_else() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    queued(&ledger, entry("waits")).await;
    queued(&ledger, confirmed("sent")).await;
    queued(&ledger, NewEntry { device: device("other"), ..entry("others") }).await;
    ledger.witness(&device("cellar"), &event(DownlinkState::Sent, &["sent"])).await.unwrap();
    assert_eq!(begun(&ledger, entry("pushing")).await, Begun::New);
    assert_eq!(begun(&ledger, replace("new")).await, Begun::New);
    let mut waits = ledger.watch(id("waits")).unwrap();
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["new"])).await.unwrap();

    assert!(
        within(waits.wait_for(|now| matches!(now, tti_connector::downlink::Progress::Ended(End::Replaced))))
            .await
            .is_ok()
    );
    for ledger in [ledger, disk.load().await] {
        assert_eq!(begun(&ledger, entry("waits")).await, Begun::Ended(End::Replaced));
        assert_eq!(begun(&ledger, confirmed("sent")).await, Begun::Queued { sent: true });
        assert_eq!(begun(&ledger, entry("pushing")).await, Begun::Unsure);
        assert_eq!(begun(&ledger, replace("new")).await, Begun::Queued { sent: false });
    }
    assert_eq!(disk.states(), ["waits replaced"]);
    let report = disk.kept().reports[0].clone();
    assert_eq!(report.reason.as_deref(), Some("replaced by new"));
    // First the report, then the end, and only then the one that did it.
    let journal = disk.kept().journal.clone();
    let at = |what: &str| journal.iter().position(|done| done == what).unwrap();
    assert!(at("post waits replaced") < at("put waits ended:replaced"), "{journal:?}");
    assert!(at("put waits ended:replaced") < at("put new queued"), "{journal:?}");
}

#[tokio::test]
async fn what_is_queued_after_a_replace_is_not_ended_by_its_late_answer() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, replace("new")).await, Begun::New);
    // Its event and answer were lost in a crash; meanwhile another was queued.
    let ledger = {
        drop(ledger);
        disk.load().await
    };
    queued(&ledger, entry("later")).await;
    assert_eq!(begun(&ledger, replace("new")).await, Begun::Unsure);
    ledger.queued(id("new")).await;
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["new", "later"])).await.unwrap();
    assert_eq!(begun(&ledger, entry("later")).await, Begun::Queued { sent: false });
    assert_eq!(disk.states(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_pushed_before_a_crash_and_replaced_after_it_ends_when_its_event_comes_late() {
    let disk = Disk::new();
    for name in ["a", "b"] {
        assert_eq!(begun(&disk.load().await, entry(name)).await, Begun::New);
    }
    let ledger = disk.load().await;
    queued(&ledger, replace("new")).await;
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["a"])).await.unwrap();
    assert_eq!(disk.states(), ["a replaced"]);
    // Of the other one its request asks again, and the queue has it: it was pushed after the replace.
    assert_eq!(begun(&ledger, entry("b")).await, Begun::Unsure);
    ledger.queued(id("b")).await;
    assert_eq!(begun(&ledger, entry("b")).await, Begun::Queued { sent: false });
}

#[tokio::test]
async fn a_replace_that_was_put_back_ends_what_was_queued_meanwhile() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, replace("new")).await, Begun::New);
    ledger.put_back(id("new")).await;
    queued(&ledger, entry("between")).await;
    queued(&ledger, replace("new")).await;
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["new"])).await.unwrap();
    assert_eq!(disk.states(), ["between replaced"]);
}

#[tokio::test]
async fn a_replace_may_itself_be_replaced_and_sent_at_once() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    queued(&ledger, entry("a")).await;
    queued(&ledger, replace("b")).await;
    assert_eq!(begun(&ledger, replace("c")).await, Begun::New);
    // The only event that ever came.
    ledger.witness(&device("cellar"), &event(DownlinkState::Sent, &["c"])).await.unwrap();
    let mut states = disk.states();
    states.sort();
    assert_eq!(states, ["a replaced", "b replaced"]);
    let ledger = disk.load().await;
    assert_eq!(ledger.open(), 0);
    assert_eq!(begun(&ledger, replace("c")).await, Begun::Ended(End::Sent));
}

#[tokio::test]
async fn an_emptied_queue_ends_what_waited_in_it() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    queued(&ledger, entry("a")).await;
    assert_eq!(begun(&ledger, entry("pushing")).await, Begun::New);
    let waited = ledger.waiting(&device("cellar"));
    assert!(ledger.waiting(&device("other")).is_empty());
    // While the call was under way: before or after it took effect, nobody knows.
    queued(&ledger, entry("meanwhile")).await;
    ledger.cleared(&device("other"), &waited, "not here").await.unwrap();
    ledger.cleared(&device("cellar"), &waited, "the queue was cleared").await.unwrap();
    assert_eq!(disk.states(), ["a replaced"]);
    assert_eq!(disk.kept().reports[0].reason.as_deref(), Some("the queue was cleared"));
    assert_eq!(begun(&ledger, entry("pushing")).await, Begun::Unsure);
    assert_eq!(begun(&ledger, entry("meanwhile")).await, Begun::Queued { sent: false });
}

#[tokio::test]
async fn a_late_event_of_a_replaced_one_is_reported_and_does_not_open_it_again() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    queued(&ledger, entry("a")).await;
    queued(&ledger, replace("b")).await;
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["b"])).await.unwrap();
    let sent = event(DownlinkState::Sent, &["a"]);
    ledger.witness(&device("cellar"), &sent).await.unwrap();
    assert_eq!(ledger.reports(&device("cellar"), None, &sent, NOW_MS).await.unwrap().len(), 1);
    assert_eq!(begun(&ledger, entry("a")).await, Begun::Ended(End::Replaced));
}
