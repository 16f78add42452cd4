//! Queries and statistics over HTTPS: `POST /devices/query` in pages, `GET /statistics/…`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::device::{Device, DeviceStatus};
use super::hub::Hub;
use super::queries::{Query, Select};
use super::queries_parse::parse;
use super::registry::authorize;
use super::reply::{self, HubRefusal, Reply};
use super::twins_api;

/// Policies that read the registry.
const READERS: [&str; 3] = ["iothubowner", "registryReadWrite", "registryRead"];
/// Results of a page if the client does not say, and the most it may ask for.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
const CONTINUATION: &str = "x-ms-continuation";

#[derive(Deserialize)]
struct Body {
    query: String,
}

/// True for the path of queries.
pub(super) fn owns(parts: &Parts, path: &[String]) -> bool {
    parts.method == Method::POST && path.len() == 2 && path[0] == "devices" && path[1] == "query"
}

/// Answers a query.
pub(super) fn answer(hub: &Hub, parts: &Parts, path: &[String], body: &[u8]) -> Reply {
    query(hub, parts, path, body).unwrap_or_else(HubRefusal::into_reply)
}

fn query(hub: &Hub, parts: &Parts, path: &[String], body: &[u8]) -> Result<Reply, HubRefusal> {
    authorize(hub, parts, path, &READERS)?;
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| HubRefusal::bad(format!("the body is no query: {error}")))?;
    let query = parse(&body.query).map_err(HubRefusal::bad)?;
    let after = continuation(parts)?;
    let size = page_size(parts)?;
    if let Select::Count(name) = &query.select {
        let count = hub.devices().into_iter().filter_map(|device| taken(hub, &query, &device)).count();
        return Ok(page(&[json!({ name: count })], "raw", None));
    }
    let devices = hub.devices();
    let start =
        devices.partition_point(|device| after.as_ref().is_some_and(|after| device.device_id <= *after));
    let mut found = devices[start..]
        .iter()
        .filter_map(|device| taken(hub, &query, device).map(|twin| (device, query.shown(twin))))
        .take(size + 1)
        .collect::<Vec<_>>();
    // One more than asked for shows that there is a next page.
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().map(|(device, _)| device.device_id.clone()).filter(|_| more);
    let shown: Vec<Value> = found.into_iter().map(|(_, shown)| shown).collect();
    Ok(page(&shown, if query.select == Select::All { "twin" } else { "raw" }, last))
}

fn taken(hub: &Hub, query: &Query, device: &Device) -> Option<Map<String, Value>> {
    let twin = twins_api::show(hub, device, &hub.twin(&device.device_id)?);
    query.takes(&twin).then_some(twin)
}

/// Results come by device id; the token is the last one of the page before.
fn continuation(parts: &Parts) -> Result<Option<String>, HubRefusal> {
    let Some(token) = parts.headers.get(CONTINUATION) else { return Ok(None) };
    let id = STANDARD.decode(token).ok().and_then(|id| String::from_utf8(id).ok());
    id.map(Some).ok_or_else(|| HubRefusal::bad(format!("{CONTINUATION} is not one of ours")))
}

fn page_size(parts: &Parts) -> Result<usize, HubRefusal> {
    let Some(size) = parts.headers.get("x-ms-max-item-count") else { return Ok(PAGE) };
    let size = size.to_str().ok().and_then(|size| size.parse::<usize>().ok()).filter(|size| *size > 0);
    let size = size.ok_or_else(|| HubRefusal::bad("x-ms-max-item-count must be a number from 1 on"))?;
    Ok(size.min(MAX_PAGE))
}

fn page(results: &[Value], kind: &str, last: Option<String>) -> Reply {
    let mut reply = reply::json(StatusCode::OK, &results);
    reply::set(&mut reply, HeaderName::from_static("x-ms-item-type"), kind);
    if let Some(last) = last {
        reply::set(&mut reply, HeaderName::from_static(CONTINUATION), &STANDARD.encode(last));
    }
    reply
}

/// Answers a call whose path starts with `statistics`.
pub(super) fn statistics(hub: &Hub, parts: &Parts, path: &[String]) -> Reply {
    let count = || -> Result<Reply, HubRefusal> {
        let [_, kind] = path else {
            return Err(HubRefusal::unknown("statistics/devices and statistics/service"));
        };
        if parts.method != Method::GET {
            return Err(HubRefusal::wrong_method("GET"));
        }
        authorize(hub, parts, path, &READERS)?;
        let devices = hub.devices();
        let counted =
            |wanted: &dyn Fn(&Device) -> bool| devices.iter().filter(|device| wanted(device)).count();
        let value = match kind.as_str() {
            "devices" => json!({
                "totalDeviceCount": devices.len(),
                "enabledDeviceCount": counted(&|device| device.status == DeviceStatus::Enabled),
                "disabledDeviceCount": counted(&|device| device.status == DeviceStatus::Disabled),
            }),
            "service" => {
                json!({ "connectedDeviceCount": counted(&|device| hub.is_connected(&device.device_id)) })
            }
            _ => return Err(HubRefusal::unknown("statistics/devices and statistics/service")),
        };
        Ok(reply::json(StatusCode::OK, &value))
    };
    count().unwrap_or_else(HubRefusal::into_reply)
}
