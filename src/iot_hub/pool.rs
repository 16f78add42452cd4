//! The connections to one hub for one credential: seats for devices, one connect attempt at a time, reconnects.
//!
//! Knows no links and no messages.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Connection, Seat};
use super::dial::unreachable_hub;
use super::error::{RetryReason, SendError, Trouble};
use super::hub::Hub;
use super::renewals::{self, Grant};
use super::shared::Shared;
use super::token::Life;
use crate::azure::{Credential, HubAddress};
use crate::model::Backoff;

/// The pool reconnects by itself only while a device is kept open, or somebody wanted a seat this recently.
const WANTED: Duration = Duration::from_secs(300);
/// A connection that lived shorter than this counts as a failed attempt, so that a hub which closes at once is not
/// asked in a tight loop.
const SHORT_LIFE: Duration = Duration::from_secs(30);
/// Unless it was of use for this long: then the hub is well, and losing it was bad luck.
const USEFUL_LIFE: Duration = Duration::from_secs(5);
/// Pauses before a reconnect to a hub that answered: it refuses, throttles, or closes at once.
const PAUSES: Backoff = Backoff { initial: Duration::from_millis(200), max: Duration::from_secs(30) };
/// The same for a hub that can't be reached at all. Nobody there is burdened by our asking, and commands wait for its
/// return: a thousand devices need seven of the ten seconds within which they are to be heard again.
const UNREACHABLE: Backoff = Backoff { max: Duration::from_secs(2), ..PAUSES };
/// Failures in a row that are each a warning.
const WARN_FIRST: u32 = 5;
/// After these, every so manieth is one, about once a minute: an outage of hours must not fill the log.
const WARN_EACH: u32 = 40;

/// Connections to one hub. Policy connections are apart, since one token there opens every device.
#[derive(Debug)]
pub(super) struct Pool {
    hub: HubAddress,
    policy: Option<Credential>,
    known: Arc<Hub>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Devices that are to be kept open here.
    kept: AtomicUsize,
    /// Moves whenever a waiter should look again.
    changed: watch::Sender<u64>,
}

/// Wants a connection while it is held.
#[derive(Debug)]
pub(super) struct KeptOpen(Arc<Pool>);

