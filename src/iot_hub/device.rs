//! One device's session at its hub: token, session, telemetry link; further links are attached on it.
//!
//! Knows neither other devices nor who sends what when.

use std::sync::{Arc, Weak};
use std::time::Duration;

use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp_types::messaging::Data;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::classify::{self, Class, Scope};
use super::connection::{Connection, Refused, Seat};
use super::error::{RetryReason, SendError};
use super::event::Links;
use super::link_names::{address, link_properties};
use super::links::{OpenLinks, Opener, RefusedWays};
use super::options::IotHubOptions;
use super::pool::{Pool, reaching};
use super::renewals::{self, Grant};
use super::safe_link::{Home, Loss, SafeSender, Terms};
use super::session::SessionSeat;
use super::shared::Shared;
use super::token::{Life, Subject};
use crate::azure::{Credential, HubDevice};
use crate::model::ParkReason;

/// How many sessions on which another device's Attach is stuck to pass by before giving up.
const MAX_STUCK_SESSIONS: usize = 4;
/// How many full connections to pass by before giving up.
const MAX_FULL_CONNECTIONS: usize = 4;
/// How long to wait for the connection to say why it ended.
const CAUSE_PATIENCE: Duration = Duration::from_secs(1);

/// The one place of a device in this process. Whoever holds its lock may open, use or close the session, so there is
/// never a second one.
pub(super) type Slot = Arc<Mutex<Held>>;

/// What a slot holds.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) session: Option<DeviceSession>,
    pub(super) used: Instant,
}

/// A slot that may be gone by the time it is needed.
#[derive(Clone, Debug)]
pub(super) struct SlotRef {
    slot: Weak<Mutex<Held>>,
    device_id: Arc<str>,
}

/// A device's links on a session. Fields drop in this order: links, session, token, seat.
#[derive(Debug)]
pub(super) struct DeviceSession {
    /// Cancelled when the session closes, so that its further links are let go.
    ended: CancellationToken,
    _ended: DropGuard,
    /// Its keeper has its further links open; it is not idle, however little is sent.
    is_kept: bool,
    telemetry: SafeSender,
    home: Home,
    session: SessionSeat,
    _grant: Option<Arc<Grant>>,
    device: Arc<HubDevice>,
    seat: Seat,
}

/// Why a message did not go through, and whether the session is still good.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: SendError,
    pub(super) session_lost: bool,
}

impl SlotRef {
    pub(super) fn new(slot: &Slot, device_id: &Arc<str>) -> Self {
        Self { slot: Arc::downgrade(slot), device_id: device_id.clone() }
    }

    pub(super) fn device_id(&self) -> &str {
        &self.device_id
    }

    /// Closes the session as soon as nobody uses it.
    pub(super) fn release(&self, shared: &Shared) {
        if let Some(slot) = self.slot.upgrade() {
            shared.tasks.spawn(async move { close(slot.lock_owned().await).await });
        }
    }
}

/// Closes the session of a slot while holding it.
pub(super) async fn close(mut held: OwnedMutexGuard<Held>) {
    if let Some(session) = held.session.take() {
        session.close().await;
    }
}

impl DeviceSession {
    /// Gets a seat, puts the token, gets a session, attaches the telemetry link. Not to be cancelled.
    /// `fresh_policy` puts the connection's policy token anew first. Fails at once while the device is another client's.
    pub(super) async fn open(
        shared: &Shared,
        pool: &Arc<Pool>,
        device: Arc<HubDevice>,
        slot: SlotRef,
        fresh_policy: bool,
    ) -> Result<Self, SendError> {
        if let Some(left) = shared.contests.wait(&device, Instant::now()) {
            return Err(left_to_another(&device, left));
        }
        let opened = Self::open_now(shared, pool, device.clone(), slot, fresh_policy).await;
        match opened {
            Ok(session) => {
                shared.contests.opened(&device, Instant::now());
                Ok(session)
            }
            Err(error) => Err(contested(error, shared, &device)),
        }
    }

    async fn open_now(
        shared: &Shared,
        pool: &Arc<Pool>,
        device: Arc<HubDevice>,
        slot: SlotRef,
        fresh_policy: bool,
    ) -> Result<Self, SendError> {
        let (seat, grant) = authorized_seat(shared, pool, &device, slot, fresh_policy).await?;
        let connection = &seat.connection;
        let (session, home, telemetry) = match telemetry(shared, connection, &device).await {
            Ok(opened) => opened,
            Err(loss) => return Err(failure(loss, connection, pool).await.error),
        };
        let ended = CancellationToken::new();
        let _ended = ended.clone().drop_guard();
        Ok(Self { ended, _ended, is_kept: false, telemetry, home, session, _grant: grant, device, seat })
    }

