//! Fuzz targets of the emulator, and what it says about the connector's output, which it judges by code of its own.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Request;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dps::Dps;
use super::https::{self, Site};
use super::hub::Hub;
use super::queries_parse;
use super::twin::{Properties, Twin, replacing};
use super::twin_limits::{MAX_PROPERTIES, check_patch, check_size};
use super::{Token, TokenError};
use crate::model::Clock;
use crate::model::fuzzing::{field, head_and_body, is_json};

pub(crate) use super::amqp::fuzzing::message;
pub(crate) use super::things_stack::fuzzing::downlinks;

/// 2025-03-14T07:00:00Z.
pub(crate) const NOW_MS: i64 = 1_741_935_600_000;
/// Every policy's key and the device's.
pub(crate) const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// The hub's device.
pub(crate) const DEVICE: &str = "device";
/// Its keys are random.
static CLOSED: LazyLock<Hub> = LazyLock::new(|| Hub::new("hub.example", Clock::manual(NOW_MS)));

/// A hub whose keys are known, with one device.
pub(crate) fn hub() -> Arc<Hub> {
    let names = ["iothubowner", "service", "device", "registryRead", "registryReadWrite"];
    let keys = names.map(|name| (name.to_owned(), KEY.to_owned())).into();
    let hub = Hub::restore("hub.example", Clock::manual(NOW_MS), &keys, Vec::new(), Default::default());
    hub.create_device(DEVICE, Some((KEY.to_owned(), KEY.to_owned()))).expect("the first of its name");
    Arc::new(hub)
}

/// Whether a token opens a hub whose keys nobody knows.
pub(crate) fn forged(token: &str) -> bool {
    super::amqp::fuzzing::opens(&CLOSED, token)
}

/// A token that somebody else signed says what was signed, and is good with its key alone, until its end.
pub(crate) fn genuine(token: &str, resource: &str, policy: Option<&str>, expiry_s: u64, key: &str) {
    let read = Token::parse(token).expect("the connector's own");
    assert_eq!((read.expiry, read.policy.as_deref()), (expiry_s, policy));
    assert!(
        resource.contains(':') || read.readings().iter().any(|reading| reading == resource),
        "{resource}"
    );
    if let Some(before) = expiry_s.checked_sub(1) {
        assert_eq!(read.verify([key], before), Ok(()));
        assert_eq!(read.verify(["b3RoZXI="], before), Err(TokenError::BadSignature));
    }
    assert_eq!(read.verify([key], expiry_s), Err(TokenError::Expired(0)));
}

/// The hub takes both patches of reported properties, and then holds exactly `now`.
pub(crate) fn takes_reported(before: &Properties, change: &Properties, now: &Properties) {
    let mut twin = Twin::fresh(NOW_MS);
    for patch in [before, change] {
        check_patch(patch).unwrap_or_else(|error| panic!("{error}"));
        twin.patch_reported(patch, NOW_MS);
        check_size("reported", &twin.reported.properties, MAX_PROPERTIES)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    assert_eq!(&twin.reported.properties, now);
}

/// Whether the hub takes a patch.
pub(crate) fn takes_patch(patch: &Properties) -> Result<(), String> {
    check_patch(patch).map_err(|error| error.to_string())
}

/// A change of a twin a line, `{"tags":…,"desired":…,"reported":…}`; after each it holds no null, says the same on disk,
/// and a replacement gives what replaces. The first line may be a query.
pub(crate) fn twins(data: &[u8]) {
    let mut twin = Twin::fresh(NOW_MS);
    let mut shown = Map::from_iter([("deviceId".to_owned(), json!(DEVICE))]);
    for (number, line) in (1..).zip(data.split(|byte| *byte == b'\n')) {
        if let Ok(query) =
            std::str::from_utf8(line).map_err(drop).and_then(|text| queries_parse::parse(text).map_err(drop))
        {
            _ = (query.takes(&shown), query.shown(shown.clone()));
        }
        let Ok(Value::Object(change)) = serde_json::from_slice(line) else { continue };
        let part = |name: &str| change.get(name).and_then(Value::as_object);
        let parts = [part("tags"), part("desired"), part("reported")];
        if parts.into_iter().flatten().any(|patch| check_patch(patch).is_err()) {
            continue;
        }
        twin.patch_service(part("tags"), part("desired"), NOW_MS + number);
        if let Some(patch) = part("reported") {
            twin.patch_reported(patch, NOW_MS + number);
        }
        let held = [&twin.tags, &twin.desired.properties, &twin.reported.properties];
        assert!(held.into_iter().all(no_null));
        if let Some(wanted) = part("desired").filter(|wanted| no_null(wanted)) {
            let mut other = twin.clone();
            other.patch_service(None, Some(&replacing(&twin.desired.properties, wanted)), NOW_MS);
            assert_eq!(&other.desired.properties, wanted);
        }
        let saved = serde_json::to_vec(&twin).expect("plain data");
        assert_eq!(serde_json::from_slice::<Twin>(&saved).expect("its own"), twin);
        shown.insert("tags".to_owned(), twin.tags.clone().into());
        shown.insert("properties".to_owned(), twin.properties_for_service());
    }
}

fn no_null(properties: &Properties) -> bool {
    fn clean(value: &Value) -> bool {
        match value {
            Value::Object(members) => members.values().all(clean),
            Value::Null => false,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => true,
        }
    }
    properties.values().all(clean)
}

/// The first line is method and path, then headers, then the body. `Authorization: owner` stands for `token`. The answer
/// is one of HTTP's, in JSON.
pub(crate) async fn request(data: &[u8], token: &str) {
    let (lines, body) = head_and_body(data);
    let Some((method, path)) = lines.first().and_then(|line| line.split_once(' ')) else { return };
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in lines.iter().skip(1).filter_map(|line| field(line)) {
        request = request.header(name, if value == "owner" { token } else { value });
    }
    let Ok(request) = request.body(()) else { return };
    let hub = hub();
    let clock = Clock::manual(NOW_MS);
    let pace = (clock.clone(), Duration::from_millis(100), 1);
    let dps = Dps::new(("0ne1".to_owned(), KEY.to_owned()), pace, vec![Arc::clone(&hub)], Vec::new());
    let site = Site {
        hubs: vec![Arc::clone(&hub)],
        dps: Arc::new(dps),
        clock,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        amqp_places: Arc::new(Semaphore::new(1)),
    };
    let parts = request.into_parts().0;
    let Some(path) = https::segments(parts.uri.path()) else { return };
    let reply = https::route(&site, &hub, &parts, &path, body).await;
    let status = reply.status().as_u16();
    let answer =
        reply.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_else(|_| Bytes::new());
    assert!((200..=504).contains(&status) && status != 500, "{status}");
    assert!(answer.is_empty() || is_json(&answer), "{status} is no JSON");
    assert!(
        status >= 400 || parts.headers.values().any(|value| value.as_bytes() == token.as_bytes()),
        "{status} without a token"
    );
    assert!(hub.device_count() <= 101);
}
