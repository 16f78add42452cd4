//! Where replies of a request node go: the links on which the peer listens, found by address or session.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::Value;
use tokio::sync::{mpsc, watch};

/// A reply on its way.
pub(super) type Reply = Message<Body<Value>>;

/// Replies that wait for credit on one link; then its requests wait too.
const WAITING: usize = 64;

/// The reply links of one node (`$cbs` or `$management`) on one connection.
#[derive(Debug)]
pub(super) struct Outlets {
    open: Mutex<Vec<Outlet>>,
    changed: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
struct Outlet {
    number: u64,
    session: u64,
    /// Target address of the peer's receiver; requests name it as `reply-to`.
    address: Option<String>,
    replies: mpsc::Sender<Reply>,
}

impl Default for Outlets {
    fn default() -> Self {
        Self { open: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Outlets {
    /// Opens an outlet for a reply link; it closes when the receiver is dropped.
    pub(super) fn open(&self, session: u64, address: Option<String>) -> mpsc::Receiver<Reply> {
        let (replies, waiting) = mpsc::channel(WAITING);
        let mut open = self.lock();
        open.retain(|outlet| !outlet.replies.is_closed());
        let number = open.last().map_or(0, |last| last.number + 1);
        open.push(Outlet { number, session, address, replies });
        drop(open);
        self.changed.send_modify(|count| *count += 1);
        waiting
    }

    /// Waits until there is a link to reply on.
    pub(super) async fn ready(&self) {
        let mut changed = self.changed.subscribe();
        while self.lock().iter().all(|outlet| outlet.replies.is_closed()) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands a reply to the link that asked for it; it is dropped if there is none any more.
    pub(super) async fn reply(&self, session: u64, reply_to: Option<&str>, reply: Reply) {
        let outlet = {
            let mut open = self.lock();
            open.retain(|outlet| !outlet.replies.is_closed());
            choose(&open, session, reply_to).cloned()
        };
        if let Some(outlet) = outlet {
            _ = outlet.replies.send(reply).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Outlet>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The best fit: the address asked for, then the request's own session, then the newest.
fn choose<'o>(open: &'o [Outlet], session: u64, reply_to: Option<&str>) -> Option<&'o Outlet> {
    open.iter().max_by_key(|outlet| {
        let named = reply_to.is_some() && outlet.address.as_deref() == reply_to;
        (named && outlet.session == session, named, outlet.session == session, outlet.number)
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::{Outlet, choose};

    #[test]
    fn a_reply_goes_to_the_named_address_then_to_its_session_then_to_the_newest() {
        let outlet = |number, session, address: Option<&str>| Outlet {
            number,
            session,
            address: address.map(str::to_owned),
            replies: mpsc::channel(1).0,
        };
        let open =
            [outlet(0, 1, Some("a")), outlet(1, 1, Some("b")), outlet(2, 2, Some("a")), outlet(3, 3, None)];
        let number = |session, reply_to| choose(&open, session, reply_to).map(|outlet| outlet.number);
        assert_eq!(number(1, Some("a")), Some(0));
        assert_eq!(number(9, Some("b")), Some(1));
        assert_eq!(number(2, Some("cbs")), Some(2), "Node names a reply-to that is no address");
        assert_eq!(number(1, None), Some(1));
        assert_eq!(number(9, None), Some(3));
        assert!(choose(&[], 1, None).is_none());
    }
}
