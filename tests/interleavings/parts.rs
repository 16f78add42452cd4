//! What the hub knows of one connection: its sessions, their links, and the answers that it owes.

use std::collections::BTreeMap;

use fe2o3_amqp_types::messaging::MessageId;
use fe2o3_amqp_types::performatives::Attach;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What can be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Begin,
    Attach,
    Credit,
    Put,
    Outcome,
    Detach,
    End,
    Twin,
}

/// An answer that the client waits for.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) kind: Kind,
    pub(super) place: Place,
    pub(super) since: Instant,
    /// Of the message that is answered.
    pub(super) id: Option<MessageId>,
    pub(super) delivery: u32,
    pub(super) operation: String,
}

/// Where in the hub. The serial tells a session from the next one on its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) connection: usize,
    pub(super) channel: u16,
    pub(super) serial: u64,
    pub(super) handle: u32,
}

#[derive(Debug, Default)]
pub(super) struct Connection {
    /// Dropped to cut the stream.
    pub(super) out: Option<mpsc::UnboundedSender<Vec<u8>>>,
    pub(super) opened: bool,
    /// We sent Close.
    pub(super) closing: bool,
    pub(super) mute: bool,
    /// When the client last sent an End that got no answer yet.
    pub(super) end_came: Option<Instant>,
    /// Why the client may well end it.
    pub(super) excuse: Option<&'static str>,
    pub(super) sessions: BTreeMap<u16, Session>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) serial: u64,
    pub(super) begun: bool,
    pub(super) ended_by_us: bool,
    pub(super) ended_by_client: bool,
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) next_out: u32,
    pub(super) next_in: u32,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) attach: Attach,
    pub(super) address: String,
    pub(super) from_client: bool,
    pub(super) attached: bool,
    pub(super) detached_by_us: bool,
    pub(super) detached_by_client: bool,
    /// Messages sent to the client, and up to which number it lets them come.
    pub(super) count: u32,
    pub(super) limit: u32,
}

impl Link {
    /// Whose it is; nobody's is a token link.
    pub(super) fn device(&self) -> Option<&str> {
        self.address.strip_prefix("/devices/").and_then(|rest| rest.split('/').next())
    }

    /// Whether messages may go over it.
    pub(super) fn is_open(&self) -> bool {
        self.attached && !self.detached_by_us && !self.detached_by_client
    }
}

impl Session {
    pub(super) fn is_live(&self) -> bool {
        !self.ended_by_us && !self.ended_by_client
    }

    /// Whether the device has a link on it that neither side took away.
    pub(super) fn serves(&self, device: &str) -> bool {
        let its =
            |link: &Link| link.device() == Some(device) && !link.detached_by_us && !link.detached_by_client;
        self.is_live() && self.links.values().any(its)
    }
}
