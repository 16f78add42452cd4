//! The loop between the spool and the hubs: takes records in, starts what may start, learns how it ended.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::deliver::Deliverer;
use super::delivery::{HubState, Item, Ticket, Verdict};
use super::ports::{Devices, Downlinks, Hubs, Observer, Records};
use super::schedule::Schedule;
use crate::azure::HubAddress;
use crate::config::TelemetryFormat;
use crate::model::{Backoff, Clock, EndDevice, Lane};
use crate::spool::{Claim, Pending};

/// After a stop, deliveries are begun in this part of the grace period only. The rest is for their answers: what a hub
/// has taken without our knowing is sent again.
const BEGIN_SHARE: u32 = 2;
/// Between two looks at the hubs' limits, for metrics.
const TELL_EACH: Duration = Duration::from_secs(1);

/// How the pump behaves.
#[derive(Clone, Debug)]
pub struct PumpOptions {
    /// Waits of one device between tries.
    pub backoff: Backoff,
    /// Messages on their way to one hub at once.
    pub max_in_flight: usize,
    /// The shape of telemetry.
    pub format: TelemetryFormat,
    /// Messages a second for one hub at most, as its tier allows; `None`: learnt from its answers.
    pub rate: Option<f64>,
    /// Tells the time for latency.
    pub clock: Clock,
}

/// Moves records of one claim to the hubs.
#[derive(Debug)]
pub struct Pump<R, D, H, O, L> {
    deliverer: Arc<Deliverer<R, D, H, O, L>>,
    schedule: Schedule,
    deliveries: JoinSet<(Ticket, Option<Item>, Verdict)>,
    hub_up: broadcast::Receiver<HubAddress>,
    /// When the hubs' limits were told last.
    told: Instant,
}

impl<R: Records, D: Devices, H: Hubs, O: Observer, L: Downlinks> Pump<R, D, H, O, L> {
    /// A pump at rest. `hub_up` names each hub that can be reached again.
    pub fn new(
        records: R,
        devices: D,
        hubs: H,
        observer: O,
        downlinks: L,
        hub_up: broadcast::Receiver<HubAddress>,
        options: PumpOptions,
    ) -> Self {
        let PumpOptions { backoff, max_in_flight, rate, format, clock } = options;
        Self {
            deliverer: Arc::new(Deliverer { records, devices, hubs, observer, downlinks, format, clock }),
            schedule: Schedule::new(backoff, max_in_flight, rate),
            deliveries: JoinSet::new(),
            hub_up,
            told: Instant::now(),
        }
    }

    /// Runs until the claim ends or `stop` fires. After `stop`, what can be sent at once still is, for at most half of
    /// `grace`; what waits stays in the spool. Deliveries under way are then waited for until `grace` ends.
    ///
    /// Waits on: records from the claim, deliveries that end, hubs that come back, the next due time, `stop`.
    pub async fn run(mut self, claim: Claim, stop: CancellationToken, grace: Duration) {
        // Kept across turns: begun anew at each, a read of the backlog would never end while deliveries do.
        let mut next = Box::pin(next_of(claim));
        let (mut claim_open, mut hub_up_open) = (true, true);
        while claim_open || self.schedule.in_flight() > 0 {
            self.start();
            tokio::select! {
                () = stop.cancelled() => break,
                (claim, batch) = &mut next, if claim_open => match batch {
                    Some(batch) => {
                        self.take(batch);
                        next.set(next_of(claim));
                    }
                    None => claim_open = false,
                },
                Some(ended) = self.deliveries.join_next() => self.ended(ended),
                up = self.hub_up.recv(), if hub_up_open => match up {
                    Ok(address) => self.on_hub_up(&address),
                    // The hubs missed are found by their probes.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => hub_up_open = false,
                },
                () = sleep_until(self.schedule.next_due()) => self.wake(),
            }
        }
        let begin_until = Instant::now() + grace / BEGIN_SHARE;
        if tokio::time::timeout(grace, self.drain(begin_until)).await.is_err() {
            let left = self.schedule.in_flight();
            warn!(
                in_flight = left,
                "Some deliveries were still without an answer at the end of the grace period; they will be sent again."
            );
        }
    }

