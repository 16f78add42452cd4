//! Claims-based security: puts SAS tokens over the one `$cbs` link pair of a connection, many at a time.
//!
//! Knows neither when a token is due nor what it is for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fe2o3_amqp::Receiver;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::{Delivery, Sendable};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::classify::Condition;
use super::safe_link::{self, Loss, SafeSender, Terms, said};
use crate::model::Secret;

/// The node for tokens.
const ADDRESS: &str = "$cbs";
/// What Node, Java, C and Python clients send; IoT Hub takes it beside `azure-devices.net:sastoken`.
const TOKEN_TYPE: &str = "servicebus.windows.net:sastoken";

/// The hub's reply to a put-token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// An HTTP-like status; -1 if there was none.
    pub(super) status: i64,
    /// The text beside it.
    pub(super) description: String,
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoReply {
    /// The link pair is gone, and the connection with it.
    Lost,
    /// Nothing came in time.
    TimedOut,
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Reply>>>>;

/// Where tokens are put, and who waits for what.
#[derive(Debug)]
pub(super) struct Cbs {
    requests: mpsc::Sender<Request>,
    waiting: Waiting,
    next_id: AtomicU64,
    permits: Semaphore,
    lost: CancellationToken,
}

#[derive(Debug)]
struct Request {
    message: Sendable<AmqpValue<String>>,
    deadline: Instant,
}

/// The link pair: sends requests and hands replies out until either link is gone.
#[derive(Debug)]
pub(super) struct CbsLinks {
    sender: SafeSender,
    receiver: Receiver,
    session: SessionHandle<()>,
    requests: mpsc::Receiver<Request>,
    waiting: Waiting,
}

/// Takes an entry out of the map when its waiter is gone, whatever the reason.
struct Entry<'a> {
    waiting: &'a Waiting,
    id: String,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        locked(self.waiting).remove(&self.id);
    }
}

impl Cbs {
    /// Opens the pair in a session of its own. To be cancelled only together with the connection.
    pub(super) async fn open(
        connection: &mut ConnectionHandle<()>,
        in_flight: usize,
        lost: CancellationToken,
    ) -> Result<(Self, CbsLinks), Loss> {
        let mut session = safe_link::begin(connection).await?;
        let terms = Terms { name: "cbs-sender".into(), address: ADDRESS.into(), ..Terms::default() };
        let sender = SafeSender::attach(&mut session, terms, lost.clone(), None).await?;
        let receiver = safe_link::attach_receiver(&mut session, "cbs-receiver", ADDRESS).await?;
        let waiting = Waiting::default();
        let (requests, queue) = mpsc::channel(in_flight);
        let links = CbsLinks { sender, receiver, session, requests: queue, waiting: waiting.clone() };
        let cbs =
            Self { requests, waiting, next_id: AtomicU64::new(1), permits: Semaphore::new(in_flight), lost };
        Ok((cbs, links))
    }

    /// Puts one token for `audience` and waits for the hub's reply, up to `patience` from when it is sent.
    pub(super) async fn put(
        &self,
        audience: &str,
        token: &Secret,
        patience: Duration,
    ) -> Result<Reply, NoReply> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => Err(NoReply::Lost),
            reply = self.put_anyway(audience, token, patience) => reply,
        }
    }

    async fn put_anyway(&self, audience: &str, token: &Secret, patience: Duration) -> Result<Reply, NoReply> {
        let _permit = self.permits.acquire().await.map_err(|_| NoReply::Lost)?;
        let deadline = Instant::now() + patience;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let (answer, reply) = oneshot::channel();
        locked(&self.waiting).insert(id.clone(), answer);
        let message = put_token(&id, audience, token);
        let _entry = Entry { waiting: &self.waiting, id };
        self.requests.send(Request { message, deadline }).await.map_err(|_| NoReply::Lost)?;
        match timeout_at(deadline, reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(NoReply::Lost),
            Err(_) => Err(NoReply::TimedOut),
        }
    }
}

