//! DPS as a device sees it over HTTPS.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;
use tti_connector::emulator::{Failure, Refusal, RegistrationStatus};

use super::support::{Running, hmac, read, sas, start, start_in};

/// A device's token, made with the key that a factory would derive.
fn token(running: &Running, id: &str) -> String {
    let dps = running.emulator.dps();
    let key = hmac(&STANDARD.decode(dps.group_key()).unwrap(), &id.to_lowercase());
    sas(&format!("{}%2Fregistrations%2F{id}", dps.id_scope()), &key, Some("registration"))
}

async fn call(
    running: &Running,
    method: Method,
    id: &str,
    rest: &str,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let path =
        format!("/{}/registrations/{id}{rest}?api-version=2021-06-01", running.emulator.dps().id_scope());
    let token = token(running, id);
    read(running.call(0, method, &path, &[("authorization", &token)], body).await).await
}

/// Registers and polls to the end; gives the last answer.
async fn provision(running: &Running, id: &str) -> Value {
    let body = json!({ "registrationId": id, "payload": { "modelId": "dtmi:example:sensor;1" } });
    let (status, started) = call(running, Method::PUT, id, "/register", Some(body)).await;
    assert_eq!((status, &started["status"]), (StatusCode::ACCEPTED, &json!("assigning")), "{started}");
    let operation = format!("/operations/{}", started["operationId"].as_str().unwrap());
    let end = async {
        loop {
            // Node's SDK sends a body here.
            let (status, answer) = call(running, Method::GET, id, &operation, Some(json!({}))).await;
            match status {
                StatusCode::ACCEPTED => assert_eq!(answer["status"], "assigning"),
                status => break (status, answer),
            }
        }
    };
    let (status, answer) = timeout(Duration::from_secs(30), end).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn a_device_registers_polls_and_finds_itself_at_its_hub() {
    let running = start(1).await;
    running.emulator.dps().set_work(Duration::from_secs(3600));
    let path = format!("/{}/registrations/Dev-1/register", running.emulator.dps().id_scope());
    let auth = token(&running, "Dev-1");
    let response = running.call(0, Method::PUT, &path, &[("authorization", &auth)], None).await;
    assert_eq!(
        (response.status(), response.headers()["retry-after"].to_str().unwrap()),
        (StatusCode::ACCEPTED, "0")
    );
    assert!(!response.headers()["x-ms-request-id"].is_empty(), "to name a call to Azure's support");
    let operation = response.headers()["location"].to_str().unwrap().to_owned();
    let (_, started) = read(response).await;
    assert!(operation.ends_with(started["operationId"].as_str().unwrap()), "{operation}");
    let (status, polled) =
        read(running.call(0, Method::GET, &operation, &[("authorization", &auth)], None).await).await;
    assert_eq!((status, polled), (StatusCode::ACCEPTED, started.clone()), "it is worked on");
    let (_, again) = call(&running, Method::PUT, "dev-1", "/register", None).await;
    assert_eq!(again, started, "the same work, not a second one");
    assert_eq!(running.emulator.hubs()[0].devices(), []);

    running.emulator.dps().set_work(Duration::ZERO);
    let done = provision(&running, "dev-2").await;
    let state = &done["registrationState"];
    assert_eq!((&done["status"], &state["status"]), (&json!("assigned"), &json!("assigned")));
    assert_eq!((&state["registrationId"], &state["deviceId"]), (&json!("dev-2"), &json!("dev-2")));
    assert_eq!(
        (&state["assignedHub"], &state["substatus"]),
        (&json!("localhost"), &json!("initialAssignment"))
    );
    assert_eq!(state["createdDateTimeUtc"], "2026-11-21T00:00:00.000Z");
    let device = running.emulator.hubs()[0].device("dev-2").unwrap();
    let group = STANDARD.decode(running.emulator.dps().group_key()).unwrap();
    assert_eq!(device.primary_key, hmac(&group, "dev-2"));
    let known = running.emulator.dps().registration("DEV-2").unwrap();
    assert_eq!(known.payload, Some(json!({ "modelId": "dtmi:example:sensor;1" })));
    let (status, lookup) = call(&running, Method::POST, "dev-2", "", None).await;
    assert_eq!((status, &lookup), (StatusCode::OK, state));
    let calls = running.emulator.dps().calls();
    assert_eq!((calls.registers, calls.lookups), (3, 1));
    timeout(Duration::from_secs(10), running.emulator.shutdown())
        .await
        .expect("unfinished work does not hold it up");
}

#[tokio::test]
async fn two_hundred_new_devices_spread_evenly_over_five_hubs_and_stay_there() {
    let running = start(5).await;
    let ids: Vec<_> = (0..200).map(|number| format!("device-{number}")).collect();
    let hub_of = |answer: &Value| answer["registrationState"]["assignedHub"].as_str().unwrap().to_owned();
    let answers = join_all(ids.iter().map(|id| provision(&running, id))).await;
    let first: Vec<_> = answers.iter().map(hub_of).collect();
    let mut counts = BTreeMap::<_, usize>::new();
    first.iter().for_each(|hub| *counts.entry(hub.as_str()).or_default() += 1);
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [40; 5]);
    for (hub, id) in first.iter().zip(&ids) {
        let hub = running.emulator.hubs().iter().find(|own| own.host() == hub).unwrap();
        assert!(hub.device(id).is_some());
    }
    let dir = running.dir;
    running.emulator.shutdown().await;

    let running = start_in(dir, 5).await;
    let again = join_all(ids[..20].iter().map(|id| provision(&running, id))).await;
    for (then, now) in first.iter().zip(&again) {
        assert_eq!(hub_of(now), *then, "also after a restart");
    }
    assert_eq!(running.emulator.hubs().iter().map(|hub| hub.device_count()).sum::<usize>(), 200);
}

