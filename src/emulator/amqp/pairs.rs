//! Pairs of links that belong together: a device's two links for direct methods, and its two for the twin.
//!
//! Both links of a pair name the same id (`com.microsoft:channel-correlation-id`). A device has one pair of a kind; a
//! newer one replaces it. Devices move between connections by `presence`, so a table per connection is enough.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fe2o3_amqp::Sendable;
use fe2o3_amqp::link::{SendError, Sender};
use fe2o3_amqp_types::definitions::{Error, Fields, LinkError, Role};
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, HeldDevice};
use super::lifelines::Way;
use super::refusal::Refusal;
use super::twins::Outlet;

/// Link property that names the pair.
const CORRELATION: &str = "com.microsoft:channel-correlation-id";
/// Longest such name that is taken. SDKs send a word and a UUID.
const MAX_CORRELATION: usize = 256;
/// How long one link waits for the other once it is needed.
pub(super) const PARTNER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Methods,
    Twin,
}

impl Kind {
    /// How the pair's id begins.
    fn prefix(self) -> &'static str {
        match self {
            Self::Methods => "methods:",
            Self::Twin => "twin:",
        }
    }
}

/// The pairs of one connection.
#[derive(Debug, Default)]
pub(super) struct Pairs(Mutex<HashMap<(Kind, String), Arc<Pair>>>);

/// What the two links of a pair share.
#[derive(Debug)]
pub(super) struct Pair {
    correlation: String,
    /// Cancelled when a newer pair takes over, or when the device has fallen too far behind.
    pub(super) over: CancellationToken,
    /// Of methods: whether the link is there on which answers come.
    pub(super) answers: watch::Sender<bool>,
    /// Of twins: where replies and updates leave, if that link is there.
    pub(super) outlet: watch::Sender<Option<Outlet>>,
}

impl Pair {
    fn new(correlation: String) -> Self {
        Self {
            correlation,
            over: CancellationToken::new(),
            answers: watch::channel(false).0,
            outlet: watch::channel(None).0,
        }
    }
}

impl Pairs {
    fn join(&self, kind: Kind, device_id: &str, correlation: String) -> Arc<Pair> {
        let mut pairs = self.lock();
        let key = (kind, device_id.to_owned());
        if let Some(pair) = pairs.get(&key) {
            if pair.correlation == correlation && !pair.over.is_cancelled() {
                return Arc::clone(pair);
            }
            pair.over.cancel();
        }
        let pair = Arc::new(Pair::new(correlation));
        pairs.insert(key, Arc::clone(&pair));
        pair
    }

    /// Forgets the pair if `pair` is its last link.
    fn leave(&self, kind: Kind, device_id: &str, pair: &Arc<Pair>) {
        let mut pairs = self.lock();
        let key = (kind, device_id.to_owned());
        let last = pairs.get(&key).is_some_and(|own| Arc::ptr_eq(own, pair) && Arc::strong_count(own) == 2);
        if last {
            pairs.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Kind, String), Arc<Pair>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link's place in its pair, and its share in the device; both are given back on drop.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) connection: Arc<Connection>,
    pub(super) device: HeldDevice,
    pub(super) pair: Arc<Pair>,
    kind: Kind,
}

impl Half {
    /// Lets a link of `device_id` in.
    ///
    /// # Errors
    /// The refusal to send when it may not come in.
    pub(super) fn admit(
        connection: &Arc<Connection>,
        kind: Kind,
        device_id: &str,
        (attach, session): (&Attach, u64),
    ) -> Result<Self, Refusal> {
        let correlation = correlation_of(attach.properties.as_ref(), kind)?;
        let way = match (kind, &attach.role) {
            (Kind::Methods, Role::Sender) => Way::MethodAnswers,
            (Kind::Methods, Role::Receiver) => Way::MethodCalls,
            (Kind::Twin, Role::Sender) => Way::TwinRequests,
            (Kind::Twin, Role::Receiver) => Way::TwinReplies,
        };
        let device = connection.admit(device_id, way, session)?;
        let pair = connection.pairs.join(kind, device_id, correlation);
        Ok(Self { connection: Arc::clone(connection), device, pair, kind })
    }

    /// Waits until the link has to go, and says how to tell the peer.
    pub(super) async fn ends(&mut self) -> Refusal {
        tokio::select! {
            biased;
            refusal = self.device.lost() => refusal,
            () = self.pair.over.cancelled() => Refusal::Replaced,
        }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        self.connection.pairs.leave(self.kind, &self.device.device_id, &self.pair);
    }
}

/// Sends a message, settled from the start.
///
/// # Errors
/// The link is at its end; with an error if the peer has to be told one.
pub(super) async fn send(
    link: &mut Sender,
    half: &mut Half,
    message: Message<Body<Value>>,
) -> Result<(), Option<Error>> {
    let message = Sendable::builder().message(message).settled(true).build();
    let sent = tokio::select! {
        biased;
        refusal = half.ends() => return Err(Some(refusal.error())),
        sent = link.send_batchable(message) => sent,
    };
    match sent {
        Ok(_settled) => Ok(()),
        Err(SendError::MessageSizeExceeded(_)) => {
            let text = "a message is larger than this link takes".to_owned();
            Err(Some(Error::new(LinkError::MessageSizeExceeded, text, None)))
        }
        Err(_) => Err(None),
    }
}

/// Ends a link on which messages were sent.
pub(super) async fn close(link: Sender, error: Option<Error>) {
    // Either the peer answers or the session is over; there is nothing left to do in both cases.
    match error {
        Some(error) => _ = link.close_with_error(error).await,
        None => _ = link.close().await,
    }
}

/// The pair's id.
fn correlation_of(properties: Option<&Fields>, kind: Kind) -> Result<String, Refusal> {
    let prefix = kind.prefix();
    let value = properties.and_then(|properties| properties.get(&Symbol::from(CORRELATION)));
    let text = match value {
        Some(Value::String(text)) => text.as_str(),
        Some(Value::Symbol(text)) => text.as_str(),
        Some(_) | None => "",
    };
    if text.len() <= MAX_CORRELATION && text.starts_with(prefix) {
        return Ok(text.to_owned());
    }
    Err(Refusal::Invalid(format!("the link property {CORRELATION} must be {prefix} and an id")))
}
