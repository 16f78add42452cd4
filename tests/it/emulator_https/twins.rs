//! `/twins/{id}` as service SDKs use it, and what survives a restart.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::support::{Running, read, start, start_in};

async fn call(
    running: &Running,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> (StatusCode, Value) {
    let token = running.policy(0, "service");
    let mut all = vec![("authorization", token.as_str())];
    all.extend_from_slice(headers);
    read(running.call(0, method, path, &all, body).await).await
}

const PATH: &str = "/twins/a?api-version=2021-04-12";

#[tokio::test]
async fn a_twin_is_read_changed_and_replaced() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    let device = hub.create_device("a", None).unwrap();
    let (status, fresh) = call(&running, Method::GET, PATH, &[], None).await;
    let time = "2026-11-21T00:00:00.000Z";
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        fresh,
        json!({
            "deviceId": "a", "etag": "AAAAAAAAAAE=", "deviceEtag": device.etag, "status": "enabled",
            "statusUpdateTime": "0001-01-01T00:00:00Z", "connectionState": "Disconnected",
            "lastActivityTime": "0001-01-01T00:00:00Z", "cloudToDeviceMessageCount": 0,
            "authenticationType": "sas",
            "x509Thumbprint": { "primaryThumbprint": null, "secondaryThumbprint": null },
            "modelId": "", "version": 2, "tags": {}, "capabilities": { "iotEdge": false },
            "properties": {
                "desired": {
                    "$metadata": { "$lastUpdated": time, "$lastUpdatedVersion": 1 }, "$version": 1,
                },
                "reported": { "$metadata": { "$lastUpdated": time }, "$version": 1 },
            },
        })
    );
    let patch = json!({
        "tags": { "site": { "floor": 2, "room": 1 } },
        "properties": { "desired": { "a": 1, "b": { "x": 1 } } },
    });
    let (status, patched) = call(&running, Method::PATCH, PATH, &[], Some(patch)).await;
    assert_eq!((status, &patched["properties"]["desired"]["$version"]), (StatusCode::OK, &json!(2)));
    // As SDKs send a whole twin back: with the hub's own members, which count for nothing.
    let mut whole = patched.clone();
    whole["properties"]["desired"] = json!({ "b": { "y": 2 }, "$version": 99, "$metadata": {} });
    whole["tags"] = json!({ "site": { "room": null } });
    let (status, replaced) = call(&running, Method::PUT, PATH, &[("if-match", "\"*\"")], Some(whole)).await;
    assert_eq!(status, StatusCode::OK, "{replaced}");
    let twin = hub.twin("a").unwrap();
    assert_eq!(Value::Object(twin.desired.properties), json!({ "b": { "y": 2 } }));
    assert_eq!((twin.desired.version, Value::Object(twin.tags)), (3, json!({ "site": {} })));
    let (status, _) = call(&running, Method::PUT, PATH, &[], Some(json!({}))).await;
    let twin = hub.twin("a").unwrap();
    assert_eq!((status, twin.tags.len(), twin.desired.properties.len()), (StatusCode::OK, 0, 0));
    running.emulator.shutdown().await;
}

#[tokio::test]
async fn an_etag_that_is_not_the_twins_changes_nothing() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    hub.create_device("a", None).unwrap();
    let token = running.policy(0, "iothubowner");
    let headers = [("authorization", token.as_str())];
    let response = running.call(0, Method::GET, PATH, &headers, None).await;
    let etag = response.headers()["etag"].to_str().unwrap().to_owned();
    let patch = || Some(json!({ "properties": { "desired": { "a": 1 } } }));
    let good = [("if-match", etag.as_str())];
    assert_eq!(call(&running, Method::PATCH, PATH, &good, patch()).await.0, StatusCode::OK);
    let (status, stale) = call(&running, Method::PATCH, PATH, &good, patch()).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert!(stale["Message"].as_str().unwrap().starts_with("ErrorCode:PreconditionFailed;"), "{stale}");
    assert_eq!(hub.twin("a").unwrap().desired.version, 2);
}

