//! The method links of one session: calls in, replies back.
//!
//! Knows neither other links nor any method.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::{Accepted, MessageId, Rejected};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::decode;
use super::event::DeviceEvent;
use super::message::method_reply;
use super::safe_link::{Incoming, Loss, SafeReceiver, SafeSender};
use crate::azure::{HubDevice, MethodReply};

/// Calls of one device under way at once; more wait at the hub.
const MAX_CALLS: u32 = 8;
/// The longest that a caller can ask the hub to wait; a later reply finds nobody.
const LONGEST_CALL: Duration = Duration::from_secs(300);
/// A hub that takes no reply for this long has lost the thread: the link is given up.
const REPLY_PATIENCE: Duration = Duration::from_secs(5);

/// The pair of links and the calls under way.
pub(super) struct Methods {
    sender: SafeSender,
    receiver: SafeReceiver,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
}

/// A call that needs no more waiting.
pub(super) struct Done {
    id: MessageId,
    /// `None` if nobody will reply.
    reply: Option<MethodReply>,
}

/// Something to be handled.
pub(super) enum News {
    Came(Incoming),
    Done(Done),
}

impl Methods {
    /// Takes an attached pair and lets calls come.
    pub(super) async fn start(sender: SafeSender, receiver: SafeReceiver) -> Result<Self, Loss> {
        let mut links = Self { sender, receiver, calls: FuturesUnordered::new() };
        links.give_credit().await?;
        Ok(links)
    }

    /// Waits for a call, a reply, or the loss of a link. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<News, Loss> {
        tokio::select! {
            biased;
            Some(done) = self.calls.next(), if !self.calls.is_empty() => Ok(News::Done(done)),
            came = self.receiver.recv() => came.map(News::Came),
            loss = self.sender.on_loss() => Err(loss),
        }
    }

    /// Acts on it; gives the event for a call that came. Not to be cancelled.
    pub(super) async fn handle(
        &mut self,
        news: News,
        device: &Arc<HubDevice>,
    ) -> Result<Option<DeviceEvent>, Loss> {
        let mut event = None;
        match news {
            News::Came(Incoming::Message(delivery, message)) => match decode::method_request(*message) {
                Ok((id, request)) => {
                    self.receiver.settle(delivery, Accepted {}).await?;
                    let (reply, replied) = oneshot::channel();
                    let call = async move {
                        let reply = timeout(LONGEST_CALL, replied).await.ok().and_then(Result::ok);
                        Done { id, reply }
                    };
                    self.calls.push(call.boxed());
                    event = Some(DeviceEvent::Method { device: device.clone(), request, reply });
                }
                Err(reason) => self.refuse(delivery, reason).await?,
            },
            News::Came(Incoming::Unreadable(delivery)) => {
                self.refuse(delivery, "the method call can't be read as AMQP").await?;
            }
            News::Done(done) => self.reply(done).await?,
        }
        self.give_credit().await?;
        Ok(event)
    }

    /// Sends the replies that were given already.
    pub(super) async fn flush(&mut self) {
        while let Some(Some(done)) = self.calls.next().now_or_never() {
            if self.reply(done).await.is_err() {
                return;
            }
        }
    }

    async fn reply(&mut self, done: Done) -> Result<(), Loss> {
        let Some(reply) = done.reply else { return Ok(()) };
        let message = method_reply(done.id, &reply);
        match self.sender.post(&message, Instant::now() + REPLY_PATIENCE).await {
            // The caller runs into its time-out; the flow is to keep replies within 128 KB.
            Err(Loss::TooLarge(_)) => Ok(()),
            posted => posted,
        }
    }

    async fn refuse(&mut self, delivery: DeliveryInfo, reason: &str) -> Result<(), Loss> {
        let error = Error::new(AmqpError::DecodeError, reason.to_owned(), None);
        self.receiver.settle(delivery, Rejected { error: Some(error) }).await
    }

    async fn give_credit(&mut self) -> Result<(), Loss> {
        let out = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
        self.receiver.give_credit(MAX_CALLS.saturating_sub(out)).await
    }
}
