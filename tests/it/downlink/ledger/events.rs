//! Events in every order, twice, and of others.

use tti_connector::downlink::Progress;

use super::*;

/// Every order of every set of these.
fn orders(states: &[DownlinkState]) -> Vec<Vec<DownlinkState>> {
    let mut all = vec![Vec::new()];
    for (at, state) in states.iter().enumerate() {
        let mut rest = states.to_vec();
        rest.remove(at);
        for mut order in orders(&rest) {
            order.insert(0, *state);
            all.push(order);
        }
    }
    all
}

/// What the first event with the most to say makes of it, said independently of the ledger.
fn expected(order: &[DownlinkState], confirmed: bool) -> Begun {
    let mut sent = false;
    for state in order {
        match state {
            DownlinkState::Ack => return Begun::Ended(End::Acknowledged),
            DownlinkState::Failed => return Begun::Ended(failed()),
            DownlinkState::Sent if !confirmed => return Begun::Ended(End::Sent),
            DownlinkState::Sent | DownlinkState::Nack => sent = true,
            DownlinkState::Queued | DownlinkState::Invalidated => {}
        }
    }
    if order.is_empty() { Begun::Unsure } else { Begun::Queued { sent } }
}

#[tokio::test]
async fn every_order_of_events_ends_alike_now_and_after_a_restart_and_each_is_reported_once_a_time() {
    use DownlinkState::{Ack, Failed, Invalidated, Nack, Queued, Sent};
    let orders = orders(&[Queued, Sent, Ack, Nack, Failed, Invalidated]);
    assert_eq!(orders.len(), 1957, "all partial orders of six");
    for order in &orders {
        for is_confirmed in [false, true] {
            let disk = Disk::new();
            let mut ledger = disk.load().await;
            let new = NewEntry { confirmed: is_confirmed, ..entry("m") };
            assert_eq!(begun(&ledger, new.clone()).await, Begun::New);
            let mut reported = Vec::new();
            for state in order {
                // Before the 2xx, and again when the record is sent.
                for _ in 0..2 {
                    ledger.witness(&new.device, &event(*state, &["m"])).await.unwrap();
                }
                let reports =
                    ledger.reports(&new.device, None, &event(*state, &["m"]), NOW_MS).await.unwrap();
                reported.extend(reports.into_iter().map(|report| report.state.as_str()));
            }
            let wanted: Vec<&str> = order.iter().map(|state| state.as_str()).collect();
            assert_eq!(reported, wanted);
            let expected = expected(order, is_confirmed);
            assert_eq!(begun(&ledger, new.clone()).await, expected, "{order:?}");
            // The witness was durable: nothing else wrote.
            ledger = disk.load().await;
            assert_eq!(begun(&ledger, new.clone()).await, expected, "{order:?} after a restart");
            assert_eq!(disk.states(), Vec::<String>::new(), "events are reported by their own records");
        }
    }
}

#[tokio::test]
async fn an_event_before_the_answer_of_the_push_proves_that_it_was_queued() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::New);
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["m"])).await.unwrap();
    // The answer was lost, and taken for a certain no.
    ledger.put_back(id("m")).await;
    ledger.reject(&confirmed("m"), "refused").await.unwrap();
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::Queued { sent: false });
    // And the other way round: the event comes when it waits to be tried again.
    assert_eq!(begun(&ledger, confirmed("n")).await, Begun::New);
    ledger.put_back(id("n")).await;
    ledger.witness(&device("cellar"), &event(DownlinkState::Sent, &["n"])).await.unwrap();
    assert_eq!(begun(&ledger, confirmed("n")).await, Begun::Queued { sent: true });
    assert_eq!(disk.states(), Vec::<String>::new());
}

#[tokio::test]
async fn a_device_is_the_same_with_and_without_its_tenant_but_not_with_another() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    let bare = EndDevice::new("", "vineyard", "cellar").unwrap();
    let other = EndDevice::new("another.tenant", "vineyard", "cellar").unwrap();
    // A message posted by hand has no tenant, and so neither has what was asked for since.
    assert_eq!(begun(&ledger, NewEntry { device: bare.clone(), ..confirmed("m") }).await, Begun::New);
    assert_eq!(begun(&ledger, confirmed("n")).await, Begun::New);
    let queued = event(DownlinkState::Queued, &["m", "n"]);
    ledger.witness(&other, &queued).await.unwrap();
    assert_eq!(begun(&ledger, confirmed("n")).await, Begun::Unsure);
    for (name, device) in [("m", device("cellar")), ("n", bare)] {
        let sent = event(DownlinkState::Sent, &[name]);
        ledger.witness(&device, &sent).await.unwrap();
        assert_eq!(ledger.reports(&device, None, &sent, NOW_MS).await.unwrap().len(), 1, "{name}");
    }
    // On disk, too.
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::Queued { sent: true });
    assert_eq!(begun(&ledger, confirmed("n")).await, Begun::Queued { sent: true });
}

