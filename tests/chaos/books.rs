//! What the webhook took and what the hubs got, per device; what that proves. Pure.

use std::collections::{HashMap, HashSet};

use super::health::Health;

/// A device's uplinks.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceBook {
    /// Frame counters in the order answered 2xx, and when.
    pub(crate) taken: Vec<(u32, i64)>,
    /// Frame counter, when, at which hub; in the order seen.
    pub(crate) arrived: Vec<(u32, i64, usize)>,
    seen: HashSet<u32>,
    /// All of `taken` before it has arrived.
    settled: usize,
    /// Longest time from answer to first arrival.
    pub(crate) slowest_ms: i64,
}

impl DeviceBook {
    pub(crate) fn take(&mut self, f_cnt: u32, now_ms: i64) {
        self.taken.push((f_cnt, now_ms));
    }

    pub(crate) fn arrive(&mut self, f_cnt: u32, at_ms: i64, hub: usize) {
        self.arrived.push((f_cnt, at_ms, hub));
        if self.seen.insert(f_cnt) {
            let taken = self.taken.iter().rev().find(|(taken, _)| *taken == f_cnt);
            self.slowest_ms = self.slowest_ms.max(taken.map_or(0, |(_, taken_ms)| at_ms - taken_ms));
        }
    }

    /// When the oldest one was taken that has not arrived.
    pub(crate) fn waiting_since(&mut self) -> Option<i64> {
        while self.taken.get(self.settled).is_some_and(|(f_cnt, _)| self.seen.contains(f_cnt)) {
            self.settled += 1;
        }
        self.taken.get(self.settled).map(|(_, taken_ms)| *taken_ms)
    }

    pub(crate) fn missing(&self) -> usize {
        self.taken[self.settled..].iter().filter(|(f_cnt, _)| !self.seen.contains(f_cnt)).count()
    }
}

/// What a run's uplinks prove.
#[derive(Debug, Default)]
pub(crate) struct UplinkProof {
    pub(crate) taken: usize,
    pub(crate) arrived: usize,
    pub(crate) lost: usize,
    /// Came twice, and a cut explains it.
    pub(crate) unsettled: usize,
    /// Came twice without a cause.
    pub(crate) doubled: usize,
    pub(crate) disordered: usize,
    /// Arrived, but nobody posted it.
    pub(crate) strange: usize,
    /// One line for each breach, not all of them.
    pub(crate) breaches: Vec<String>,
}

const BREACHES_SHOWN: usize = 20;

impl UplinkProof {
    fn breach(&mut self, text: String) {
        if self.breaches.len() < BREACHES_SHOWN {
            self.breaches.push(text);
        }
    }
}

/// Looks at all devices. What arrived from `requeued_ms` on may be out of order: it was parked.
pub(crate) fn prove(books: &[DeviceBook], health: &Health, requeued_ms: i64) -> UplinkProof {
    let mut proof = UplinkProof::default();
    for (device, book) in books.iter().enumerate() {
        proof.taken += book.taken.len();
        proof.arrived += book.arrived.len();
        let places: HashMap<u32, usize> =
            book.taken.iter().enumerate().map(|(place, (f_cnt, _))| (*f_cnt, place)).collect();
        let mut arrived = book.arrived.clone();
        arrived.sort_by_key(|(_, at_ms, _)| *at_ms);
        let (mut first, mut latest) = (HashMap::new(), None);
        for (f_cnt, at_ms, hub) in arrived {
            let Some(place) = places.get(&f_cnt) else {
                proof.strange += 1;
                proof.breach(format!("device {device} #{f_cnt} arrived, but was never taken"));
                continue;
            };
            if let Some(before) = first.insert(f_cnt, at_ms) {
                if health.excuses((device, hub), before, at_ms) {
                    proof.unsettled += 1;
                } else {
                    proof.doubled += 1;
                    proof.breach(format!(
                        "device {device} #{f_cnt} came at {before} and {at_ms} without a cut"
                    ));
                }
            } else if at_ms < requeued_ms && latest > Some(*place) {
                proof.disordered += 1;
                proof.breach(format!("device {device} #{f_cnt} came at {at_ms} after a later one"));
            } else {
                latest = latest.max(Some(*place));
            }
        }
        for (f_cnt, taken_ms) in book.taken.iter().filter(|(f_cnt, _)| !first.contains_key(f_cnt)) {
            proof.lost += 1;
            proof.breach(format!("device {device} #{f_cnt} was taken at {taken_ms} and is lost"));
        }
    }
    proof
}
