//! A session's handle, for one Attach or Detach and its answer at a time.
//!
//! The crate attaches links one after the other, and forgets that a link which the peer took away has let its number go:
//! a Detach of ours that comes late hits whichever link has the number by then, and with it the session. Nobody attaches
//! while a link is let go of, so no link can get that number.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fe2o3_amqp::session::SessionHandle;
use tokio::time::{Instant, timeout};

use super::safe_link::Loss;

/// After an Attach or Detach has been unanswered this long, nobody else waits for the session.
pub(super) const STUCK: Duration = Duration::from_secs(1);

/// An open session. Ends when dropped.
#[derive(Debug)]
pub(super) struct Turns {
    handle: tokio::sync::Mutex<SessionHandle<()>>,
    /// Since when somebody waits for an answer; for good once an Attach was given up, as that spoils the session.
    busy: Mutex<Option<Instant>>,
}

/// The session is one's own until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) handle: tokio::sync::MutexGuard<'a, SessionHandle<()>>,
    turns: &'a Turns,
    spoilt: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.spoilt {
            *self.turns.busy() = None;
        }
    }
}

impl Turn<'_> {
    /// An Attach was given up: its answer, should it come, ends the session.
    pub(super) fn spoil(mut self) {
        self.spoilt = true;
    }
}

impl Turns {
    pub(super) fn new(handle: SessionHandle<()>) -> Self {
        Self { handle: tokio::sync::Mutex::new(handle), busy: Mutex::default() }
    }

    /// Whether the session has ended; while it is busy, it has not been seen to.
    pub(super) fn is_ended(&self) -> bool {
        self.handle.try_lock().is_ok_and(|handle| handle.is_ended())
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_quiet(&self) -> bool {
        self.busy().is_none()
    }

    /// Whether an answer is overdue.
    pub(super) fn is_stuck(&self) -> bool {
        self.busy().is_some_and(|since| since.elapsed() >= STUCK)
    }

    /// Waits for the session, unless it is stuck. May be cancelled.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, Loss> {
        let mut lock = pin!(self.handle.lock());
        loop {
            match timeout(STUCK, &mut lock).await {
                _ if self.is_stuck() => return Err(Loss::Stuck),
                Ok(handle) => return Ok(self.begun(handle)),
                Err(_) => {}
            }
        }
    }

    /// Waits for the session however long it takes, to let go of a link. May be cancelled.
    pub(super) async fn last_turn(&self) -> Turn<'_> {
        self.begun(self.handle.lock().await)
    }

    fn begun<'a>(&'a self, handle: tokio::sync::MutexGuard<'a, SessionHandle<()>>) -> Turn<'a> {
        let mut busy = self.busy();
        let spoilt = busy.is_some();
        busy.get_or_insert_with(Instant::now);
        drop(busy);
        Turn { handle, turns: self, spoilt }
    }

    fn busy(&self) -> MutexGuard<'_, Option<Instant>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