#[tokio::test]
async fn a_device_deleted_from_its_hub_is_made_again_where_there_are_fewest() {
    let running = start(3).await;
    for id in ["a", "b", "c", "d"] {
        provision(&running, id).await;
    }
    let hubs = running.emulator.hubs();
    let counts = || hubs.iter().map(|hub| hub.device_count()).collect::<Vec<_>>();
    assert_eq!(counts(), [2, 1, 1]);
    hubs[0].delete_device("a", None).unwrap();
    assert_eq!(provision(&running, "a").await["registrationState"]["assignedHub"], "127.0.0.2", "it moved");
    assert_eq!(counts(), [1, 2, 1]);
    hubs[0].delete_device("d", None).unwrap();
    assert_eq!(
        provision(&running, "d").await["registrationState"]["assignedHub"],
        "localhost",
        "by far the fewest"
    );
    hubs[2].create_device("e", None).unwrap();
    provision(&running, "f").await;
    assert_eq!(provision(&running, "e").await["registrationState"]["assignedHub"], "127.0.0.3");
    let group = STANDARD.decode(running.emulator.dps().group_key()).unwrap();
    assert_eq!(hubs[2].device("e").unwrap().primary_key, hmac(&group, "e"), "taken over with its key");
}

#[tokio::test]
async fn disabled_and_failed_registrations_end_with_their_status_until_that_is_lifted() {
    let running = start(1).await;
    let dps = running.emulator.dps();
    dps.set_enabled("Off", false);
    let failure = Failure { error_code: 400_207, message: "the allocation failed".to_owned() };
    dps.set_failure("bad", Some(failure));
    let off = provision(&running, "off").await;
    assert_eq!(
        (&off["status"], &off["registrationState"]["status"]),
        (&json!("disabled"), &json!("disabled"))
    );
    assert_eq!(off["registrationState"].get("assignedHub"), None);
    let bad = provision(&running, "bad").await;
    let state = &bad["registrationState"];
    assert_eq!((&bad["status"], &state["errorCode"]), (&json!("failed"), &json!(400_207)));
    assert_eq!(state["errorMessage"], "the allocation failed");
    assert_eq!(running.emulator.hubs()[0].device_count(), 0);
    dps.set_group_enabled(false);
    assert_eq!(provision(&running, "other").await["status"], "disabled");
    dps.set_group_enabled(true);
    dps.set_enabled("off", true);
    dps.set_failure("bad", None);
    for id in ["off", "bad", "other"] {
        assert_eq!(provision(&running, id).await["status"], "assigned", "{id}");
        assert_eq!(dps.registration(id).unwrap().status, RegistrationStatus::Assigned);
        assert_eq!(dps.registration(id).unwrap().failure, None);
    }
}