#[tokio::test]
async fn each_policy_opens_only_what_it_may() {
    let running = start(1).await;
    running.emulator.hubs()[0].create_device("a", None).unwrap();
    let (ok, no) = (StatusCode::OK, StatusCode::UNAUTHORIZED);
    for (policy, reads, writes, queries) in [
        ("iothubowner", ok, ok, ok),
        ("service", ok, ok, no),
        ("registryReadWrite", ok, no, ok),
        ("registryRead", ok, no, ok),
        ("device", no, no, no),
    ] {
        let token = running.policy(0, policy);
        let headers = [("authorization", token.as_str())];
        let query = json!({ "query": "SELECT * FROM devices" });
        for (method, path, body, wanted) in [
            (Method::GET, PATH, None, reads),
            (Method::PATCH, PATH, Some(json!({})), writes),
            (Method::PUT, PATH, Some(json!({})), writes),
            (Method::POST, "/devices/query", Some(query), queries),
            (Method::GET, "/statistics/devices", None, queries),
        ] {
            let status = running.call(0, method.clone(), path, &headers, body).await.status();
            assert_eq!(status, wanted, "{policy} {method} {path}");
        }
    }
}

#[tokio::test]
async fn what_a_twin_cannot_take_is_refused_with_the_reason_and_changes_nothing() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    hub.create_device("a", None).unwrap();
    let before = hub.twin("a");
    let text = "x".repeat(4096);
    let large: Value =
        (0..8).map(|n| (format!("p{n}"), json!(text))).collect::<serde_json::Map<_, _>>().into();
    let cases = [
        (PATH, json!({ "tags": large }), 413, "tags would count"),
        (PATH, json!({ "properties": { "desired": { "a": large } } }), 413, "desired properties would"),
        (PATH, json!({ "properties": { "desired": { "a.b": 1 } } }), 400, "a dot"),
        (PATH, json!({ "properties": { "desired": { "a": { "$b": 1 } } } }), 400, "a dollar"),
        (PATH, json!({ "properties": { "desired": null } }), 400, "must be objects"),
        (PATH, json!({ "tags": 7 }), 400, "no twin"),
        (PATH, json!([1]), 400, "no twin"),
        ("/twins/unknown", json!({}), 404, "not registered"),
        ("/twins/a/modules/m", json!({}), 404, "no modules"),
        ("/twins", json!({}), 404, "no modules"),
        ("/jobs", json!({}), 404, "/twins"),
    ];
    for (path, body, wanted, words) in cases {
        let (status, reply) = call(&running, Method::PATCH, path, &[], Some(body)).await;
        assert_eq!(status.as_u16(), wanted, "{path}: {reply}");
        assert!(reply["Message"].as_str().unwrap().contains(words), "{path}: {reply}");
    }
    let (status, _) = call(&running, Method::DELETE, PATH, &[], None).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(hub.twin("a"), before);
}

#[tokio::test]
async fn twins_survive_a_restart_and_go_with_their_device() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    for id in ["kept", "gone"] {
        hub.create_device(id, None).unwrap();
        hub.update_desired(id, &json!({ "interval": 5 })).unwrap();
        hub.update_tags(id, &json!({ "site": "roof" })).unwrap();
    }
    let before = hub.twin("kept").unwrap();
    hub.delete_device("gone", None).unwrap();
    let dir = running.dir;
    running.emulator.shutdown().await;
    let running = start_in(dir, 1).await;
    let hub = &running.emulator.hubs()[0];
    assert_eq!(hub.twin("kept").unwrap(), before);
    assert_eq!(hub.twin("gone"), None);
    hub.create_device("gone", None).unwrap();
    assert!(hub.twin("gone").unwrap().tags.is_empty());
}

#[tokio::test]
async fn a_changed_twin_is_on_disk_before_long() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    hub.create_device("a", None).unwrap();
    hub.update_tags("a", &json!({ "mark": "on-disk" })).unwrap();
    let file = running.dir.path().join("emulator.json");
    let saved = async {
        while !std::fs::read_to_string(&file).unwrap().contains("on-disk") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), saved).await.unwrap();
}
