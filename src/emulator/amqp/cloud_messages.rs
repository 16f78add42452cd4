//! A device's cloud-to-device link: hands messages out while there is credit, and takes the device's answers.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::Sendable;
use fe2o3_amqp::link::{SendError, Sender};
use fe2o3_amqp_types::definitions::{Error, LinkError};
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{
    Annotations, ApplicationProperties, Batch, Body, Data, Message, MessageAnnotations, MessageId, Outcome,
    Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Timestamp, Value};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tracing::debug;

use super::address::cloud_address;
use super::connection::{Connection, HeldDevice};
use super::refusal::Refusal;
use crate::emulator::cloud_messages::{Answer, CloudLink, Next, Offer};
use crate::emulator::presence::Cut;

/// Deliveries without an answer on one link, those included whose lock has run out: the crate keeps them all until
/// the device answers. Four times a full queue.
const UNANSWERED: usize = 200;

/// What one turn of the loop came to.
enum Turn {
    /// The queue or the time has changed.
    Look,
    HandedOut(Box<Offer>, Result<Delivered, SendError>),
    Answered(uuid::Uuid, Option<Answer>),
    End(Option<Error>),
}

type Delivered = fe2o3_amqp::link::delivery::DeliveryFut<Result<Outcome, SendError>>;

/// Hands out messages until the link ends, the device is lost, or a newer link of the device takes its place.
///
/// Waits on: the loss of the device, the queue, the next lock or expiry to run out, the device's answers, credit,
/// the peer's detach.
pub(super) async fn serve(mut link: Sender, connection: Arc<Connection>, mut device: HeldDevice) {
    let device_id = device.device_id.clone();
    let mut inbox = CloudLink::open(Arc::clone(&connection.hub), &device_id);
    let mut open = FuturesUnordered::new();
    let error = loop {
        if connection.auth_of(&device_id).is_none() {
            break Some(Refusal::of_cut(Cut::TokenExpired, &device_id).error());
        }
        let Next { offer, deadline_ms } = inbox.next();
        let offer = offer.filter(|_| open.len() < UNANSWERED);
        let turn = tokio::select! {
            biased;
            refusal = device.lost() => Turn::End(Some(refusal.error())),
            still_ours = inbox.woken() => {
                if still_ours { Turn::Look } else { Turn::End(Some(Refusal::Stolen(device_id.clone()).error())) }
            }
            Some((token, answer)) = open.next() => Turn::Answered(token, answer),
            () = until(deadline_ms, &connection) => Turn::Look,
            turn = hand_out(&mut link, offer, &device_id) => turn,
        };
        match turn {
            Turn::Look => {}
            Turn::HandedOut(offer, Ok(delivered)) => {
                inbox.handed_out(&offer);
                let token = offer.token;
                open.push(async move { (token, answer_of(delivered.await)) });
            }
            // A message that this peer can't take stays in the queue, for one that can.
            Turn::HandedOut(_, Err(SendError::MessageSizeExceeded(size))) => {
                let text = format!("a message of {} bytes is larger than this link takes", size.size);
                break Some(Error::new(LinkError::MessageSizeExceeded, text, None));
            }
            Turn::HandedOut(_, Err(_)) => break None,
            Turn::Answered(token, Some(answer)) => {
                if !inbox.settle(token, answer) {
                    debug!(device = %device_id, "A device answered a message after its lock was lost.");
                }
            }
            // No answer that means anything here: the lock stays until it runs out.
            Turn::Answered(_, None) => {}
            Turn::End(error) => break error,
        }
    };
    // Everything is given back before the peer hears of it, so that what it attaches next finds a clean table.
    drop((inbox, device));
    match error {
        Some(error) => {
            debug!(device = %device_id, reason = ?error.condition, "Taking a cloud-to-device link away.");
            _ = link.close_with_error(error).await;
        }
        None => _ = link.close().await,
    }
}

/// Sends what is offered as soon as there is credit; without an offer, waits for the peer's detach.
async fn hand_out(link: &mut Sender, offer: Option<Offer>, device_id: &str) -> Turn {
    let Some(offer) = offer else {
        _ = link.on_detach().await;
        return Turn::End(None);
    };
    let message = Sendable::builder().message(message_of(&offer, device_id)).settled(false).build();
    let sent = link.send_batchable(message).await;
    Turn::HandedOut(Box::new(offer), sent)
}

/// Sleeps until the hub's clock may show `deadline_ms`. That clock may be a test's, which no timer follows: so it is
/// looked at as often as tokens are.
pub(super) async fn until(deadline_ms: Option<i64>, connection: &Connection) {
    let Some(deadline_ms) = deadline_ms else { return std::future::pending().await };
    let left_ms = deadline_ms.saturating_sub(connection.hub.clock().now_ms()).max(1);
    let left = Duration::from_millis(left_ms.unsigned_abs());
    tokio::time::sleep(left.min(connection.options.token_check)).await;
}

/// What an outcome means at IoT Hub; nothing for `modified`, which it does not know, and for none at all.
fn answer_of(outcome: Result<Outcome, SendError>) -> Option<Answer> {
    match outcome {
        Ok(Outcome::Accepted(_)) => Some(Answer::Complete),
        Ok(Outcome::Released(_)) => Some(Answer::Abandon),
        Ok(Outcome::Rejected(rejected)) => {
            let described = rejected.error.and_then(|error| error.description);
            Some(Answer::Reject(described.filter(|text| !text.is_empty())))
        }
        Ok(Outcome::Modified(_)) | Err(_) => None,
    }
}

/// A message as a device's SDK expects it.
fn message_of(offer: &Offer, device_id: &str) -> Message<Body<Value>> {
    let (queued, sent) = (&offer.queued, &offer.queued.message);
    let mut annotations = Annotations::new();
    let mut set = |name: &str, value: Value| annotations.insert(OwnedKey::from(name), value);
    set("iothub-enqueuedtime", Value::Timestamp(Timestamp::from(queued.enqueued_ms)));
    set("iothub-deliverycount", Value::Ubyte(queued.delivery_count));
    set("x-opt-sequence-number", Value::Ulong(queued.sequence_number));
    set("x-opt-lock-token", Value::String(offer.token.to_string()));

    let mut properties = Properties::new();
    properties.message_id = sent.message_id.clone().map(MessageId::String);
    properties.correlation_id = sent.correlation_id.clone().map(MessageId::String);
    properties.user_id = sent.user_id.as_ref().map(|id| Binary::from(id.to_vec()));
    properties.to = Some(cloud_address(device_id));
    properties.content_type = sent.content_type.clone().map(Symbol);
    properties.content_encoding = sent.content_encoding.clone().map(Symbol);
    properties.absolute_expiry_time = Some(Timestamp::from(queued.expires_ms));
    let mut application = ApplicationProperties::builder();
    for (name, value) in &sent.properties {
        application = application.insert(name.clone(), value.clone());
    }
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(annotations)),
        properties: Some(properties),
        application_properties: Some(application.build()),
        body: Body::Data(Batch::new(vec![Data(Binary::from(sent.body.to_vec()))])),
        footer: None,
    }
}
