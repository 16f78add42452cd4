//! The one place that works around the AMQP crate's defects, so that nobody else has to know them. `safe_receiver` is
//! its other half.
//!
//! - Deliveries under way never resolve when their session or connection stops: every wait here also watches the
//!   link and the connection's end.
//! - A cancelled begin or attach can close the whole connection: the functions that do them say so, and are called
//!   only from tasks that nobody cancels while the connection is wanted.
//! - A receiver that accepts by itself loses a message when its `recv` is dropped at the wrong moment: here, accepting and
//!   giving credit are steps of their own.
//! - A receiver that is dropped while a message is on its way to it ends its session, and with the next message the
//!   whole connection: here it is closed and held until the peer has answered, and its session lives until then.
//! - A link that is let go of late can hit another one: see `turns`.
//! - A session that is told to end while somebody holds it takes a whole processor until the peer has answered: here it is
//!   dropped, whereupon it ends itself and waits like any other.
//! - A wake-up for new credit can be lost: waiting for credit starts anew every few seconds.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::connection::{ConnectionHandle, ConnectionStopReason, Error as ConnectionError};
use fe2o3_amqp::link::delivery::{DeliveryFut, Sendable};
use fe2o3_amqp::link::{
    DetachError, IllegalLinkStateError, LinkStateError, ReceiverAttachError, RecvError,
    SendError as LinkSendError, SenderAttachError, SessionStopReason,
};
use fe2o3_amqp::session::{BeginError, SessionHandle};
use fe2o3_amqp::{Receiver, Sender, Session};
use fe2o3_amqp_types::definitions::{Fields, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Outcome, SerializableBody};
use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::classify::Condition;
pub(super) use super::safe_receiver::{Incoming, SafeReceiver};
use super::shared::Tasks;
use super::turns::Turns;

/// How long a wait for credit lasts before it starts anew.
const CREDIT_RECHECK: Duration = Duration::from_secs(2);
/// How long a peer may take to answer our Detach before we go on without it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// A Detach that stays unanswered this long is given up, and with it the session for anything new.
const DETACH_PATIENCE: Duration = Duration::from_secs(120);

/// Why a link, session or connection can't go on, or a message could not be handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The peer detached the link.
    Link(Condition),
    /// The session ended.
    Session(Condition),
    /// The connection is gone; it knows why itself.
    Connection,
    /// The message is over the link's limit; nothing was sent, the link is fine.
    TooLarge(String),
    /// The peer gave no credit in time; nothing was sent.
    NoCredit,
    /// The message is out, but no outcome came in time.
    NoOutcome,
    /// An Attach or Detach on the same session is left unanswered, so ours was not sent.
    Stuck,
    /// Something that only a bug here or in the peer explains.
    Confused(String),
}

/// How a link is to be attached.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// Unique within the session.
    pub(super) name: String,
    /// The node at the peer: target of a sender, source of a receiver.
    pub(super) address: String,
    pub(super) properties: Option<Fields>,
    /// Messages travel settled, nobody answers them.
    pub(super) settled: bool,
}

/// Where links of one device live: they are let go of in their turn, and their session lives until all are.
#[derive(Clone, Debug)]
pub(super) struct Home {
    tasks: Tasks,
    open: TaskTrackerToken,
    turns: Arc<Turns>,
}

impl Home {
    pub(super) fn new(tasks: &Tasks, turns: &Arc<Turns>) -> Self {
        Self { tasks: tasks.clone(), open: TaskTracker::new().token(), turns: turns.clone() }
    }

    /// Waits until all links have been let go of, within a bound.
    pub(super) async fn left(self) {
        let open = self.open.task_tracker().clone();
        drop(self);
        open.close();
        _ = timeout(CLOSE_PATIENCE, open.wait()).await;
    }

    /// Lets a link go. Nobody attaches on the session before the peer has answered: late, the answer could hit another link.
    pub(super) fn let_go(&self, lost: &CancellationToken, close: impl Future<Output = ()> + Send + 'static) {
        // Without a runtime there is no connection any more, either.
        if lost.is_cancelled() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (home, lost) = (self.clone(), lost.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = async {
                    let _turn = home.turns.detach().await;
                    if timeout(DETACH_PATIENCE, close).await.is_err() {
                        home.turns.spoil();
                    }
                } => {}
                () = lost.cancelled() => {}
            }
            drop(home);
        });
    }
}

/// A sender link that never waits in vain.
#[derive(Debug)]
pub(super) struct SafeSender {
    /// `None` only while dropping.
    sender: Option<Sender>,
    /// `None` for a link that has its session to itself.
    home: Option<Home>,
    lost: CancellationToken,
    /// What the peer said when it took the link away: the crate tells it once.
    taken: Option<Loss>,
}

