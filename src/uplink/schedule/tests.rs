//! The schedule alone, with a time of its own.

use super::super::window::PROBE_PATIENCE;
use super::*;
use crate::spool::Seq;

const FINISHED: Verdict = Verdict::Finished { answered: None };
const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60) };

fn device(id: &str) -> EndDevice {
    EndDevice::new("", "app", id).expect("valid")
}

fn hub(host: &str) -> HubAddress {
    HubAddress { host: host.into(), port: 5671 }
}

fn push(schedule: &mut Schedule, id: &str, seq: i64, host: &str) {
    let pending = Pending { seq: Seq(seq), lane: "".into(), received_ms: 0, body: None, waiter: None };
    schedule.push(Lane::live(device(id)), pending, || Some(hub(host)));
}

fn take(schedule: &mut Schedule, now: Instant) -> Vec<(String, i64, Ticket, Item)> {
    let starts = schedule.start(now, |_| Some(hub("hub"))).into_iter();
    starts
        .map(|start| {
            let (ticket, item) = start.into_parts();
            (ticket.lane.device.device_id().to_owned(), item.seq.0, ticket, item)
        })
        .collect()
}

#[test]
fn a_lane_has_one_message_under_way_and_keeps_its_order() {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 10, None), Instant::now());
    for seq in [1, 2, 3] {
        push(&mut schedule, "a", seq, "hub");
    }
    let mut order = Vec::new();
    for _ in 0..3 {
        let mut started = take(&mut schedule, now);
        assert_eq!(started.len(), 1);
        let (_, seq, ticket, item) = started.remove(0);
        // Every message fails once before it gets through.
        schedule.finished(ticket, Some(item), Verdict::RetryDevice { after: None }, now, || Some(hub("hub")));
        assert!(take(&mut schedule, now).is_empty(), "the lane must wait");
        let later = schedule.next_due().expect("a timer");
        schedule.wake(later, |_| Some(hub("hub")));
        let (_, again, ticket, _) = take(&mut schedule, later).remove(0);
        assert_eq!(again, seq);
        schedule.finished(ticket, None, FINISHED, now, || Some(hub("hub")));
        order.push(seq);
    }
    assert_eq!(order, [1, 2, 3]);
    assert_eq!((schedule.lanes(), schedule.in_flight()), (0, 0));
}

#[test]
fn a_waiting_lane_and_a_full_hub_hold_nobody_else() {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 2, None), Instant::now());
    for (seq, id) in ["a", "b", "c"].into_iter().enumerate() {
        push(&mut schedule, id, seq as i64, "busy");
    }
    push(&mut schedule, "d", 9, "other");
    let mut started: Vec<_> = take(&mut schedule, now).into_iter().map(|start| start.0).collect();
    started.sort();
    assert_eq!(started, ["a", "b", "d"]);
}

#[test]
fn a_hub_that_is_down_is_probed_by_one_message_and_wakes_all_at_once() {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 10, None), Instant::now());
    for (seq, id) in ["a", "b", "c"].into_iter().enumerate() {
        push(&mut schedule, id, seq as i64, "hub");
    }
    for (_, _, ticket, item) in take(&mut schedule, now) {
        schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), now, || None);
    }
    assert!(take(&mut schedule, now).is_empty());
    let probe_at = schedule.next_due().expect("a probe");
    let mut probes = take(&mut schedule, probe_at);
    assert_eq!(probes.len(), 1, "one probe");
    assert!(schedule.next_due() >= Some(probe_at + PROBE_PATIENCE), "the probe is under way");
    let (_, _, ticket, item) = probes.remove(0);
    schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), probe_at, || None);
    assert!(schedule.next_due().expect("the next probe") > probe_at);
    assert!(schedule.hub_up(&hub("hub")));
    assert_eq!(take(&mut schedule, probe_at).len(), 3);
}

#[test]
fn a_probe_that_gets_an_answer_opens_the_hub() {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 10, None), Instant::now());
    push(&mut schedule, "a", 1, "hub");
    push(&mut schedule, "b", 2, "hub");
    for (_, _, ticket, item) in take(&mut schedule, now) {
        schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), now, || None);
    }
    let probe_at = schedule.next_due().expect("a probe");
    let (_, _, ticket, _) = take(&mut schedule, probe_at).remove(0);
    let sent = Verdict::Finished { answered: Some(hub("hub")) };
    assert_eq!(schedule.finished(ticket, None, sent, probe_at, || None), Some(HubState::Up(hub("hub"))));
    assert_eq!(take(&mut schedule, probe_at).len(), 1);
}

