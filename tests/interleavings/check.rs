//! What must hold: after every event, and once the hub is well again.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tti_connector::iot_hub::{Links, Status};

use super::event::{DEVICES, Event};
use super::parts::Place;
use super::world::{BACK, IDLE, LESS, TELEMETRY, World};

/// A send may wait for its device's turn, for a session, for the outcome, and all but the first once more with a fresh
/// token: 60 + 60 + 30 + 60 + 30 s, and some for closing.
const SEND_BOUND: Duration = Duration::from_secs(260);
/// Closing has its own time-outs: thrice 4 s and 2 s.
const CLOSE_BOUND: Duration = Duration::from_secs(15);
/// A device that others took several times is left to them for up to 15 minutes.
const HEAL_BOUND: Duration = Duration::from_secs(30 * 60);

impl World {
    pub(super) fn complain(&mut self, text: String) {
        self.complaints.push(text);
    }

    /// The other device's session, if a fault touches this one alone; one that ends touches all who share it.
    pub(super) fn live_neighbours(&self, event: Event) -> Vec<Place> {
        match event {
            Event::Detach(device) | Event::Steal(device) | Event::DetachBack(device) | Event::End(device) => {
                let others = (0..self.callers.len()).filter(|other| *other != device);
                let state = self.hub.state();
                let its = if matches!(event, Event::End(_)) {
                    state.sessions_of(DEVICES[device])
                } else {
                    Vec::new()
                };
                others
                    .flat_map(|other| state.sessions_of(DEVICES[other]))
                    .filter(|place| !its.contains(place))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// A fault of one device does not close the other's session.
    pub(super) fn check_neighbours(&mut self, event: Event, before: &[Place]) {
        let live = self.live_neighbours(event);
        if let Some(place) = before.iter().find(|place| !live.contains(place)) {
            self.complain(format!("{} cost the other device its session at {place:?}", event.name()));
        }
    }

    /// What holds after every event: one session for each device, one verdict for each message and the right one, no
    /// send beyond its time, no more keepers than wishes, and one link for each wish.
    pub(super) fn check(&mut self) {
        for (device, name) in DEVICES.iter().enumerate().take(self.callers.len()) {
            self.hub.state().check_one_session(name);
            self.check_sends(device);
        }
        let wished = self.callers.iter().filter(|caller| caller.wished.any()).count();
        let status = self.client.status();
        if self.leaving.is_none() && (status.kept > wished || status.attached > self.callers.len()) {
            self.complain(format!("{wished} devices are wished, but the client says {status:?}"));
        }
        if status.devices > self.callers.len() {
            self.complain(format!("more seats than devices: {status:?}"));
        }
        if let Some((since, task)) = &self.leaving
            && !task.is_finished()
            && since.elapsed() > CLOSE_BOUND
        {
            self.complain(format!("closing takes {:?}", since.elapsed()));
        }
    }

    fn check_sends(&mut self, device: usize) {
        let sending = std::mem::take(&mut self.callers[device].sending);
        for mut one in sending {
            let accepted = self.hub.state().accepted.get(&one.id).copied().unwrap_or_default();
            if accepted > 1 {
                self.complain(format!("{} was accepted {accepted} times", one.id));
            }
            if !one.task.is_finished() {
                if accepted > 0 {
                    self.complain(format!("{} was accepted, but its caller is not told", one.id));
                }
                if one.since.elapsed() > SEND_BOUND {
                    self.complain(format!("{} has no verdict after {:?}", one.id, one.since.elapsed()));
                }
                self.callers[device].sending.push_back(one);
                continue;
            }
            let verdict = (&mut one.task).now_or_never();
            self.hub.state().note(format!("   {} is {verdict:?}", one.id));
            match verdict {
                Some(Ok(Ok(()))) if accepted == 0 => {
                    self.complain(format!("{} is reported as sent, but was not accepted", one.id))
                }
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) if accepted > 0 => {
                    self.complain(format!("{} was accepted, but failed with {error}", one.id))
                }
                Some(Ok(Err(_))) => {}
                Some(Err(error)) => self.complain(format!("{} ended with {error}", one.id)),
                None => self.complain(format!("{} has no verdict", one.id)),
            }
        }
    }

    /// The hub is well again: all must come to rest, then everything is taken back, and nothing may remain.
    pub(super) async fn heal(&mut self) {
        self.hub.state().note("the hub is well again".to_owned());
        self.hub.state().heal();
        self.settle("every message has its verdict", SEND_BOUND, |world| {
            world.callers.iter().all(|caller| caller.sending.is_empty())
        })
        .await;
        if self.leaving.is_none() {
            self.serve_again().await;
            self.check_idle().await;
            if self.sound() {
                self.act(Event::Leave).await;
            }
        }
        self.settle("the client is closed", CLOSE_BOUND + Duration::from_secs(2), |world| {
            world.leaving.as_ref().is_none_or(|(_, task)| task.is_finished())
        })
        .await;
        self.settle("no task is left", Duration::from_secs(60), |world| {
            Handle::current().metrics().num_alive_tasks() <= world.ours
        })
        .await;
        let Status { connections, devices, kept, attached, .. } = self.client.status();
        if self.sound() && (connections, devices, kept, attached) != (0, 0, 0, 0) {
            let status = self.client.status();
            self.complain(format!("the client is closed, but says {status:?}"));
        }
        let state = self.hub.state();
        let open = state.connections.iter().filter(|one| one.out.is_some() && !one.mute).count();
        drop(state);
        if self.sound() && open > 0 {
            self.complain(format!("{open} connections are open after close"));
        }
    }

    /// Every device can send again, and those that were wished have their links, each once.
    async fn serve_again(&mut self) {
        for (device, name) in DEVICES.iter().enumerate().take(self.callers.len()) {
            let wished = self.callers[device].wished;
            if device == 0 && !wished.any() {
                self.wish(device, LESS);
            }
            let until = Instant::now() + HEAL_BOUND;
            loop {
                if !self.sound() {
                    return;
                }
                self.send(device);
                let id = self.callers[device].sending.back().map(|one| one.id.clone()).unwrap_or_default();
                self.settle("a message after healing has its verdict", SEND_BOUND, |world| {
                    world.callers[device].sending.is_empty()
                })
                .await;
                if self.hub.state().accepted.contains_key(&id) {
                    break;
                }
                if Instant::now() > until {
                    return self.complain(format!("{name} can't send after healing"));
                }
                self.pass(Duration::from_secs(5)).await;
            }
        }
        self.settle("wished links are attached", HEAL_BOUND, |world| {
            let wished = world.callers.iter().filter(|caller| caller.wished.any()).count();
            world.client.status().attached == wished
                && (0..world.callers.len()).all(|d| world.is_fulfilled(d))
        })
        .await;
    }

    fn is_fulfilled(&self, device: usize) -> bool {
        let wished = self.callers[device].wished;
        let at = |node: &str| self.link(device, node).is_some();
        (at(TELEMETRY) || !wished.any())
            && at(BACK) == wished.c2d
            && at("/methods/devicebound") == wished.methods
            && at("/twin") == wished.twin
    }

    /// When nobody wants anything, every session and seat is given back, and the connection closed.
    async fn check_idle(&mut self) {
        if !self.sound() {
            return;
        }
        for device in 0..self.callers.len() {
            self.wish(device, Links::NONE);
        }
        self.settle("all is given back", IDLE * 4, |world| {
            let Status { connections, devices, kept, attached, .. } = world.client.status();
            let sessions = |device: usize| world.hub.state().sessions_of(DEVICES[device]).len();
            (connections, devices, kept, attached) == (0, 0, 0, 0)
                && (0..world.callers.len()).all(|device| sessions(device) == 0)
        })
        .await;
    }

    /// Waits until something holds; complains if it does not within the bound.
    async fn settle(&mut self, what: &str, bound: Duration, holds: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        let mut pause = Duration::from_millis(10);
        while self.sound() && !holds(self) {
            if since.elapsed() > bound {
                let status = self.client.status();
                return self.complain(format!("after {bound:?} it does not hold that {what}: {status:?}"));
            }
            self.pass(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}
