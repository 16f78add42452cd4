//! A service's links for feedback on its messages, and for file notifications, of which there are none.

use std::sync::Arc;

use fe2o3_amqp::Sendable;
use fe2o3_amqp::link::{SendError, Sender};
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{
    Annotations, Batch, Body, Data, Message, MessageAnnotations, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Timestamp, Value};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use uuid::Uuid;

use super::cloud_messages::until;
use super::connection::Connection;
use super::refusal::Refusal;
use crate::emulator::cloud_messages::TakenFeedback;

const CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";
/// Batches without an answer on one link: those of a thousand devices with full queues.
const UNANSWERED: usize = 1_000;

/// Hands out feedback until the link ends or the peer may no longer read it.
///
/// Waits on: tokens that expire, answers, credit, the peer's detach, and the time to look for feedback again.
pub(super) async fn serve(mut link: Sender, connection: Arc<Connection>) {
    let hub = Arc::clone(&connection.hub);
    let mut expiries = connection.expiries();
    let mut open = FuturesUnordered::new();
    loop {
        if !connection.may_serve() {
            return unauthorized(link).await;
        }
        let taken = if open.len() < UNANSWERED { TakenFeedback::take(&hub) } else { Err(None) };
        let (mut feedback, due_ms) = match taken {
            Ok(feedback) => (Some(feedback), None),
            Err(due_ms) => (None, due_ms),
        };
        // Messages come to their ends also while nobody looks; so we do, every now and then. And a batch that finds no
        // credit here goes back soon, for another service to have it.
        let look = until(Some(due_ms.unwrap_or(i64::MAX)), &connection);
        tokio::select! {
            biased;
            Some(()) = open.next() => {}
            _ = expiries.changed() => {}
            sent = hand_out(&mut link, &feedback, hub.host(), hub.clock().now_ms()) => match sent {
                Some(Ok(delivered)) => {
                    if let Some(feedback) = &mut feedback {
                        feedback.handed_out();
                    }
                    open.push(async move {
                        if let (Ok(Outcome::Accepted(_)), Some(feedback)) = (delivered.await, feedback) {
                            feedback.arrived();
                        }
                    });
                }
                Some(Err(_)) | None => break,
            },
            () = look => {}
        }
    }
    _ = link.close().await;
}

/// Stays silent until the link ends or the peer may no longer read: nothing is ever uploaded here.
pub(super) async fn serve_file_notifications(mut link: Sender, connection: Arc<Connection>) {
    let mut expiries = connection.expiries();
    while connection.may_serve() {
        tokio::select! {
            _ = link.on_detach() => {
                _ = link.close().await;
                return;
            }
            _ = expiries.changed() => {}
        }
    }
    unauthorized(link).await;
}

async fn unauthorized(link: Sender) {
    let text = "the token for reading feedback expired".to_owned();
    _ = link.close_with_error(Refusal::Unauthorized(text).error()).await;
}

type Delivered = fe2o3_amqp::link::delivery::DeliveryFut<Result<Outcome, SendError>>;

/// Sends a batch as soon as there is credit; without one waits for the peer's detach, which is `None`.
async fn hand_out(
    link: &mut Sender,
    feedback: &Option<TakenFeedback>,
    host: &str,
    now_ms: i64,
) -> Option<Result<Delivered, SendError>> {
    let Some(feedback) = feedback else {
        _ = link.on_detach().await;
        return None;
    };
    let message = message_of(feedback.json(), host, now_ms);
    Some(link.send_batchable(Sendable::builder().message(message).settled(false).build()).await)
}

fn message_of(json: Vec<u8>, host: &str, now_ms: i64) -> Message<Body<Value>> {
    let mut annotations = Annotations::new();
    let now = Timestamp::from(now_ms);
    annotations.insert(OwnedKey::from("iothub-enqueuedtime"), Value::Timestamp(now));
    let mut properties = Properties::new();
    properties.message_id = Some(MessageId::String(Uuid::new_v4().to_string()));
    properties.user_id = Some(Binary::from(host.as_bytes().to_vec()));
    properties.content_type = Some(Symbol::from(CONTENT_TYPE));
    properties.content_encoding = Some(Symbol::from("utf-8"));
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(annotations)),
        properties: Some(properties),
        application_properties: None,
        body: Body::Data(Batch::new(vec![Data(Binary::from(json))])),
        footer: None,
    }
}
