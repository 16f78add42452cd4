//! Microsoft's 15 faults of AMQP against the real connector: on one connection with two devices and on two with four,
//! in each case with telemetry, messages, direct methods and the twin under way.
//!
//! `TTI_FAULT_SECONDS=5` takes Microsoft's own times (after 2 s, for 5 s); `TTI_FAULT_KINDS=KillTcp,…` picks some;
//! `TTI_FAULT_AT_ONCE=4` says how many trials run side by side.

mod neighbours;
mod paths;
mod trial;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tti_connector::emulator::FaultKind;

use trial::{Plan, Row, trial};

/// From the fault's end on every path works again within this.
const WITHIN: Duration = Duration::from_secs(10);
/// Trials side by side: they mostly wait.
const AT_ONCE: usize = 6;
/// By default short, so that all trials take seconds.
const DELAY: Duration = Duration::from_millis(100);
const DURATION: Duration = Duration::from_millis(600);

fn number(name: &str) -> Option<f64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")))
}

fn kinds() -> Vec<FaultKind> {
    let Ok(names) = std::env::var("TTI_FAULT_KINDS") else { return FaultKind::OF_SDKS.to_vec() };
    names
        .split(',')
        .map(|name| name.trim().parse().unwrap_or_else(|error| panic!("{name}: {error}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_path_works_again_after_every_fault_and_nothing_is_lost_or_doubled() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let (delay, duration) = match number("TTI_FAULT_SECONDS") {
        Some(seconds) => (Duration::from_secs(2), Duration::from_secs_f64(seconds)),
        None => (DELAY, DURATION),
    };
    let at_once = number("TTI_FAULT_AT_ONCE").map_or(AT_ONCE, |number| (number as usize).max(1));
    let places = Arc::new(Semaphore::new(at_once));
    let mut trials = JoinSet::new();
    for (number, kind) in kinds().into_iter().enumerate() {
        for connections in [1, 2] {
            let (plan, places) = (Plan { kind, connections, delay, duration }, Arc::clone(&places));
            trials.spawn(async move {
                let _place = places.acquire_owned().await.expect("never closed");
                ((number, connections), trial(&plan).await)
            });
        }
    }
    let rows: BTreeMap<_, _> = trials.join_all().await.into_iter().collect();
    println!("{}", table(rows.values()));
    let wrong: Vec<String> = rows.values().flat_map(Row::wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Milliseconds from the fault's end until each path worked.
fn table<'r>(rows: impl Iterator<Item = &'r Row>) -> String {
    let mut text = format!(
        "{:<23} {:>5} {:>9} {:>6} {:>7} {:>6}   {:>10} {:>7}\n",
        "fault", "conns", "telemetry", "c2d", "method", "twin", "messages", "doubled"
    );
    for row in rows {
        _ = write!(text, "{:<23} {:>5}", row.plan.kind.as_str(), row.plan.connections);
        for (width, recovery) in [9, 6, 7, 6].into_iter().zip(&row.recovery) {
            let shown = recovery.map_or("-".to_owned(), |recovery| recovery.as_millis().to_string());
            _ = write!(text, " {shown:>width$}");
        }
        _ = writeln!(text, "   {:>10} {:>7}", row.messages, row.doubled);
    }
    text
}
