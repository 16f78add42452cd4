//! Uplinks flat out, then at half of what was reached: what a message costs, and how long it takes.

use std::thread;
use std::time::Duration;

use super::arguments::{Uplinks, Who};
use super::machine;
use super::report::{Table, spread};
use super::stage::Stage;
use super::subject::Plan;

const SPEED: [&str; 13] = [
    "devices",
    "who",
    "uplinks/s flat out",
    "CPU µs flat out",
    "half load, /s",
    "CPU µs",
    "2xx p50 ms",
    "2xx p99 ms",
    "accepted p50 ms",
    "accepted p99 ms",
    "hub CPU µs",
    "generator CPU µs",
    "kB to disk",
];

/// What one run showed.
#[derive(Default)]
struct Shown {
    throughput: f64,
    flat: [f64; 3],
    written_kb: f64,
    half_rate: f64,
    half: [f64; 3],
    answer: [f64; 3],
    accepted: [f64; 3],
    worst_at_s: f64,
    met_s: f64,
    rss_mb: f64,
    peak_mb: f64,
    kb_a_device: f64,
    threads: usize,
    files: usize,
    tasks: u64,
    load: f64,
}

fn word(who: Who) -> &'static str {
    match who {
        Who::Connector => "connector",
        Who::Node => "Node SDK",
        Who::NodeAtOnce => "Node SDK, answering at once",
    }
}

/// One run of one case.
fn measure(plan: &Plan, devices: u32, options: &Uplinks) -> Shown {
    let stage = Stage::new(devices, false);
    let subject = stage.start(plan);
    let process = subject.process();
    thread::sleep(Duration::from_millis(500));
    let bare_mb = process.rss_mb();
    let load = machine::load();
    let met = stage.phase(&subject, devices, options.connections, None);
    thread::sleep(Duration::from_secs(1));
    let rss_mb = process.rss_mb();
    if options.warm_up > 0 {
        stage.phase(&subject, options.warm_up, options.connections, None);
    }
    if options.pause > 0 {
        println!("pid {} for {} s", subject.running.0.id(), options.pause);
        thread::sleep(Duration::from_secs(options.pause));
    }
    let flat = stage.phase(&subject, options.uplinks, options.connections, None);
    let mut shown = Shown {
        throughput: flat.throughput(),
        flat: flat.cpu_us(),
        written_kb: flat.kb_an_uplink(),
        met_s: met.book.took().as_secs_f64(),
        rss_mb,
        kb_a_device: (rss_mb - bare_mb) * 1024.0 / f64::from(devices),
        load,
        ..Shown::default()
    };
    if options.seconds > 0.0 {
        thread::sleep(Duration::from_secs(1));
        let rate = options.rate.unwrap_or(shown.throughput / 2.0);
        let count = (rate * options.seconds) as u32;
        let half = stage.phase(&subject, count, options.connections, Some(rate));
        let (answers, acceptances) = (half.book.answers(), half.book.acceptances());
        shown.half_rate = rate;
        shown.half = half.cpu_us();
        shown.answer = [0.5, 0.99, 1.0].map(|share| answers.ms(share));
        shown.worst_at_s = half.book.worst_at().as_secs_f64();
        shown.accepted = [0.5, 0.99, 1.0].map(|share| acceptances.ms(share));
    }
    shown.peak_mb = process.peak_mb();
    shown.threads = process.threads();
    shown.files = process.open_files();
    shown.tasks = subject.metric("tti_connector_tasks");
    shown
}

