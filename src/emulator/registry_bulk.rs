//! Many changes of the registry in one call: `POST /devices`, as SDKs add, update and remove lists of devices.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::device::RegistryError;
use super::hub::Hub;
use super::registry;
use super::registry_json::{self, Wanted};
use super::reply::{self, HubRefusal, Reply};

/// Devices of one call, as IoT Hub.
const MAX_DEVICES: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: String,
    import_mode: ImportMode,
    #[serde(default)]
    e_tag: Option<String>,
    /// What Node sends instead.
    #[serde(default)]
    etag: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
enum ImportMode {
    #[serde(alias = "create")]
    Create,
    #[serde(alias = "update")]
    Update,
    #[serde(alias = "updateIfMatchETag")]
    UpdateIfMatchETag,
    #[serde(alias = "delete")]
    Delete,
    #[serde(alias = "deleteIfMatchETag")]
    DeleteIfMatchETag,
}

/// Makes the changes one by one; what can be done is done.
pub(super) fn change(hub: &Hub, body: &[u8]) -> Result<Reply, HubRefusal> {
    let entries: Vec<Value> = serde_json::from_slice(body)
        .map_err(|error| HubRefusal::bad(format!("the body is no list of devices: {error}")))?;
    if entries.is_empty() || entries.len() > MAX_DEVICES {
        return Err(HubRefusal::bad(format!("a list has 1 to {MAX_DEVICES} devices")));
    }
    let mut errors = Vec::new();
    for entry in entries {
        let id = entry["id"].as_str().unwrap_or_default().to_owned();
        if let Err((code, status)) = apply(hub, entry) {
            errors.push(json!({ "deviceId": id, "errorCode": code, "errorStatus": status }));
        }
    }
    let good = errors.is_empty();
    let result = json!({ "isSuccessful": good, "errors": errors, "warnings": [] });
    Ok(reply::json(if good { StatusCode::OK } else { StatusCode::BAD_REQUEST }, &result))
}

fn apply(hub: &Hub, mut entry: Value) -> Result<(), (&'static str, String)> {
    let invalid = |why: String| ("ArgumentInvalid", why);
    let Entry { id, import_mode, e_tag, etag } =
        Entry::deserialize(&entry).map_err(|error| invalid(format!("this is no device: {error}")))?;
    if !registry_json::valid_device_id(&id) {
        return Err(invalid("the device id has characters that are not allowed, or too many".to_owned()));
    }
    let etag = e_tag.or(etag).map(|etag| etag.trim_matches('"').to_owned());
    let if_match = match import_mode {
        ImportMode::UpdateIfMatchETag | ImportMode::DeleteIfMatchETag => etag,
        ImportMode::Create | ImportMode::Update | ImportMode::Delete => None,
    };
    let refused = |error: RegistryError| (registry::code_of(&error), error.to_string());
    match import_mode {
        ImportMode::Delete | ImportMode::DeleteIfMatchETag => {
            hub.delete_device(&id, if_match.as_deref()).map_err(refused)
        }
        ImportMode::Create | ImportMode::Update | ImportMode::UpdateIfMatchETag => {
            // The registry's own JSON calls it otherwise.
            if let Some(object) = entry.as_object_mut() {
                object.insert("deviceId".to_owned(), json!(id));
            }
            let wanted: Wanted = registry_json::parse(entry.to_string().as_bytes(), &id).map_err(invalid)?;
            let update = !matches!(import_mode, ImportMode::Create);
            let if_match = update.then(|| if_match.unwrap_or_else(|| "*".to_owned()));
            match registry::put(hub, &id, wanted, if_match.as_deref()) {
                Ok(_) => Ok(()),
                Err(refusal) => Err((refusal.code(), refusal.message().to_owned())),
            }
        }
    }
}
