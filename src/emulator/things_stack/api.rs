//! The Things Stack's own API, as far as downlinks and stored uplinks need it.
//!
//! `POST /api/v3/as/applications/{app}[/webhooks/{webhook}]/devices/{dev}/down/{push|replace}`,
//! `GET …/down`, `POST …/up/simulate`, `GET /api/v3/ns/applications/{app}/devices/{dev}?field_mask=…`,
//! `GET /api/v3/as/applications/{app}[/devices/{dev}]/packages/storage/uplink_message?after=…&limit=…&order=…`.

use hyper::header::CONTENT_TYPE;
use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::super::reply::{self, Reply};
use super::device::Operation;
use super::downlink::Downlink;
use super::keys::Right;
use super::name::{DeviceName, is_id};
use super::network_server;
use super::refusal::{AS_WEB, Code, EMULATOR, Refusal, json_reply, with_status};
use super::request;
use super::stack::ThingsStack;
use super::storage::Query;
use super::up::KINDS;

/// Correlation ids of a simulated message at most.
const MAX_CORRELATION_IDS: usize = 100;

/// One call of the API.
#[derive(Debug)]
pub(super) enum Call {
    /// Push or replace, maybe through a webhook.
    Down { device: DeviceName, webhook: Option<String>, operation: Operation },
    /// Reads the queue.
    List { device: DeviceName },
    /// Reads the device at the Network Server: the paths of the mask.
    Device { device: DeviceName, mask: Vec<String> },
    /// A message as if it had come from the device.
    Simulate { device: DeviceName },
    /// Reads what the Storage Integration keeps.
    Stored { application: String, device: Option<String>, query: Query },
}

impl Call {
    /// Finds the call that method and path name.
    ///
    /// # Errors
    /// 404 for another path, 400 for what is no id, 501 for another method.
    pub(super) fn parse(method: &Method, path: &[&str], query: Option<&str>) -> Result<Self, Refusal> {
        let (wanted, call) = match path {
            [
                "api",
                "v3",
                "as",
                "applications",
                app,
                "devices",
                dev,
                "down",
                operation @ ("push" | "replace"),
            ] => (Method::POST, Self::down(app, dev, None, operation)?),
            [
                "api",
                "v3",
                "as",
                "applications",
                app,
                "webhooks",
                webhook,
                "devices",
                dev,
                "down",
                operation @ ("push" | "replace"),
            ] => (Method::POST, Self::down(app, dev, Some(webhook), operation)?),
            ["api", "v3", "as", "applications", app, "devices", dev, "down"] => {
                (Method::GET, Self::List { device: name(app, dev)? })
            }
            ["api", "v3", "as", "applications", app, "devices", dev, "up", "simulate"] => {
                (Method::POST, Self::Simulate { device: name(app, dev)? })
            }
            ["api", "v3", "ns", "applications", app, "devices", dev] => {
                (Method::GET, Self::Device { device: name(app, dev)?, mask: mask(query) })
            }
            ["api", "v3", "as", "applications", app, "packages", "storage", "uplink_message"] => {
                (Method::GET, Self::stored(app, None, query)?)
            }
            [
                "api",
                "v3",
                "as",
                "applications",
                app,
                "devices",
                dev,
                "packages",
                "storage",
                "uplink_message",
            ] => (Method::GET, Self::stored(app, Some(dev), query)?),
            _ => {
                let message = "the emulator has only what downlinks and stored uplinks need of the API";
                return Err(Refusal::new(Code::NotFound, (EMULATOR, "not_found"), message));
            }
        };
        if *method == wanted {
            return Ok(call);
        }
        let message = format!("this path takes {wanted}");
        Err(Refusal::new(Code::Unimplemented, (EMULATOR, "wrong_method"), message))
    }

    fn down(app: &str, dev: &str, webhook: Option<&str>, operation: &str) -> Result<Self, Refusal> {
        let operation = if operation == "push" { Operation::Push } else { Operation::Replace };
        Ok(Self::Down { device: name(app, dev)?, webhook: webhook.map(str::to_owned), operation })
    }

    fn stored(app: &str, dev: Option<&str>, query: Option<&str>) -> Result<Self, Refusal> {
        if !is_id(app) || !dev.is_none_or(is_id) {
            return Err(Refusal::invalid((AS_WEB, "validate_ids"), "application or device id is no id"));
        }
        let (application, device) = (app.to_owned(), dev.map(str::to_owned));
        Ok(Self::Stored { application, device, query: Query::parse(query)? })
    }