/// A schedule with `ids` at a hub that is down, and the time of its first probe.
fn down(ids: &[&str]) -> (Schedule, Instant) {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 10, None), Instant::now());
    for (seq, id) in ids.iter().enumerate() {
        push(&mut schedule, id, seq as i64, "hub");
    }
    for (_, _, ticket, item) in take(&mut schedule, now) {
        schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), now, || None);
    }
    let probe_at = schedule.next_due().expect("a probe");
    (schedule, probe_at)
}

#[test]
fn a_probe_that_never_reached_the_hub_does_not_open_it_and_the_next_asks_at_once() {
    let other = Verdict::Finished { answered: Some(hub("other")) };
    for verdict in [FINISHED, other, Verdict::RetryDevice { after: None }] {
        let (mut schedule, at) = down(&["a", "b", "c"]);
        let (first, _, ticket, item) = take(&mut schedule, at).remove(0);
        let item = matches!(verdict, Verdict::RetryDevice { .. }).then_some(item);
        assert_eq!(schedule.finished(ticket, item, verdict, at, || None), None);
        let next = take(&mut schedule, at);
        assert_eq!(next.len(), 1, "one probe, no flood");
        assert_ne!(next[0].0, first);
    }
}

#[test]
fn a_probe_that_hangs_or_fails_lets_another_device_ask() {
    let (mut schedule, at) = down(&["a", "b", "c"]);
    let (hanging, ..) = take(&mut schedule, at).remove(0);
    let later = schedule.next_due().expect("a next probe");
    let (second, _, ticket, item) = take(&mut schedule, later).remove(0);
    assert_ne!(second, hanging);
    schedule.finished(ticket, Some(item), Verdict::RetryHub(hub("hub")), later, || None);
    let third = schedule.next_due().expect("a next probe");
    let (third, ..) = take(&mut schedule, third).remove(0);
    assert!(third != hanging && third != second, "{third}");
}

#[test]
fn a_device_that_moved_away_does_not_wait_for_its_old_hub() {
    let (mut schedule, at) = down(&["a", "b", "c"]);
    let started =
        schedule.start(at, |device| Some(hub(if device.device_id() == "c" { "hub" } else { "other" })));
    let mut started: Vec<_> =
        started.iter().map(|start| (start.lane.device.device_id(), start.probe)).collect();
    started.sort_unstable();
    assert_eq!(started, [("a", false), ("b", false), ("c", true)]);
}

#[test]
fn an_application_whose_dps_is_slow_holds_no_other_and_leaves_nothing_behind() {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 2, None), Instant::now());
    for (seq, (application, id)) in
        [("slow", "a"), ("slow", "b"), ("slow", "c"), ("good", "d")].iter().enumerate()
    {
        let pending =
            Pending { seq: Seq(seq as i64), lane: "".into(), received_ms: 0, body: None, waiter: None };
        schedule.push(Lane::live(EndDevice::new("", application, id).expect("valid")), pending, || None);
    }
    let mut done = Vec::new();
    for expected in [&["a", "b", "d"][..], &["c"]] {
        let started = take(&mut schedule, now);
        let mut ids: Vec<_> = started.iter().map(|start| start.0.clone()).collect();
        ids.sort_unstable();
        assert_eq!(ids, expected);
        done.extend(ids);
        for (_, _, ticket, _) in started {
            schedule.finished(ticket, None, FINISHED, now, || None);
        }
    }
    assert_eq!((schedule.lanes(), schedule.windows.len()), (0, 0));
}

