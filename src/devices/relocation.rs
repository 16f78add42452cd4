//! Devices whose hub is gone: DPS is asked where one of them lives, and about the others once it names another hub.
//!
//! Knows no AMQP: is told which hubs are gone, and tells who moved.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Directory;
use crate::azure::{HubAddress, HubDevice};
use crate::model::{Backoff, EndDevice};

/// How often to look which hubs are gone.
const LOOK: Duration = Duration::from_secs(1);
/// Pauses before another device of a hub is asked about, when DPS named the same hub or could not be asked.
const PAUSES: Backoff = Backoff { initial: Duration::from_secs(60), max: Duration::from_secs(30 * 60) };
/// Between two registrations: DPS takes about 1,000 a minute, and new devices need some of them.
const SPACING: Duration = Duration::from_millis(100);
/// Registrations under way at once; one takes about three seconds.
const AT_ONCE: usize = 16;

/// Looks for devices whose hub is gone until `stop`.
///
/// `gone` names the hubs that could not be reached for long; it is asked each second. `moved` is told each device that
/// DPS gave to another hub.
pub async fn relocate(
    directory: Directory,
    gone: impl Fn() -> Vec<HubAddress>,
    moved: impl Fn(&EndDevice, &Arc<HubDevice>),
    stop: CancellationToken,
) {
    let mut pace = interval(SPACING);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let relocation = Relocation { directory, gone, moved, pace: Mutex::new(pace) };
    stop.run_until_cancelled(relocation.run()).await;
}

struct Relocation<G, M> {
    directory: Directory,
    gone: G,
    moved: M,
    /// Shared by all hubs.
    pace: Mutex<Interval>,
}

/// A hub that is gone, and whose devices DPS did not move yet.
struct Asked {
    times: u32,
    again: Instant,
}

impl<G, M> Relocation<G, M>
where
    G: Fn() -> Vec<HubAddress>,
    M: Fn(&EndDevice, &Arc<HubDevice>),
{
    /// Waits on: the next look, passes over hubs that end. There are as many passes as hubs at most.
    async fn run(&self) {
        let mut asked: HashMap<HubAddress, Asked> = HashMap::new();
        let mut under_way = HashSet::new();
        let mut passes = FuturesUnordered::new();
        let mut look = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(look) => look += LOOK,
                Some(hub) = passes.next() => {
                    under_way.remove(&hub);
                    let times = asked.get(&hub).map_or(0, |asked| asked.times).saturating_add(1);
                    asked.insert(hub, Asked { times, again: Instant::now() + PAUSES.wait(times) });
                    continue;
                }
            }
            let gone = (self.gone)();
            asked.retain(|hub, _| gone.contains(hub));
            for hub in gone {
                let due = asked.get(&hub).is_none_or(|asked| asked.again <= Instant::now());
                if due && under_way.insert(hub.clone()) {
                    passes.push(self.pass(hub));
                }
            }
        }
    }

    /// Asks about the devices of a hub, and gives it back.
    async fn pass(&self, hub: HubAddress) -> HubAddress {
        self.ask_all(&hub).await;
        hub
    }

    /// Asks about one device, and about all if that one moved.
    async fn ask_all(&self, hub: &HubAddress) {
        let mut devices = self.directory.assigned_to(hub);
        fastrand::shuffle(&mut devices);
        let Some((first, _)) = devices.pop() else { return };
        if !self.ask(&first, hub).await {
            debug!(%hub, "The hub can't be reached, and DPS names no other one yet.");
            return;
        }
        warn!(%hub, devices = devices.len() + 1, "The hub can't be reached, and DPS names another one; asking about all its devices.");
        let mut moved = 1_usize;
        let mut asking = FuturesUnordered::new();
        let mut devices = devices.into_iter();
        loop {
            // One that is back keeps those that DPS leaves there.
            let next =
                if asking.len() < AT_ONCE && (self.gone)().contains(hub) { devices.next() } else { None };
            match next {
                Some((device, _)) => asking.push(async move { self.ask(&device, hub).await }),
                None if asking.is_empty() => break,
                None => moved += usize::from(asking.next().await.unwrap_or(false)),
            }
        }
        info!(%hub, moved, "Devices of a hub that can't be reached live at another one now.");
    }

    /// Whether the device moved.
    async fn ask(&self, device: &EndDevice, hub: &HubAddress) -> bool {
        self.pace.lock().await.tick().await;
        match self.directory.ask_anew(device).await {
            Ok(hub_device) if hub_device.hub != *hub => {
                (self.moved)(device, &hub_device);
                true
            }
            Ok(_) => false,
            Err(error) => {
                debug!(%device, %error, "DPS does not tell where a device lives whose hub can't be reached.");
                // Others would hear the same now.
                sleep(SPACING).await;
                false
            }
        }
    }
}
