//! Whether a process grows: samples of its longest life, and a straight line through them. Pure.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Which life of the process, counted from 0.
    pub(crate) life: usize,
    /// Since the start of the run.
    pub(crate) at: Duration,
    pub(crate) rss_kb: f64,
    pub(crate) files: f64,
    pub(crate) threads: f64,
    pub(crate) tasks: f64,
}

/// What the longest life shows after its warm-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    pub(crate) looked_at: Duration,
    pub(crate) rss_mb_per_10_min: f64,
    pub(crate) rss_mb: (f64, f64),
    pub(crate) files: (f64, f64),
    pub(crate) threads: (f64, f64),
    pub(crate) tasks: (f64, f64),
}

/// The first part of a life, in which caches fill, but no longer than this.
const WARM_UP: Duration = Duration::from_secs(300);

/// `None` if no life has enough samples.
pub(crate) fn growth(samples: &[Sample]) -> Option<Growth> {
    let lives = samples.iter().map(|sample| sample.life).max()?;
    let life = |number: usize| samples.iter().filter(move |sample| sample.life == number);
    let longest = (0..=lives).max_by_key(|number| life(*number).count())?;
    let (first, last) = (life(longest).next()?.at, life(longest).next_back()?.at);
    let warm = first + WARM_UP.min((last - first) / 3);
    let warmed: Vec<Sample> = life(longest).filter(|sample| sample.at >= warm).copied().collect();
    if warmed.len() < 10 {
        return None;
    }
    // A fifth at each end, by median: a fault at either moment must not count.
    let part = (warmed.len() / 5).max(5);
    let ends = |value: fn(&Sample) -> f64| {
        (median(&warmed[..part], value), median(&warmed[warmed.len() - part..], value))
    };
    let rss = ends(|sample| sample.rss_kb);
    Some(Growth {
        looked_at: last - warm,
        rss_mb_per_10_min: slope(&warmed) * 600.0 / 1024.0,
        rss_mb: (rss.0 / 1024.0, rss.1 / 1024.0),
        files: ends(|sample| sample.files),
        threads: ends(|sample| sample.threads),
        tasks: ends(|sample| sample.tasks),
    })
}

/// Kilobytes a second, by least squares.
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len() as f64;
    let (mean_at, mean_rss) = samples
        .iter()
        .fold((0.0, 0.0), |(at, rss), one| (at + one.at.as_secs_f64() / count, rss + one.rss_kb / count));
    let (mut above, mut below) = (0.0, 0.0);
    for one in samples {
        let away = one.at.as_secs_f64() - mean_at;
        above += away * (one.rss_kb - mean_rss);
        below += away * away;
    }
    if below == 0.0 { 0.0 } else { above / below }
}

fn median(samples: &[Sample], value: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
