//! Seeded chaos: a connector under load while everything around it fails, and then the books are compared.
//!
//! `tests/chaos/run --help`. The connector is a process of its own; the emulated hubs, DPS and Things Stack live here with
//! the network and the service, behind relays that fail on command. Linux only: reads /proc.

mod args;
mod asking;
mod bodies;
mod books;
mod cloud;
mod collector;
mod downlink_books;
mod growth;
mod health;
mod plan;
mod ports;
mod posters;
mod process;
mod relay;
mod report;
mod state;
mod striker;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use args::Args;
use asking::{Gate, Service};
use cloud::{Cloud, now_ms};
use collector::Collector;
use plan::{Field, Strike};
use process::Process;
use report::Outcome;
use state::State;
use striker::{Striker, api_faults};
use watch::Watch;

/// The Things Stack gives a webhook this long.
const WEBHOOK: Duration = Duration::from_secs(5);
/// A little more than the connector's `devices.negative_ttl` here.
const FORGOTTEN: Duration = Duration::from_secs(4);
/// Kept open to the webhook while nothing is posted.
const IDLE_CONNECTIONS: usize = 32;
/// For the first uplink of each device to arrive, and for the backlog at the end: a device that another client took again and
/// again is left to it for up to 15 minutes.
const PATIENCE: Duration = Duration::from_secs(16 * 60);

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    if !cfg!(target_os = "linux") {
        println!("skipped: needs /proc and several loopback addresses");
        return ExitCode::SUCCESS;
    }
    println!("seed {}", args.seed);
    if args.plan {
        plan_of(&args).iter().for_each(|strike| println!("{strike:?}"));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if runtime.block_on(run(args)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan_of(args: &Args) -> Vec<Strike> {
    let field = Field {
        hubs: args.hubs,
        devices: args.devices,
        ailing: args.ailing(),
        api_kinds: api_faults().len(),
    };
    plan::plan(args.seed, args.lasting, field)
}

/// Whether nothing was breached.
async fn run(args: Args) -> bool {
    let mut dir = tempfile::Builder::new().prefix("tti-chaos-").tempdir().expect("a temporary folder");
    let mut random = fastrand::Rng::with_seed(args.seed);
    let cloud = Arc::new(Cloud::start(dir.path(), args.hubs, args.devices).await);
    let state = Arc::new(State::new(args.devices));
    let http = client();
    let mut process = Process::new(dir.path(), &cloud, http.clone());
    process.start().await.expect("the connector starts");
    let process = Arc::new(Mutex::new(process));
    let (steady, gate, enough) =
        (args.devices - args.ailing(), Gate::default(), Arc::new(AtomicBool::new(false)));

    let webhook = format!("http://127.0.0.1:{}/webhook", cloud.at.webhook_port);
    let posting = tokio::spawn(posters::post_all(
        Arc::clone(&state),
        (webhook, http),
        args.uplinks_per_s,
        Arc::clone(&enough),
        random.fork(),
    ));
    let mut collector = Collector::new(Arc::clone(&cloud), Arc::clone(&state));
    let collecting = tokio::spawn(async move {
        collector.run().await;
    });
    let all_known = || state.books().iter().all(|book| !book.arrived.is_empty()).then_some(());
    until("every device's first uplink arrived", &state, async || all_known()).await;

    let service =
        Service { cloud: Arc::clone(&cloud), state: Arc::clone(&state), gate: Arc::clone(&gate), steady };
    let asking = tokio::spawn(service.run(args.messages_per_s, Arc::clone(&enough), random.fork()));
    let (samples, longest_ms) = (Arc::default(), Arc::default());
    let watch = Watch {
        cloud: Arc::clone(&cloud),
        state: Arc::clone(&state),
        process: Arc::clone(&process),
        steady,
        samples: Arc::clone(&samples),
        longest_ms: Arc::clone(&longest_ms),
    };
    let watching = tokio::spawn(watch.run());
    let longest_stop = Arc::default();
    let striker = Striker {
        cloud: Arc::clone(&cloud),
        state: Arc::clone(&state),
        process: Arc::clone(&process),
        gate,
        steady,
        random,
        longest_stop: Arc::clone(&longest_stop),
    };
    let began = Instant::now();
    striker.run(plan_of(&args)).await;
    tokio::time::sleep_until(began + args.lasting).await;

    enough.store(true, Ordering::Relaxed);
    let quiet = Instant::now();
    for (name, task) in [("the network", posting), ("the service", asking)] {
        if let Err(error) = task.await {
            state.breach(format!("{name} failed: {error}"));
        }
    }
    let (parked, requeued_ms) = drain(&state, &process).await;
    let drained = quiet.elapsed();
    watching.abort();
    let mut process = process.lock().await;
    if let Err(error) = process.terminate().await {
        state.breach(error);
    }
    // It reads ten times a second.
    sleep(Duration::from_secs(1)).await;
    collecting.abort();

    let slowest_ms = state.books()[..steady].iter().map(|book| book.slowest_ms).max().unwrap_or_default();
    let outcome = Outcome {
        uplinks: books::prove(&state.books(), &state.health(), requeued_ms),
        downlinks: state.downlinks().prove(),
        growth: growth::growth(&samples.lock().expect("no panic")),
        parked,
        drained,
        longest_stall_ms: *longest_ms.lock().expect("no panic"),
        slowest_ms,
        longest_stop: *longest_stop.lock().expect("no panic"),
        lives: process.life,
        panics: process.panics(),
    };
    report::judge(&outcome, &state);
    report::print(&outcome, &args, &state);
    cloud.end().await;
    let sound = state.breaches() == 0;
    if args.keep || !sound {
        dir.disable_cleanup(true);
        println!("\nspool and log are in {}", dir.path().display());
    }
    sound
}

/// Waits until nothing is under way, sends what is parked, and waits again. Gives how many were parked, and when they
/// were sent.
async fn drain(state: &State, process: &Mutex<Process>) -> (usize, i64) {
    let empty = async || {
        let pending = process.lock().await.metric("spool_pending_messages ").await?;
        (pending == 0.0 && state.downlinks().waiting() == 0).then_some(())
    };
    until("the backlog is sent", state, &empty).await;
    let requeued_ms = now_ms();
    let mut most = 0;
    // What is refused once more, as its device is still being looked up, is parked again.
    for _ in 0..5 {
        let process = process.lock().await;
        let listed = process.spool(&["list", "--json", "--limit", "100000"]).await;
        let listed = listed.map(|text| text.lines().count());
        let count = match listed {
            Ok(count) => count,
            Err(error) => {
                state.breach(error);
                break;
            }
        };
        most = most.max(count);
        if count == 0 {
            return (most, requeued_ms);
        }
        // So that each refused device is looked up anew.
        sleep(FORGOTTEN).await;
        if let Err(error) = process.spool(&["requeue", "--all"]).await {
            state.breach(error);
        }
        drop(process);
        until("what was parked is sent", state, &empty).await;
    }
    state.breach("messages stay parked".to_owned());
    (most, requeued_ms)
}

/// Waits until `look` finds something; a breach if it does not in time.
async fn until(what: &str, state: &State, look: impl AsyncFn() -> Option<()>) {
    let began = Instant::now();
    while look().await.is_none() {
        if began.elapsed() > PATIENCE {
            return state.breach(format!("not within {PATIENCE:?}: {what}"));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn client() -> reqwest::Client {
    // Plain HTTP: the client is built with a TLS backend, but never uses it.
    let tls = tti_connector::net::tls::client_config(None).expect("a TLS configuration");
    reqwest::Client::builder()
        .tls_backend_preconfigured((*tls).clone())
        .no_proxy()
        .timeout(WEBHOOK)
        // What a slow moment opens more does not stay, so that the connector's open files can be watched.
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build()
        .expect("a client")
}
