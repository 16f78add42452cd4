//! A device's two method links: calls leave on one, answers come in on the other.

use std::sync::Arc;

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;
use tokio::sync::watch;
use tracing::debug;

use super::methods_wire;
use super::pairs::{self, Half};
use super::received::{Received, received};
use super::refusal::Refusal;
use crate::emulator::presence::Cut;

/// Sends calls until the link ends or has to. The device can be called while the link for answers is there, too.
pub(super) async fn serve_calls(mut link: Sender, mut half: Half) {
    let ended = pass_calls(&mut link, &mut half).await;
    drop(half);
    pairs::close(link, ended).await;
}

/// The error to close with, if there is one to tell.
async fn pass_calls(link: &mut Sender, half: &mut Half) -> Option<Error> {
    let hub = Arc::clone(&half.connection.hub);
    let mut answers = half.pair.answers.subscribe();
    loop {
        tokio::select! {
            biased;
            refusal = half.ends() => return Some(refusal.error()),
            _ = link.on_detach() => return None,
            _ = answers.wait_for(|there| *there) => {}
        }
        let mut line = hub.open_method_line(&half.device.device_id);
        loop {
            let call = tokio::select! {
                biased;
                refusal = half.ends() => return Some(refusal.error()),
                _ = link.on_detach() => return None,
                _ = answers.wait_for(|there| !*there) => break,
                call = line.call() => call,
            };
            let Some(call) = call else { return Some(Refusal::Replaced.error()) };
            if let Err(ended) = pairs::send(link, half, methods_wire::call(call)).await {
                return ended;
            }
        }
    }
}

/// Takes answers until the link ends or has to.
pub(super) async fn serve_answers(mut link: Receiver, mut half: Half) {
    let there = There::new(half.pair.answers.clone());
    let refusal = loop {
        let incoming = tokio::select! {
            biased;
            refusal = half.ends() => break Some(refusal),
            incoming = link.recv::<Body<Value>>() => incoming,
        };
        let delivery = match received(&mut link, incoming, "the answer").await {
            Received::Message(delivery) => *delivery,
            Received::Unreadable => continue,
            Received::Gone => return,
            Received::Ended => break None,
        };
        let device_id = &half.device.device_id;
        if half.connection.auth_of(device_id).is_none() {
            break Some(Refusal::of_cut(Cut::TokenExpired, device_id));
        }
        let (info, message) = delivery.into_parts();
        let answered = match methods_wire::answer(message) {
            Ok((id, answer)) => {
                half.connection.hub.answer_method(device_id, id, answer);
                link.accept(info).await
            }
            Err(why) => {
                debug!(device = %device_id, reason = why, "Rejecting the answer to a direct method.");
                link.reject(info, Error::new(AmqpError::DecodeError, why.to_owned(), None)).await
            }
        };
        if answered.is_err() {
            return;
        }
    };
    drop(there);
    // Given back before the peer hears of it, so that what it attaches next finds a clean table.
    drop(half);
    match refusal {
        Some(refusal) => _ = link.close_with_error(refusal.error()).await,
        None => _ = link.close().await,
    }
}

/// Says that the link for answers is there, until dropped.
struct There(watch::Sender<bool>);

impl There {
    fn new(there: watch::Sender<bool>) -> Self {
        there.send_replace(true);
        Self(there)
    }
}

impl Drop for There {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}
