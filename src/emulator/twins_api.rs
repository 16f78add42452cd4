//! IoT Hub's twin API over HTTPS: `/twins/{id}`, with policies and etags. Hands `/twins/{id}/methods` on.

use hyper::header::ETAG;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::device::Device;
use super::hub::Hub;
use super::methods_api;
use super::registry::{authorize, if_match};
use super::reply::{self, HubRefusal, Reply};
use super::twin::{Properties, Twin};
use super::twin_limits::TwinError;
use super::twin_table::TwinUpdate;

/// Policies that reach devices.
pub(super) const SERVICE: [&str; 2] = ["iothubowner", "service"];
/// Those, and the ones that read the registry.
const READERS: [&str; 4] = ["iothubowner", "service", "registryReadWrite", "registryRead"];
/// IoT Hub's word for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What a client may set; all else it sends is the hub's own and is not looked at, as SDKs send whole twins back.
#[derive(Deserialize)]
struct Body {
    #[serde(default, deserialize_with = "present")]
    tags: Option<Option<Properties>>,
    #[serde(default)]
    properties: Option<Sections>,
}

#[derive(Default, Deserialize)]
struct Sections {
    #[serde(default, deserialize_with = "present")]
    desired: Option<Option<Properties>>,
}

/// Tells `null`, which removes everything, from a member that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Properties>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Answers a call whose path starts with `twins`. May take as long as the caller's time-outs say.
pub(super) async fn answer(hub: &Hub, parts: &Parts, path: &[String], body: &[u8]) -> Reply {
    let result = match path {
        [_, id] => twin(hub, parts, path, id, body),
        [_, id, word] if word == "methods" => methods_api::invoke(hub, parts, path, id, body).await,
        [_, ..] | [] => Err(HubRefusal::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the emulator has /twins/{id} and /twins/{id}/methods, and no modules",
        )),
    };
    result.unwrap_or_else(HubRefusal::into_reply)
}

fn twin(hub: &Hub, parts: &Parts, path: &[String], id: &str, body: &[u8]) -> Result<Reply, HubRefusal> {
    let replace = parts.method == Method::PUT;
    let policies: &[&str] = match parts.method {
        Method::GET => &READERS,
        Method::PATCH | Method::PUT => &SERVICE,
        _ => return Err(HubRefusal::wrong_method("GET, PATCH, PUT")),
    };
    authorize(hub, parts, path, policies)?;
    if parts.method == Method::GET {
        let twin = hub.twin(id).ok_or_else(|| refused(&TwinError::NotFound(id.to_owned())))?;
        return shown(hub, id, &twin);
    }
    let update = update(body, replace)?;
    let twin = hub.update_twin(id, update, if_match(parts).as_deref()).map_err(|error| refused(&error))?;
    shown(hub, id, &twin)
}

fn update(body: &[u8], replace: bool) -> Result<TwinUpdate, HubRefusal> {
    let body: Body = serde_json::from_slice(body)
        .map_err(|error| HubRefusal::bad(format!("the body is no twin: {error}")))?;
    let desired = body.properties.unwrap_or_default().desired;
    // What a PUT leaves out goes, and so does what is null; both are a replacement by nothing.
    let all = |part: Option<Option<Properties>>| Some(part.flatten().unwrap_or_default());
    if replace {
        return Ok(TwinUpdate { tags: all(body.tags), desired: all(desired).map(without_own), replace });
    }
    if body.tags == Some(None) || desired == Some(None) {
        return Err(HubRefusal::bad("tags and desired must be objects; null removes only what is in them"));
    }
    Ok(TwinUpdate { tags: body.tags.flatten(), desired: desired.flatten().map(without_own), replace })
}

/// Without what the hub itself writes beside the properties.
fn without_own(mut properties: Properties) -> Properties {
    properties.remove("$version");
    properties.remove("$metadata");
    properties
}

fn shown(hub: &Hub, id: &str, twin: &Twin) -> Result<Reply, HubRefusal> {
    let device = hub.device(id).ok_or_else(|| refused(&TwinError::NotFound(id.to_owned())))?;
    let mut reply = reply::json(StatusCode::OK, &show(hub, &device, twin));
    reply::set(&mut reply, ETAG, &format!("\"{}\"", twin.etag()));
    Ok(reply)
}

/// A twin as the service side sees it.
pub(super) fn show(hub: &Hub, device: &Device, twin: &Twin) -> Map<String, Value> {
    let value = json!({
        "deviceId": device.device_id,
        "etag": twin.etag(),
        "deviceEtag": device.etag,
        "status": device.status,
        "statusUpdateTime": NEVER,
        "connectionState": if hub.is_connected(&device.device_id) { "Connected" } else { "Disconnected" },
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "sas",
        "x509Thumbprint": { "primaryThumbprint": null, "secondaryThumbprint": null },
        "modelId": "",
        "version": twin.version,
        "tags": twin.tags,
        "properties": twin.properties_for_service(),
        "capabilities": { "iotEdge": false },
    });
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// A refusal in HTTP's terms.
fn refused(error: &TwinError) -> HubRefusal {
    let (status, code) = match error {
        TwinError::NotFound(_) => (StatusCode::NOT_FOUND, "DeviceNotFound"),
        TwinError::Precondition(_) => (StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
        TwinError::Invalid(_) => (StatusCode::BAD_REQUEST, "ArgumentInvalid"),
        TwinError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "MessageTooLarge"),
    };
    HubRefusal::new(status, code, error.to_string())
}
