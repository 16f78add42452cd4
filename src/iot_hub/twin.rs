//! The twin's links of one session: requests out, answers and changes in.
//!
//! Knows how twins travel; what to ask when is the follower's matter.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::{Accepted, Rejected};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::classify::{self, Class};
use super::decode::{self, TwinAnswer, TwinMessage};
use super::error::{RetryReason, SendError};
use super::event::DeviceEvent;
use super::follower::{Follower, Question};
use super::kept::Request;
use super::message::twin_request;
use super::safe_link::{Incoming, Loss, SafeReceiver, SafeSender, said};
use crate::azure::{Desired, HubDevice};
use crate::model::ParkReason;

/// Answers and changes that may be on their way.
const CREDIT: u32 = 8;
/// A hub that takes no request for this long has lost the thread: the links are given up.
const POST_PATIENCE: Duration = Duration::from_secs(5);
/// After so many requests in a row without answer, new links are the better way.
const MAX_UNANSWERED: u32 = 3;

/// The pair of links, what was asked, and how far desired properties are followed.
pub(super) struct Twin {
    sender: SafeSender,
    receiver: SafeReceiver,
    follower: Follower,
    asked: Vec<Asked>,
    /// Messages taken since credit was given.
    taken: u32,
    unanswered: u32,
    patience: Duration,
    /// An answer came: the hub does have twins.
    proven: bool,
}

struct Asked {
    id: String,
    deadline: Instant,
    what: What,
}

enum What {
    Question(Question),
    Report(oneshot::Sender<Result<u64, SendError>>),
}

/// Something to be handled.
pub(super) enum News {
    Came(Incoming),
    /// A question is due, or a request got no answer in time.
    Due,
}

impl Twin {
    /// Takes an attached pair.
    pub(super) async fn start(
        sender: SafeSender,
        mut receiver: SafeReceiver,
        patience: Duration,
    ) -> Result<Self, Loss> {
        receiver.give_credit(CREDIT).await?;
        let follower = Follower::new(Instant::now());
        let asked = Vec::new();
        Ok(Self { sender, receiver, follower, asked, taken: 0, unanswered: 0, patience, proven: false })
    }

    /// Whether the hub ever answered here.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// Waits for an answer, a change, the time of a question, or the loss of a link. Without `room` for another event
    /// no question is asked. May be cancelled.
    pub(super) async fn next(&mut self, room: bool) -> Result<News, Loss> {
        let question = self.follower.question().filter(|_| room).map(|(_, at)| at);
        let due = self.asked.iter().map(|asked| asked.deadline).chain(question).min();
        tokio::select! {
            biased;
            came = self.receiver.recv() => came.map(News::Came),
            loss = self.sender.on_loss() => Err(loss),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Ok(News::Due),
        }
    }

    /// Acts on it; gives the event when desired properties are news. Not to be cancelled.
    pub(super) async fn handle(
        &mut self,
        news: News,
        device: &Arc<HubDevice>,
        room: bool,
    ) -> Result<Option<DeviceEvent>, Loss> {
        match news {
            News::Due => {
                self.time_out(device)?;
                if room {
                    self.ask().await?;
                }
                Ok(None)
            }
            News::Came(incoming) => {
                let desired = self.take(incoming, device, room).await?;
                self.taken += 1;
                if self.taken >= CREDIT / 2 {
                    self.taken = 0;
                    self.receiver.give_credit(CREDIT).await?;
                }
                Ok(desired.map(|desired| DeviceEvent::Desired { device: device.clone(), desired }))
            }
        }
    }

    /// Sends a report; its answer comes later.
    pub(super) async fn report(&mut self, request: Request, device: &HubDevice) -> Result<(), Loss> {
        let Request { patch, deadline, answer } = request;
        if deadline <= Instant::now() || answer.is_closed() {
            return Ok(());
        }
        let id = Uuid::new_v4().to_string();
        let message = twin_request(&id, "PATCH", Some("/properties/reported"), Some(&patch));
        match self.sender.post(&message, Instant::now() + POST_PATIENCE).await {
            Ok(()) => {
                let deadline = deadline.min(Instant::now() + self.patience);
                self.asked.push(Asked { id, deadline, what: What::Report(answer) });
                Ok(())
            }
            Err(Loss::TooLarge(text)) => {
                let class = Class::Park(ParkReason::TooLarge);
                _ = answer.send(Err(classify::error(class, &text, &device.hub)));
                Ok(())
            }
            Err(loss) => Err(loss),
        }
    }