impl CbsLinks {
    /// Runs until the pair is lost and says why.
    pub(super) async fn run(self) -> Condition {
        let Self { mut sender, mut receiver, session, mut requests, waiting } = self;
        // One of them waiting for the peer does not hold the other up.
        let condition = tokio::select! {
            condition = write(&mut sender, &mut requests) => condition,
            condition = read(&mut receiver, &waiting) => condition,
        };
        // First no more requests, then dropping the waiters tells them at once.
        drop(requests);
        locked(&waiting).clear();
        drop((sender, receiver));
        safe_link::end(session);
        condition
    }
}

async fn write(sender: &mut SafeSender, requests: &mut mpsc::Receiver<Request>) -> Condition {
    loop {
        let loss = tokio::select! {
            loss = sender.on_loss() => loss,
            Some(Request { message, deadline }) = requests.recv() => {
                // The outcome of the transfer says nothing that the reply does not say better.
                match sender.post(&message, deadline).await {
                    // Without credit the waiter's own time runs out.
                    Ok(()) | Err(Loss::NoCredit) => continue,
                    Err(loss) => loss,
                }
            }
        };
        return match loss {
            Loss::Link(condition) | Loss::Session(condition) => condition,
            Loss::Connection | Loss::NoCredit | Loss::NoOutcome | Loss::Stuck => {
                said("the connection was lost")
            }
            Loss::TooLarge(text) | Loss::Confused(text) => said(&text),
        };
    }
}

async fn read(receiver: &mut Receiver, waiting: &Waiting) -> Condition {
    loop {
        match receiver.recv::<Body<Value>>().await {
            Ok(delivery) => hand_out(&delivery, waiting),
            // One reply that can't be read is one reply that does not come.
            Err(RecvError::MessageDecode(_)) => {}
            Err(error) => return said(&format!("the token link ended: {error}")),
        }
    }
}

fn hand_out(delivery: &Delivery<Body<Value>>, waiting: &Waiting) {
    let message = delivery.message();
    let id = match message.properties.as_ref().and_then(|properties| properties.correlation_id.as_ref()) {
        Some(MessageId::String(id)) => id,
        Some(MessageId::Ulong(_) | MessageId::Uuid(_) | MessageId::Binary(_)) | None => return,
    };
    if let Some(waiter) = locked(waiting).remove(id) {
        // A waiter that timed out just now is gone.
        _ = waiter.send(reply_in(message.application_properties.as_ref()));
    }
}

fn put_token(id: &str, audience: &str, token: &Secret) -> Sendable<AmqpValue<String>> {
    let properties = Properties::builder().message_id(id.to_owned()).to(ADDRESS).reply_to("cbs").build();
    let text = |text: &str| SimpleValue::String(text.to_owned());
    let application = ApplicationProperties::builder()
        .insert("operation", text("put-token"))
        .insert("type", text(TOKEN_TYPE))
        .insert("name", text(audience))
        .build();
    let message = Message::builder()
        .properties(properties)
        .application_properties(application)
        .value(token.reveal().to_owned())
        .build();
    Sendable::from(message)
}

/// The status may come as an integer of any width.
fn reply_in(properties: Option<&ApplicationProperties>) -> Reply {
    let get = |name: &str| properties.and_then(|properties| properties.0.get(name));
    let status = match get("status-code") {
        Some(SimpleValue::Int(value)) => i64::from(*value),
        Some(SimpleValue::Uint(value)) => i64::from(*value),
        Some(SimpleValue::Long(value)) => *value,
        Some(SimpleValue::Ulong(value)) => i64::try_from(*value).unwrap_or(-1),
        Some(SimpleValue::Short(value)) => i64::from(*value),
        Some(SimpleValue::Ushort(value)) => i64::from(*value),
        Some(SimpleValue::Byte(value)) => i64::from(*value),
        Some(SimpleValue::Ubyte(value)) => i64::from(*value),
        Some(_) | None => -1,
    };
    let description = match get("status-description") {
        Some(SimpleValue::String(text)) => text.clone(),
        Some(_) | None => String::new(),
    };
    Reply { status, description }
}

fn locked(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<Reply>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