    /// Whether it can be used for `device` as it is known now; keys and model may have changed.
    pub(super) fn serves(&mut self, device: &HubDevice) -> bool {
        (std::ptr::eq(&*self.device, device) || *self.device == *device) && self.telemetry.loss().is_none()
    }

    /// Sends one message and waits for the outcome.
    pub(super) async fn send(
        &mut self,
        message: &Sendable<Data>,
        pool: &Pool,
        patience: Duration,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        self.seat.connection.touch(now);
        let outcome = match self.telemetry.send(message, now + patience).await {
            Ok(outcome) => outcome,
            Err(loss) => return Err(self.failure(loss, pool).await),
        };
        match classify::outcome(&outcome) {
            None => {
                self.seat.connection.mark_useful();
                Ok(())
            }
            Some((class, detail)) => {
                let error = classify::error(class, &detail, &self.device.hub);
                Err(Failure { error, session_lost: false })
            }
        }
    }

    /// What the hub said when it took telemetry's link away for another client, if that is why it is gone.
    pub(super) fn taken(&mut self) -> Option<SendError> {
        match self.session.judge(self.telemetry.loss()?) {
            Loss::Link(condition) | Loss::Session(condition) => {
                let class = classify::condition(Scope::Device, &condition);
                let error = classify::error(class, &condition.to_string(), &self.device.hub);
                is_taken(&error).then_some(error)
            }
            Loss::Connection
            | Loss::TooLarge(_)
            | Loss::NoCredit
            | Loss::NoOutcome
            | Loss::Stuck
            | Loss::Confused(_) => None,
        }
    }

    /// Attaches further links for a keeper, which from now on has the session for its own. Not to be cancelled.
    pub(super) async fn attach(
        &mut self,
        wanted: Links,
        options: &IotHubOptions,
        pool: &Pool,
    ) -> Result<(Box<OpenLinks>, RefusedWays, CancellationToken), SendError> {
        self.is_kept = true;
        let connection = &self.seat.connection;
        let lost = connection.lost().clone();
        let home = &self.home;
        let opener = Opener { session: &self.session, device: &self.device, lost, options, home };
        match opener.open(wanted).await {
            Err(loss) => {
                // If the hub refuses the device, telemetry's link tells it best.
                let loss = self.telemetry.loss().unwrap_or(loss);
                Err(self.failure(loss, pool).await.error)
            }
            Ok((links, refused)) => match self.telemetry.loss() {
                Some(loss) => Err(self.failure(loss, pool).await.error),
                None => {
                    connection.mark_useful();
                    Ok((links, refused, self.ended.clone()))
                }
            },
        }
    }

    /// What became of telemetry's link, if the hub took it away.
    pub(super) async fn trouble(&mut self, pool: &Pool) -> Option<SendError> {
        let loss = self.telemetry.loss()?;
        Some(self.failure(loss, pool).await.error)
    }

    async fn failure(&self, loss: Loss, pool: &Pool) -> Failure {
        failure(self.session.judge(loss), &self.seat.connection, pool).await
    }

    /// Whose it is.
    pub(super) fn device(&self) -> &HubDevice {
        &self.device
    }

    /// Whether a keeper has its further links open.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Whether it should be opened anew on another connection.
    pub(super) fn should_move(&self) -> bool {
        self.seat.connection.is_worn()
    }

    /// Its keeper has let the further links go; from now on it may be idle.
    pub(super) fn let_go(&mut self) {
        self.is_kept = false;
    }

    /// Whether the hub took telemetry's link away.
    pub(super) fn is_lost(&mut self) -> bool {
        self.telemetry.loss().is_some()
    }

    /// Closes links, then gives the seat on the session back, within a bound.
    pub(super) async fn close(mut self) {
        self.ended.cancel();
        if matches!(self.telemetry.loss(), Some(Loss::Session(_))) {
            self.session.leave_alone();
        }
        drop(self.telemetry);
        if self.seat.connection.is_live() {
            self.home.left().await;
        }
    }
}