fn tell(name: &str, devices: u32, shown: &Shown) {
    println!(
        "{devices:>6} {name}: {:.0}/s, CPU flat out {:.1} + hub {:.1} + generator {:.1} us, {:.1} kB to disk; \
         at {:.0}/s {:.1} + {:.1} + {:.1} us; answer {:.1}/{:.1}/{:.1} ms (worst at {:.1} s), accepted {:.0}/{:.0}/{:.0} ms; \
         met in {:.1} s, RSS {:.0} MB (peak {:.0}), {:.1} kB a device; {} threads, {} files, {} tasks; load {:.1}",
        shown.throughput,
        shown.flat[0],
        shown.flat[1],
        shown.flat[2],
        shown.written_kb,
        shown.half_rate,
        shown.half[0],
        shown.half[1],
        shown.half[2],
        shown.answer[0],
        shown.answer[1],
        shown.answer[2],
        shown.worst_at_s,
        shown.accepted[0],
        shown.accepted[1],
        shown.accepted[2],
        shown.met_s,
        shown.rss_mb,
        shown.peak_mb,
        shown.kb_a_device,
        shown.threads,
        shown.files,
        shown.tasks,
        shown.load,
    );
}

/// The plans that are compared, with their names.
fn plans(options: &Uplinks) -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for who in &options.subjects {
        if *who == Who::Connector && !options.binary.is_empty() {
            plans.extend(
                options
                    .binary
                    .iter()
                    .map(|binary| (binary.display().to_string(), Plan::of(*who, Some(binary.clone())))),
            );
        } else {
            plans.push((word(*who).to_owned(), Plan::of(*who, None)));
        }
    }
    plans
}

/// Whether there can be so many devices: Microsoft's SDK opens a connection for each.
fn survives(plan: &Plan, devices: u32) -> bool {
    plan.who == Who::Connector || devices <= machine::most_connections()
}

/// All cases; repeats of the compared ones take turns, so that all meet the same neighbours.
pub(crate) fn run(options: &Uplinks) -> Vec<Table> {
    let plans = plans(options);
    let (mut speed, mut memory) = (Vec::new(), Vec::new());
    for &devices in &options.devices {
        let mut shown: Vec<Vec<Shown>> = plans.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.repeats {
            for (index, (name, plan)) in plans.iter().enumerate() {
                if !survives(plan, devices) {
                    continue;
                }
                let run = measure(plan, devices, options);
                tell(name, devices, &run);
                shown[index].push(run);
            }
        }
        for ((name, plan), runs) in plans.iter().zip(&shown) {
            if !survives(plan, devices) {
                let why =
                    format!("needs {devices} connections; {} are possible here", machine::most_connections());
                let mut row = vec![devices.to_string(), name.clone(), why];
                row.resize(SPEED.len(), "–".to_owned());
                speed.push(row);
                continue;
            }
            let of = |value: fn(&Shown) -> f64, digits| {
                spread(&runs.iter().map(value).collect::<Vec<_>>(), digits)
            };
            speed.push(vec![
                devices.to_string(),
                name.clone(),
                of(|run| run.throughput, 0),
                of(|run| run.flat[0], 1),
                of(|run| run.half_rate, 0),
                of(|run| run.half[0], 1),
                of(|run| run.answer[0], 1),
                of(|run| run.answer[1], 1),
                of(|run| run.accepted[0], 0),
                of(|run| run.accepted[1], 0),
                of(|run| run.flat[1], 0),
                of(|run| run.flat[2], 0),
                of(|run| run.written_kb, 1),
            ]);
            memory.push(vec![
                devices.to_string(),
                name.clone(),
                of(|run| run.met_s, 1),
                of(|run| run.rss_mb, 0),
                of(|run| run.kb_a_device, 1),
                of(|run| run.peak_mb, 0),
                runs[0].threads.to_string(),
                runs[0].files.to_string(),
                if runs[0].tasks == 0 { "–".to_owned() } else { runs[0].tasks.to_string() },
            ]);
        }
    }
    vec![
        Table { name: "uplinks", head: SPEED.to_vec(), rows: speed },
        Table {
            name: "uplinks-memory",
            head: vec![
                "devices",
                "who",
                "all attached after s",
                "RSS MB",
                "kB a device",
                "peak MB",
                "threads",
                "open files",
                "tasks",
            ],
            rows: memory,
        },
    ]
}