#[test]
fn devices_that_get_no_answer_stand_aside_and_come_back_to_a_part_of_the_window_only() {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 8, None), Instant::now());
    for seq in 0..8 {
        push(&mut schedule, &format!("silent-{seq}"), seq, "hub");
    }
    let silent = take(&mut schedule, now);
    assert_eq!(silent.len(), 8);
    for seq in 8..16 {
        push(&mut schedule, &format!("well-{seq}"), seq, "hub");
    }
    assert!(take(&mut schedule, now).is_empty(), "the window is full");
    // Nothing ends, but time passes.
    let later = schedule.next_due().expect("a look");
    assert!(later <= now + Duration::from_secs(2));
    let well = take(&mut schedule, later);
    assert_eq!(well.len(), 8, "the silent ones stand aside");
    for (_, _, ticket, _) in well {
        schedule.finished(ticket, None, FINISHED, later, || Some(hub("hub")));
    }
    for (_, _, ticket, item) in silent {
        schedule.finished(ticket, Some(item), Verdict::RetryDevice { after: None }, later, || None);
    }
    let again = later + BACKOFF.max;
    schedule.wake(again, |_| Some(hub("hub")));
    for seq in 16..32 {
        push(&mut schedule, &format!("well-{seq}"), seq, "hub");
    }
    let started = take(&mut schedule, again);
    let of = |kind: &str| started.iter().filter(|start| start.0.starts_with(kind)).count();
    assert_eq!((of("silent"), of("well")), (2, 6), "a quarter for those that failed");
}

#[test]
fn a_place_takes_twice_its_window_at_most_whatever_hangs() {
    let (mut schedule, mut now) = (Schedule::new(BACKOFF, 4, None), Instant::now());
    for seq in 0..20 {
        push(&mut schedule, &format!("silent-{seq}"), seq, "hub");
    }
    let mut hanging = Vec::new();
    for _ in 0..10 {
        hanging.extend(take(&mut schedule, now));
        now += Duration::from_secs(3);
    }
    assert_eq!(hanging.len(), 8);
    assert_eq!(schedule.next_due(), None, "nothing to look at before one ends");
    let (_, _, ticket, _) = hanging.remove(0);
    schedule.finished(ticket, None, FINISHED, now, || Some(hub("hub")));
    assert_eq!(take(&mut schedule, now).len(), 1);
}

#[test]
fn backfilled_messages_start_only_when_no_other_is_ready_and_in_their_share() {
    let (mut schedule, now) = (Schedule::new(BACKOFF, 16, None), Instant::now());
    let pending = |seq| Pending { seq: Seq(seq), lane: "".into(), received_ms: 0, body: None, waiter: None };
    for seq in 0..5 {
        let id = format!("old-{seq}");
        schedule.push(Lane::backfilled(device(&id)), pending(seq), || Some(hub("hub")));
    }
    for seq in 10..14 {
        push(&mut schedule, &format!("new-{seq}"), seq, "hub");
    }
    let started = take(&mut schedule, now);
    let seqs: Vec<_> = started.iter().map(|(_, seq, ..)| *seq).collect();
    assert_eq!(seqs, [10, 11, 12, 13, 0, 1], "two of sixteen places are for backfilled ones");
    // A live message of the same device needs not wait for its backfilled one.
    push(&mut schedule, "old-0", 20, "hub");
    let seqs: Vec<_> = take(&mut schedule, now).iter().map(|(_, seq, ..)| *seq).collect();
    assert_eq!(seqs, [20]);
    let (_, _, ticket, _) = started.into_iter().find(|(_, seq, ..)| *seq == 0).expect("started");
    schedule.finished(ticket, None, FINISHED, now, || Some(hub("hub")));
    assert_eq!(take(&mut schedule, now)[0].1, 2, "in their order");
}

#[test]
fn devices_that_fail_take_a_part_of_a_paced_hub_only() {
    // The pace allows one at a time, so that their number under way says nothing.
    let (mut schedule, mut now) = (Schedule::new(BACKOFF, 100, Some(10.0)), Instant::now());
    for number in 0..200 {
        push(&mut schedule, &format!("bad-{number}"), number, "hub");
    }
    let (mut good, mut bad, mut next) = (0, 0, 1000);
    for _ in 0..1000 {
        for _ in 0..20 {
            push(&mut schedule, &format!("good-{next}"), next, "hub");
            next += 1;
        }
        for (id, _, ticket, item) in take(&mut schedule, now) {
            if id.starts_with("bad") {
                bad += 1;
                let again = Verdict::RetryDevice { after: None };
                schedule.finished(ticket, Some(item), again, now, || Some(hub("hub")));
            } else {
                good += 1;
                schedule.finished(ticket, None, FINISHED, now, || Some(hub("hub")));
            }
        }
        now += Duration::from_millis(100);
        schedule.wake(now, |_| Some(hub("hub")));
    }
    assert!(bad > 200, "{bad}: they are tried again, too");
    assert!(good * 4 > (good + bad) * 2, "{good} good ones and {bad} tries of bad ones");
}
