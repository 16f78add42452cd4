//! A device in the JSON of IoT Hub's registry API, both ways. Knows no HTTP and no hub.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::device::{Device, DeviceStatus};

/// What a client may set about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) status: DeviceStatus,
    pub(super) primary_key: Option<String>,
    pub(super) secondary_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    device_id: String,
    status: Option<DeviceStatus>,
    authentication: Option<Authentication>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    #[serde(rename = "type")]
    kind: Option<String>,
    symmetric_key: Option<SymmetricKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SymmetricKey {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

/// Reads the body of a PUT for `device_id`. The error says what to change.
pub(super) fn parse(body: &[u8], device_id: &str) -> Result<Wanted, String> {
    let body: Body =
        serde_json::from_slice(body).map_err(|error| format!("the body is no device: {error}"))?;
    if body.device_id != device_id {
        return Err("the body's deviceId is not the path's".to_owned());
    }
    let mut wanted = Wanted {
        status: body.status.unwrap_or(DeviceStatus::Enabled),
        primary_key: None,
        secondary_key: None,
    };
    let Some(authentication) = body.authentication else { return Ok(wanted) };
    if let Some(kind) = authentication.kind.filter(|kind| !kind.eq_ignore_ascii_case("sas")) {
        return Err(format!("authentication type {kind} is not emulated; use sas"));
    }
    if let Some(keys) = authentication.symmetric_key {
        wanted.primary_key = key(keys.primary_key)?;
        wanted.secondary_key = key(keys.secondary_key)?;
    }
    Ok(wanted)
}

/// An empty key counts as none; others are base64 of 16 to 64 bytes.
fn key(text: Option<String>) -> Result<Option<String>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    match STANDARD.decode(&text) {
        Ok(key) if (16..=64).contains(&key.len()) => Ok(Some(text)),
        Ok(_) | Err(_) => Err("a symmetric key is base64 of 16 to 64 bytes".to_owned()),
    }
}

/// A device as the registry shows it.
pub(super) fn show(device: &Device, connected: bool, cloud_messages: usize) -> Value {
    json!({
        "deviceId": device.device_id,
        "generationId": device.generation_id,
        "etag": device.etag,
        "connectionState": if connected { "Connected" } else { "Disconnected" },
        "status": device.status,
        "statusReason": null,
        "cloudToDeviceMessageCount": cloud_messages,
        "authentication": {
            "type": "sas",
            "symmetricKey": { "primaryKey": device.primary_key, "secondaryKey": device.secondary_key },
            "x509Thumbprint": { "primaryThumbprint": null, "secondaryThumbprint": null },
        },
        "capabilities": { "iotEdge": false },
    })
}

/// Whether IoT Hub takes a device id: 1 to 128 ASCII letters, digits and some punctuation.
pub(super) fn valid_device_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.%_*?!(),:=@$'".contains(&byte);
    (1..=128).contains(&id.len()) && id.bytes().all(allowed)
}
