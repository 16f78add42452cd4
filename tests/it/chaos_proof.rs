//! Whether `tests/chaos` would notice: its pure parts, given books with something wrong in them.

#[path = "../chaos/books.rs"]
#[allow(dead_code, reason = "the command uses all of it")]
mod books;
#[path = "../chaos/downlink_books.rs"]
#[allow(dead_code, reason = "the command uses all of it")]
mod downlink_books;
#[path = "../chaos/growth.rs"]
#[allow(dead_code, reason = "the command uses all of it")]
mod growth;
#[path = "../chaos/health.rs"]
#[allow(dead_code, reason = "the command uses all of it")]
mod health;

use std::time::Duration;

use books::{DeviceBook, prove};
use downlink_books::{Asker, DownlinkBooks};
use growth::{Sample, growth};
use health::{Health, Whom};

/// A device that was answered for 1 to 4, whose arrivals are these.
fn book(arrived: &[(u32, i64)]) -> [DeviceBook; 1] {
    let mut book = DeviceBook::default();
    (1..=4).for_each(|f_cnt| book.take(f_cnt, 10_000));
    arrived.iter().for_each(|(f_cnt, at_ms)| book.arrive(*f_cnt, *at_ms, 0));
    [book]
}

#[test]
fn what_is_lost_strange_or_out_of_order_is_counted() {
    let (health, never) = (Health::default(), i64::MAX);
    let sound = prove(&book(&[(1, 1), (2, 2), (3, 3), (4, 4)]), &health, never);
    assert!(sound.breaches.is_empty(), "{sound:?}");
    assert_eq!(prove(&book(&[(1, 1), (2, 2), (4, 4)]), &health, never).lost, 1);
    assert_eq!(prove(&book(&[(1, 1), (3, 2), (2, 3), (4, 4)]), &health, never).disordered, 1);
    assert_eq!(prove(&book(&[(1, 1), (2, 2), (3, 3), (4, 4), (9, 5)]), &health, never).strange, 1);
    // What was parked is sent when all others are long gone.
    assert_eq!(prove(&book(&[(1, 1), (3, 2), (4, 3), (2, 50)]), &health, 40).disordered, 0);
}

#[test]
fn only_a_cut_between_the_two_excuses_that_a_message_comes_twice() {
    let twice = book(&[(1, 20_000), (2, 20_001), (1, 30_000), (3, 30_001), (4, 30_002)]);
    let with = |whom, at_ms| {
        let mut health = Health::default();
        health.moment(whom, at_ms);
        let proof = prove(&twice, &health, i64::MAX);
        assert_eq!((proof.lost, proof.disordered), (0, 0));
        (proof.unsettled, proof.doubled)
    };
    assert_eq!(with(Whom::All, 21_000), (1, 0));
    assert_eq!(with(Whom::Hub(0), 21_000), (1, 0));
    assert_eq!(with(Whom::Hub(1), 21_000), (0, 1), "another hub");
    assert_eq!(with(Whom::Device(7), 21_000), (0, 1), "another device");
    assert_eq!(with(Whom::SessionAt(0), 21_000), (1, 0), "it may share the session");
    assert_eq!(with(Whom::SessionAt(1), 21_000), (0, 1), "at another hub");
    assert_eq!(with(Whom::All, 25_000), (0, 1), "settled long before");
    assert_eq!(with(Whom::All, 15_000), (0, 1), "sent long after");
    let mut health = Health::default();
    let silent = health.open(Whom::All, false, 19_000);
    health.close(silent, 26_000);
    assert_eq!(prove(&twice, &health, i64::MAX).doubled, 1, "nothing was cut");
    health.moment(Whom::Device(0), 18_000);
    assert_eq!(prove(&twice, &health, i64::MAX).doubled, 1, "cut before the hub read no more");
    let mut health = Health::default();
    let slow = health.open(Whom::Hub(0), false, 17_000);
    health.close(slow, 19_500);
    health.moment(Whom::Device(0), 17_500);
    assert_eq!(prove(&twice, &health, i64::MAX).doubled, 0, "the hub read it when it read again");
}

#[test]
fn a_hub_is_healthy_but_for_faults_and_their_grace() {
    let mut health = Health::default();
    let fault = health.open(Whom::Hub(0), false, 100_000);
    assert_eq!(health.healthy_ms(0, 90_000, 150_000), 10_000, "it lasts");
    health.close(fault, 105_000);
    assert_eq!(health.healthy_ms(0, 90_000, 150_000), 40_000, "five seconds and fifteen more");
    assert_eq!(health.healthy_ms(1, 90_000, 150_000), 60_000);
    health.moment(Whom::Hub(0), 121_000);
    assert_eq!(health.healthy_ms(0, 90_000, 150_000), 35_000, "five more after a reset");
    health.moment(Whom::SessionAt(0), 140_000);
    assert_eq!(health.healthy_ms(0, 90_000, 150_000), 35_000, "a session's end holds nobody up");
}

#[test]
fn downlinks_that_are_lost_doubled_or_out_of_order_are_counted() {
    let mut books = DownlinkBooks {
        messages: [(0, 7), (1, 7), (2, 7), (3, 8)].into(),
        desired: [(0, 7), (1, 7)].into(),
        calls: [(0, true), (1, false)].into(),
        deleted: [3].into(),
        ..DownlinkBooks::default()
    };
    let push = |asker, number| (asker, number, 7, 0);
    let messages = [0, 1, 2].map(|number| push(Asker::Message, number));
    books.pushed = messages.into();
    assert_eq!(books.prove().lost, 2, "the method answered queued, and the last desired value");
    books.pushed.extend([push(Asker::Method, 0), push(Asker::Twin, 1)]);
    assert_eq!(books.prove().breaches, Vec::<String>::new());
    books.pushed.push(push(Asker::Message, 1));
    let proof = books.prove();
    assert_eq!((proof.doubled, proof.disordered), (1, 1));
    books.pushed.retain(|(asker, ..)| *asker != Asker::Message);
    assert_eq!((books.prove().lost, books.waiting()), (3, 3));
}

#[test]
fn growth_is_that_of_the_longest_life_after_its_warm_up() {
    let sample = |life, second: u64, rss_kb| Sample {
        life,
        at: Duration::from_secs(second),
        rss_kb,
        files: 10.0,
        threads: 3.0,
        tasks: 40.0,
    };
    let first = (0..100).map(|second| sample(1, second, 1e6 * second as f64));
    // A megabyte a minute, after five minutes in which it grows ten times as fast.
    let kb = |second: u64| 1024.0 * (second.min(300) as f64 / 6.0 + second.saturating_sub(300) as f64 / 60.0);
    let second = (0..1200).map(|second| sample(2, 100 + second, kb(second)));
    let found = growth(&first.chain(second).collect::<Vec<_>>()).expect("long enough");
    assert!((found.rss_mb_per_10_min - 10.0).abs() < 0.1, "{found:?}");
    assert_eq!((found.looked_at.as_secs(), found.tasks), (899, (40.0, 40.0)));
    assert!(growth(&[]).is_none());
}
