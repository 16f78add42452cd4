//! A device's telemetry link: what arrives is kept first and accepted then.

use std::sync::Arc;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp_types::definitions::{AmqpError, Error, LinkError};
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::Value;
use tracing::debug;

use super::connection::{Connection, HeldDevice};
use super::incoming::events_of;
use super::received::{Received, received};
use super::refusal::Refusal;
use crate::emulator::presence::Cut;

/// Takes telemetry until the link ends, the device is lost or no token speaks for it any more.
pub(super) async fn serve(mut link: Receiver, connection: Arc<Connection>, mut device: HeldDevice) {
    let refusal = loop {
        let incoming = tokio::select! {
            biased;
            refusal = device.lost() => break Some(refusal),
            incoming = link.recv::<Body<Value>>() => incoming,
        };
        let delivery = match received(&mut link, incoming, "the message").await {
            Received::Message(delivery) => *delivery,
            Received::Unreadable => continue,
            Received::Gone => return,
            Received::Ended => break None,
        };
        let Some(auth) = connection.auth_of(&device.device_id) else {
            break Some(Refusal::of_cut(Cut::TokenExpired, &device.device_id));
        };
        let format = delivery.message_format().unwrap_or_default();
        let (info, message) = delivery.into_parts();
        let answered = match keep(&connection, &device.device_id, auth, format, message) {
            Ok(()) => link.accept(info).await,
            Err(error) => link.reject(info, error).await,
        };
        if answered.is_err() {
            return;
        }
    };
    // The device is given back before the peer hears of it, so that what it attaches next finds a clean table.
    let device_id = device.device_id.clone();
    drop(device);
    match refusal {
        Some(refusal) => {
            debug!(device = %device_id, reason = ?refusal, "Taking a telemetry link away.");
            _ = link.close_with_error(refusal.error()).await;
        }
        None => _ = link.close().await,
    }
}

/// Keeps all messages of a delivery, or none.
fn keep(
    connection: &Connection,
    device_id: &str,
    auth_method: &str,
    format: u32,
    message: Message<Body<Value>>,
) -> Result<(), Error> {
    let (events, size) = events_of(format, message)
        .map_err(|error| Error::new(AmqpError::DecodeError, error.to_string(), None))?;
    let max = connection.options.accepted_message_size;
    if size > max {
        let text = format!("the message counts {size} bytes, more than {max}");
        return Err(Error::new(LinkError::MessageSizeExceeded, text, None));
    }
    let Some(device) = connection.hub.device(device_id) else {
        return Err(Refusal::NoDevice(device_id.to_owned()).error());
    };
    for mut event in events {
        device_id.clone_into(&mut event.device_id);
        event.generation_id.clone_from(&device.generation_id);
        auth_method.clone_into(&mut event.auth_method);
        connection.hub.enqueue(event);
    }
    Ok(())
}
