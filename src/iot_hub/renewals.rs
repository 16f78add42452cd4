//! Renews the tokens of one connection in time, with all links open.
//!
//! One task per connection, however many devices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::device::SlotRef;
use super::error::{RetryReason, SendError, Trouble};
use super::shared::Shared;
use super::token::{Life, Subject};

/// When nothing is due, look again after this long.
const IDLE: Duration = Duration::from_secs(3600);

/// A token that the hub has taken; renewed as long as somebody holds it.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) subject: Subject,
    /// Whose session ends when the hub takes no new token; for a policy the whole connection.
    pub(super) slot: Option<SlotRef>,
}

#[derive(Debug)]
struct Due {
    grant: Weak<Grant>,
    life: Life,
}

/// What is due when.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    due: Mutex<BTreeMap<(Instant, u64), Due>>,
    changed: Notify,
}

impl Renewals {
    /// Takes care of a token put just now, for as long as the grant is held.
    pub(super) fn add(&self, grant: &Arc<Grant>, life: Life) {
        self.insert(Due { grant: Arc::downgrade(grant), life });
        self.changed.notify_one();
    }

    fn insert(&self, due: Due) {
        let mut all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let number = all.range((due.life.renew, 0)..=(due.life.renew, u64::MAX)).next_back();
        let number = number.map_or(0, |((_, number), _)| number + 1);
        all.insert((due.life.renew, number), due);
    }

    /// A grant for somebody else, if there is one.
    pub(super) fn any_but(&self, subject: &Subject) -> Option<Arc<Grant>> {
        let all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut grants = all.values().filter_map(|due| due.grant.upgrade());
        grants.find(|grant| !grant.subject.is_same(subject))
    }

    fn next(&self) -> Instant {
        let all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        all.first_key_value().map_or_else(|| Instant::now() + IDLE, |((at, _), _)| *at)
    }

    fn take_due(&self, now: Instant) -> Option<(Arc<Grant>, Life)> {
        let mut all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let first = all.first_entry().filter(|first| first.key().0 <= now)?;
            let due = first.remove();
            if let Some(grant) = due.grant.upgrade() {
                return Some((grant, due.life));
            }
        }
    }
}

/// Renews until the connection is lost.
pub(super) async fn run(connection: Arc<Connection>, shared: Arc<Shared>) {
    let renewals = &connection.renewals;
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < shared.options.puts_in_flight() {
            let Some((grant, life)) = renewals.take_due(Instant::now()) else { break };
            running.push(renew(&connection, &shared, grant, life));
        }
        let has_room = running.len() < shared.options.puts_in_flight();
        tokio::select! {
            biased;
            () = connection.lost().cancelled() => return,
            Some(()) = running.next(), if !running.is_empty() => {}
            () = renewals.changed.notified() => {}
            () = sleep_until(renewals.next()), if has_room => {}
        }
    }
}

async fn renew(connection: &Connection, shared: &Shared, grant: Arc<Grant>, life: Life) {
    let options = &shared.options;
    // Counted from before the token is signed, so that we are never later than the hub.
    let next = Life::starting_now(options.token_lifetime);
    let error = match connection.authorize(&grant.subject, options).await {
        Ok(()) => return connection.renewals.add(&grant, next),
        Err(refused) => refused.error(),
    };
    if let (SendError::Retry { .. }, Some(life)) = (&error, life.again(options.token_lifetime)) {
        tracing::debug!(hub = %connection.hub, %error, "renewing a token failed and will be tried again");
        return connection.renewals.add(&grant, life);
    }
    match &grant.slot {
        Some(slot) => {
            tracing::warn!(hub = %connection.hub, device = %slot.device_id(), %error,
                "the hub takes no new token of a device; its session is closed");
            slot.release(shared);
        }
        None => {
            tracing::warn!(hub = %connection.hub, %error,
                "the hub takes no new token of the policy; the connection is closed");
            connection.give_up(policy_refused(error));
        }
    }
}

/// What every device of a policy is told when the hub refuses the policy's token. No device is to blame, and a right key
/// cures it: their messages wait. Only those of this policy do, for others may reach the same hub with keys of their own.
pub(super) fn policy_refused(error: SendError) -> SendError {
    match error {
        SendError::Retry { .. } => error,
        SendError::Reresolve { detail, .. } | SendError::Park { detail, .. } => SendError::Retry {
            reason: RetryReason::Token,
            detail: format!(
                "the hub refuses the policy's token; check its name and key in the connection string: {detail}"
            ),
            after: None,
            trouble: Trouble::Device,
        },
    }
}
