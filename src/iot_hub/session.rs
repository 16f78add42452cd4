//! A session that a few devices of one connection share: seats, and attaches one after the other, as the crate demands.
//!
//! A session of its own costs a device as much memory as two links. Shared by few, what goes wrong in one stays with few:
//! when the hub ends a session, its devices open their links again, for a while each on a session of its own, so that one
//! which makes the hub do so hurts the others once. Nobody waits behind an Attach that the hub leaves unanswered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fe2o3_amqp::session::SessionHandle;
use tokio::time::{Instant, timeout};

use super::safe_link::{Home, Loss, said};
use super::shared::Tasks;
use super::turns::{STUCK, Turns};

/// An Attach that stays unanswered this long is given up, at the risk that a later answer costs the connection.
/// Callers stop waiting much earlier.
const ATTACH_PATIENCE: Duration = Duration::from_secs(120);
/// So many sessions fill at the same time, so that devices which open together wait for each other's round trips little.
const FILLING: usize = 16;
/// For how long a device with which a session went wrong gets sessions of its own.
const ALONE: Duration = Duration::from_secs(3600);

/// The sessions of one connection.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Devices to one session.
    limit: usize,
    /// Held while a session begins: who comes meanwhile may find a seat on it.
    open: tokio::sync::Mutex<Vec<Weak<SharedSession>>>,
    alone: Arc<Alone>,
}

/// Devices that get sessions of their own, and until when.
type Alone = Mutex<HashMap<Arc<str>, Instant>>;

/// An open session.
#[derive(Debug)]
struct SharedSession {
    turns: Arc<Turns>,
    taken: AtomicUsize,
}

/// A device's right to links on a session.
#[derive(Debug)]
pub(super) struct SessionSeat {
    session: Arc<SharedSession>,
    device_id: Arc<str>,
    alone: Arc<Alone>,
    /// Nobody else gets a seat on it.
    is_own: bool,
}

impl Drop for SessionSeat {
    fn drop(&mut self) {
        self.session.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sessions {
    /// `limit`: devices to one session.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: tokio::sync::Mutex::default(), alone: Arc::default() }
    }

    /// A seat on a session with room, or on one that `begin` begins. Not to be cancelled.
    pub(super) async fn seat(
        &self,
        device_id: &Arc<str>,
        begin: impl Future<Output = Result<SessionHandle<()>, Loss>>,
    ) -> Result<SessionSeat, Loss> {
        let is_own = self.limit == 1 || self.is_alone(device_id);
        let (device_id, alone) = (device_id.clone(), self.alone.clone());
        let seat = |session| SessionSeat { session, device_id, alone, is_own };
        if is_own {
            return Ok(seat(SharedSession::new(begin.await?)));
        }
        let mut open = self.open.lock().await;
        open.retain(|session| session.strong_count() > 0);
        let with_room: Vec<_> =
            open.iter().filter_map(Weak::upgrade).filter(|session| session.has_room(self.limit)).collect();
        let quiet = with_room.iter().find(|session| session.turns.is_quiet());
        let fewest = || with_room.iter().min_by_key(|session| session.taken.load(Ordering::Relaxed));
        if let Some(session) = quiet.or_else(|| fewest().filter(|_| with_room.len() >= FILLING)) {
            session.taken.fetch_add(1, Ordering::Relaxed);
            return Ok(seat(session.clone()));
        }
        let session = SharedSession::new(begin.await?);
        open.push(Arc::downgrade(&session));
        Ok(seat(session))
    }

    fn is_alone(&self, device_id: &str) -> bool {
        let mut alone = locked(&self.alone);
        let until = alone.get(device_id).copied();
        if until.is_some_and(|until| until <= Instant::now()) {
            alone.remove(device_id);
            return false;
        }
        until.is_some()
    }
}

impl SharedSession {
    fn new(handle: SessionHandle<()>) -> Arc<Self> {
        Arc::new(Self { turns: Arc::new(Turns::new(handle)), taken: AtomicUsize::new(1) })
    }

    fn has_room(&self, limit: usize) -> bool {
        !self.turns.is_ended() && !self.turns.is_stuck() && self.taken.load(Ordering::Relaxed) < limit
    }
}

impl SessionSeat {
    /// The session went wrong: for a while the device gets sessions of its own.
    pub(super) fn leave_alone(&self) {
        let now = Instant::now();
        let mut alone = locked(&self.alone);
        alone.retain(|_, until| *until > now);
        alone.insert(self.device_id.clone(), now + ALONE);
    }

    /// Whether other devices may have links on it.
    pub(super) fn is_shared(&self) -> bool {
        !self.is_own
    }

    /// What a loss says about this device: with what words the hub ended a session that others share, nothing.
    pub(super) fn judge(&self, loss: Loss) -> Loss {
        match loss {
            Loss::Session(condition) if self.is_shared() => {
                Loss::Session(said(&format!("a session that it shared has ended: {condition}")))
            }
            loss => loss,
        }
    }

    /// What the device's links on this session need.
    pub(super) fn home(&self, tasks: &Tasks) -> Home {
        Home::new(tasks, &self.session.turns)
    }

    /// Attaches a link in its turn. Not to be cancelled.
    pub(super) async fn attach<L>(
        &self,
        attach: impl AsyncFnOnce(&mut SessionHandle<()>) -> Result<L, Loss>,
    ) -> Result<L, Loss> {
        let turns = &self.session.turns;
        let mut turn = turns.attach().await?;
        let mut attaching = Box::pin(attach(&mut turn.handle));
        let mut attached = timeout(STUCK, &mut attaching).await;
        if attached.is_err() {
            self.leave_alone();
            attached = timeout(ATTACH_PATIENCE, &mut attaching).await;
        }
        drop(attaching);
        if matches!(attached, Ok(Err(Loss::Session(_)))) {
            self.leave_alone();
        }
        attached.unwrap_or_else(|_| {
            turns.spoil();
            Err(Loss::Link(said("the hub did not answer Attach")))
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
