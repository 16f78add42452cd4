//! A device's requests about its twin, the replies, and updates of desired properties, as AMQP messages. Pure.

use fe2o3_amqp_types::messaging::annotations::{AnnotationKey, OwnedKey};
use fe2o3_amqp_types::messaging::{
    Annotations, Batch, Body, Data, Message, MessageAnnotations, MessageId, Properties as AmqpProperties,
};
use fe2o3_amqp_types::primitives::{Binary, Value};
use serde_json::json;
use uuid::Uuid;

use super::incoming::body_bytes;
use crate::emulator::reply::timestamp;
use crate::emulator::throttle::Denied;
use crate::emulator::twin::Properties;
use crate::emulator::twin_limits::TwinError;
use crate::emulator::twin_table::DesiredUpdate;

/// The part that a device may write.
const REPORTED: &str = "/properties/reported";
/// The part whose updates a device may ask for.
const NOTIFICATIONS: &str = "/notifications/twin/properties/desired";

/// What a device wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wanted {
    /// The whole twin.
    Get,
    /// Merge into the reported properties; only on top of that `$version` if there is one.
    Report(Properties, Option<u64>),
    /// Updates of desired properties from now on.
    Subscribe,
    /// No more of them.
    Unsubscribe,
}

/// A refusal with an HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TwinRefusal {
    pub(super) status: i32,
    pub(super) message: String,
}

