//! A delivery between the schedule and whoever carries it out: what starts, what comes back.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::window::Seat;
use crate::azure::HubAddress;
use crate::model::{EndDevice, Lane, Outcome};
use crate::spool::Seq;

/// One message of a lane. Small, because a backlog may hold millions.
#[derive(Debug)]
pub(super) struct Item {
    /// Its place in the spool.
    pub(super) seq: Seq,
    /// What is still in memory of it.
    pub(super) hot: Option<Box<Hot>>,
}

/// What a fresh message carries so that it need not be read back.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) received_ms: i64,
    pub(super) body: Option<Bytes>,
    pub(super) waiter: Option<oneshot::Sender<Outcome>>,
}

/// Where messages stand in line: those on their way to one place have a limit together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// At the hub where their device lives.
    Hub(HubAddress),
    /// Their device's hub is not known yet. Each application's (tenant and id) have a place of their own, for one
    /// may wait long for its DPS.
    Unknown(String, String),
}

impl Place {
    /// Where messages of `device` stand, which is known to be at `hub`.
    pub(super) fn new(device: &EndDevice, hub: Option<HubAddress>) -> Self {
        let unknown = || Self::Unknown(device.tenant().to_owned(), device.application_id().to_owned());
        hub.map_or_else(unknown, Self::Hub)
    }
}

/// A message to deliver now.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) lane: Lane,
    pub(super) item: Item,
    pub(super) place: Place,
    pub(super) probe: bool,
    /// Its place in the window, to be given back when the delivery ends.
    pub(super) seat: Seat,
}

/// How a delivery ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Sent, parked or skipped: the lane goes on with its next message.
    Finished {
        /// The hub that took the message or refused it for good, and so can be reached.
        answered: Option<HubAddress>,
    },
    /// Now it is known where the device lives: the message goes there in its turn.
    Resolved(HubAddress),
    /// Its hub refused the device, which now lives at this one: the message goes there in its turn.
    Moved(HubAddress),
    /// This device waits.
    RetryDevice {
        /// At least this long, if somebody asked for it.
        after: Option<Duration>,
    },
    /// The whole hub waits.
    RetryHub(HubAddress),
    /// The hub takes no more messages for a moment: this device's, or anybody's.
    Throttled(HubAddress),
    /// The messages of the hub's day are used up.
    QuotaUsedUp {
        hub: HubAddress,
        /// Until midnight UTC.
        resets_in: Duration,
    },
}

/// What the end of a delivery changed about a hub.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HubState {
    Down(HubAddress),
    Up(HubAddress),
    /// It refuses messages as too many, and gets them more slowly from now on.
    Throttled(HubAddress),
    /// It takes no more messages today.
    QuotaUsedUp(HubAddress),
    /// It takes messages again.
    QuotaBack(HubAddress),
}

/// What [`Schedule::finished`] needs back of a [`Start`].
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) lane: Lane,
    pub(super) place: Place,
    pub(super) probe: bool,
    pub(super) seat: Seat,
}

impl Start {
    /// Splits off what the schedule needs when the delivery ends.
    pub(super) fn into_parts(self) -> (Ticket, Item) {
        let Self { lane, item, place, probe, seat } = self;
        (Ticket { lane, place, probe, seat }, item)
    }
}
