//! The fuzz targets: one function for each kind of bytes that a peer or user sends. `fuzz/run` feeds them for hours, and
//! `cargo test` all that is in `fuzz/corpus`.
//!
//! Each asserts more than that nothing panics. What one room says is judged by others here; a room's own part stands in
//! its `fuzzing.rs`. Nothing of this is in a usual build.

mod amqp;
mod cases;
#[cfg(test)]
mod replay;
mod wire;

use std::cell::Cell;
use std::panic;
use std::sync::Once;
use std::time::Duration;

use serde_json::Map;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::model::fuzzing::head_and_body;
use crate::{
    azure, backfill, config, devices, downlink, emulator, iot_hub, net, spool, things_stack, uplink, webhook,
};

/// A target and its name, which is its corpus's too.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 21] = [
    ("amqp_between", amqp::between),
    ("amqp_frames", amqp_frames),
    ("amqp_message", amqp_message),
    ("amqp_to_emulator", amqp::to_emulator),
    ("amqp_to_hub_client", amqp::to_hub_client),
    ("cloud_message", cloud_message),
    ("config", config_file),
    ("connection_string", connection_string),
    ("desired", desired),
    ("direct_method", direct_method),
    ("downlink_events", downlink_events),
    ("dps_answer", dps_answer),
    ("emulator_request", emulator_request),
    ("emulator_twin", emulator_twin),
    ("rows", rows),
    ("sas", sas),
    ("spool_line", spool_line),
    ("storage_rows", storage_rows),
    ("things_stack_answer", things_stack_answer),
    ("webhook_json", webhook_json),
    ("webhook_request", webhook_request),
];

/// Runs one target. For `fuzz/fuzz_targets`.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of the table");
    target(data);
}

/// Any message of the webhook, up to telemetry and reported properties.
fn webhook_json(data: &[u8]) {
    things_stack::fuzzing::message(data);
    uplink::fuzzing::telemetry(data);
    // Two uplinks of one device, one a line.
    let (first, second) =
        data.iter().position(|byte| *byte == b'\n').map_or((data, data), |at| data.split_at(at));
    for (before, now) in [(first, second), (data, data)] {
        let before = uplink::fuzzing::twin_patch(&Map::new(), before).unwrap_or_default().0;
        if let Some((now, change)) = uplink::fuzzing::twin_patch(&before, now) {
            emulator::fuzzing::takes_reported(&before, &change, &now);
        }
    }
}

fn webhook_request(data: &[u8]) {
    paused().block_on(webhook::fuzzing::request(data));
}

fn connection_string(data: &[u8]) {
    azure::fuzzing::connection_string(data);
    if let Ok(text) = std::str::from_utf8(data) {
        devices::fuzzing::settings(text);
    }
    net::fuzzing::proxy(data);
}

/// What the connector signs opens what it is for; what nobody signed opens nothing.
fn sas(data: &[u8]) {
    if let Some(signed) = azure::fuzzing::signed(data) {
        let azure::fuzzing::Signed { resource, policy, expiry_s, key, token } = signed;
        emulator::fuzzing::genuine(&token, &resource, policy.as_deref(), expiry_s, &key);
        assert!(!emulator::fuzzing::forged(&token), "a key that is not the hub's opens it");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(!emulator::fuzzing::forged(text), "a forgery opens the hub");
    }
}

fn dps_answer(data: &[u8]) {
    devices::fuzzing::dps_answer(data);
}

/// What becomes a downlink is one that The Things Stack takes.
fn cloud_message(data: &[u8]) {
    taken_by_the_things_stack(&downlink::fuzzing::cloud_message(data));
    _ = emulator::fuzzing::downlinks(head_and_body(data).1, i64::MIN);
}

fn direct_method(data: &[u8]) {
    taken_by_the_things_stack(&downlink::fuzzing::method(data));
}

fn taken_by_the_things_stack(requests: &[downlink::translate::Request]) {
    for request in requests {
        let body = things_stack::fuzzing::body_of(&request.downlink, request.operation);
        assert_eq!(emulator::fuzzing::downlinks(body.as_bytes(), i64::MIN), Ok(1), "{body}");
    }
}

/// Acknowledgements are patches of JSON that only the hub's limits may refuse.
fn desired(data: &[u8]) {
    for patch in downlink::fuzzing::desired(data) {
        _ = emulator::fuzzing::takes_patch(&patch);
    }
}

fn downlink_events(data: &[u8]) {
    downlink::fuzzing::events(data);
}

fn things_stack_answer(data: &[u8]) {
    things_stack::fuzzing::answers(data);
}

fn emulator_twin(data: &[u8]) {
    emulator::fuzzing::twins(data);
}

fn emulator_request(data: &[u8]) {
    paused().block_on(emulator::fuzzing::request(data, &cases::owner_token()));
}

fn config_file(data: &[u8]) {
    config::fuzzing::load(data);
}

fn spool_line(data: &[u8]) {
    spool::fuzzing::line(data);
}

fn rows(data: &[u8]) {
    downlink::fuzzing::row(data);
    devices::fuzzing::row(data);
}

/// What the Storage Integration answers, up to what is to be sent of it.
fn storage_rows(data: &[u8]) {
    backfill::fuzzing::rows(things_stack::fuzzing::stored_rows(data));
}

fn amqp_frames(data: &[u8]) {
    net::fuzzing::frames(data);
}

fn amqp_message(data: &[u8]) {
    // No other comes through.
    if net::unreadable(data) {
        return;
    }
    iot_hub::fuzzing::message(data);
    emulator::fuzzing::message(data);
}

/// Timers run as soon as everybody waits.
fn paused() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime without sockets")
}

/// Real time after which somebody who never waits gets a second of the runtime's own.
const BUSY: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_secs(1);

/// Lets time go on where the AMQP crate spins: a session that has sent End asks a queue of its own, which it has closed,
/// over and over until the peer's End comes. All waits for that have an end in seconds, which paused time never reaches.
async fn with_time(work: impl Future<Output = ()>) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (tick, mut ticks) = tokio::sync::mpsc::channel(1);
    let clock = std::thread::spawn(move || {
        while stopped.recv_timeout(BUSY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            _ = tick.try_send(());
        }
    });
    let stepping = async {
        let mut before = Instant::now();
        while ticks.recv().await.is_some() {
            if Instant::now() == before {
                tokio::time::advance(STEP).await;
            }
            before = Instant::now();
        }
    };
    tokio::select! {
        () = work => {}
        () = stepping => {}
    }
    drop(stop);
    _ = clock.join();
}

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Panics on this thread from now on. Those of tasks are seen by nobody else.
fn panics() -> usize {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let earlier = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.with(|count| count.set(count.get() + 1));
            earlier(info);
        }));
    });
    PANICS.with(Cell::get)
}
