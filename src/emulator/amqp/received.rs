//! What a link received, told apart: a message, one that can't be read, or the link's end. Knows no node.

use fe2o3_amqp::link::delivery::Delivery;
use fe2o3_amqp::link::{Receiver, RecvError};
use fe2o3_amqp_types::definitions::{AmqpError, Error};
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;

/// Any message.
pub(super) type Incoming = Delivery<Body<Value>>;

/// What was received.
pub(super) enum Received {
    /// A message, still to be answered.
    Message(Box<Incoming>),
    /// One that could not be read, and was rejected as that.
    Unreadable,
    /// The link ended, and wants to be closed.
    Ended,
    /// The link is gone.
    Gone,
}

/// Looks at what `link` received; `what` names it for the peer ("the message").
pub(super) async fn received(
    link: &mut Receiver,
    received: Result<Incoming, RecvError>,
    what: &str,
) -> Received {
    match received {
        Ok(delivery) => Received::Message(Box::new(delivery)),
        Err(RecvError::MessageDecode(error)) => {
            let why = Error::new(AmqpError::DecodeError, format!("{what} can't be read"), None);
            match link.reject(error.info, why).await {
                Ok(()) => Received::Unreadable,
                Err(_) => Received::Gone,
            }
        }
        Err(_) => Received::Ended,
    }
}