    /// Whether it changes a queue.
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Simulate { .. } => true,
            Self::List { .. } | Self::Device { .. } | Self::Stored { .. } => false,
        }
    }

    fn rights(&self) -> &'static [Right] {
        match self {
            Self::Down { .. } => &[Right::DownWrite],
            Self::List { .. } | Self::Stored { .. } => &[Right::TrafficRead],
            Self::Device { mask, .. } => {
                let queue =
                    |path: &String| path == "session" || path.contains("queued_application_downlinks");
                if mask.iter().any(queue) {
                    &[Right::DevicesRead, Right::TrafficRead]
                } else {
                    &[Right::DevicesRead]
                }
            }
            Self::Simulate { .. } => &[Right::UpWrite],
        }
    }
}

/// Does what a call asks for. A push waits until the webhook was told `downlink_queued`, or did not listen.
pub(super) async fn answer(
    stack: &ThingsStack,
    call: Call,
    authorization: Option<&str>,
    body: &[u8],
) -> Result<Reply, Refusal> {
    stack.authorize(authorization, call.rights())?;
    match call {
        Call::Down { device, webhook, operation } => {
            if let Some(webhook) = webhook
                && stack.is_paused(&webhook)?
            {
                return Ok(with_status(StatusCode::NOT_ACCEPTABLE));
            }
            let items = request::downlinks(body, stack.now_ms())?;
            if let Some(told) = stack.push(&device, items, operation)? {
                // A webhook that fails or is slow does not fail the push.
                _ = tokio::time::timeout(stack.webhook_timeout(), told).await;
            }
            Ok(reply::empty(StatusCode::OK))
        }
        Call::List { device } => {
            let queue = stack
                .read(&device, |device| device.queue().iter().map(Downlink::json).collect::<Vec<_>>())?;
            let value = if queue.is_empty() { json!({}) } else { json!({ "downlinks": queue }) };
            Ok(json_reply(StatusCode::OK, &value))
        }
        Call::Device { device, mask } => {
            let value = stack.read(&device, |device| network_server::json(device, &mask))?;
            Ok(json_reply(StatusCode::OK, &value))
        }
        Call::Simulate { device } => {
            let (kind, correlation_ids, body) = simulated(body)?;
            stack.simulate(&device, kind, (correlation_ids, body))?;
            Ok(json_reply(StatusCode::OK, &json!({})))
        }
        Call::Stored { application, device, query } => {
            let mut reply = Reply::new(stack.stored(&application, device.as_deref(), &query)?.into());
            reply::set(&mut reply, CONTENT_TYPE, "text/event-stream");
            Ok(reply)
        }
    }
}

/// The one kind of message that a body holds, and its correlation ids.
fn simulated(body: &[u8]) -> Result<(&'static str, Vec<String>, Value), Refusal> {
    let invalid = |message: String| Refusal::invalid((AS_WEB, "decode_body"), message);
    let mut message: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| invalid(format!("decode body: {error}")))?;
    if message.get("simulated").is_some_and(|simulated| *simulated == json!(true)) {
        return Err(invalid("what is simulated already can't be simulated again".to_owned()));
    }
    let ids = match message.remove("correlation_ids").map(serde_json::from_value::<Vec<String>>) {
        None => Vec::new(),
        Some(Ok(ids)) if ids.len() <= MAX_CORRELATION_IDS => ids,
        Some(_) => return Err(invalid("correlation_ids must be an array of texts".to_owned())),
    };
    let found = KINDS.into_iter().find_map(|kind| message.remove(kind).map(|body| (kind, body)));
    match found {
        Some((kind, body @ Value::Object(_))) => Ok((kind, ids, body)),
        Some(_) | None => Err(invalid("the body must hold one message, such as uplink_message".to_owned())),
    }
}

/// The ids of a path.
pub(super) fn name(app: &str, dev: &str) -> Result<DeviceName, Refusal> {
    DeviceName::new(app, dev).ok_or_else(|| {
        let message = "application or device id is no id: 3 to 36 of a-z, 0-9 and single hyphens between";
        Refusal::invalid((AS_WEB, "validate_ids"), message)
    })
}

/// The paths of `field_mask=a,b`, also as `field_mask.paths=a`, also repeated.
fn mask(query: Option<&str>) -> Vec<String> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(key, _)| matches!(key.as_ref(), "field_mask" | "field_mask.paths"))
        .flat_map(|(_, paths)| paths.split(',').map(str::to_owned).collect::<Vec<_>>())
        .filter(|path| !path.is_empty())
        .collect()
}