/// Attaches telemetry's link, on a session with room.
async fn telemetry(
    shared: &Shared,
    connection: &Connection,
    device: &HubDevice,
) -> Result<(SessionSeat, Home, SafeSender), Loss> {
    let mut stuck = 0;
    loop {
        let session = connection.session(&device.device_id).await?;
        let terms = Terms {
            name: format!("telemetry-{}", Uuid::new_v4()),
            address: address(&device.device_id, "messages/events"),
            properties: Some(link_properties(device)),
            settled: false,
        };
        let home = session.home(&shared.tasks);
        let (lost, its) = (connection.lost().clone(), Some(home.clone()));
        match session.attach(async |session| SafeSender::attach(session, terms, lost, its).await).await {
            Ok(telemetry) => return Ok((session, home, telemetry)),
            Err(Loss::Stuck) if stuck < MAX_STUCK_SESSIONS => stuck += 1,
            // Perhaps for another's sake. From now on it has sessions of its own.
            Err(Loss::Session(_)) if session.is_shared() => {}
            Err(loss) => return Err(loss),
        }
    }
}

async fn authorized_seat(
    shared: &Shared,
    pool: &Arc<Pool>,
    device: &Arc<HubDevice>,
    slot: SlotRef,
    fresh_policy: bool,
) -> Result<(Seat, Option<Arc<Grant>>), SendError> {
    let mut full = 0;
    loop {
        let seat = pool.seat(&device.device_id).await?;
        let connection = &seat.connection;
        let life = Life::starting_now(shared.options.token_lifetime);
        match &device.credential {
            Credential::Policy { .. } => {
                if fresh_policy {
                    let refreshed = connection.refresh_policy(&shared.options).await;
                    refreshed.map_err(|refused| renewals::policy_refused(refused.error()))?;
                }
                return Ok((seat, None));
            }
            Credential::Device { .. } => {}
        }
        let subject = Subject::Device(device.clone());
        match connection.authorize(&subject, &shared.options).await {
            Ok(()) => {
                let grant = Arc::new(Grant { subject, slot: Some(slot) });
                connection.renewals.add(&grant, life);
                return Ok((seat, Some(grant)));
            }
            Err(Refused::ConnectionFull(error)) => {
                connection.mark_full(&device.device_id);
                full += 1;
                if full >= MAX_FULL_CONNECTIONS {
                    return Err(error);
                }
            }
            Err(Refused::Because(error)) if connection.is_live() => return Err(error),
            Err(Refused::Because(error)) => return Err(reaching(error, !pool.any_live())),
        }
    }
}

pub(super) async fn failure(loss: Loss, connection: &Connection, pool: &Pool) -> Failure {
    let hub = &connection.hub;
    let retry = |reason, detail: &str| classify::error(Class::Retry(reason, None, false), detail, hub);
    let error = match loss {
        Loss::Link(condition) | Loss::Session(condition) => {
            classify::error(classify::condition(Scope::Device, &condition), &condition.to_string(), hub)
        }
        Loss::Connection => {
            // The link may notice a moment before the connection knows why.
            _ = timeout(CAUSE_PATIENCE, connection.lost().cancelled()).await;
            reaching(connection.lost_error(), !pool.any_live())
        }
        Loss::TooLarge(text) => {
            let error = classify::error(Class::Park(ParkReason::TooLarge), &text, hub);
            return Failure { error, session_lost: false };
        }
        Loss::NoCredit => retry(RetryReason::Timeout, "the hub takes no messages from the device now"),
        Loss::NoOutcome => retry(RetryReason::Timeout, "the hub gave no outcome in time"),
        Loss::Stuck => {
            retry(RetryReason::Link, "the hub leaves an Attach or Detach on the session unanswered")
        }
        Loss::Confused(text) => retry(RetryReason::Link, &text),
    };
    Failure { error, session_lost: true }
}

fn is_taken(error: &SendError) -> bool {
    matches!(error, SendError::Retry { reason: RetryReason::Taken, .. })
}

/// Notes that another client took the device, if the hub said so, and for how long to leave it to that one.
pub(super) fn contested(mut error: SendError, shared: &Shared, device: &HubDevice) -> SendError {
    if let SendError::Retry { reason: RetryReason::Taken, after, .. } = &mut error {
        *after = Some(shared.contests.taken(device, Instant::now()));
    }
    error
}

fn left_to_another(device: &HubDevice, left: Duration) -> SendError {
    let class = Class::Retry(RetryReason::Taken, Some(left), false);
    classify::error(
        class,
        "another client with the same identity has the device's links for now",
        &device.hub,
    )
}
