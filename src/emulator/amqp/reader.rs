//! A reader's link on one partition: sends what is kept from its position on, then what arrives.

use std::sync::Arc;

use fe2o3_amqp::Sendable;
use fe2o3_amqp::link::{SendError, Sender};
use fe2o3_amqp_types::definitions::{Error, LinkError};

use super::connection::Connection;
use super::outgoing::event_message;
use super::position::Position;
use super::refusal::Refusal;
use crate::emulator::Hub;

/// Events copied out of the hub at a time.
const AT_ONCE: usize = 64;

/// Which event a reader gets next.
#[derive(Debug)]
pub(super) struct Reader {
    partition: usize,
    next: i64,
}

impl Reader {
    /// Finds the start in what is kept now.
    pub(super) fn new(hub: &Hub, partition: usize, position: &Position) -> Self {
        let (first, end) = hub.bounds(partition);
        let next = match *position {
            Position::Start => first,
            Position::Latest => end,
            Position::Sequence { number, inclusive } => number.saturating_add(i64::from(!inclusive)),
            Position::Time { ms, inclusive } => hub.first_after(partition, ms, inclusive),
        };
        Self { partition, next }
    }
}

/// Sends events until the link ends or the peer may no longer read. They are settled from the start.
pub(super) async fn serve(mut link: Sender, connection: Arc<Connection>, mut reader: Reader) {
    let mut arrivals = connection.hub.arrivals();
    let mut expiries = connection.expiries();
    loop {
        arrivals.borrow_and_update();
        let events = connection.hub.events(reader.partition, reader.next, AT_ONCE);
        if events.is_empty() {
            tokio::select! {
                _ = link.on_detach() => break,
                _ = arrivals.changed() => {}
                _ = expiries.changed() => {}
            }
        }
        for event in events {
            if !connection.may_read() {
                break;
            }
            reader.next = event.sequence_number + 1;
            let message = Sendable::builder().message(event_message(event)).settled(true).build();
            // `send_batchable` writes the transfer's last field, which pyamqp needs in order to read the others.
            match link.send_batchable(message).await {
                Ok(_settled) => {}
                Err(SendError::MessageSizeExceeded(_)) => {
                    let text = "an event is larger than this link takes".to_owned();
                    let error = Error::new(LinkError::MessageSizeExceeded, text, None);
                    _ = link.close_with_error(error).await;
                    return;
                }
                Err(_) => return,
            }
        }
        if !connection.may_read() {
            let text = "the token for reading expired".to_owned();
            _ = link.close_with_error(Refusal::Unauthorized(text).error()).await;
            return;
        }
    }
    _ = link.close().await;
}
