//! A session's handle, and who attaches or detaches on it now.
//!
//! The crate attaches links one after the other. And it forgets that a link which the peer took away has given its number
//! back: a Detach of ours that comes late hits whichever link has the number by then, and with it the session. So nobody
//! begins to attach while a link is let go of.

use std::time::Duration;

use fe2o3_amqp::session::SessionHandle;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::time::{Instant, sleep_until};

use super::safe_link::Loss;

/// After an Attach or Detach has been unanswered this long, nobody else waits for the session.
pub(super) const STUCK: Duration = Duration::from_secs(1);

/// An open session. Ends when dropped.
#[derive(Debug)]
pub(super) struct Turns {
    handle: Mutex<SessionHandle<()>>,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Since when an Attach waits for its answer.
    attaching: Option<Instant>,
    /// Links that are let go of, and since when there are any.
    detaching: usize,
    detaching_since: Option<Instant>,
    /// An Attach or Detach was given up: its answer, should it come, could hit another link or end the session.
    spoilt: bool,
}

impl State {
    fn is_stuck(&self) -> bool {
        let since = self.attaching.or(self.detaching_since);
        self.spoilt || since.is_some_and(|since| since.elapsed() >= STUCK)
    }
}

/// The right to attach, until this is dropped.
#[derive(Debug)]
pub(super) struct Attaching<'a> {
    pub(super) handle: MutexGuard<'a, SessionHandle<()>>,
    _turn: Turn<'a>,
}

#[derive(Debug)]
struct Turn<'a>(&'a Turns);

/// The right to let go of a link, until this is dropped.
#[derive(Debug)]
pub(super) struct Detaching<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.attaching = None);
    }
}

impl Drop for Detaching<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| {
            state.detaching -= 1;
            if state.detaching == 0 {
                state.detaching_since = None;
            }
        });
    }
}

impl Turns {
    pub(super) fn new(handle: SessionHandle<()>) -> Self {
        Self { handle: Mutex::new(handle), state: watch::Sender::default() }
    }

    /// Whether the session has ended; while somebody attaches, it has not been seen to.
    pub(super) fn is_ended(&self) -> bool {
        self.handle.try_lock().is_ok_and(|handle| handle.is_ended())
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state.borrow();
        state.attaching.is_none() && state.detaching == 0 && !state.spoilt
    }

    /// Whether an answer is overdue.
    pub(super) fn is_stuck(&self) -> bool {
        self.state.borrow().is_stuck()
    }

    /// An Attach or Detach is given up.
    pub(super) fn spoil(&self) {
        self.state.send_modify(|state| state.spoilt = true);
    }

    /// Waits for one's turn to attach, unless the session is stuck. May be cancelled.
    pub(super) async fn attach(&self) -> Result<Attaching<'_>, Loss> {
        let mut changed = self.state.subscribe();
        loop {
            let mut stuck = false;
            let begun = self.state.send_if_modified(|state| {
                stuck = state.is_stuck();
                let free = state.attaching.is_none() && state.detaching == 0;
                if free && !stuck {
                    state.attaching = Some(Instant::now());
                }
                free && !stuck
            });
            if stuck {
                return Err(Loss::Stuck);
            }
            if begun {
                let _turn = Turn(self);
                return Ok(Attaching { handle: self.handle.lock().await, _turn });
            }
            self.changes(&mut changed).await;
        }
    }

    /// Waits until a link may be let go of: nobody attaches, or has just begun to. May be cancelled.
    pub(super) async fn detach(&self) -> Detaching<'_> {
        let mut changed = self.state.subscribe();
        loop {
            let begun = self.state.send_if_modified(|state| {
                // One that waits this long has its number.
                let free = state.attaching.is_none() || state.is_stuck();
                if free {
                    state.detaching += 1;
                    state.detaching_since.get_or_insert_with(Instant::now);
                }
                free
            });
            if begun {
                return Detaching(self);
            }
            self.changes(&mut changed).await;
        }
    }

    /// Waits until something may be different.
    async fn changes(&self, changed: &mut watch::Receiver<State>) {
        let state = *self.state.borrow();
        let stuck = state.attaching.or(state.detaching_since).map(|since| since + STUCK);
        tokio::select! {
            // The sender is ours, so it can't be gone.
            _ = changed.changed() => {}
            () = sleep_until(stuck.unwrap_or_else(Instant::now)) => {}
        }
    }
}
