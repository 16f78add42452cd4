//! The emulator's own control of its hubs: a cloud-to-device message with nothing but curl, faults, tiers.
//!
//! `POST /emulator/hubs/{host}/devices/{id}/messages?Port=10`: the body is the message's, query parameters become its
//! application properties, but `message-id` its name. Beside the emulated Things Stack, for people and tests on this
//! machine; who asks is checked there.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::http::request::Parts;
use serde_json::json;
use url::form_urlencoded;
use uuid::Uuid;

use super::cloud_messages::{CloudMessage, CloudRefusal};
use super::faults_api;
use super::hub::Hub;
use super::reply::{self, HubRefusal, Reply};
use super::tier_api;

/// The query parameter that names the message.
const MESSAGE_ID: &str = "message-id";
/// Longest name of a message, as at IoT Hub.
const MAX_MESSAGE_ID: usize = 128;

/// Whether a path is meant for this control.
pub(super) fn owns(path: &[&str]) -> bool {
    path.starts_with(&["emulator", "hubs"])
}

/// Queues the message, answered 202 with its id and sequence number; or sees to faults and tiers.
pub(super) fn answer(hubs: &[Arc<Hub>], parts: &Parts, path: &[&str], body: &Bytes) -> Reply {
    send(hubs, parts, path, body).unwrap_or_else(HubRefusal::into_reply)
}

fn send(hubs: &[Arc<Hub>], parts: &Parts, path: &[&str], body: &Bytes) -> Result<Reply, HubRefusal> {
    match (path, parts.method.as_str()) {
        (["emulator", "hubs", host, "faults"], _) => {
            faults_api::answer(named(hubs, host)?, &parts.method, body)
        }
        (["emulator", "hubs", host, "tier"], _) => tier_api::answer(named(hubs, host)?, &parts.method, body),
        (["emulator", "hubs", host, "devices", device, "messages"], "POST") => {
            let message = message(parts.uri.query().unwrap_or_default(), body)?;
            let id = message.message_id.clone();
            let number = named(hubs, host)?.send_cloud_message(device, message).map_err(refused)?;
            Ok(reply::json(StatusCode::ACCEPTED, &json!({ "messageId": id, "sequenceNumber": number })))
        }
        _ => Err(HubRefusal::unknown(
            "POST /emulator/hubs/{host}/devices/{id}/messages, /emulator/hubs/{host}/faults and .../tier",
        )),
    }
}

fn named<'h>(hubs: &'h [Arc<Hub>], host: &str) -> Result<&'h Arc<Hub>, HubRefusal> {
    hubs.iter().find(|hub| hub.host().eq_ignore_ascii_case(host)).ok_or_else(|| {
        let known: Vec<_> = hubs.iter().map(|hub| hub.host()).collect();
        HubRefusal::unknown(&format!("no hub {host}, but {}", known.join(", ")))
    })
}

fn message(query: &str, body: &Bytes) -> Result<CloudMessage, HubRefusal> {
    let mut message = CloudMessage::new(body.clone());
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name == MESSAGE_ID {
            if value.is_empty() || value.len() > MAX_MESSAGE_ID {
                return Err(HubRefusal::bad(format!("{MESSAGE_ID} has 1 to {MAX_MESSAGE_ID} characters")));
            }
            message.message_id = Some(value.into_owned());
        } else if message.properties.iter().any(|(known, _)| *known == name) {
            return Err(HubRefusal::bad(format!("the property {name} is given twice")));
        } else {
            message.properties.push((name.into_owned(), value.into_owned()));
        }
    }
    message.message_id.get_or_insert_with(|| Uuid::new_v4().to_string());
    Ok(message)
}

fn refused(refusal: CloudRefusal) -> HubRefusal {
    let text = refusal.to_string();
    let (status, code, text) = match refusal {
        CloudRefusal::NoDevice(_) => (
            StatusCode::NOT_FOUND,
            "DeviceNotFound",
            format!("{text} Behind a connector with DPS it is there after its first uplink."),
        ),
        CloudRefusal::QueueFull(_) => (StatusCode::FORBIDDEN, "DeviceMaximumQueueDepthExceeded", text),
        CloudRefusal::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "MessageTooLarge", text),
        CloudRefusal::Tier => (StatusCode::FORBIDDEN, "OperationNotAvailableInCurrentTier", text),
    };
    HubRefusal::new(status, code, text)
}
