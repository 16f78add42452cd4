//! Looks once a second: does anything stall, has the connector ended, how large is it?

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::asking::hub_of;
use super::cloud::{Cloud, id, now_ms};
use super::growth::Sample;
use super::process::Process;
use super::state::State;

/// A device whose hub is healthy waits no longer for its uplinks to arrive.
const STALL_MS: i64 = 30_000;
/// Progress is told this often.
const TOLD: Duration = Duration::from_secs(30);

pub(crate) struct Watch {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) state: Arc<State>,
    pub(crate) process: Arc<tokio::sync::Mutex<Process>>,
    pub(crate) steady: usize,
    pub(crate) samples: Arc<Mutex<Vec<Sample>>>,
    /// The longest wait of a steady device with a healthy hub.
    pub(crate) longest_ms: Arc<Mutex<i64>>,
}

impl Watch {
    /// For ever.
    pub(crate) async fn run(self) {
        let (began, mut told) = (Instant::now(), Instant::now());
        let mut stalled = BTreeSet::new();
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            self.look_for_stalls(&mut stalled);
            self.sample(began.elapsed()).await;
            if told.elapsed() >= TOLD {
                told = Instant::now();
                self.tell(began.elapsed());
            }
        }
    }

    fn look_for_stalls(&self, stalled: &mut BTreeSet<usize>) {
        let (now, generation) = (now_ms(), self.cloud.now());
        for device in 0..self.steady {
            let waiting = self.state.books()[device].waiting_since();
            let Some(since_ms) = waiting.filter(|since_ms| *since_ms + 1_000 < now) else {
                stalled.remove(&device);
                continue;
            };
            let Some(hub) = hub_of(&generation, device) else { continue };
            let at = generation.hubs.iter().position(|one| one.host() == hub.host()).unwrap_or_default();
            let healthy_ms = self.state.health().healthy_ms(at, since_ms, now);
            let mut longest = self.longest_ms.lock().expect("no panic");
            *longest = healthy_ms.max(*longest);
            if healthy_ms > STALL_MS && stalled.insert(device) {
                self.state.breach(format!(
                    "{} at {} waits since {since_ms}, {healthy_ms} ms of them without a fault",
                    id(device),
                    hub.host()
                ));
            }
        }
    }

    async fn sample(&self, at: Duration) {
        // Locked while it restarts.
        let Ok(mut process) = self.process.try_lock() else { return };
        if let Some(end) = process.ended_by_itself() {
            self.state.breach(end);
            if let Err(error) = process.start().await {
                self.state.breach(error);
            }
            return;
        }
        let Some((rss_kb, files, threads)) = process.measure() else { return };
        let Some(tasks) = process.metric("tasks ").await else { return };
        let sample = Sample { life: process.life, at, rss_kb, files, threads, tasks };
        self.samples.lock().expect("no panic").push(sample);
    }

    fn tell(&self, at: Duration) {
        let taken: usize = self.state.books().iter().map(|book| book.taken.len()).sum();
        let (waiting, messages) = (self.state.waiting(), self.state.downlinks().waiting());
        let rss_kb = self.samples.lock().expect("no panic").last().map_or(0.0, |last| last.rss_kb);
        println!(
            "{:>5} s: {taken} uplinks taken, {waiting} waiting; {messages} messages waiting; {:.0} MB; {} breaches",
            at.as_secs(),
            rss_kb / 1024.0,
            self.state.breaches()
        );
    }
}