    async fn drain(&mut self, begin_until: Instant) {
        self.start();
        while let Some(ended) = self.deliveries.join_next().await {
            self.ended(ended);
            if Instant::now() < begin_until {
                self.start();
            }
        }
    }

    fn start(&mut self) {
        let devices = &self.deliverer.devices;
        let starts = self.schedule.start(Instant::now(), |device| hub_of(devices, device));
        for start in starts {
            let (ticket, item) = start.into_parts();
            let deliverer = Arc::clone(&self.deliverer);
            self.deliveries.spawn(async move {
                let seq = item.seq;
                let delivery = deliverer.deliver(&ticket.lane, item, &ticket.place);
                let delivery = AssertUnwindSafe(delivery).catch_unwind();
                let (item, verdict) = delivery.await.unwrap_or_else(|_| {
                    let device = &ticket.lane.device;
                    error!(%device, seq = seq.0, "A delivery panicked, a bug; its message is read again and tried later.");
                    (Some(Item { seq, hot: None }), Verdict::RetryDevice { after: None })
                });
                (ticket, item, verdict)
            });
        }
    }

    fn take(&mut self, batch: Vec<Pending>) {
        for pending in batch {
            let Some(lane) = Lane::from_key(&pending.lane) else {
                // A lane without a name was emptied while the backlog was read; any other text is damage.
                if !pending.lane.is_empty() {
                    error!(
                        seq = pending.seq.0,
                        "A stored message has an unreadable lane; it stays in the spool."
                    );
                }
                continue;
            };
            let devices = &self.deliverer.devices;
            let device = lane.device.clone();
            self.schedule.push(lane, pending, || hub_of(devices, &device));
        }
    }

    fn ended(&mut self, ended: Result<(Ticket, Option<Item>, Verdict), tokio::task::JoinError>) {
        match ended {
            Ok((ticket, item, verdict)) => {
                let devices = &self.deliverer.devices;
                let device = ticket.lane.device.clone();
                let change = self
                    .schedule
                    .finished(ticket, item, verdict, Instant::now(), || hub_of(devices, &device));
                self.tell_limits(change.is_some());
                if let Some(change) = change {
                    report(change);
                }
            }
            // Panics are caught inside, and nobody aborts a delivery while the pump runs.
            Err(error) => {
                error!(%error, "A delivery ended abnormally; its device waits until the next restart.")
            }
        }
    }

    fn tell_limits(&mut self, now: bool) {
        if now || self.told.elapsed() >= TELL_EACH {
            self.told = Instant::now();
            for (hub, limits) in self.schedule.hub_limits() {
                self.deliverer.observer.limited(hub, limits);
            }
        }
    }

    fn on_hub_up(&mut self, hub: &HubAddress) {
        if self.schedule.hub_up(hub) {
            info!(%hub, "The hub can be reached again.");
        }
    }

    fn wake(&mut self) {
        let devices = &self.deliverer.devices;
        self.schedule.wake(Instant::now(), |device| hub_of(devices, device));
    }
}

fn report(change: HubState) {
    match change {
        HubState::Down(hub) => warn!(%hub, "The hub can't be reached; its messages wait in the spool."),
        HubState::Up(hub) => info!(%hub, "The hub takes messages again."),
        HubState::Throttled(hub) => {
            warn!(%hub, "The hub takes fewer messages than come in; it gets them more slowly, and the rest wait in the spool.");
        }
        HubState::QuotaUsedUp(hub) => error!(
            %hub,
            "The hub's messages of this day are used up; all wait in the spool until midnight UTC, or until it has more units."
        ),
        HubState::QuotaBack(hub) => info!(%hub, "The hub has messages left again."),
    }
}

fn hub_of(devices: &impl Devices, device: &EndDevice) -> Option<HubAddress> {
    devices.cached(device).map(|hub_device| hub_device.hub.clone())
}

async fn next_of(mut claim: Claim) -> (Claim, Option<Vec<Pending>>) {
    let batch = claim.next().await;
    (claim, batch)
}

/// Never returns when nothing is due.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
