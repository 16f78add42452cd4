//! How a fault reaches the links and sessions of a connection: each holds a line that can be cut from outside.
//!
//! Knows no fault's time; says only who goes, and with which words.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::refusal::Refusal;
use crate::emulator::FaultKind;

/// What a link carries, as faults tell links apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    CbsRequests,
    CbsReplies,
    Telemetry,
    CloudMessages,
    MethodCalls,
    MethodAnswers,
    TwinRequests,
    TwinReplies,
}

impl Way {
    /// The fault that takes such a link away.
    pub(super) const fn fault(self) -> FaultKind {
        match self {
            Self::CbsRequests => FaultKind::KillAmqpCbsLinkReq,
            Self::CbsReplies => FaultKind::KillAmqpCbsLinkResp,
            Self::Telemetry => FaultKind::KillAmqpD2cLink,
            Self::CloudMessages => FaultKind::KillAmqpC2dLink,
            Self::MethodCalls => FaultKind::KillAmqpMethodReqLink,
            Self::MethodAnswers => FaultKind::KillAmqpMethodRespLink,
            Self::TwinRequests => FaultKind::KillAmqpTwinLinkReq,
            Self::TwinReplies => FaultKind::KillAmqpTwinLinkResp,
        }
    }
}

/// Whom a line belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Session,
    /// A link of `$cbs`.
    Node(Way),
    Device(Way, String),
}

/// Session and holder, and who tells them.
type Lines = HashMap<(u64, Holder), watch::Sender<Option<Refusal>>>;

/// The lines of one connection.
#[derive(Debug, Default)]
pub(super) struct Lifelines(Mutex<Lines>);

impl Lifelines {
    /// The line of a session.
    pub(super) fn of_session(self: &Arc<Self>, session: u64) -> Lifeline {
        self.hold((session, Holder::Session))
    }

    /// The line of a link that belongs to no device.
    pub(super) fn of_node(self: &Arc<Self>, session: u64, way: Way) -> Lifeline {
        self.hold((session, Holder::Node(way)))
    }

    /// The line of a device's link.
    pub(super) fn of_device(self: &Arc<Self>, session: u64, way: Way, device: &str) -> Lifeline {
        self.hold((session, Holder::Device(way, device.to_owned())))
    }

    /// Takes the links of a kind that belong to no device away.
    pub(super) fn cut_nodes(&self, way: Way, why: &Refusal) {
        self.cut(why, |(_, holder)| *holder == Holder::Node(way));
    }

    /// Takes a device's links away: those of one kind, or all.
    pub(super) fn cut_device(&self, device: &str, only: Option<Way>, why: &Refusal) {
        self.cut(why, |(_, holder)| match holder {
            Holder::Device(way, id) => id == device && only.is_none_or(|only| only == *way),
            Holder::Session | Holder::Node(_) => false,
        });
    }

    /// Ends the sessions on which a device has links.
    pub(super) fn cut_sessions_of(&self, device: &str, why: &Refusal) {
        let of_device = |(session, holder): &(u64, Holder)| match holder {
            Holder::Device(_, id) if id == device => Some(*session),
            Holder::Device(..) | Holder::Session | Holder::Node(_) => None,
        };
        let sessions: Vec<u64> = self.lock().keys().filter_map(of_device).collect();
        for session in sessions {
            self.cut_session(session, why);
        }
    }

    /// Ends one session.
    pub(super) fn cut_session(&self, session: u64, why: &Refusal) {
        self.cut(why, |key| *key == (session, Holder::Session));
    }

    fn cut(&self, why: &Refusal, whose: impl Fn(&(u64, Holder)) -> bool) {
        // Out of the table, so that what is attached next gets a line of its own.
        for (_, line) in self.lock().extract_if(|key, _| whose(key)) {
            _ = line.send(Some(why.clone()));
        }
    }

    fn hold(self: &Arc<Self>, key: (u64, Holder)) -> Lifeline {
        let mut lines = self.lock();
        let line = lines.entry(key.clone()).or_insert_with(|| watch::channel(None).0);
        Lifeline { cut: line.subscribe(), lines: Arc::clone(self), key }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One link's or session's line; given back on drop.
#[derive(Debug)]
pub(super) struct Lifeline {
    cut: watch::Receiver<Option<Refusal>>,
    lines: Arc<Lifelines>,
    key: (u64, Holder),
}

impl Lifeline {
    /// Waits until it is cut, and says with which words.
    pub(super) async fn cut(&mut self) -> Refusal {
        // The table drops a sender only after it has sent why, or with the last line.
        match self.cut.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        // A line that was cut is out of the table; what is there now is another's.
        let ours = self.cut.has_changed().is_ok();
        let last = ours && lines.get(&self.key).is_some_and(|line| line.receiver_count() == 1);
        if last {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::{Lifeline, Lifelines, Way};
    use crate::emulator::amqp::refusal::Refusal;

    fn is_cut(line: &mut Lifeline) -> bool {
        line.cut().now_or_never().is_some()
    }

    #[test]
    fn a_cut_reaches_those_it_is_meant_for_and_nobody_else() {
        let lines = Arc::new(Lifelines::default());
        let why = Refusal::Forced("now".to_owned());
        let mut session = lines.of_session(1);
        let mut cbs = lines.of_node(1, Way::CbsRequests);
        let mut first = lines.of_device(1, Way::Telemetry, "a");
        let mut second = lines.of_device(1, Way::CloudMessages, "a");
        let mut other = lines.of_device(2, Way::Telemetry, "b");
        lines.cut_device("a", Some(Way::Telemetry), &why);
        assert!(is_cut(&mut first) && !is_cut(&mut second) && !is_cut(&mut other));
        let mut again = lines.of_device(1, Way::Telemetry, "a");
        assert!(!is_cut(&mut again), "what is attached anew has a line of its own");
        lines.cut_sessions_of("b", &why);
        assert!(!is_cut(&mut session), "b is on another one");
        lines.cut_sessions_of("a", &why);
        assert!(is_cut(&mut session) && !is_cut(&mut cbs));
        lines.cut_nodes(Way::CbsRequests, &why);
        lines.cut_device("b", None, &why);
        assert!(is_cut(&mut cbs) && is_cut(&mut other));
        drop((session, cbs, first, second, again, other));
        assert!(lines.lock().is_empty());
    }
}
