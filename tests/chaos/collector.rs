//! Reads what arrived at hubs and The Things Stack into the books, also what those held that are gone.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tti_connector::emulator::{Event, PARTITIONS};

use super::cloud::{Cloud, Generation, number};
use super::downlink_books::Asker;
use super::state::State;

/// Much shorter than hubs take to forget the oldest events.
const PAUSE: Duration = Duration::from_millis(100);
/// Read at once.
const PAGE: usize = 5_000;

/// The connector's format of telemetry; the rest does not matter here.
#[derive(Deserialize)]
struct Telemetry {
    #[serde(rename = "FrameCounter")]
    frame_counter: u32,
}

pub(crate) struct Collector {
    cloud: Arc<Cloud>,
    state: Arc<State>,
    reading: Generation,
    /// Next event of each hub's partitions.
    next: Vec<[i64; PARTITIONS]>,
    next_push: u64,
}

impl Collector {
    pub(crate) fn new(cloud: Arc<Cloud>, state: Arc<State>) -> Self {
        let reading = cloud.now();
        let next = vec![[0; PARTITIONS]; reading.hubs.len()];
        Self { cloud, state, reading, next, next_push: 0 }
    }

    /// For ever; nothing is lost when it is dropped between two awaits.
    pub(crate) async fn run(&mut self) {
        loop {
            self.read();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Everything until now.
    pub(crate) fn read(&mut self) {
        let now = self.cloud.now();
        self.read_generation();
        if now.number != self.reading.number {
            // The old one had ended before the new one began.
            self.reading = now;
            self.next.fill([0; PARTITIONS]);
            self.next_push = 0;
            self.read_generation();
        }
    }

    fn read_generation(&mut self) {
        for (at, hub) in self.reading.hubs.iter().enumerate() {
            for (partition, next) in self.next[at].iter_mut().enumerate() {
                loop {
                    let events = hub.events(partition, *next, PAGE);
                    let Some(last) = events.last() else { break };
                    if events[0].sequence_number != *next {
                        self.state.breach("the driver was too slow: a hub forgot events".to_owned());
                    }
                    *next = last.sequence_number + 1;
                    events.iter().for_each(|event| arrive(&self.state, event, at));
                }
            }
        }
        loop {
            let (first, pushes) = self.reading.stack.pushes_from(self.next_push, PAGE);
            if pushes.is_empty() {
                return;
            }
            self.next_push = first + pushes.len() as u64;
            let mut books = self.state.downlinks();
            for push in pushes {
                let asked = Asker::read(push.downlink.frm_payload.as_deref().unwrap_or_default());
                match (asked, number(&push.device.device_id)) {
                    (Some((asker, asked)), Some(device)) => {
                        books.pushed.push((asker, asked, device, push.time_ms));
                    }
                    _ => books.strange += 1,
                }
            }
        }
    }
}

fn arrive(state: &State, event: &Event, hub: usize) {
    if event.properties.iter().any(|(name, value)| name == "kind" && value == "downlink") {
        return;
    }
    let telemetry = serde_json::from_slice::<Telemetry>(&event.body);
    match (number(&event.device_id), telemetry) {
        (Some(device), Ok(telemetry)) if device < state.devices() => {
            state.books()[device].arrive(telemetry.frame_counter, event.enqueued_ms, hub);
        }
        _ => state.breach(format!("{} sent what nobody posted", event.device_id)),
    }
}
