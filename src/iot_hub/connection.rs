//! One open connection to a hub: its sessions' begins, its token links, its seats for devices, and its end.
//!
//! Does not reconnect; knows no telemetry.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::session::SessionHandle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::cbs::{Cbs, CbsLinks, NoReply};
use super::classify::{self, Class, Condition, Scope, TokenClass};
use super::dial::{dial, unreachable_hub};
use super::error::{RetryReason, SendError};
use super::options::IotHubOptions;
use super::renewals::Renewals;
use super::safe_link::{self, Loss, said};
use super::session::{SessionSeat, Sessions};
use super::token::Subject;
use crate::azure::{Credential, HubAddress};

/// Sessions waiting to begin; more wait in line before it.
const BEGINS_BUFFER: usize = 16;
/// A hub that does not answer Begin for this long has lost the thread: the connection is given up.
const BEGIN_PATIENCE: Duration = Duration::from_secs(60);
/// A policy's token is put out of turn at most this often, however many devices are refused.
const POLICY_PAUSE: Duration = Duration::from_secs(60);
/// After this many tokens in a row without an answer, a new connection is the better way.
const MAX_UNANSWERED: u32 = 3;
/// The status for a token that is wrong or has expired.
const UNAUTHORIZED: i64 = 401;
/// How long the hub may take to answer our Close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// An open connection, as devices and the pool see it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) hub: HubAddress,
    pub(super) renewals: Renewals,
    pub(super) opened: Instant,
    /// Milliseconds after `opened` of the last send.
    used_ms: AtomicU64,
    /// Since when it has been of use: a message was accepted, or a device attached.
    useful: OnceLock<Instant>,
    /// We closed it because nobody needs it.
    retired: AtomicBool,
    policy_put: Mutex<Instant>,
    /// Tokens in a row that got no answer.
    unanswered: AtomicU32,
    policy: Option<Credential>,
    cbs: Cbs,
    begins: mpsc::Sender<Reply>,
    sessions: Sessions,
    seats: Mutex<Seats>,
    give_up: CancellationToken,
    /// Cancelled once `cause` is set.
    lost: CancellationToken,
    cause: OnceLock<SendError>,
}

type Reply = oneshot::Sender<Result<SessionHandle<()>, Loss>>;

#[derive(Debug)]
struct Seats {
    limit: usize,
    taken: usize,
    /// Devices whose token was ever put here: the hub counts these, also after the device has left.
    ever: HashSet<Arc<str>>,
    /// The hub said that it takes no more tokens.
    full: bool,
    /// Takes nobody any more, since too few of those that it knows are left.
    worn: bool,
    /// Since when nobody sits here.
    empty_since: Instant,
}

/// The right to links and one token on a connection.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) connection: Arc<Connection>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.connection.seats();
        seats.taken -= 1;
        if seats.taken == 0 {
            seats.empty_since = Instant::now();
        }
    }
}

/// Why a token was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// Another connection may take it.
    ConnectionFull(SendError),
    /// The caller's next move.
    Because(SendError),
}

impl Refused {
    pub(super) fn error(self) -> SendError {
        match self {
            Self::ConnectionFull(error) | Self::Because(error) => error,
        }
    }
}

/// The parts of a connection that must be run by tasks.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) connection: Arc<Connection>,
    handle: ConnectionHandle<()>,
    begins: mpsc::Receiver<Reply>,
}

impl Connection {
    /// Connects, opens AMQP and the token links. The token links must run before any token is put.
    pub(super) async fn open(
        options: &IotHubOptions,
        hub: &HubAddress,
        policy: Option<Credential>,
    ) -> Result<(Driver, CbsLinks), SendError> {
        let mut handle = dial(options, hub).await?;
        let lost = CancellationToken::new();
        let opened = Cbs::open(&mut handle, options.puts_in_flight(), lost.clone()).await;
        let (cbs, links) = opened.map_err(|loss| match loss {
            Loss::Link(condition) | Loss::Session(condition) => closed_error(&condition, hub),
            Loss::Connection | Loss::NoCredit | Loss::NoOutcome | Loss::Stuck => {
                unreachable_hub(&"the connection was lost while opening the token links", hub)
            }
            Loss::TooLarge(text) | Loss::Confused(text) => unreachable_hub(&text, hub),
        })?;
        let (begins_in, begins) = mpsc::channel(BEGINS_BUFFER);
        let now = Instant::now();
        let seats = Seats {
            limit: options.devices_per_connection(),
            taken: 0,
            ever: HashSet::new(),
            full: false,
            worn: false,
            empty_since: now,
        };
        let connection = Arc::new(Self {
            hub: hub.clone(),
            renewals: Renewals::default(),
            opened: now,
            used_ms: AtomicU64::new(0),
            useful: OnceLock::new(),
            retired: AtomicBool::new(false),
            policy_put: Mutex::new(now),
            unanswered: AtomicU32::new(0),
            policy,
            cbs,
            begins: begins_in,
            sessions: Sessions::new(options.max_devices_per_session),
            seats: Mutex::new(seats),
            give_up: CancellationToken::new(),
            lost,
            cause: OnceLock::new(),
        });
        Ok((Driver { connection, handle, begins }, links))
    }