impl TwinRefusal {
    fn new(status: i32, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl From<TwinError> for TwinRefusal {
    fn from(error: TwinError) -> Self {
        let status = match &error {
            TwinError::NotFound(_) => 404,
            TwinError::Precondition(_) => 412,
            TwinError::Invalid(_) => 400,
            TwinError::TooLarge { .. } => 413,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Denied> for TwinRefusal {
    fn from(denied: Denied) -> Self {
        let status = match denied {
            Denied::Throttled(_) => 429,
            Denied::Quota => 403,
        };
        Self::new(status, denied.text())
    }
}

/// The id a reply must carry, in its own AMQP type; without one a reply could not be told from an update.
pub(super) fn correlation_id(message: &Message<Body<Value>>) -> Option<MessageId> {
    message.properties.as_ref().and_then(|properties| properties.correlation_id.clone())
}

/// Reads a request.
///
/// # Errors
/// The refusal to reply with.
pub(super) fn wanted(message: Message<Body<Value>>) -> Result<Wanted, TwinRefusal> {
    let Message { message_annotations, body, .. } = message;
    let annotations = message_annotations.map(|annotations| annotations.0).unwrap_or_default();
    let operation = text(&annotations, "operation").unwrap_or_default();
    let resource = text(&annotations, "resource").unwrap_or_default();
    let named = |name: &str| resource.trim_end_matches('/').eq_ignore_ascii_case(name);
    let unknown = || {
        let (operation, resource) = (short(&operation), short(&resource));
        Err(TwinRefusal::new(404, format!("there is no {operation} of {resource:?}")))
    };
    match operation.to_ascii_uppercase().as_str() {
        "GET" if named("") => Ok(Wanted::Get),
        "PATCH" if named(REPORTED) => {
            let body = body_bytes(body).map_err(|error| TwinRefusal::new(400, error.to_string()))?;
            let patch = serde_json::from_slice(&body)
                .map_err(|error| TwinRefusal::new(400, format!("the body is no JSON object: {error}")))?;
            Ok(Wanted::Report(patch, version(&annotations)?))
        }
        "PUT" if named(NOTIFICATIONS) => Ok(Wanted::Subscribe),
        "DELETE" if named(NOTIFICATIONS) => Ok(Wanted::Unsubscribe),
        "GET" | "PATCH" | "PUT" | "DELETE" => unknown(),
        _ => Err(TwinRefusal::new(400, "the annotation operation must be GET, PATCH, PUT or DELETE")),
    }
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

fn text(annotations: &Annotations, name: &str) -> Option<String> {
    match annotations.get(&name as &dyn AnnotationKey)? {
        Value::String(text) => Some(text.clone()),
        Value::Symbol(text) => Some(text.0.clone()),
        _ => None,
    }
}

/// C# sends a null `version` for none.
fn version(annotations: &Annotations) -> Result<Option<u64>, TwinRefusal> {
    let refused = || TwinRefusal::new(400, "the annotation version must be a whole number");
    match annotations.get(&"version" as &dyn AnnotationKey) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Ulong(version)) => Ok(Some(*version)),
        Some(Value::Uint(version)) => Ok(Some(u64::from(*version))),
        Some(Value::Long(version)) => u64::try_from(*version).map(Some).map_err(|_| refused()),
        Some(Value::Int(version)) => u64::try_from(*version).map(Some).map_err(|_| refused()),
        Some(_) => Err(refused()),
    }
}

/// A reply: `status` as AMQP int, and the body as data, which is what SDKs insist on.
pub(super) fn reply(
    id: MessageId,
    status: i32,
    version: Option<u64>,
    body: Option<&serde_json::Value>,
) -> Message<Body<Value>> {
    let mut annotations = Annotations::new();
    annotations.insert(OwnedKey::from("status"), Value::Int(status));
    if let Some(version) = version {
        annotations.insert(OwnedKey::from("version"), Value::Long(version.try_into().unwrap_or(i64::MAX)));
    }
    let body = body.map(ToString::to_string).unwrap_or_default();
    message(Some(id), annotations, body)
}

/// A refusal with the JSON body that SDKs read.
pub(super) fn refusal(id: MessageId, refusal: &TwinRefusal, now_ms: i64) -> Message<Body<Value>> {
    let body = json!({
        "errorCode": refusal.status * 1000,
        "trackingId": Uuid::new_v4().to_string(),
        "message": refusal.message,
        "timestampUtc": timestamp(now_ms),
    });
    reply(id, refusal.status, None, Some(&body))
}

/// An update. That it has no correlation id is how SDKs know it; Java wants the resource.
pub(super) fn update(update: &DesiredUpdate) -> Message<Body<Value>> {
    let mut annotations = Annotations::new();
    annotations.insert(OwnedKey::from("resource"), Value::from("/properties/desired"));
    let version = update.version.try_into().unwrap_or(i64::MAX);
    annotations.insert(OwnedKey::from("version"), Value::Long(version));
    message(None, annotations, update.patch.to_string())
}

fn message(id: Option<MessageId>, annotations: Annotations, body: String) -> Message<Body<Value>> {
    let mut properties = AmqpProperties::new();
    properties.correlation_id = id;
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(annotations)),
        properties: Some(properties),
        application_properties: None,
        body: Body::Data(Batch::new(vec![Data(Binary::from(body.into_bytes()))])),
        footer: None,
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::messaging::annotations::OwnedKey;
    use fe2o3_amqp_types::messaging::{Annotations, Body, Message, MessageAnnotations};
    use fe2o3_amqp_types::primitives::Value;
    use serde_json::json;

    use super::{Wanted, message, wanted};

    fn request(operation: &str, resource: Option<&str>, version: Value, body: &str) -> Message<Body<Value>> {
        let mut annotations = Annotations::new();
        annotations.insert(OwnedKey::from("operation"), Value::from(operation));
        if let Some(resource) = resource {
            annotations.insert(OwnedKey::from("resource"), Value::from(resource));
        }
        annotations.insert(OwnedKey::from("version"), version);
        message(None, annotations, body.to_owned())
    }

    #[test]
    fn requests_are_read_as_the_sdks_send_them() {
        let desired = Some("/notifications/twin/properties/desired");
        let reported = Some("/properties/reported");
        let patch = json!({ "a": 1 }).as_object().unwrap().clone();
        for (request, expected) in [
            (request("GET", None, Value::Null, " "), Wanted::Get),
            (request("get", Some(""), Value::Null, ""), Wanted::Get),
            (request("PUT", desired, Value::Null, " "), Wanted::Subscribe),
            (request("DELETE", desired, Value::Null, ""), Wanted::Unsubscribe),
            (
                request("PATCH", Some("/properties/reported/"), Value::Null, r#"{"a":1}"#),
                Wanted::Report(patch.clone(), None),
            ),
            (request("PATCH", reported, Value::Long(3), r#"{"a":1}"#), Wanted::Report(patch, Some(3))),
        ] {
            assert_eq!(wanted(request), Ok(expected));
        }
    }

    #[test]
    fn what_cannot_be_done_gets_a_status() {
        let reported = Some("/properties/reported");
        for (request, status) in [
            (request("POST", None, Value::Null, ""), 400),
            (Message { message_annotations: None, ..request("", None, Value::Null, "") }, 400),
            (request("GET", Some("/tags"), Value::Null, ""), 404),
            (request("PATCH", Some("/properties/desired"), Value::Null, "{}"), 404),
            (request("PUT", reported, Value::Null, "{}"), 404),
            (request("PATCH", reported, Value::Null, "{"), 400),
            (request("PATCH", reported, Value::Null, "[]"), 400),
            (request("PATCH", reported, Value::Long(-1), "{}"), 400),
            (request("PATCH", reported, Value::from("1"), "{}"), 400),
            (
                Message {
                    message_annotations: Some(MessageAnnotations(Annotations::new())),
                    ..request("", None, Value::Null, "")
                },
                400,
            ),
        ] {
            assert_eq!(wanted(request).unwrap_err().status, status);
        }
    }
}
