//! IoT Hub's registry API over HTTPS: `/devices` and `/devices/{id}`, with policies and etags.

use hyper::header::{AUTHORIZATION, ETAG, IF_MATCH};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::device::{Device, RegistryError};
use super::hub::{Hub, random_key};
use super::registry_bulk;
use super::registry_json::{self, Wanted};
use super::reply::{self, HubRefusal, Reply};
use super::sas::Token;

/// Devices of one list, as IoT Hub returns at most.
const MAX_LIST: usize = 1000;
/// Devices of one hub, as Azure allows.
const MAX_DEVICES: usize = 1_000_000;

/// Answers a call whose path starts with `devices`.
pub(super) fn answer(hub: &Hub, parts: &Parts, path: &[String], body: &[u8]) -> Reply {
    let result = match path {
        [_] => list(hub, parts, path, body),
        [_, id] => device(hub, parts, path, id, body),
        [_, ..] | [] => Err(HubRefusal::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the emulator has no modules and no such resource",
        )),
    };
    result.unwrap_or_else(HubRefusal::into_reply)
}

fn list(hub: &Hub, parts: &Parts, path: &[String], body: &[u8]) -> Result<Reply, HubRefusal> {
    if parts.method == Method::POST {
        authorize(hub, parts, path, &["iothubowner", "registryReadWrite"])?;
        return registry_bulk::change(hub, body);
    }
    if parts.method != Method::GET {
        return Err(HubRefusal::wrong_method("GET, POST"));
    }
    authorize(hub, parts, path, &["iothubowner", "registryReadWrite", "registryRead"])?;
    let top = parts.uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("top=")));
    let top = top.and_then(|top| top.parse().ok()).unwrap_or(MAX_LIST).min(MAX_LIST);
    let devices: Vec<_> = hub.devices().iter().take(top).map(|device| show(hub, device)).collect();
    Ok(reply::json(StatusCode::OK, &devices))
}

fn device(hub: &Hub, parts: &Parts, path: &[String], id: &str, body: &[u8]) -> Result<Reply, HubRefusal> {
    let readers: &[&str] = match parts.method {
        Method::GET => &["iothubowner", "registryReadWrite", "registryRead"],
        Method::PUT | Method::DELETE => &["iothubowner", "registryReadWrite"],
        _ => return Err(HubRefusal::wrong_method("GET, PUT, DELETE")),
    };
    authorize(hub, parts, path, readers)?;
    if !registry_json::valid_device_id(id) {
        let reason = "a device id has 1 to 128 ASCII letters, digits and - . % _ * ? ! ( ) , : = @ $ '";
        return Err(HubRefusal::bad(reason));
    }
    let if_match = if_match(parts);
    if parts.method == Method::GET {
        let device = hub.device(id).ok_or_else(|| refused(&RegistryError::NotFound(id.to_owned())))?;
        return Ok(shown(hub, &device));
    }
    if parts.method == Method::DELETE {
        hub.delete_device(id, if_match.as_deref()).map_err(|error| refused(&error))?;
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    }
    let wanted = registry_json::parse(body, id).map_err(HubRefusal::bad)?;
    put(hub, id, wanted, if_match.as_deref()).map(|device| shown(hub, &device))
}

/// Without `If-Match` a PUT creates, with it it updates.
pub(super) fn put(hub: &Hub, id: &str, wanted: Wanted, if_match: Option<&str>) -> Result<Device, HubRefusal> {
    let Wanted { status, primary_key, secondary_key } = wanted;
    let result = if if_match.is_some() {
        let Some(before) = hub.device(id) else {
            return Err(refused(&RegistryError::NotFound(id.to_owned())));
        };
        let keys = (primary_key.unwrap_or(before.primary_key), secondary_key.unwrap_or(before.secondary_key));
        hub.update_device(id, status, Some(keys), if_match)
    } else {
        if hub.device_count() >= MAX_DEVICES {
            return Err(HubRefusal::new(StatusCode::FORBIDDEN, "TooManyDevices", "the hub is full"));
        }
        let keys = (primary_key.unwrap_or_else(random_key), secondary_key.unwrap_or_else(random_key));
        hub.create_device_as(id, Some(keys), status)
    };
    result.map_err(|error| refused(&error))
}

/// The header's etag without quotes and weak mark.
pub(super) fn if_match(parts: &Parts) -> Option<String> {
    let text = parts.headers.get(IF_MATCH)?.to_str().ok()?.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    Some(text.trim_matches('"').to_owned())
}

/// The token must be one of `policies`, and its resource the hub or a whole-segment prefix of the path.
pub(super) fn authorize(
    hub: &Hub,
    parts: &Parts,
    path: &[String],
    policies: &[&str],
) -> Result<(), HubRefusal> {
    let refuse = |reason: &str| {
        let text = format!("Unauthorized: {reason}");
        HubRefusal::new(StatusCode::UNAUTHORIZED, "IotHubUnauthorizedAccess", text)
    };
    let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let header = header.ok_or_else(|| refuse("the Authorization header is missing"))?;
    let token = Token::parse(header).map_err(|error| refuse(&error.to_string()))?;
    hub.verify_policy(&token).map_err(|error| refuse(&error.to_string()))?;
    if !covers(&token.resource(), hub.host(), path) {
        return Err(refuse(&format!("sr is not {} or a resource below it", hub.host())));
    }
    if !token.policy.as_deref().is_some_and(|policy| policies.contains(&policy)) {
        return Err(refuse(&format!("this takes one of the policies {}", policies.join(", "))));
    }
    Ok(())
}

fn covers(resource: &str, host: &str, path: &[String]) -> bool {
    let mut segments = resource.trim_end_matches('/').split('/');
    segments.next().is_some_and(|first| first.eq_ignore_ascii_case(host))
        && segments.enumerate().all(|(index, segment)| path.get(index).is_some_and(|own| own == segment))
}

fn show(hub: &Hub, device: &Device) -> Value {
    registry_json::show(device, hub.is_connected(&device.device_id))
}

fn shown(hub: &Hub, device: &Device) -> Reply {
    let mut reply = reply::json(StatusCode::OK, &show(hub, device));
    reply::set(&mut reply, ETAG, &format!("\"{}\"", device.etag));
    reply
}

fn refused(error: &RegistryError) -> HubRefusal {
    let status = match error {
        RegistryError::NotFound(_) => StatusCode::NOT_FOUND,
        RegistryError::Exists(_) => StatusCode::CONFLICT,
        RegistryError::Precondition(_) => StatusCode::PRECONDITION_FAILED,
    };
    HubRefusal::new(status, code_of(error), error.to_string())
}

/// IoT Hub's word for a refusal.
pub(super) fn code_of(error: &RegistryError) -> &'static str {
    match error {
        RegistryError::NotFound(_) => "DeviceNotFound",
        RegistryError::Exists(_) => "DeviceAlreadyExists",
        RegistryError::Precondition(_) => "PreconditionFailed",
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_resource_covers_whole_path_segments_below_it() {
        let path = ["devices".to_owned(), "a/b".to_owned()];
        for resource in ["localhost", "LOCALHOST/", "localhost/devices"] {
            assert!(covers(resource, "localhost", &path), "{resource}");
        }
        for resource in ["", "other", "localhost/dev", "localhost/devices/a", "localhost/devices/a/b/c"] {
            assert!(!covers(resource, "localhost", &path), "{resource}");
        }
    }
}
