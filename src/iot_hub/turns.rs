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
pub(super) struct Turns<H = SessionHandle<()>> {
    handle: Mutex<H>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when an Attach waits for its answer.
    attaching: Option<Instant>,
    /// Since when each of the links is let go of, the longest first.
    detaching: Vec<Instant>,
    /// An Attach or Detach was given up: its answer, should it come, could hit another link or end the session.
    spoilt: bool,
}

impl State {
    /// Since when an answer is waited for.
    fn waiting(&self) -> Option<Instant> {
        self.attaching.or(self.detaching.first().copied())
    }

    fn is_stuck(&self) -> bool {
        self.spoilt || self.waiting().is_some_and(|since| since.elapsed() >= STUCK)
    }
}

/// The right to attach, until this is dropped.
#[derive(Debug)]
pub(super) struct Attaching<'a, H = SessionHandle<()>> {
    pub(super) handle: MutexGuard<'a, H>,
    _turn: Turn<'a>,
}

#[derive(Debug)]
struct Turn<'a>(&'a watch::Sender<State>);

/// The right to let go of a link, until this is dropped.
#[derive(Debug)]
pub(super) struct Detaching<'a> {
    state: &'a watch::Sender<State>,
    since: Instant,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.attaching = None);
    }
}

impl Drop for Detaching<'_> {
    fn drop(&mut self) {
        self.state.send_modify(|state| {
            if let Some(own) = state.detaching.iter().position(|since| *since == self.since) {
                state.detaching.remove(own);
            }
        });
    }
}

impl Turns {
    /// Whether the session has ended; while somebody attaches, it has not been seen to.
    pub(super) fn is_ended(&self) -> bool {
        self.handle.try_lock().is_ok_and(|handle| handle.is_ended())
    }
}

impl<H> Turns<H> {
    pub(super) fn new(handle: H) -> Self {
        Self { handle: Mutex::new(handle), state: watch::Sender::default() }
    }

    /// Whether nobody waits for an answer.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state.borrow();
        state.waiting().is_none() && !state.spoilt
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
    pub(super) async fn attach(&self) -> Result<Attaching<'_, H>, Loss> {
        let mut changed = self.state.subscribe();
        loop {
            let mut stuck = false;
            let begun = self.state.send_if_modified(|state| {
                stuck = state.is_stuck();
                let free = state.waiting().is_none();
                if free && !stuck {
                    state.attaching = Some(Instant::now());
                }
                free && !stuck
            });
            if stuck {
                return Err(Loss::Stuck);
            }
            if begun {
                let _turn = Turn(&self.state);
                return Ok(Attaching { handle: self.handle.lock().await, _turn });
            }
            self.changes(&mut changed).await;
        }
    }

    /// Waits until a link may be let go of: nobody attaches, or has just begun to. May be cancelled.
    pub(super) async fn detach(&self) -> Detaching<'_> {
        let mut changed = self.state.subscribe();
        loop {
            let since = Instant::now();
            let begun = self.state.send_if_modified(|state| {
                // One that waits this long has its number.
                let free = state.attaching.is_none() || state.is_stuck();
                if free {
                    state.detaching.push(since);
                }
                free
            });
            if begun {
                return Detaching { state: &self.state, since };
            }
            self.changes(&mut changed).await;
        }
    }

    /// Waits until something may be different.
    async fn changes(&self, changed: &mut watch::Receiver<State>) {
        let stuck = self.state.borrow().waiting().map(|since| since + STUCK);
        tokio::select! {
            // The sender is ours, so it can't be gone.
            _ = changed.changed() => {}
            () = sleep_until(stuck.unwrap_or_else(Instant::now)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    const HALF: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn attaching_and_letting_go_take_turns_and_letting_go_does_not_wait_for_its_like() {
        let turns = Turns::new(());
        let attaching = turns.attach().now_or_never().expect("free").expect("well");
        assert!(!turns.is_quiet());
        assert!(turns.attach().now_or_never().is_none());
        assert!(turns.detach().now_or_never().is_none());
        drop(attaching);
        let first = turns.detach().now_or_never().expect("free");
        let second = turns.detach().now_or_never().expect("beside the first");
        drop(first);
        assert!(turns.attach().now_or_never().is_none());
        drop(second);
        assert!(turns.is_quiet());
        assert!(turns.attach().now_or_never().is_some());
        assert!(turns.is_quiet(), "dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn links_let_go_of_one_after_the_other_do_not_make_it_stuck() {
        let turns = Turns::new(());
        let mut before = turns.detach().await;
        for _ in 0..10 {
            advance(HALF).await;
            let next = turns.detach().await;
            drop(std::mem::replace(&mut before, next));
            assert!(!turns.is_stuck());
        }
        advance(STUCK).await;
        assert!(turns.is_stuck());
        assert!(matches!(turns.attach().await, Err(Loss::Stuck)));
        drop(before);
        assert!(!turns.is_stuck());
    }

    #[tokio::test(start_paused = true)]
    async fn behind_an_overdue_answer_nobody_waits() {
        let turns = Turns::new(());
        let attaching = turns.attach().await.expect("well");
        let mut other = Box::pin(turns.attach());
        assert!(other.as_mut().now_or_never().is_none());
        advance(HALF).await;
        assert!(other.as_mut().now_or_never().is_none());
        advance(HALF).await;
        assert!(matches!(other.await, Err(Loss::Stuck)));
        assert!(turns.detach().now_or_never().is_some(), "the one that attaches has its number");
        drop(attaching);
        assert!(!turns.is_stuck());
        turns.spoil();
        assert!(turns.is_stuck() && matches!(turns.attach().await, Err(Loss::Stuck)));
        assert!(turns.detach().now_or_never().is_some());
    }
}