    /// Takes a seat if there is one for this device.
    pub(super) fn try_seat(self: &Arc<Self>, device_id: &Arc<str>) -> Option<Seat> {
        let mut seats = self.seats();
        if !self.is_live() || seats.worn || seats.taken >= seats.limit {
            return None;
        }
        if self.policy.is_none() && !seats.ever.contains(device_id) {
            if seats.full || seats.ever.len() >= seats.limit {
                return None;
            }
            seats.ever.insert(device_id.clone());
        }
        seats.taken += 1;
        drop(seats);
        Some(Seat { connection: self.clone() })
    }

    /// Whether this device's token was put here before.
    pub(super) fn knows(&self, device_id: &str) -> bool {
        self.seats().ever.contains(device_id)
    }

    /// The hub takes no more tokens here.
    pub(super) fn mark_full(&self, device_id: &str) {
        let mut seats = self.seats();
        seats.full = true;
        seats.ever.remove(device_id);
        // It may take fewer than we thought, and is not worn for that.
        seats.limit = seats.limit.min(seats.ever.len().max(1));
    }

    /// Whether it takes no device that it does not know, though most of those it knows have left: those that stay
    /// should move to another. Once so, it takes nobody any more.
    pub(super) fn is_worn(&self) -> bool {
        let mut seats = self.seats();
        let takes_no_new = self.policy.is_none() && (seats.full || seats.ever.len() >= seats.limit);
        seats.worn |= takes_no_new && seats.taken * 2 <= seats.limit;
        seats.worn
    }

    /// Devices that sit here.
    pub(super) fn devices(&self) -> usize {
        self.seats().taken
    }

    /// Closes the connection if nobody has been sitting here for `idle`, or since it is worn.
    pub(super) fn retire_if_empty(&self, idle: Duration) {
        // The lock is kept, so that nobody sits down in between.
        let seats = self.seats();
        if seats.taken == 0 && (seats.worn || seats.empty_since.elapsed() >= idle) {
            self.retired.store(true, Ordering::Relaxed);
            self.give_up(unreachable_hub(&"the idle connection was closed", &self.hub));
        }
    }

    /// Whether we closed it for want of devices.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// A message is sent now.
    pub(super) fn touch(&self, now: Instant) {
        let after = u64::try_from((now - self.opened).as_millis()).unwrap_or(u64::MAX);
        self.used_ms.store(after, Ordering::Relaxed);
    }

    /// A message was accepted, or a device attached.
    pub(super) fn mark_useful(&self) {
        _ = self.useful.get_or_init(Instant::now);
    }

    /// For how long it has been of use.
    pub(super) fn useful_for(&self) -> Option<Duration> {
        self.useful.get().map(Instant::elapsed)
    }

    /// When a message was last sent, or else when the connection opened.
    pub(super) fn last_used(&self) -> Instant {
        self.opened + Duration::from_millis(self.used_ms.load(Ordering::Relaxed))
    }

    /// Puts a token and waits for the hub's word.
    pub(super) async fn authorize(&self, subject: &Subject, options: &IotHubOptions) -> Result<(), Refused> {
        let token = subject.token(options);
        let reply = match self.cbs.put(&token.audience, &token.text, options.send_timeout).await {
            Ok(reply) => {
                self.unanswered.store(0, Ordering::Relaxed);
                reply
            }
            Err(NoReply::Lost) => {
                // No effect if it is lost already and knows why.
                self.give_up(closed_error(&said("the token link was lost"), &self.hub));
                return Err(Refused::Because(self.lost_error()));
            }
            Err(NoReply::TimedOut) => {
                let unanswered = self.unanswered.fetch_add(1, Ordering::Relaxed) + 1;
                if unanswered >= MAX_UNANSWERED && !self.answers_others(subject, options).await {
                    self.give_up(closed_error(&said("the hub answers no tokens"), &self.hub));
                }
                let class = Class::Retry(RetryReason::Token, None, false);
                let error = classify::error(class, "the hub did not answer our token in time", &self.hub);
                return Err(Refused::Because(error));
            }
        };
        let mut detail = format!("the hub answered our token with {}: {}", reply.status, reply.description);
        if reply.status == UNAUTHORIZED {
            detail.push_str(&clock_note(options.clock.now_ms()));
        }
        match classify::token_status(reply.status, &reply.description) {
            TokenClass::Accepted => Ok(()),
            TokenClass::ConnectionFull => {
                let class = Class::Retry(RetryReason::Token, None, false);
                Err(Refused::ConnectionFull(classify::error(class, &detail, &self.hub)))
            }
            TokenClass::Failed(class) => Err(Refused::Because(classify::error(class, &detail, &self.hub))),
        }
    }

