//! Devices that post one uplink after the other, each until it is taken, and what arrived of them, read as it comes.
//!
//! Knows nothing of who restarts the connector meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tti_connector::emulator::PARTITIONS;

use crate::messages::{DEADLINE, uplink};
use crate::world::{Poster, World, frame_counter};

/// Between two uplinks of a device, so that the connector rather than the poster sets the pace of a busy machine.
const PACE: Duration = Duration::from_millis(25);
/// Before a refused uplink is posted again.
const AGAIN: Duration = Duration::from_millis(5);
/// Events read at once.
const PAGE: usize = 5_000;

/// The device with this number.
pub(crate) fn id(device: usize) -> String {
    format!("d-{device:02}")
}

/// Devices that post.
pub(crate) struct Fleet {
    posters: JoinSet<(String, u32)>,
    enough: Arc<AtomicBool>,
}

impl Fleet {
    /// Posts a first uplink of each and waits until they arrived, so that telemetry flows in every life; then posts on.
    pub(crate) async fn start(world: &World, poster: &Poster, devices: usize) -> Self {
        for device in 0..devices {
            assert_eq!(poster.post(&uplink("fleet", &id(device), 1)).await, 202);
        }
        world.arrived(devices).await;
        let (mut posters, enough) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for device in 0..devices {
            posters.spawn(post(poster.clone(), id(device), Arc::clone(&enough)));
        }
        Self { posters, enough }
    }

    /// Each device's last frame counter; all up to it were answered 202.
    pub(crate) async fn end(self) -> HashMap<String, u32> {
        self.enough.store(true, Ordering::Relaxed);
        self.posters.join_all().await.into_iter().collect()
    }
}

/// One device's uplinks one after the other, each until it is answered, as a retrying network would.
async fn post(poster: Poster, name: String, enough: Arc<AtomicBool>) -> (String, u32) {
    let mut f_cnt = 1;
    while !enough.load(Ordering::Relaxed) {
        let message = uplink("fleet", &name, f_cnt + 1);
        loop {
            match poster.try_post(&message).await {
                Some(202) => break,
                Some(503) | None => tokio::time::sleep(AGAIN).await,
                Some(status) => panic!("answered {status}"),
            }
        }
        f_cnt += 1;
        tokio::time::sleep(PACE).await;
    }
    (name, f_cnt)
}

/// What arrived so far.
pub(crate) struct Arrivals {
    /// Next event of each hub's partitions.
    next: Vec<[i64; PARTITIONS]>,
    /// Time and frame counter, in order, by device.
    pub(crate) of: HashMap<String, Vec<(i64, u64)>>,
    distinct: HashSet<(String, u64)>,
}

impl Arrivals {
    /// Nothing read yet.
    pub(crate) fn new(world: &World) -> Self {
        let next = vec![[0; PARTITIONS]; world.emulator.hubs().len()];
        Self { next, of: HashMap::new(), distinct: HashSet::new() }
    }

    /// Reads what came since; gives how many different uplinks there are. A hub forgets the oldest of very many.
    pub(crate) fn read(&mut self, world: &World) -> usize {
        for (hub, next) in world.emulator.hubs().iter().zip(&mut self.next) {
            for (partition, next) in next.iter_mut().enumerate() {
                loop {
                    let events = hub.events(partition, *next, PAGE);
                    let Some(last) = events.last() else { break };
                    assert_eq!(events[0].sequence_number, *next, "read too late");
                    *next = last.sequence_number + 1;
                    for event in events.iter().filter(|event| event.device_id.starts_with("d-")) {
                        let f_cnt = frame_counter(event);
                        self.of.entry(event.device_id.clone()).or_default().push((event.enqueued_ms, f_cnt));
                        self.distinct.insert((event.device_id.clone(), f_cnt));
                    }
                }
            }
        }
        self.distinct.len()
    }

    /// Waits until so many different uplinks are there; a minute without any new one is too long.
    pub(crate) async fn until(&mut self, world: &World, enough: usize) {
        let mut changes: Vec<_> = world.emulator.hubs().iter().map(|hub| hub.arrivals()).collect();
        loop {
            let distinct = self.read(world);
            if distinct >= enough {
                return;
            }
            let any = changes.iter_mut().map(|change| Box::pin(change.changed()));
            let change = tokio::time::timeout(DEADLINE, futures_util::future::select_all(any)).await;
            assert!(change.is_ok(), "{distinct} of {enough} arrived, and no more come");
        }
    }

    /// Checks that each device's uplinks up to the last answered one arrived, first arrivals in order. What came again is
    /// given with the times of both arrivals.
    pub(crate) fn again(&self, answered: &HashMap<String, u32>) -> Vec<(String, u64, i64, i64)> {
        let mut again = Vec::new();
        for (device, answered) in answered {
            let (mut first, mut order) = (HashMap::new(), Vec::new());
            for (at, counter) in self.of.get(device).into_iter().flatten() {
                match first.insert(*counter, *at) {
                    Some(before) => again.push((device.clone(), *counter, before, *at)),
                    None => order.push(*counter),
                }
            }
            let expected: Vec<u64> = (1..=u64::from(*answered)).collect();
            assert_eq!(order, expected, "{device}: lost, out of order or never posted");
        }
        again
    }
}
