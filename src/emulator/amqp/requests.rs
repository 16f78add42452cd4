//! Requests on a node such as `$cbs`: received one by one, each answered with a status on the peer's reply link.
//!
//! Knows no node's answers.

use std::borrow::Cow;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::Value;

use super::lifelines::Lifeline;
use super::outgoing::reply_message;
use super::outlets::Outlets;
use super::received::{Received, received};
use super::replies::cut;

/// A request as it came.
pub(super) type Request = Message<Body<Value>>;

/// Status, its text, and the reply's body.
pub(super) struct Answer {
    pub(super) status: i32,
    pub(super) description: Cow<'static, str>,
    pub(super) body: Value,
}

/// Answers requests until the link ends.
pub(super) async fn serve(
    mut link: Receiver,
    replies: &Outlets,
    session: u64,
    mut line: Option<Lifeline>,
    answer: impl Fn(&Request) -> Answer,
) {
    loop {
        let incoming = async {
            replies.ready().await;
            link.recv::<Body<Value>>().await
        };
        let incoming = tokio::select! {
            biased;
            refusal = cut(&mut line) => {
                _ = link.close_with_error(refusal.error()).await;
                return;
            }
            incoming = incoming => incoming,
        };
        let delivery = match received(&mut link, incoming, "the request").await {
            Received::Message(delivery) => *delivery,
            Received::Unreadable => continue,
            Received::Gone => return,
            Received::Ended => break,
        };
        let (info, request) = delivery.into_parts();
        if link.accept(info).await.is_err() {
            return;
        }
        let Answer { status, description, body } = answer(&request);
        let properties = request.properties.unwrap_or_default();
        let reply = reply_message(properties.message_id, status, &description, body);
        replies.reply(session, properties.reply_to.as_deref(), reply).await;
    }
    _ = link.close().await;
}