    /// Whether the hub answers a token of another device, one that it has taken before: then those without an answer are
    /// their devices' trouble, and no reason to cut everybody off.
    async fn answers_others(&self, unanswered: &Subject, options: &IotHubOptions) -> bool {
        let Some(grant) = self.renewals.any_but(unanswered) else { return false };
        let token = grant.subject.token(options);
        let answered = self.cbs.put(&token.audience, &token.text, options.send_timeout).await.is_ok();
        if answered {
            self.unanswered.store(0, Ordering::Relaxed);
        }
        answered
    }

    /// Puts the policy's token anew, unless that was done just now.
    pub(super) async fn refresh_policy(&self, options: &IotHubOptions) -> Result<(), Refused> {
        let Some(subject) = self.policy() else { return Ok(()) };
        {
            let mut last = self.policy_put.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() < POLICY_PAUSE {
                return Ok(());
            }
            *last = Instant::now();
        }
        self.authorize(&subject, options).await
    }

    /// A seat on a session, which may begin now. To be awaited in a task that nobody cancels.
    pub(super) async fn session(&self, device_id: &Arc<str>) -> Result<SessionSeat, Loss> {
        self.sessions.seat(device_id, self.begin()).await
    }

    async fn begin(&self) -> Result<SessionHandle<()>, Loss> {
        let (reply, answer) = oneshot::channel();
        self.begins.send(reply).await.map_err(|_| Loss::Connection)?;
        answer.await.unwrap_or(Err(Loss::Connection))
    }

    /// Ends the connection; `cause` is what its devices' sends fail with.
    pub(super) fn give_up(&self, cause: SendError) {
        _ = self.cause.set(cause);
        self.give_up.cancel();
    }

    /// Whether it takes sessions.
    pub(super) fn is_live(&self) -> bool {
        !self.lost.is_cancelled() && !self.give_up.is_cancelled()
    }

    /// Cancelled when the connection is gone.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// What sends fail with once it is gone.
    pub(super) fn lost_error(&self) -> SendError {
        self.cause.get().cloned().unwrap_or_else(|| closed_error(&said("the connection was lost"), &self.hub))
    }

    /// The policy's token of this connection, if a policy opened it.
    pub(super) fn policy(&self) -> Option<Subject> {
        self.policy.clone().map(|credential| Subject::Policy(self.hub.clone(), credential))
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// Runs until the connection is gone. Sessions begin here one after the other, as the crate demands.
    pub(super) async fn run(mut self) {
        let condition = loop {
            tokio::select! {
                biased;
                closed = self.handle.on_close() => break safe_link::of_close(closed),
                () = self.connection.give_up.cancelled() => {
                    _ = timeout(CLOSE_PATIENCE, self.handle.close()).await;
                    break said("we closed the connection");
                }
                Some(reply) = self.begins.recv() => {
                    let begin = timeout(BEGIN_PATIENCE, safe_link::begin(&mut self.handle));
                    let begun = tokio::select! {
                        begun = begin => begun,
                        () = self.connection.give_up.cancelled() => continue,
                    };
                    let Ok(begun) = begun else { break said("the hub did not answer Begin") };
                    // If nobody waits any more, dropping the handle ends the session.
                    _ = reply.send(begun);
                }
            }
        };
        _ = self.connection.cause.set(closed_error(&condition, &self.connection.hub));
        self.connection.lost.cancel();
    }
}

/// A token is refused for a wrong key, and just so when our clock is behind.
fn clock_note(now_ms: i64) -> String {
    let now = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default().round(jiff::Unit::Second);
    now.map_or_else(
        |_| String::new(),
        |now| format!("; check the key, and this machine's clock, which says {now}"),
    )
}

/// What a lost connection means for everybody on it.
pub(super) fn closed_error(condition: &Condition, hub: &HubAddress) -> SendError {
    classify::error(classify::condition(Scope::Connection, condition), &condition.to_string(), hub)
}