#[tokio::test]
async fn a_token_that_is_not_the_devices_own_is_refused() {
    let running = start(1).await;
    let dps = running.emulator.dps();
    let (scope, group) = (dps.id_scope(), STANDARD.decode(dps.group_key()).unwrap());
    let own = hmac(&group, "dev");
    let resource = format!("{scope}/registrations/dev");
    let path = format!("/{scope}/registrations/dev/register");
    let cases = [
        (sas(&resource, &hmac(&group, "other"), Some("registration")), "signature"),
        (sas(&resource, dps.group_key(), Some("registration")), "signature"),
        (sas(&resource, &own, None), "skn"),
        (sas(&format!("{scope}/registrations/other"), &own, Some("registration")), "sr"),
        ("Basic abc".to_owned(), "malformed"),
    ];
    for (token, words) in cases {
        let (status, body) =
            read(running.call(0, Method::PUT, &path, &[("authorization", &token)], None).await).await;
        assert_eq!((status, &body["errorCode"]), (StatusCode::UNAUTHORIZED, &json!(401_002)));
        assert!(body["message"].as_str().unwrap().contains(words), "{body}");
        assert!(body["trackingId"].is_string() && body["timestampUtc"].is_string(), "{body}");
    }
    assert_eq!(running.call(0, Method::PUT, &path, &[], None).await.status(), StatusCode::UNAUTHORIZED);
    // Node signs the resource as it is, C# encodes it; both are one device.
    for resource in [resource, format!("{scope}%2Fregistrations%2Fdev"), format!("{scope}/registrations/DEV")]
    {
        let token = sas(&resource, &own, Some("registration"));
        let status = running.call(0, Method::PUT, &path, &[("authorization", &token)], None).await.status();
        assert_eq!(status, StatusCode::ACCEPTED, "{resource}");
    }
    let good = sas(&format!("{scope}/registrations/dev"), &own, Some("registration"));
    running.clock.advance(3_600_000);
    let status = running.call(0, Method::PUT, &path, &[("authorization", &good)], None).await.status();
    assert_eq!(status, StatusCode::UNAUTHORIZED, "its time is over");
}

#[tokio::test]
async fn unknown_and_wrong_requests_get_dps_errors() {
    let running = start(1).await;
    let auth = token(&running, "dev");
    let scope = running.emulator.dps().id_scope();
    let mismatch = json!({ "registrationId": "other" });
    let heavy = json!({ "payload": "x".repeat(5000) });
    let cases = [
        (Method::GET, format!("/{scope}/registrations/dev/operations/none"), None, 404),
        (Method::POST, format!("/{scope}/registrations/dev"), None, 404),
        (Method::PUT, "/0ne00000000X/registrations/dev/register".to_owned(), None, 404),
        (Method::PUT, format!("/{scope}/registrations/dev/other"), None, 404),
        (Method::POST, format!("/{scope}/registrations/dev/register"), None, 405),
        (Method::PUT, format!("/{scope}/registrations/dev/register"), Some(mismatch), 400),
        (Method::PUT, format!("/{scope}/registrations/dev/register"), Some(heavy), 400),
        (Method::PUT, format!("/{scope}/registrations/dev/register"), Some(json!([1])), 400),
    ];
    for (method, path, body, wanted) in cases {
        let (status, reply) =
            read(running.call(0, method, &path, &[("authorization", &auth)], body).await).await;
        assert_eq!(status.as_u16(), wanted, "{path}: {reply}");
        assert_eq!(reply["errorCode"].as_u64().unwrap() / 1000, u64::from(wanted), "{reply}");
    }
    let text = [("authorization", auth.as_str()), ("content-type", "text/plain")];
    let path = format!("/{scope}/registrations/dev/register");
    let response = running.call(0, Method::PUT, &path, &text, Some(json!({}))).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (status, _) = call(&running, Method::PUT, "ends-with.", "/register", None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "such an id ends with a letter, a digit or a dash");
}

#[tokio::test]
async fn a_throttled_or_broken_instance_answers_every_call_so_until_it_is_over() {
    let running = start(1).await;
    let dps = running.emulator.dps();
    for (status, retry_after_s) in [(429, Some(7)), (500, None), (503, Some(1))] {
        let (error_code, message) = (u32::from(status) * 1000 + 1, "not now".to_owned());
        dps.set_refusal(Some(Refusal { status, error_code, message, retry_after_s }));
        let auth = token(&running, "dev");
        let path = format!("/{}/registrations/dev/register", dps.id_scope());
        let response = running.call(0, Method::PUT, &path, &[("authorization", &auth)], None).await;
        let header = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header, retry_after_s.map(|seconds: u32| seconds.to_string()));
        let (seen, body) = read(response).await;
        assert_eq!((seen.as_u16(), &body["errorCode"]), (status, &json!(error_code)));
    }
    dps.set_refusal(None);
    assert_eq!(provision(&running, "dev").await["status"], "assigned");
    assert_eq!(dps.calls().registers, 4);
}
