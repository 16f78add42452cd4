//! Receiver links in the safe layer: nothing is lost when a wait is dropped, and no link is let go before its time.
//!
//! The other half of `safe_link`, which says what it is that the AMQP crate does not do.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;

use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::{Delivery, DeliveryInfo};
use fe2o3_amqp::link::receiver::{CreditMode, TerminalDeliveryState};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp_types::definitions::SenderSettleMode;
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::Value;
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::safe_link::{Home, Loss, Terms, of_illegal, of_receiver_attach, of_recv};

/// Larger messages end the link. The hub's own limits are 64 KB (messages), 128 KB (methods) and 32 KB for each half of a
/// twin, before JSON's escapes.
const MAX_INCOMING_BYTES: u64 = 256 * 1024;

/// Something came over a receiver link.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message.
    Message(DeliveryInfo, Box<Message<Body<Value>>>),
    /// Bytes that are no AMQP message.
    Unreadable(DeliveryInfo),
}

/// A receiver link that never waits in vain and loses nothing when a wait is dropped.
#[derive(Debug)]
pub(super) struct SafeReceiver {
    /// `None` only while dropping.
    receiver: Option<Receiver>,
    lost: CancellationToken,
    home: Home,
    /// Came while something else was to be done; next to be received.
    ahead: VecDeque<Incoming>,
}

impl Drop for SafeReceiver {
    fn drop(&mut self) {
        let Some(receiver) = self.receiver.take() else { return };
        self.home.let_go(&self.lost, close(receiver));
    }
}

fn read(received: Result<Delivery<Body<Value>>, RecvError>) -> Result<Incoming, Loss> {
    match received {
        Ok(delivery) => {
            let (info, message) = delivery.into_parts();
            Ok(Incoming::Message(info, Box::new(message)))
        }
        Err(RecvError::MessageDecode(error)) => Ok(Incoming::Unreadable(error.info)),
        Err(error) => Err(of_recv(error)),
    }
}

async fn close(mut receiver: Receiver) {
    // If the peer has taken the link away, this tells the crate so, and nothing more is sent. Messages that are dropped
    // here stay with the peer.
    while let Some(Ok(_) | Err(RecvError::MessageDecode(_))) = receiver.recv::<Body<Value>>().now_or_never() {
    }
    _ = receiver.close().await;
}

impl SafeReceiver {
    /// Attaches a receiver without credit. Not to be cancelled.
    pub(super) async fn attach(
        session: &mut SessionHandle<()>,
        terms: Terms,
        lost: CancellationToken,
        home: Home,
    ) -> Result<Self, Loss> {
        let mut builder = Receiver::builder()
            .name(terms.name)
            .source(terms.address)
            .max_message_size(MAX_INCOMING_BYTES)
            .credit_mode(CreditMode::Manual);
        if let Some(properties) = terms.properties {
            builder = builder.properties(properties);
        }
        if terms.settled {
            builder = builder.sender_settle_mode(SenderSettleMode::Settled);
        }
        let receiver = builder.attach(session).await.map_err(of_receiver_attach)?;
        Ok(Self { receiver: Some(receiver), lost, home, ahead: VecDeque::new() })
    }

    /// Waits for what comes next. May be cancelled.
    ///
    /// The crate's own future takes 3 kB, too much for each of many links that mostly wait. So it is made anew for
    /// each poll, which is as good as cancelling: the link's queue keeps the waker.
    pub(super) async fn recv(&mut self) -> Result<Incoming, Loss> {
        let Self { receiver: Some(receiver), lost, ahead, .. } = self else { return Err(Loss::Connection) };
        if let Some(incoming) = ahead.pop_front() {
            return Ok(incoming);
        }
        let received = poll_fn(|context| pin!(receiver.recv::<Body<Value>>()).poll(context));
        tokio::select! {
            biased;
            received = received => read(received),
            () = lost.cancelled() => Err(Loss::Connection),
        }
    }

    /// Tells the peer what became of a message. No frame goes out for one that came settled.
    pub(super) async fn settle(
        &self,
        delivery: DeliveryInfo,
        state: impl Into<TerminalDeliveryState>,
    ) -> Result<(), Loss> {
        let Some(receiver) = &self.receiver else { return Err(Loss::Connection) };
        tokio::select! {
            biased;
            told = receiver.dispose(delivery, state) => told.map_err(of_illegal),
            () = self.lost.cancelled() => Err(Loss::Connection),
        }
    }

    /// Lets the peer send `credit` more messages from now on, beyond those that have come already.
    pub(super) async fn give_credit(&mut self, credit: u32) -> Result<(), Loss> {
        let Some(receiver) = &mut self.receiver else { return Err(Loss::Connection) };
        // For a link that the peer has taken away meanwhile, the frame would hit whichever link has its number by now.
        while let Some(received) = receiver.recv::<Body<Value>>().now_or_never() {
            self.ahead.push_back(read(received)?);
        }
        let credit = credit.saturating_sub(u32::try_from(self.ahead.len()).unwrap_or(u32::MAX));
        tokio::select! {
            biased;
            given = receiver.set_credit(credit) => given.map_err(of_illegal),
            () = self.lost.cancelled() => Err(Loss::Connection),
        }
    }
}
