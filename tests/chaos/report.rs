//! The table at the end, and whether all that was promised was kept. Knows nothing of how it came about.

use std::time::Duration;

use super::args::Args;
use super::books::UplinkProof;
use super::downlink_books::{DownlinkBooks, DownlinkProof};
use super::growth::Growth;
use super::state::State;

/// A straight line through less than this says more of the faults of the moment than of growth.
const MEANT: Duration = Duration::from_secs(900);
const RSS_MB_PER_10_MIN: f64 = 1.0;
/// For shorter looks: nothing leaks this fast. Connections come and go with faults, and so do their files and tasks.
const FACTOR: f64 = 1.5;
const RSS_MB: f64 = 32.0;
const FILES: f64 = 64.0;
const THREADS: f64 = 8.0;
const TASKS: f64 = 200.0;
/// For longer ones.
const MEANT_FACTOR: f64 = 1.1;

pub(crate) struct Outcome {
    pub(crate) uplinks: UplinkProof,
    pub(crate) downlinks: DownlinkProof,
    pub(crate) growth: Option<Growth>,
    pub(crate) parked: usize,
    pub(crate) drained: Duration,
    pub(crate) longest_stall_ms: i64,
    pub(crate) slowest_ms: i64,
    pub(crate) longest_stop: Duration,
    pub(crate) lives: usize,
    pub(crate) panics: usize,
}

/// Counts as breaches what the proofs found.
pub(crate) fn judge(outcome: &Outcome, state: &State) {
    let Outcome { uplinks, downlinks, growth, panics, .. } = outcome;
    uplinks.breaches.iter().chain(&downlinks.breaches).for_each(|text| state.breach(text.clone()));
    if uplinks.taken == 0 || state.downlinks().messages.is_empty() {
        state.breach("nothing was sent, so nothing is proved".to_owned());
    }
    if *panics > 0 {
        state.breach(format!("{panics} panics in the connector's log"));
    }
    let Some(growth) = growth else {
        return state.breach("no life of the connector was long enough to see whether it grows".to_owned());
    };
    if growth.looked_at >= MEANT && growth.rss_mb_per_10_min > RSS_MB_PER_10_MIN {
        state.breach(format!("resident memory grows by {:.1} MB in 10 min", growth.rss_mb_per_10_min));
    }
    let factor = if growth.looked_at >= MEANT { MEANT_FACTOR } else { FACTOR };
    let check = |what: &str, (first, last): (f64, f64), more: f64| {
        if last > first * factor + more {
            state.breach(format!("{what} grew from {first:.0} to {last:.0}"));
        }
    };
    check("resident memory in MB", growth.rss_mb, RSS_MB);
    check("open files", growth.files, FILES);
    check("threads", growth.threads, THREADS);
    check("tasks", growth.tasks, TASKS);
}

pub(crate) fn print(outcome: &Outcome, args: &Args, state: &State) {
    let Outcome { uplinks, downlinks, growth, .. } = outcome;
    println!("\nseed {}, {} s of faults", args.seed, args.lasting.as_secs());
    println!("\nstrikes");
    for (name, count) in state.strikes() {
        row(name, count);
    }
    println!("\nuplinks");
    row("answered 2xx", uplinks.taken);
    row("arrived", uplinks.arrived);
    row("lost", uplinks.lost);
    row("came twice, unsettled at a cut", uplinks.unsettled);
    row("came twice without a cause", uplinks.doubled);
    row("out of order", uplinks.disordered);
    row("nobody posted", uplinks.strange);
    row("parked, then sent by `spool requeue --all`", outcome.parked);
    let answers: Vec<_> =
        state.answers().iter().map(|(status, count)| format!("{count} x {status}")).collect();
    row("answers of the webhook (0: none)", answers.join(", "));
    row("slowest from 2xx to the hub", format!("{:.1} s", outcome.slowest_ms as f64 / 1000.0));
    row("longest wait at a healthy hub", format!("{:.1} s", outcome.longest_stall_ms as f64 / 1000.0));
    println!("\ndownlinks");
    let books = state.downlinks();
    let DownlinkBooks { messages, calls, desired, pushed, .. } = &*books;
    row("cloud-to-device messages taken by hubs", messages.len());
    row("  in the queue of a device that was deleted", downlinks.deleted);
    let queued = calls.values().filter(|queued| **queued).count();
    row("direct methods, answered queued", format!("{}, {queued}", calls.len()));
    row("desired properties", desired.len());
    row("downlinks queued at The Things Stack", pushed.len());
    row("lost", downlinks.lost);
    row("doubled", downlinks.doubled);
    row("out of order", downlinks.disordered);
    row("nobody asked for", downlinks.strange);
    row("slowest message", format!("{:.1} s", downlinks.slowest_ms as f64 / 1000.0));
    drop(books);
    println!("\nconnector");
    row("lives", outcome.lives);
    row("longest stop by SIGTERM", format!("{:.1} s", outcome.longest_stop.as_secs_f64()));
    row("quiet drain at the end", format!("{:.1} s", outcome.drained.as_secs_f64()));
    row("panics", outcome.panics);
    if let Some(growth) = growth {
        let from_to = |(first, last): (f64, f64)| format!("{first:.0} to {last:.0}");
        row("longest life after its warm-up", format!("{} s", growth.looked_at.as_secs()));
        row("resident memory, MB", from_to(growth.rss_mb));
        row("  slope, MB in 10 min", format!("{:+.2}", growth.rss_mb_per_10_min));
        row("open files", from_to(growth.files));
        row("threads", from_to(growth.threads));
        row("tasks", from_to(growth.tasks));
    }
    println!();
    row("breaches", state.breaches());
}

fn row(name: &str, value: impl std::fmt::Display) {
    println!("  {name:<44} {value}");
}