impl SafeSender {
    /// Attaches a sender. Not to be cancelled.
    pub(super) async fn attach(
        session: &mut SessionHandle<()>,
        terms: Terms,
        lost: CancellationToken,
        home: Option<Home>,
    ) -> Result<Self, Loss> {
        let mut builder = Sender::builder().name(terms.name).target(terms.address);
        if let Some(properties) = terms.properties {
            builder = builder.properties(properties);
        }
        if terms.settled {
            builder = builder.sender_settle_mode(SenderSettleMode::Settled);
        }
        let sender = builder.attach(session).await.map_err(of_sender_attach)?;
        Ok(Self { sender: Some(sender), home, lost, taken: None })
    }

    /// Whether the peer has taken the link away, without waiting.
    pub(super) fn loss(&mut self) -> Option<Loss> {
        if self.lost.is_cancelled() {
            return Some(Loss::Connection);
        }
        if self.taken.is_none() {
            let sender = self.sender.as_mut()?;
            self.taken = sender.on_detach().now_or_never().map(of_detach);
        }
        self.taken.clone()
    }

    /// Waits until the peer takes the link away. May be cancelled.
    pub(super) async fn on_loss(&mut self) -> Loss {
        let Some(sender) = &mut self.sender else { return Loss::Connection };
        tokio::select! {
            detached = sender.on_detach() => of_detach(detached),
            () = self.lost.cancelled() => Loss::Connection,
        }
    }

    /// Sends and waits for the outcome, until `deadline`. May be cancelled; then the outcome is unknown.
    pub(super) async fn send<T>(&mut self, message: &Sendable<T>, deadline: Instant) -> Result<Outcome, Loss>
    where
        T: SerializableBody + Send + Sync,
    {
        let delivery = self.hand_over(message, deadline).await?;
        let Some(sender) = &mut self.sender else { return Err(Loss::Connection) };
        tokio::select! {
            biased;
            outcome = delivery => outcome.map_err(of_send),
            detached = sender.on_detach() => Err(self.taken.insert(of_detach(detached)).clone()),
            () = self.lost.cancelled() => Err(Loss::Connection),
            () = tokio::time::sleep_until(deadline) => Err(Loss::NoOutcome),
        }
    }

    /// Sends without waiting for the outcome. May be cancelled.
    pub(super) async fn post<T>(&mut self, message: &Sendable<T>, deadline: Instant) -> Result<(), Loss>
    where
        T: SerializableBody + Send + Sync,
    {
        self.hand_over(message, deadline).await.map(|_| ())
    }

    async fn hand_over<T>(
        &mut self,
        message: &Sendable<T>,
        deadline: Instant,
    ) -> Result<DeliveryFut<Result<Outcome, LinkSendError>>, Loss>
    where
        T: SerializableBody + Send + Sync,
    {
        let Some(sender) = &mut self.sender else { return Err(Loss::Connection) };
        loop {
            let recheck = deadline.min(Instant::now() + CREDIT_RECHECK);
            tokio::select! {
                biased;
                sent = timeout_at(recheck, sender.send_batchable_ref(message)) => match sent {
                    Ok(sent) => return sent.map_err(of_send),
                    Err(_) if Instant::now() >= deadline => return Err(Loss::NoCredit),
                    Err(_) => {}
                },
                () = self.lost.cancelled() => return Err(Loss::Connection),
            }
        }
    }
}

impl Drop for SafeSender {
    fn drop(&mut self) {
        if let (Some(mut sender), Some(home)) = (self.sender.take(), &self.home) {
            home.let_go(&self.lost, async move {
                // If the peer has taken the link away, this tells the crate so, and nothing more is sent.
                _ = sender.on_detach().now_or_never();
                _ = sender.close().await;
            });
        }
    }
}

/// Attaches a receiver that accepts by itself. Not to be cancelled.
pub(super) async fn attach_receiver(
    session: &mut SessionHandle<()>,
    name: &str,
    address: &str,
) -> Result<Receiver, Loss> {
    let builder = Receiver::builder().name(name).source(address).auto_accept(true);
    builder.attach(session).await.map_err(of_receiver_attach)
}

