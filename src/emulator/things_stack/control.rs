//! The emulator's own controls, for people and tests: what the radio does, where messages go, what goes wrong.
//!
//! `POST /emulator/applications/{app}/devices/{dev}/{uplink|join|invalidate}`, `PUT …/{class|formatter|euis}`, `PUT …`
//! (registers the device), `GET|PUT|DELETE /emulator/webhook`, `POST|DELETE /emulator/faults`,
//! `PUT|DELETE /emulator/storage`,
//! `GET /emulator/pushes?from=0`.

use std::collections::BTreeMap;

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use url::Url;

use super::super::reply::{self, Reply};
use super::api;
use super::device::{Class, Invalidated, Operation, Uplink};
use super::fault::Fault;
use super::name::DeviceName;
use super::refusal::{Code, EMULATOR, Refusal, json_reply};
use super::stack::{Push, ThingsStack};
use super::storage::Storage;
use super::webhook::Webhook;
use crate::model::Secret;

/// Pushes in one answer at most.
const MAX_SHOWN: usize = 1_000;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HowInvalidated {
    invalidated: Invalidated,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewClass {
    class: Class,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFormatter {
    formatter: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewEuis {
    dev_eui: String,
    join_eui: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewWebhook {
    url: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    secret: Option<Secret>,
    #[serde(default)]
    downlink_api_key: Option<DownlinkApiKey>,
    #[serde(default)]
    paused: bool,
}

/// A key, or `true` for the emulator's own.
#[derive(Deserialize)]
#[serde(untagged)]
enum DownlinkApiKey {
    Own(bool),
    This(Secret),
}

/// Does what a request under `/emulator` asks for.
///
/// # Errors
/// A refusal that says what the request must be.
pub(super) fn answer(
    stack: &ThingsStack,
    parts: &Parts,
    path: &[&str],
    body: &[u8],
) -> Result<Reply, Refusal> {
    match (path, parts.method.as_str()) {
        (["emulator", "webhook"], "GET") => return Ok(json_reply(StatusCode::OK, &show_webhook(stack))),
        (["emulator", "webhook"], "PUT") => stack.set_webhook(Some(webhook(stack, parse(body)?)?))?,
        (["emulator", "webhook"], "DELETE") => stack.set_webhook(None)?,
        (["emulator", "pushes"], "GET") => {
            let shown = show_pushes(stack, parts.uri.query().unwrap_or_default())?;
            return Ok(json_reply(StatusCode::OK, &shown));
        }
        (["emulator", "storage"], "PUT") => stack.set_storage(parse::<Storage>(body)?)?,
        (["emulator", "storage"], "DELETE") => stack.clear_storage(),
        (["emulator", "faults"], "POST") => stack.fault(parse::<Fault>(body)?)?,
        (["emulator", "faults"], "DELETE") => stack.clear_faults(),
        (["emulator", "applications", app, "devices", dev, rest @ ..], _) => {
            control_device(stack, &api::name(app, dev)?, (&parts.method, rest), body)?;
        }
        _ => return Err(unknown()),
    }
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

fn control_device(
    stack: &ThingsStack,
    device: &DeviceName,
    (method, rest): (&Method, &[&str]),
    body: &[u8],
) -> Result<(), Refusal> {
    match (method.as_str(), rest) {
        ("PUT", []) => stack.create_device(device),
        ("POST", ["uplink"]) => stack.uplink(device, &parse::<Uplink>(body)?),
        ("POST", ["join"]) => stack.join(device, parse::<HowInvalidated>(body)?.invalidated),
        ("POST", ["invalidate"]) => stack.invalidate(device, parse::<HowInvalidated>(body)?.invalidated),
        ("PUT", ["class"]) => stack.set_class(device, parse::<NewClass>(body)?.class),
        ("PUT", ["formatter"]) => stack.set_formatter(device, parse::<NewFormatter>(body)?.formatter),
        ("PUT", ["euis"]) => {
            let NewEuis { dev_eui, join_eui } = parse(body)?;
            stack.set_euis(device, &dev_eui, &join_eui)
        }
        _ => Err(unknown()),
    }
}

fn webhook(stack: &ThingsStack, asked: NewWebhook) -> Result<Webhook, Refusal> {
    let url: Url = asked.url.parse().map_err(|error| {
        Refusal::invalid((EMULATOR, "invalid_webhook"), format!("`{}` is no URL: {error}", asked.url))
    })?;
    let plain = Webhook::new(url);
    Ok(Webhook {
        id: asked.id.unwrap_or(plain.id),
        url: plain.url,
        headers: asked.headers.into_iter().collect(),
        secret: asked.secret,
        downlink_api_key: match asked.downlink_api_key {
            Some(DownlinkApiKey::This(key)) => Some(key),
            Some(DownlinkApiKey::Own(true)) => Some(Secret::new(stack.api_key())),
            Some(DownlinkApiKey::Own(false)) | None => None,
        },
        paused: asked.paused,
    })
}

fn show_webhook(stack: &ThingsStack) -> Value {
    let counts = stack.counts();
    let counts = json!({ "delivered": counts.delivered, "failed": counts.failed, "dropped": counts.dropped });
    match stack.webhook() {
        Some(webhook) => json!({
            "url": webhook.url.as_str(),
            "id": webhook.id,
            "paused": webhook.paused,
            "messages": counts,
        }),
        None => json!({ "messages": counts }),
    }
}

/// The log of pushes from a number on, counted from 0; and how many there were in all.
fn show_pushes(stack: &ThingsStack, query: &str) -> Result<Value, Refusal> {
    let from = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "from");
    let from = from.map_or(Ok(0), |(_, number)| number.parse::<u64>()).map_err(|_| {
        Refusal::invalid((EMULATOR, "invalid_query"), "from must be the number of a push, the first being 0")
    })?;
    let (first, pushes) = stack.pushes_from(from, MAX_SHOWN);
    let show = |push: &Push| {
        json!({
            "application_id": push.device.application_id,
            "device_id": push.device.device_id,
            "operation": match push.operation {
                Operation::Push => "push",
                Operation::Replace => "replace",
            },
            "time_ms": push.time_ms,
            "downlink": push.downlink.json(),
        })
    };
    let shown: Vec<_> = pushes.iter().map(show).collect();
    Ok(json!({ "pushed": stack.pushed(), "first": first, "pushes": shown }))
}

/// An empty body is an empty object.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid((EMULATOR, "invalid_body"), format!("the body is wrong: {error}")))
}

fn unknown() -> Refusal {
    let message =
        "no such control; see \"The Things Stack\" and \"Cloud-to-device messages\" in docs/EMULATOR.md";
    Refusal::new(Code::NotFound, (EMULATOR, "not_found"), message)
}
