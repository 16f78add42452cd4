//! Faults as they meet one connection: what begins while it is open, and what it runs into while a fault lasts.

use std::collections::HashSet;
use std::sync::Arc;

use fe2o3_amqp_types::definitions::{ConnectionError, Error};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::lifelines::Way;
use super::refusal::Refusal;
use super::wire::{Pace, WireControl};
use crate::emulator::faults::Begun;
use crate::emulator::presence::Cut;
use crate::emulator::{Fault, FaultKind, Hub};

/// How a fault ends a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Without a word.
    Cut,
    /// With a close, and an error if there is one.
    Close(Option<Error>),
}

/// A connection's look-out.
#[derive(Debug)]
pub(super) struct Strikes {
    connection: Arc<Connection>,
    control: WireControl,
    changes: watch::Receiver<u64>,
    opened: Instant,
    /// Faults that have struck already.
    seen: HashSet<u64>,
}

impl Strikes {
    pub(super) fn new(connection: Arc<Connection>, control: WireControl) -> Self {
        let changes = connection.hub.faults.changes();
        Self { connection, control, changes, opened: Instant::now(), seen: HashSet::new() }
    }

    /// Lets faults strike as they begin, until one ends the connection. May be cancelled.
    pub(super) async fn until_end(&mut self) -> Ending {
        loop {
            self.changes.borrow_and_update();
            let now = Instant::now();
            let (begun, next) = self.connection.hub.faults.begun(now);
            self.seen.retain(|id| begun.iter().any(|fault| fault.id == *id));
            let mut pace = Pace::Free;
            for Begun { id, fault, begins, ends } in &begun {
                let here = self.meets(fault);
                if here && *ends > now {
                    pace = pace.max(pace_of(fault.kind));
                }
                let first = self.seen.insert(*id);
                if first && here && (self.opened <= *begins || now < *ends) {
                    strike(&self.connection, fault);
                }
            }
            self.control.set_pace(pace);
            if let Some(ending) = self.connection.take_ending() {
                return ending;
            }
            tokio::select! {
                () = self.connection.poked() => {}
                _ = self.changes.changed() => {}
                () = until(next) => {}
            }
        }
    }

    /// Whether a device of the fault's is on this connection.
    fn meets(&self, fault: &Fault) -> bool {
        match &fault.device {
            Some(device) => self.connection.holds(device),
            None => true,
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => sleep_until(next).await,
        None => std::future::pending().await,
    }
}

fn pace_of(kind: FaultKind) -> Pace {
    if kind == FaultKind::Silence {
        Pace::Silent
    } else if kind == FaultKind::SlowReads {
        Pace::Slow
    } else {
        Pace::Free
    }
}

/// Does what a fault does when it begins.
fn strike(connection: &Arc<Connection>, fault: &Fault) {
    let text = fault.text();
    let devices = match &fault.device {
        Some(device) => vec![device.clone()],
        None => connection.devices(),
    };
    let links = |way: Way| {
        for device in &devices {
            connection.lifelines.cut_device(device, Some(way), &Refusal::Forced(text.clone()));
        }
    };
    match fault.kind {
        FaultKind::KillTcp | FaultKind::HubDown => connection.end(Ending::Cut),
        FaultKind::KillAmqpConnection => connection.end(Ending::Close(Some(forced(text)))),
        FaultKind::ShutDownAmqp => connection.end(Ending::Close(None)),
        FaultKind::KillAmqpSession => {
            for device in &devices {
                connection.lifelines.cut_sessions_of(device, &Refusal::Internal(text.clone()));
            }
        }
        FaultKind::KillAmqpCbsLinkReq => {
            connection.lifelines.cut_nodes(Way::CbsRequests, &Refusal::Forced(text));
        }
        FaultKind::KillAmqpCbsLinkResp => {
            connection.lifelines.cut_nodes(Way::CbsReplies, &Refusal::Forced(text));
        }
        FaultKind::KillAmqpD2cLink => links(Way::Telemetry),
        FaultKind::KillAmqpC2dLink => links(Way::CloudMessages),
        FaultKind::KillAmqpTwinLinkReq => links(Way::TwinRequests),
        FaultKind::KillAmqpTwinLinkResp => links(Way::TwinReplies),
        FaultKind::KillAmqpMethodReqLink => links(Way::MethodCalls),
        FaultKind::KillAmqpMethodRespLink => links(Way::MethodAnswers),
        FaultKind::InvokeAuthError => {
            for device in &devices {
                connection.lifelines.cut_device(device, None, &Refusal::Unauthorized(text.clone()));
            }
        }
        FaultKind::StealLinks => {
            for device in &devices {
                connection.hub.cut_device(device, Cut::Stolen);
            }
        }
        FaultKind::ExpireTokens => connection.expire_tokens_of(fault.device.as_deref()),
        // Met by messages and by the pace; the move is made when it is asked for.
        FaultKind::InvokeThrottling
        | FaultKind::InvokeMaxMessageQuota
        | FaultKind::Silence
        | FaultKind::SlowReads
        | FaultKind::HubMoved => {}
    }
}

fn forced(text: String) -> Error {
    Error::new(ConnectionError::ConnectionForced, text, None)
}

/// Whether a lasting fault refuses a device a link.
///
/// # Errors
/// The words for the peer.
pub(super) fn may_attach(hub: &Hub, device: &str, way: Way) -> Result<(), Refusal> {
    match hub.verdict(device, &[FaultKind::InvokeAuthError, way.fault()]) {
        None => Ok(()),
        Some(verdict) if verdict.kind == FaultKind::InvokeAuthError => {
            Err(Refusal::Unauthorized(verdict.text))
        }
        Some(verdict) => Err(Refusal::Forced(verdict.text)),
    }
}

/// Lets a lasting fault strike anew that a device meets by attaching a link, which is let in before.
pub(super) fn attached(connection: &Connection, device: &str, session: u64) {
    let lasts = |kind: FaultKind| connection.hub.verdict(device, &[kind]);
    if lasts(FaultKind::StealLinks).is_some() {
        connection.hub.cut_device(device, Cut::Stolen);
    }
    if let Some(verdict) = lasts(FaultKind::KillAmqpSession) {
        connection.lifelines.cut_session(session, &Refusal::Internal(verdict.text));
    }
    if lasts(FaultKind::KillTcp).is_some() {
        connection.end(Ending::Cut);
    } else if let Some(verdict) = lasts(FaultKind::KillAmqpConnection) {
        connection.end(Ending::Close(Some(forced(verdict.text))));
    } else if lasts(FaultKind::ShutDownAmqp).is_some() {
        connection.end(Ending::Close(None));
    } else if lasts(FaultKind::Silence).or_else(|| lasts(FaultKind::SlowReads)).is_some() {
        // The look-out sets the pace.
        connection.poke();
    }
}

/// Lets a lasting fault strike anew that is met by putting a token of `device`.
pub(super) fn token_put(connection: &Connection, device: &str) {
    for way in [Way::CbsRequests, Way::CbsReplies] {
        if let Some(verdict) = connection.hub.verdict(device, &[way.fault()]) {
            connection.lifelines.cut_nodes(way, &Refusal::Forced(verdict.text));
        }
    }
}
