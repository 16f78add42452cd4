//! A device's telemetry link: what arrives is kept first and accepted then.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::link::Receiver;
use fe2o3_amqp_types::definitions::{AmqpError, Error, ErrorCondition, LinkError};
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tracing::debug;

use super::connection::{Connection, HeldDevice};
use super::incoming::events_of;
use super::received::{Received, received};
use super::refusal::Refusal;
use crate::emulator::faults::{self, Asked, Verdict};
use crate::emulator::presence::Cut;
use crate::emulator::throttle::Denied;
use crate::emulator::{Event, Fault, FaultKind, Hub};

/// Takes telemetry until the link ends, the device is lost or no token speaks for it any more.
pub(super) async fn serve(mut link: Receiver, connection: Arc<Connection>, mut device: HeldDevice) {
    let mut throttled = 0;
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
        let mut arrived = read(&connection, &device.device_id, format, message);
        if let Ok(Arrived { events, .. }) = &arrived
            && !events.is_empty()
        {
            let sizes: Vec<_> = events.iter().map(Event::size).collect();
            let passed = tokio::select! {
                biased;
                refusal = device.lost() => break Some(refusal),
                passed = connection.hub.pass_telemetry(&sizes) => passed,
            };
            throttled = if matches!(passed, Err(Denied::Throttled(_))) { throttled + 1 } else { 0 };
            if let Err(denied) = passed {
                arrived = Err(Refusal::of_limit(denied).error());
            }
        }
        let answered = match arrived {
            Ok(Arrived { events, faults, generation_id }) => {
                keep(&connection.hub, &device.device_id, auth, &generation_id, events);
                let answered = link.accept(info).await;
                faults.into_iter().for_each(|fault| inject(&connection.hub, fault));
                answered
            }
            Err(error) => link.reject(info, error).await,
        };
        if answered.is_err() {
            return;
        }
        if throttled > 0 && connection.hub.tier_settings().cut_after.is_some_and(|most| throttled >= most) {
            break Some(Refusal::Throttled("429002: too many messages were throttled".to_owned()));
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

/// A delivery, taken apart.
struct Arrived {
    events: Vec<Event>,
    faults: Vec<Fault>,
    generation_id: String,
}

/// Reads all messages of a delivery. One that asks for a fault is no telemetry.
fn read(
    connection: &Connection,
    device_id: &str,
    format: u32,
    message: Message<Body<Value>>,
) -> Result<Arrived, Error> {
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
    let mut faults = Vec::new();
    let mut kept = Vec::with_capacity(events.len());
    for event in events {
        match faults::asked(&event.properties, device_id) {
            Ok(None) => kept.push(event),
            Ok(Some(Asked::Fault(fault))) => faults.push(fault),
            Ok(Some(Asked::NotHere)) => {
                tracing::info!(
                    device = device_id,
                    "A device asked for a fault of MQTT; it means nothing here."
                );
            }
            Err(why) => return Err(Error::new(AmqpError::InvalidField, why, None)),
        }
    }
    if !kept.is_empty()
        && let Some(verdict) = connection.hub.verdict(device_id, &LIMITS)
    {
        return Err(limit(verdict));
    }
    Ok(Arrived { events: kept, faults, generation_id: device.generation_id })
}

fn keep(hub: &Hub, device_id: &str, auth_method: &str, generation_id: &str, events: Vec<Event>) {
    for mut event in events {
        device_id.clone_into(&mut event.device_id);
        generation_id.clone_into(&mut event.generation_id);
        auth_method.clone_into(&mut event.auth_method);
        hub.enqueue(event);
    }
}

/// Faults under which a hub takes no telemetry.
const LIMITS: [FaultKind; 2] = [FaultKind::InvokeThrottling, FaultKind::InvokeMaxMessageQuota];
/// A fault strikes no earlier after its message, so that the device gets its answer first.
const ANSWER_FIRST: Duration = Duration::from_millis(50);

fn limit(verdict: Verdict) -> Error {
    let condition = if verdict.kind == FaultKind::InvokeThrottling {
        ErrorCondition::Custom(Symbol::from("com.microsoft:device-container-throttled"))
    } else {
        AmqpError::ResourceLimitExceeded.into()
    };
    Error::new(condition, verdict.text, None)
}

fn inject(hub: &Hub, fault: Fault) {
    let device = fault.device.clone().unwrap_or_default();
    let delay = fault.delay.max(ANSWER_FIRST);
    if let Err(error) = hub.inject(fault.after(delay)) {
        tracing::warn!(device, %error, "A device asked for a fault over the limits; nothing happens.");
    }
}
