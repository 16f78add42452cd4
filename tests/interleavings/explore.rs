//! Which interleavings are tried: all of few events, many of more, one told, and less of one that failed.

use std::env;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use super::event::{ANYTHING, Event, SCENES, Scene};
use super::world::{Run, run};

/// Events of a random walk.
const WALK: std::ops::RangeInclusive<usize> = 8..=40;
/// A failure must come again at least once in so many tries to count as the same.
const TRIES: u64 = 4;
/// No run takes so long on the slowest machine: one that does goes in circles.
const STUCK: Duration = Duration::from_secs(120);

/// How much was explored.
#[derive(Debug, Default)]
pub(super) struct Explored {
    pub(super) runs: usize,
    /// All sequences of so many events were tried.
    pub(super) complete: usize,
}

/// Tries all sequences of one event, of two and so on, until `budget` runs are made.
pub(super) fn exhaust(scene: &Scene, budget: usize, seed: u64) -> Explored {
    let mut explored = Explored::default();
    for depth in 1.. {
        // Per event: which of how many possible ones.
        let mut path: Vec<(usize, usize)> = Vec::new();
        loop {
            if explored.runs >= budget {
                return explored;
            }
            let mut at = 0;
            let tried = run_watched(scene, seed, |possible| {
                if at == depth || possible.is_empty() {
                    return None;
                }
                if at == path.len() {
                    path.push((0, possible.len()));
                }
                // Random choices inside may make another number possible than the last time.
                path[at].1 = possible.len();
                let event = possible[path[at].0.min(possible.len() - 1)];
                at += 1;
                Some(event)
            });
            explored.runs += 1;
            path.truncate(at);
            fail_unless_sound(scene, seed, tried);
            while path.last().is_some_and(|(index, of)| index + 1 >= *of) {
                path.pop();
            }
            let Some((index, _)) = path.last_mut() else { break };
            *index += 1;
        }
        explored.complete = depth;
    }
    explored
}

/// Walks at random, `count` times. Walk `n` of a seed is the same as the first of seed + `n`.
pub(super) fn walk(count: usize, seed: u64) {
    for number in 0..count {
        let seed = seed.wrapping_add(number as u64);
        let mut random = fastrand::Rng::with_seed(seed);
        // Narrow alphabets go deep in their corner, the wide one goes everywhere.
        let scene = if random.bool() { &ANYTHING } else { &SCENES[random.usize(..SCENES.len())] };
        let mut left = random.usize(WALK);
        let tried = run_watched(scene, seed, |possible| {
            if left == 0 || possible.is_empty() {
                return None;
            }
            left -= 1;
            // Else walks would mostly consist of faults.
            if possible.contains(&Event::Answer) && random.u8(..3) == 0 {
                return Some(Event::Answer);
            }
            let event = possible[random.usize(..possible.len())];
            if event == Event::Leave && random.u8(..4) > 0 { Some(possible[0]) } else { Some(event) }
        });
        fail_unless_sound(scene, seed, tried);
    }
}

/// Plays a sequence as printed: `scene:event,event,…`. Events that are not possible when their turn comes are left out.
pub(super) fn replay(text: &str, seed: u64) -> Run {
    let (scene, events) = text.split_once(':').unwrap_or((text, ""));
    let scene = SCENES.iter().chain([&ANYTHING]).find(|one| one.name == scene).unwrap();
    let events: Vec<Event> = events
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| Event::parse(name).unwrap_or_else(|| panic!("{name} is no event")))
        .collect();
    play(scene, seed, &events)
}

fn play(scene: &Scene, seed: u64, events: &[Event]) -> Run {
    let mut events = events.iter();
    run_watched(scene, seed, |possible| events.find(|event| possible.contains(event)).copied())
}

/// Says how a sequence failed and what is the least of it that still fails.
fn fail_unless_sound(scene: &Scene, seed: u64, mut failed: Run) {
    if failed.complaints.is_empty() {
        return;
    }
    let whole = failed.events.len();
    let mut at = 0;
    while at < failed.events.len() {
        let mut fewer = failed.events.clone();
        fewer.remove(at);
        let tries = (0..TRIES).map(|more| play(scene, seed.wrapping_add(more), &fewer));
        match tries.into_iter().find(|tried| !tried.complaints.is_empty()) {
            Some(tried) => failed = tried,
            None => at += 1,
        }
    }
    let mut text = String::new();
    for (at, line) in &failed.trace {
        _ = writeln!(text, "{:>9.3} {line}", at.as_secs_f64());
    }
    panic!(
        "{:#?}\nafter (of {whole} events)\n{text}play it again with\nTTI_INTERLEAVING={} TTI_SEED={seed} cargo test --test interleavings",
        failed.complaints,
        sequence(scene, &failed.events),
    );
}

fn sequence(scene: &Scene, events: &[Event]) -> String {
    let names: Vec<String> = events.iter().map(|event| event.name()).collect();
    format!("{}:{}", scene.name, names.join(","))
}

/// A number from the environment, or else a usual one.
pub(super) fn number_from(name: &str, usual: u64) -> u64 {
    env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Runs, and ends the process if the run goes in circles without time passing.
fn run_watched(scene: &Scene, seed: u64, mut choose: impl FnMut(&[Event]) -> Option<Event>) -> Run {
    let so_far = std::sync::Arc::new(Mutex::new(Vec::new()));
    let chosen = so_far.clone();
    let (done, waits) = std::sync::mpsc::channel::<()>();
    let name = scene.name;
    let watcher = std::thread::spawn(move || {
        if waits.recv_timeout(STUCK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("an interleaving of {name} goes in circles, seed {seed}: {:?}", so_far.lock().unwrap());
            std::process::exit(101);
        }
    });
    let run = run(scene, seed, |possible| {
        let event = choose(possible);
        chosen.lock().unwrap().extend(event);
        event
    });
    drop(done);
    watcher.join().unwrap();
    run
}
