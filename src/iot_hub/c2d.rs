//! The cloud-to-device link of one session: messages in, answers back, and credit for no more than may be unanswered.
//!
//! Knows neither other links nor what a message means.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::link::receiver::TerminalDeliveryState;
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::{Accepted, Rejected, Released};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::decode;
use super::event::DeviceEvent;
use super::safe_link::{Incoming, Loss, SafeReceiver};
use crate::azure::{HubDevice, Settlement};

/// IoT Hub holds a message for its receiver this long; no setting changes it.
const LOCK: Duration = Duration::from_secs(60);
/// Longest reason sent to the hub; one sentence fits.
const MAX_REASON_CHARS: usize = 500;

/// The link and the messages that were handed out.
pub(super) struct CloudMessages {
    receiver: SafeReceiver,
    credit: u32,
    answers: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// When the locks of messages end that nobody will answer.
    unanswered: Vec<Instant>,
}

/// What became of a message that was handed out.
pub(super) struct Answered {
    delivery: DeliveryInfo,
    locked_until: Instant,
    /// `None` if nobody will answer.
    settlement: Option<Settlement>,
}

/// Something to be handled.
pub(super) enum News {
    Came(Incoming),
    Answered(Answered),
    LockEnded,
}

impl CloudMessages {
    /// Takes an attached link and lets `credit` messages come.
    pub(super) async fn start(receiver: SafeReceiver, credit: u32) -> Result<Self, Loss> {
        let answers = FuturesUnordered::new();
        let mut link = Self { receiver, credit: credit.max(1), answers, unanswered: Vec::new() };
        link.give_credit().await?;
        Ok(link)
    }

    /// Waits for a message, an answer, or the end of a lock. May be cancelled.
    pub(super) async fn next(&mut self) -> Result<News, Loss> {
        let lock_end = self.unanswered.iter().min().copied();
        tokio::select! {
            biased;
            Some(answered) = self.answers.next(), if !self.answers.is_empty() => Ok(News::Answered(answered)),
            came = self.receiver.recv() => came.map(News::Came),
            () = sleep_until(lock_end.unwrap_or_else(Instant::now)), if lock_end.is_some() => Ok(News::LockEnded),
        }
    }

    /// Acts on it; gives the event for a message that came. Not to be cancelled.
    pub(super) async fn handle(
        &mut self,
        news: News,
        device: &Arc<HubDevice>,
    ) -> Result<Option<DeviceEvent>, Loss> {
        match news {
            News::Came(Incoming::Message(delivery, message)) => match decode::cloud_message(*message) {
                Ok(message) => {
                    let locked_until = Instant::now() + LOCK;
                    let (settle, answer) = oneshot::channel();
                    let answered =
                        async move { Answered { delivery, locked_until, settlement: answer.await.ok() } };
                    self.answers.push(answered.boxed());
                    let device = device.clone();
                    return Ok(Some(DeviceEvent::CloudMessage { device, message, locked_until, settle }));
                }
                Err(reason) => self.settle(delivery, rejected(reason)).await?,
            },
            News::Came(Incoming::Unreadable(delivery)) => {
                self.settle(delivery, rejected("the message can't be read as AMQP")).await?;
            }
            News::Answered(answered) => self.answer(answered).await?,
            News::LockEnded => {
                let now = Instant::now();
                self.unanswered.retain(|end| *end > now);
                self.give_credit().await?;
            }
        }
        Ok(None)
    }

    /// Sends the answers that were given already.
    pub(super) async fn flush(&mut self) {
        while let Some(Some(answered)) = self.answers.next().now_or_never() {
            if self.answer(answered).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, answered: Answered) -> Result<(), Loss> {
        let state: TerminalDeliveryState = match answered.settlement {
            Some(Settlement::Complete) => Accepted {}.into(),
            Some(Settlement::Abandon) => Released {}.into(),
            Some(Settlement::Reject { reason }) => rejected(&reason),
            None => {
                // The hub hands it out again when its lock ends; until then a younger one would pass it.
                self.unanswered.push(answered.locked_until);
                return Ok(());
            }
        };
        self.settle(answered.delivery, state).await
    }

    async fn settle(&mut self, delivery: DeliveryInfo, state: TerminalDeliveryState) -> Result<(), Loss> {
        self.receiver.settle(delivery, state).await?;
        self.give_credit().await
    }

    async fn give_credit(&mut self) -> Result<(), Loss> {
        let out = u32::try_from(self.answers.len() + self.unanswered.len()).unwrap_or(u32::MAX);
        self.receiver.give_credit(self.credit.saturating_sub(out)).await
    }
}

fn rejected(reason: &str) -> TerminalDeliveryState {
    let reason: String =
        reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON_CHARS).collect();
    Rejected { error: Some(Error::new(AmqpError::NotAllowed, reason, None)) }.into()
}