impl Drop for KeptOpen {
    fn drop(&mut self) {
        self.0.kept.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct State {
    connections: Vec<Arc<Connection>>,
    connecting: bool,
    /// Why the last attempt failed, while a next one is under way.
    down: Option<SendError>,
    /// Attempts that failed in a row.
    failures: u32,
    wanted: Instant,
    closed: bool,
}

impl Pool {
    pub(super) fn new(
        hub: HubAddress,
        policy: Option<Credential>,
        known: Arc<Hub>,
        shared: Arc<Shared>,
    ) -> Self {
        let state = State {
            connections: Vec::new(),
            connecting: false,
            down: None,
            failures: 0,
            wanted: Instant::now(),
            closed: false,
        };
        let (kept, changed) = (AtomicUsize::new(0), watch::Sender::new(0));
        Self { hub, policy, known, shared, state: Mutex::new(state), kept, changed }
    }

    /// A connection is wanted as long as this is held, though nobody sends.
    pub(super) fn keep(self: &Arc<Self>) -> KeptOpen {
        self.kept.fetch_add(1, Ordering::Relaxed);
        KeptOpen(self.clone())
    }

    /// Waits while the hub is known to be down. May be cancelled.
    pub(super) async fn until_up(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            {
                let state = self.state();
                if state.closed || state.down.is_none() {
                    return;
                }
            }
            // The pool owns the sender, so it can't be gone.
            _ = changed.changed().await;
        }
    }

    /// Whether the hub is known to be down.
    pub(super) fn is_down(&self) -> bool {
        self.state().down.is_some()
    }

    fn is_wanted(&self, state: &State) -> bool {
        self.kept.load(Ordering::Relaxed) > 0 || state.wanted.elapsed() <= WANTED
    }

    /// A seat for a device, on a connection that is open or that opens now. While the hub is known to be down, fails
    /// at once.
    pub(super) async fn seat(self: &Arc<Self>, device_id: &Arc<str>) -> Result<Seat, SendError> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(result) = self.seat_now(device_id) {
                return result;
            }
            // The pool owns the sender, so it can't be gone.
            _ = changed.changed().await;
        }
    }

    fn seat_now(self: &Arc<Self>, device_id: &Arc<str>) -> Option<Result<Seat, SendError>> {
        let mut state = self.state();
        state.wanted = Instant::now();
        if state.closed {
            return Some(Err(unreachable_hub(&"the client is closing", &self.hub)));
        }
        let known = state.connections.iter().filter(|connection| connection.knows(device_id));
        let mut all = known.chain(&state.connections);
        if let Some(seat) = all.find_map(|connection| connection.try_seat(device_id)) {
            return Some(Ok(seat));
        }
        if let Some(error) = &state.down {
            return Some(Err(reaching(error.clone(), state.connections.is_empty())));
        }
        if !state.connecting {
            state.connecting = true;
            drop(state);
            self.start(None);
        }
        None
    }

    /// The hub did something for a device.
    pub(super) fn hub_works(&self) {
        self.known.absence.works();
    }

    /// The hub refuses everybody.
    pub(super) fn hub_failed(&self) {
        self.known.absence.failed(Instant::now());
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        self.state().connections.clone()
    }

    /// Whether any connection is open.
    pub(super) fn any_live(&self) -> bool {
        self.state().connections.iter().any(|connection| connection.is_live())
    }

    /// Closes connections on which nobody sat for `idle`.
    pub(super) fn close_empty(&self, idle: Duration) {
        for connection in self.connections() {
            connection.retire_if_empty(idle);
        }
    }

    /// Opens no further connections and closes those there are.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        // Taken out now: one that does not close in time is dropped with its driver, which then can't.
        for connection in std::mem::take(&mut state.connections) {
            connection.give_up(unreachable_hub(&"the client is closing", &self.hub));
        }
        drop(state);
        self.wake();
    }

    fn start(self: &Arc<Self>, pause: Option<Duration>) {
        let pool = self.clone();
        self.shared.tasks.spawn(async move { pool.connect(pause).await });
    }

    /// Tries until a connection is open or nobody wants one.
    async fn connect(self: Arc<Self>, mut pause: Option<Duration>) {
        loop {
            if let Some(pause) = pause {
                sleep(pause).await;
                let mut state = self.state();
                if state.closed || !self.is_wanted(&state) {
                    state.connecting = false;
                    state.down = None;
                    drop(state);
                    return self.wake();
                }
            }
            let limit = self.shared.options.connect_timeout;
            let opened = timeout(limit, self.open()).await.unwrap_or_else(|_| {
                Err(unreachable_hub(&format!("not open within {} s", limit.as_secs_f32()), &self.hub))
            });
            let mut state = self.state();
            // One that is lost already is not taken out any more by its driver.
            let opened = opened.and_then(|connection| {
                if connection.is_live() { Ok(connection) } else { Err(connection.lost_error()) }
            });
            match opened {
                Ok(connection) => {
                    state.connecting = false;
                    state.down = None;
                    if state.closed {
                        connection.give_up(unreachable_hub(&"the client is closing", &self.hub));
                    }
                    state.connections.push(connection);
                    drop(state);
                    tracing::info!(hub = %self.hub, "connected to the hub");
                    self.wake();
                    return self.shared.announce(&self.hub);
                }
                Err(error) => {
                    self.known.absence.failed(Instant::now());
                    state.failures = state.failures.saturating_add(1);
                    let next = pauses(&error).wait(state.failures.saturating_add(1));
                    let delay_ms = u64::try_from(next.as_millis()).unwrap_or(u64::MAX);
                    let attempts = state.failures;
                    if attempts <= WARN_FIRST || attempts.is_multiple_of(WARN_EACH) {
                        tracing::warn!(hub = %self.hub, %error, delay_ms, attempts, "connecting to the hub failed");
                    } else {
                        tracing::debug!(hub = %self.hub, %error, delay_ms, attempts, "connecting to the hub failed again");
                    }
                    state.down = Some(error);
                    pause = Some(next);
                }
            }
            self.wake();
        }
    }

    async fn open(self: &Arc<Self>) -> Result<Arc<Connection>, SendError> {
        let shared = &self.shared;
        let (driver, links) = Connection::open(&shared.options, &self.hub, self.policy.clone()).await?;
        let connection = driver.connection.clone();
        let behind = connection.clone();
        shared.tasks.spawn(async move {
            let condition = links.run().await;
            behind.give_up(super::connection::closed_error(&condition, &behind.hub));
        });
        let pool = self.clone();
        shared.tasks.spawn(async move {
            let connection = driver.connection.clone();
            driver.run().await;
            pool.lost(&connection);
        });
        let guard = GiveUpUnlessKept(Some(connection.clone()));
        let grant = match connection.policy() {
            None => None,
            Some(subject) => {
                let life = Life::starting_now(shared.options.token_lifetime);
                let refused = connection.authorize(&subject, &shared.options).await;
                refused.map_err(|refused| renewals::policy_refused(refused.error()))?;
                Some((Arc::new(Grant { subject, slot: None }), life))
            }
        };
        let renewing = connection.clone();
        let shared = shared.clone();
        self.shared.tasks.spawn(async move {
            // Held here, so that it is renewed as long as the connection lives.
            let grant = grant.inspect(|(grant, life)| renewing.renewals.add(grant, *life));
            renewals::run(renewing, shared).await;
            drop(grant);
        });
        guard.keep();
        Ok(connection)
    }

    /// Takes a lost connection out, and reconnects if somebody may want it.
    fn lost(self: &Arc<Self>, connection: &Arc<Connection>) {
        let mut state = self.state();
        let before = state.connections.len();
        state.connections.retain(|other| !Arc::ptr_eq(other, connection));
        if state.connections.len() == before {
            // It never got as far; its attempt reports the failure.
            return;
        }
        let error = connection.lost_error();
        state.wanted = state.wanted.max(connection.last_used());
        let wanted = !connection.is_retired() && self.is_wanted(&state);
        tracing::info!(hub = %self.hub, %error, devices = connection.devices(), "the connection to the hub ended");
        if wanted && !state.connecting && !state.closed {
            let well = was_well(connection.opened.elapsed(), connection.useful_for());
            state.failures = if well { 0 } else { state.failures.saturating_add(1) };
            state.connecting = true;
            state.down = Some(error);
            let pause = PAUSES.wait(state.failures.saturating_add(1));
            drop(state);
            self.start(Some(pause));
        } else {
            drop(state);
        }
        self.wake();
    }

    fn wake(&self) {
        self.changed.send_modify(|number| *number = number.wrapping_add(1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a connection whose opening is broken off or fails.
struct GiveUpUnlessKept(Option<Arc<Connection>>);

impl GiveUpUnlessKept {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for GiveUpUnlessKept {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.give_up(unreachable_hub(&"it was not opened in full", &connection.hub));
        }
    }
}

/// With other connections open it is not the hub that is in trouble.
pub(super) fn reaching(mut error: SendError, whole_hub: bool) -> SendError {
    if let SendError::Retry { trouble, .. } = &mut error
        && !whole_hub
    {
        *trouble = Trouble::Device;
    }
    error
}

/// Whether a connection that lived and was of use for so long says that the hub is well.
fn was_well(lived: Duration, useful: Option<Duration>) -> bool {
    lived >= SHORT_LIFE || useful.is_some_and(|useful| useful >= USEFUL_LIFE)
}

/// How long to leave a hub alone after a failed attempt.
fn pauses(error: &SendError) -> Backoff {
    match error {
        SendError::Retry { reason: RetryReason::Connection, .. } => UNREACHABLE,
        SendError::Retry { .. } | SendError::Reresolve { .. } | SendError::Park { .. } => PAUSES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_some_use_is_no_failed_attempt_but_one_that_closes_at_once_is() {
        let seconds = Duration::from_secs;
        assert!(!was_well(seconds(29), None) && was_well(seconds(30), None));
        assert!(!was_well(seconds(8), Some(seconds(4))) && was_well(seconds(6), Some(seconds(5))));
    }

    #[test]
    fn a_hub_that_nobody_reaches_is_asked_every_other_second_and_one_that_refuses_more_rarely() {
        let hub = HubAddress { host: "hub".into(), port: 5671 };
        let unreachable = pauses(&unreachable_hub(&"connection refused", &hub));
        assert!(unreachable.wait(u32::MAX) <= Duration::from_secs(2));
        let throttled = SendError::Retry {
            reason: RetryReason::Throttled,
            detail: String::new(),
            after: None,
            trouble: Trouble::Device,
        };
        assert!(pauses(&throttled).wait(u32::MAX) >= Duration::from_secs(15));
    }
}
