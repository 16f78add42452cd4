//! The hub client's links under every order of events: the real client against a hub in the same thread, which holds
//! its answers back until the explorer says so. No sockets, so time can stand still until nothing moves.
//!
//! `TTI_INTERLEAVINGS` is how many to try, `TTI_SEED` where chance starts, and `TTI_INTERLEAVING` one sequence to play,
//! as a failure prints it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod answers;
mod check;
mod event;
mod explore;
mod hub;
mod parts;
mod wire;
mod world;

use std::sync::Once;
use std::time::Duration;

use self::event::SCENES;
use self::explore::{exhaust, number_from, replay, walk};
use self::world::Run;

/// Interleavings tried by an ordinary `cargo test`, some seconds' worth.
const USUAL: u64 = 1_000;

/// Notes panics of the client's tasks, which nobody awaits, and which fail the run.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if tokio::runtime::Handle::try_current().is_ok() {
                world::PANICS.with_borrow_mut(|all| all.push(info.to_string()));
            }
            before(info);
        }));
    });
}

fn seed() -> u64 {
    number_from("TTI_SEED", 1)
}

/// How many to try, unless one is told.
fn budget() -> usize {
    let told = std::env::var("TTI_INTERLEAVING").is_ok();
    if told { 0 } else { usize::try_from(number_from("TTI_INTERLEAVINGS", USUAL)).unwrap() }
}

fn every_order(scenes: &[event::Scene]) {
    note_panics();
    let each = budget() / 2 / SCENES.len();
    for scene in scenes {
        // With and without a session that is shared.
        let seeds = if scene.devices > 1 { vec![seed(), seed() + 1] } else { vec![seed()] };
        for seed in &seeds {
            let started = std::time::Instant::now();
            let explored = exhaust(scene, each / seeds.len(), *seed);
            println!(
                "{}: {} interleavings, all of {} events, in {:?}, seed {seed}",
                scene.name,
                explored.runs,
                explored.complete,
                started.elapsed(),
            );
        }
    }
}

#[test]
fn every_order_of_a_few_events_keeps_what_one_device_is_promised() {
    every_order(&SCENES[..3]);
}

#[test]
fn every_order_of_a_few_events_through_loss_renewal_and_close_keeps_the_promises() {
    every_order(&SCENES[3..6]);
}

#[test]
fn every_order_of_a_few_events_keeps_what_two_devices_on_one_connection_are_promised() {
    every_order(&SCENES[6..]);
}

#[test]
fn long_random_walks_keep_the_promises() {
    note_panics();
    let started = std::time::Instant::now();
    let count = budget() / 2;
    walk(count, seed());
    println!("{count} random walks in {:?}, seed {}", started.elapsed(), seed());
}

/// `TTI_INTERLEAVING`, told step by step.
#[test]
fn the_sequence_that_is_told_keeps_the_promises() {
    if let Ok(text) = std::env::var("TTI_INTERLEAVING") {
        holds(&text, true);
    }
}

/// The hub never answers Begin or End, so that tasks are dropped when the client's patience ends.
#[test]
fn a_closed_client_counts_no_connection_however_it_ended() {
    holds("anything:wish.b,answer,answer,answer,answer,answer,answer,leave,minutes", false);
    holds("anything:send.b,wish.a,answer,answer,answer,answer,answer,answer,mute,leave", false);
}

#[test]
fn a_begin_without_an_answer_costs_the_connection_after_a_minute() {
    let sent = "answer,".repeat(10);
    // Sent once, the session lost, the token put anew; then the next Begin is held back.
    for trace in played(&format!("anything:send.a,{sent}end.a,send.a,answer,minutes")) {
        let begun = last(&trace, "<- 0/1 Begin");
        let closed = last(&trace, "<- 0/0 Close");
        assert_eq!((closed - begun).as_secs(), 60, "{trace:#?}");
    }
}

#[test]
fn a_detach_without_an_answer_keeps_nobody_waiting_and_costs_its_session_after_two_minutes() {
    let [attached, sent] = ["answer,".repeat(30), "answer-last,".repeat(5)];
    for trace in played(&format!("anything:wish.a,{attached}unwish.a,second,send.b,{sent}minutes")) {
        let detached = last(&trace, "<- 0/1 Detach");
        let other = last(&trace, "   b1 is Some(Ok(Ok(())))");
        let ended = last(&trace, "<- 0/1 End");
        assert_eq!((other - detached).as_secs(), 1, "{trace:#?}");
        assert_eq!((ended - detached).as_secs(), 120, "{trace:#?}");
    }
}

/// What happened before the hub was well again, with a session for each device and with one that they may share.
fn played(sequence: &str) -> [Vec<(Duration, String)>; 2] {
    [1, 2].map(|seed| {
        let trace = told(sequence, seed, false).trace.into_iter();
        trace.take_while(|(_, line)| line != "the hub is well again").collect()
    })
}

fn last(trace: &[(Duration, String)], line: &str) -> Duration {
    let found = trace.iter().rfind(|(_, text)| text == line);
    found.unwrap_or_else(|| panic!("no {line} in {trace:#?}")).0
}

fn holds(sequence: &str, tell: bool) {
    told(sequence, seed(), tell);
}

/// Plays a sequence, which must keep the promises.
fn told(sequence: &str, seed: u64, tell: bool) -> Run {
    note_panics();
    let run = replay(sequence, seed);
    for (at, line) in run.trace.iter().filter(|_| tell || !run.complaints.is_empty()) {
        println!("{:>9.3} {line}", at.as_secs_f64());
    }
    assert!(run.complaints.is_empty(), "{:#?}", run.complaints);
    run
}