/// Begins a session. Not to be cancelled, except to give the connection up.
pub(super) async fn begin(connection: &mut ConnectionHandle<()>) -> Result<SessionHandle<()>, Loss> {
    Session::begin(connection).await.map_err(|error| match error {
        BeginError::ConnectionStopped(_) | BeginError::ConnectionNotOpened => Loss::Connection,
        BeginError::RemoteEnded => Loss::Session(Condition::default()),
        BeginError::RemoteEndedWithError(error) => Loss::Session(Condition::from(&error)),
        BeginError::LocalChannelMaxReached | BeginError::IllegalState => Loss::Confused(error.to_string()),
    })
}

/// Ends a session whose links are gone, and leaves the peer's answer to its engine.
pub(super) fn end(session: SessionHandle<()>) {
    drop(session);
}

/// What the peer said when it closed the connection, or how the stream failed.
pub(super) fn of_close(result: Result<(), ConnectionError>) -> Condition {
    match result {
        Ok(()) | Err(ConnectionError::RemoteClosed) => said("the connection was closed"),
        Err(ConnectionError::RemoteClosedWithError(error)) => Condition::from(&error),
        Err(error) => said(&format!("the connection failed: {error}")),
    }
}

/// A condition without a symbol.
pub(super) fn said(text: &str) -> Condition {
    Condition { symbol: String::new(), description: text.to_owned() }
}

fn of_stop(reason: &SessionStopReason) -> Loss {
    match reason {
        SessionStopReason::Ended | SessionStopReason::RemoteEnded => Loss::Session(Condition::default()),
        SessionStopReason::EndedWithError(error) | SessionStopReason::RemoteEndedWithError(error) => {
            Loss::Session(Condition::from(error))
        }
        SessionStopReason::ConnectionStopped(
            ConnectionStopReason::Closed
            | ConnectionStopReason::ClosedWithError(_)
            | ConnectionStopReason::RemoteClosed
            | ConnectionStopReason::RemoteClosedWithError(_),
        ) => Loss::Connection,
    }
}

#[allow(deprecated, reason = "the crate still returns DetachedByRemote")]
fn of_detach(error: DetachError) -> Loss {
    match error {
        DetachError::SessionStopped(reason) => of_stop(&reason),
        DetachError::RemoteDetachedWithError(error) | DetachError::RemoteClosedWithError(error) => {
            Loss::Link(Condition::from(&error))
        }
        DetachError::ClosedByRemote | DetachError::DetachedByRemote => Loss::Link(Condition::default()),
        DetachError::IllegalState => Loss::Link(said("the link is in an illegal state")),
    }
}

fn of_link_state(error: LinkStateError) -> Loss {
    match error {
        LinkStateError::SessionStopped(reason) => of_stop(&reason),
        LinkStateError::RemoteDetachedWithError(error) | LinkStateError::RemoteClosedWithError(error) => {
            Loss::Link(Condition::from(&error))
        }
        LinkStateError::RemoteDetached | LinkStateError::RemoteClosed => Loss::Link(Condition::default()),
        other => Loss::Link(said(&other.to_string())),
    }
}

fn of_send(error: LinkSendError) -> Loss {
    match error {
        LinkSendError::LinkStateError(error) => of_link_state(error),
        LinkSendError::Detached(error) => of_detach(error),
        LinkSendError::MessageSizeExceeded(error) => {
            Loss::TooLarge(format!("{} bytes, the link takes {}", error.size, error.max_size))
        }
        LinkSendError::NonTerminalDeliveryState
        | LinkSendError::IllegalDeliveryState
        | LinkSendError::MessageEncodeError => Loss::Confused(error.to_string()),
    }
}

pub(super) fn of_recv(error: RecvError) -> Loss {
    match error {
        RecvError::LinkStateError(error) => of_link_state(error),
        other => Loss::Link(said(&other.to_string())),
    }
}

pub(super) fn of_illegal(error: IllegalLinkStateError) -> Loss {
    match error {
        IllegalLinkStateError::SessionStopped(reason) => of_stop(&reason),
        IllegalLinkStateError::IllegalState => Loss::Link(said("the link is in an illegal state")),
    }
}

fn of_sender_attach(error: SenderAttachError) -> Loss {
    match error {
        SenderAttachError::SessionStopped(reason) => of_stop(&reason),
        SenderAttachError::RemoteClosedWithError(error) => Loss::Link(Condition::from(&error)),
        other => Loss::Link(said(&other.to_string())),
    }
}

pub(super) fn of_receiver_attach(error: ReceiverAttachError) -> Loss {
    match error {
        ReceiverAttachError::SessionStopped(reason) => of_stop(&reason),
        ReceiverAttachError::RemoteClosedWithError(error) => Loss::Link(Condition::from(&error)),
        other => Loss::Link(said(&other.to_string())),
    }
}