    async fn ask(&mut self) -> Result<(), Loss> {
        let Some((question, at)) = self.follower.question() else { return Ok(()) };
        if at > Instant::now() {
            return Ok(());
        }
        let id = Uuid::new_v4().to_string();
        let message = match question {
            Question::Subscribe => {
                twin_request(&id, "PUT", Some("/notifications/twin/properties/desired"), None)
            }
            Question::Get => twin_request(&id, "GET", None, None),
        };
        self.sender.post(&message, Instant::now() + POST_PATIENCE).await?;
        self.follower.asked();
        let deadline = Instant::now() + self.patience;
        self.asked.push(Asked { id, deadline, what: What::Question(question) });
        Ok(())
    }

    async fn take(
        &mut self,
        incoming: Incoming,
        device: &HubDevice,
        room: bool,
    ) -> Result<Option<Desired>, Loss> {
        let (delivery, read) = match incoming {
            Incoming::Message(delivery, message) => (delivery, decode::twin_message(*message)),
            Incoming::Unreadable(delivery) => (delivery, Err("the twin's message can't be read as AMQP")),
        };
        let message = match read {
            Ok(message) => message,
            Err(reason) => {
                let error = Error::new(AmqpError::DecodeError, reason.to_owned(), None);
                self.receiver.settle(delivery, Rejected { error: Some(error) }).await?;
                return Ok(None);
            }
        };
        self.receiver.settle(delivery, Accepted {}).await?;
        Ok(match message {
            TwinMessage::Answer(answer) => self.answered(answer, device),
            TwinMessage::Changed(body) => match decode::patch(&body) {
                Ok(change) => self.follower.changed(change, room),
                Err(error) => {
                    tracing::warn!(hub = %device.hub, device = %device.device_id, error,
                        "a change of desired properties can't be read and is left out");
                    None
                }
            },
        })
    }

    fn answered(&mut self, answer: TwinAnswer, device: &HubDevice) -> Option<Desired> {
        let at = self.asked.iter().position(|asked| asked.id == answer.id)?;
        let asked = self.asked.swap_remove(at);
        self.unanswered = 0;
        let class = classify::twin_status(answer.status);
        self.proven |= class.is_none();
        let failed = |class| {
            let detail = format!(
                "the hub answered our twin request with {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
            classify::error(class, &detail, &device.hub)
        };
        match (asked.what, class) {
            (What::Report(waiter), None) => _ = waiter.send(Ok(answer.version.unwrap_or(0))),
            (What::Report(waiter), Some(class)) => _ = waiter.send(Err(failed(class))),
            (What::Question(Question::Subscribe), None) => self.follower.subscribed(),
            (What::Question(Question::Get), None) => match decode::whole(&answer.body) {
                Ok(whole) => return self.follower.got(whole, Instant::now()),
                Err(error) => {
                    tracing::warn!(hub = %device.hub, device = %device.device_id, error,
                        "the device's twin can't be read and will be asked for again");
                    self.follower.failed(Instant::now(), None);
                }
            },
            (What::Question(_), Some(class)) => {
                let error = failed(class);
                let after = match &error {
                    SendError::Retry { after, .. } => *after,
                    SendError::Reresolve { .. } | SendError::Park { .. } => None,
                };
                tracing::debug!(hub = %device.hub, device = %device.device_id, %error,
                    "the device's twin will be asked for again");
                self.follower.failed(Instant::now(), after);
            }
        }
        None
    }

    fn time_out(&mut self, device: &HubDevice) -> Result<(), Loss> {
        let now = Instant::now();
        while let Some(at) = self.asked.iter().position(|asked| asked.deadline <= now) {
            self.unanswered += 1;
            match self.asked.swap_remove(at).what {
                What::Question(_) => self.follower.failed(now, None),
                What::Report(waiter) => {
                    let class = Class::Retry(RetryReason::Timeout, None, false);
                    let detail = "the hub did not answer the report in time";
                    _ = waiter.send(Err(classify::error(class, detail, &device.hub)));
                }
            }
        }
        if self.unanswered >= MAX_UNANSWERED {
            return Err(Loss::Link(said("the hub answers no twin requests")));
        }
        Ok(())
    }
}