#[tokio::test]
async fn a_queued_downlink_has_no_frame_counter_yet() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::New);
    for (state, f_cnt, expected) in [
        (DownlinkState::Queued, 0, None),
        (DownlinkState::Queued, 7, Some(7)),
        (DownlinkState::Sent, 0, Some(0)),
    ] {
        let mut event = event(state, &["m"]);
        event.downlinks[0].f_cnt = f_cnt;
        let reports = ledger.reports(&device("cellar"), None, &event, NOW_MS).await.unwrap();
        assert_eq!(reports[0].f_cnt, expected);
    }
}

#[tokio::test]
async fn another_devices_event_moves_nothing_and_is_not_reported() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert_eq!(begun(&ledger, entry("m")).await, Begun::New);
    let forger = device("forger");
    let ack = event(DownlinkState::Ack, &["m"]);
    ledger.witness(&forger, &ack).await.unwrap();
    assert_eq!(ledger.reports(&forger, None, &ack, NOW_MS).await.unwrap(), []);
    assert_eq!(begun(&ledger, entry("m")).await, Begun::Unsure);
    // Not even once it ended and lies on disk only.
    ledger.witness(&device("cellar"), &ack).await.unwrap();
    assert_eq!(ledger.open(), 0);
    assert_eq!(ledger.reports(&forger, None, &ack, NOW_MS).await.unwrap(), []);
    assert_eq!(ledger.reports(&device("cellar"), None, &ack, NOW_MS).await.unwrap().len(), 1);
    assert_eq!(ledger.forged(), 2, "each is counted once");
    // A foreign id beside the own one does not hide it.
    assert_eq!(begun(&ledger, entry("own")).await, Begun::New);
    let mut both = event(DownlinkState::Queued, &["own"]);
    both.downlinks[0].correlation_ids.insert(0, id("m").correlation_id());
    both.downlinks[0].correlation_ids.insert(0, id("nobody").correlation_id());
    ledger.witness(&device("cellar"), &both).await.unwrap();
    assert_eq!(begun(&ledger, entry("own")).await, Begun::Queued { sent: false });
}

#[tokio::test]
async fn one_event_about_many_downlinks_moves_each() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    for name in ["a", "b", "c"] {
        assert_eq!(begun(&ledger, confirmed(name)).await, Begun::New);
    }
    let lost = event(DownlinkState::Invalidated, &["a", "stranger", "c"]);
    ledger.witness(&device("cellar"), &lost).await.unwrap();
    assert_eq!(begun(&ledger, confirmed("a")).await, Begun::Queued { sent: false });
    assert_eq!(begun(&ledger, confirmed("b")).await, Begun::Unsure);
    assert_eq!(begun(&ledger, confirmed("c")).await, Begun::Queued { sent: false });
    let reports = ledger.reports(&device("cellar"), None, &lost, NOW_MS).await.unwrap();
    assert_eq!(reports.iter().map(|report| &report.correlation).collect::<Vec<_>>(), ["a", "c"]);
}

#[tokio::test]
async fn who_waits_for_an_entry_is_told_each_step_and_the_end() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    assert!(ledger.watch(id("m")).is_none());
    assert_eq!(begun(&ledger, confirmed("m")).await, Begun::New);
    let mut watched = ledger.watch(id("m")).unwrap();
    assert_eq!(*watched.borrow_and_update(), Progress::Pushing);
    ledger.queued(id("m")).await;
    within(watched.changed()).await.unwrap();
    assert_eq!(*watched.borrow_and_update(), Progress::Queued);
    ledger.witness(&device("cellar"), &event(DownlinkState::Sent, &["m"])).await.unwrap();
    assert_eq!(*watched.borrow_and_update(), Progress::Sent);
    ledger.witness(&device("cellar"), &event(DownlinkState::Queued, &["m"])).await.unwrap();
    assert_eq!(*watched.borrow_and_update(), Progress::Sent);
    ledger.witness(&device("cellar"), &event(DownlinkState::Ack, &["m"])).await.unwrap();
    assert_eq!(*watched.borrow_and_update(), Progress::Ended(End::Acknowledged));
    assert!(within(watched.changed()).await.is_err(), "nothing more will come");
    assert!(ledger.watch(id("m")).is_none());
}

#[tokio::test]
async fn strangers_downlinks_cost_no_read_before_the_webhook_answers() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    let names: Vec<String> = (0..1000).map(|number| format!("stranger-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ledger.witness(&device("cellar"), &event(DownlinkState::Invalidated, &names)).await.unwrap();
    let kept = disk.kept();
    assert_eq!((kept.gets, kept.journal.len()), (0, 0));
}

#[tokio::test]
async fn a_device_holds_ten_thousand_open_downlinks_and_no_more() {
    let disk = Disk::new();
    let ledger = disk.load().await;
    for number in 0..10_000 {
        assert_eq!(begun(&ledger, entry(&number.to_string())).await, Begun::New);
    }
    let refused = ledger.begin(entry("one more")).await.unwrap_err();
    assert!(refused.0.contains("10000 open downlinks"), "{refused}");
    let other = NewEntry { device: device("other"), ..entry("one more") };
    assert_eq!(begun(&ledger, other).await, Begun::New);
    ledger.witness(&device("cellar"), &event(DownlinkState::Sent, &["7"])).await.unwrap();
    assert_eq!(begun(&ledger, entry("in its place")).await, Begun::New);
    assert_eq!(ledger.open(), 10_001);
}
