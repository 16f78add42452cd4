//! The book of one phase: when each uplink was posted, answered and accepted, and how often it arrived. Pure.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Frame counters start here, so that all have as many digits.
pub(crate) const FIRST_F_CNT: u32 = 1_000_000;
/// From here on they are in no book; with as many digits, too.
pub(crate) const BESIDE: u32 = 9_000_000;

/// `count` uplinks, dealt out to `devices` in turn, with frame counters from `first` on.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) devices: u32,
    pub(crate) count: u32,
    first: u32,
    /// The origin of all times here.
    began: Instant,
    began_us: u64,
    lines: Vec<Line>,
    arrived: AtomicU32,
    pub(crate) doubled: AtomicU32,
    pub(crate) refused: AtomicU32,
}

/// Times in microseconds since the origin.
#[derive(Debug, Default)]
struct Line {
    due: AtomicU64,
    answered: AtomicU64,
    accepted: AtomicU64,
    times: AtomicU8,
}

impl Book {
    pub(crate) fn new(devices: u32, count: u32, first: u32) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Self {
            devices,
            count,
            first,
            began: Instant::now(),
            began_us: u64::try_from(since_1970.as_micros()).expect("fits"),
            lines: (0..count).map(|_| Line::default()).collect(),
            arrived: AtomicU32::new(0),
            doubled: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        }
    }

    /// The first frame counter of the next phase.
    pub(crate) fn next(&self) -> u32 {
        self.first + self.count.div_ceil(self.devices)
    }

    /// Device and frame counter of an uplink.
    pub(crate) fn uplink(&self, index: u32) -> (u32, u32) {
        (index % self.devices, self.first + index / self.devices)
    }

    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("fits")
    }

    /// It was, or should have been, posted at this time.
    pub(crate) fn due(&self, index: u32, at_us: u64) {
        self.lines[index as usize].due.store(at_us, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, index: u32) {
        self.lines[index as usize].answered.store(self.now_us(), Ordering::Relaxed);
    }

    /// The hub accepted it at this time.
    pub(crate) fn accepted(&self, device: u32, f_cnt: u32, at_ms: u64) {
        if f_cnt >= BESIDE {
            return;
        }
        let round = f_cnt.checked_sub(self.first);
        let index = round.and_then(|round| round.checked_mul(self.devices)?.checked_add(device));
        let line = index.and_then(|index| self.lines.get(index as usize));
        // Else of an earlier phase, which ended once each of its uplinks had come.
        let Some(line) = line else {
            self.doubled.fetch_add(1, Ordering::Relaxed);
            return;
        };
        line.accepted.store((at_ms * 1000).saturating_sub(self.began_us), Ordering::Relaxed);
        if line.times.fetch_add(1, Ordering::Relaxed) == 0 {
            self.arrived.fetch_add(1, Ordering::Release);
        } else {
            self.doubled.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn arrived(&self) -> u32 {
        self.arrived.load(Ordering::Acquire)
    }

    /// From post to answer, sorted.
    pub(crate) fn answers(&self) -> Spread {
        Spread::new(self.lines.iter().map(|line| {
            line.answered.load(Ordering::Relaxed).saturating_sub(line.due.load(Ordering::Relaxed))
        }))
    }

    /// When the uplink that waited longest for its answer was posted, after the first one.
    pub(crate) fn worst_at(&self) -> Duration {
        let due = |line: &Line| line.due.load(Ordering::Relaxed);
        let worst = self
            .lines
            .iter()
            .max_by_key(|line| line.answered.load(Ordering::Relaxed).saturating_sub(due(line)));
        let first = self.lines.iter().map(due).min().unwrap_or(0);
        Duration::from_micros(worst.map_or(0, due).saturating_sub(first))
    }

    /// From post to the hub's acceptance, sorted; in whole milliseconds of the hub's clock.
    pub(crate) fn acceptances(&self) -> Spread {
        Spread::new(self.lines.iter().map(|line| {
            line.accepted.load(Ordering::Relaxed).saturating_sub(line.due.load(Ordering::Relaxed))
        }))
    }

    /// From the first post to the last acceptance.
    pub(crate) fn took(&self) -> Duration {
        let last = self.lines.iter().map(|line| line.accepted.load(Ordering::Relaxed)).max().unwrap_or(0);
        let first = self.lines.iter().map(|line| line.due.load(Ordering::Relaxed)).min().unwrap_or(0);
        Duration::from_micros(last.saturating_sub(first))
    }
}

/// Sorted microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Vec<u64>);

impl Spread {
    pub(crate) fn new(values: impl Iterator<Item = u64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_unstable();
        Self(values)
    }

    /// Milliseconds at a share of them.
    pub(crate) fn ms(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1) as f64;
        self.0.get((share * last) as usize).copied().unwrap_or(0) as f64 / 1000.0
    }
}
