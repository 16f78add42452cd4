//! `/devices` as service SDKs use it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::support::{Running, read, sas, start};

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

async fn call(
    running: &Running,
    method: Method,
    path: &str,
    policy: &str,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let token = running.policy(0, policy);
    read(running.call(0, method, path, &[("authorization", &token)], body).await).await
}

#[tokio::test]
async fn a_device_is_created_read_listed_changed_and_deleted() {
    let running = start(1).await;
    let new = json!({
        "deviceId": "Dev-1",
        "authentication": { "type": "sas", "symmetricKey": { "primaryKey": KEY, "secondaryKey": "" } },
    });
    let path = "/devices/Dev-1?api-version=2021-04-12";
    let (status, created) = call(&running, Method::PUT, path, "registryReadWrite", Some(new.clone())).await;
    assert_eq!(
        (status, &created["deviceId"], &created["status"]),
        (StatusCode::OK, &json!("Dev-1"), &json!("enabled"))
    );
    assert_eq!(created["authentication"]["type"], "sas");
    assert_eq!(created["connectionState"], "Disconnected");
    assert_eq!(created["authentication"]["symmetricKey"]["primaryKey"], KEY);
    assert_eq!(created["authentication"]["symmetricKey"]["secondaryKey"].as_str().unwrap().len(), 44);
    let (status, again) = call(&running, Method::PUT, path, "iothubowner", Some(new)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(again["Message"].as_str().unwrap().starts_with("ErrorCode:DeviceAlreadyExists;"), "{again}");

    assert_eq!(
        call(&running, Method::GET, path, "registryRead", None).await,
        (StatusCode::OK, created.clone())
    );
    let (status, list) = call(&running, Method::GET, "/devices/", "registryRead", None).await;
    assert_eq!((status, list), (StatusCode::OK, json!([created])));

    let token = running.policy(0, "iothubowner");
    let change = json!({ "deviceId": "Dev-1", "status": "disabled" });
    let headers = [("authorization", token.as_str()), ("if-match", "\"*\"")];
    let changed = running.call(0, Method::PUT, path, &headers, Some(change)).await;
    let etag = changed.headers()["etag"].to_str().unwrap().to_owned();
    let (status, changed) = read(changed).await;
    assert_eq!((status, &changed["status"]), (StatusCode::OK, &json!("disabled")));
    assert_eq!(etag, format!("\"{}\"", changed["etag"].as_str().unwrap()));
    assert_ne!(changed["etag"], created["etag"]);
    assert_eq!(changed["authentication"], created["authentication"], "keys that are not sent stay");

    let (status, _) = call(&running, Method::DELETE, path, "iothubowner", None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, gone) = call(&running, Method::GET, path, "registryRead", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(gone["Message"].as_str().unwrap().starts_with("ErrorCode:DeviceNotFound;"), "{gone}");
    running.emulator.shutdown().await;
}

#[tokio::test]
async fn an_etag_that_is_not_the_devices_changes_nothing() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    let device = hub.create_device("a", None).unwrap();
    let token = running.policy(0, "iothubowner");
    for (method, body) in [(Method::PUT, Some(json!({ "deviceId": "a" }))), (Method::DELETE, None)] {
        let headers = [("authorization", token.as_str()), ("if-match", "\"b3RoZXI=\"")];
        let response = running.call(0, method, "/devices/a", &headers, body).await;
        assert_eq!(response.status(), StatusCode::PRECONDITION_FAILED);
    }
    assert_eq!(hub.device("a"), Some(device.clone()));
    let etag = format!("W/\"{}\"", device.etag);
    let headers = [("authorization", token.as_str()), ("if-match", &etag)];
    let response = running.call(0, Method::DELETE, "/devices/a", &headers, None).await;
    assert_eq!((response.status(), hub.device("a")), (StatusCode::NO_CONTENT, None));
    let headers = [("authorization", token.as_str()), ("if-match", "*")];
    let body = Some(json!({ "deviceId": "a" }));
    let response = running.call(0, Method::PUT, "/devices/a", &headers, body).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND, "an update does not create");
}

#[tokio::test]
async fn each_policy_opens_only_what_it_may() {
    let running = start(1).await;
    running.emulator.hubs()[0].create_device("a", None).unwrap();
    let body = || Some(json!({ "deviceId": "b" }));
    for (policy, read, write) in [
        ("iothubowner", StatusCode::OK, StatusCode::OK),
        ("registryReadWrite", StatusCode::OK, StatusCode::CONFLICT),
        ("registryRead", StatusCode::OK, StatusCode::UNAUTHORIZED),
        ("service", StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
        ("device", StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(call(&running, Method::GET, "/devices/a", policy, None).await.0, read, "{policy}");
        assert_eq!(call(&running, Method::PUT, "/devices/b", policy, body()).await.0, write, "{policy}");
    }
}

#[tokio::test]
async fn a_missing_wrong_or_expired_token_is_told_apart_in_words() {
    let running = start(2).await;
    let key = running.emulator.hubs()[0].policy_key("iothubowner").unwrap();
    let good = running.policy(0, "iothubowner");
    let cases = [
        (None, "header is missing"),
        (Some("Bearer x".to_owned()), "malformed"),
        (Some(sas("localhost", KEY, Some("iothubowner"))), "signature"),
        (Some(sas("localhost", key, Some("nobody"))), "signature"),
        (Some(sas("127.0.0.2", key, Some("iothubowner"))), "sr is not"),
        (Some(sas("localhost%2Fdevices%2Fother", key, Some("iothubowner"))), "sr is not"),
    ];
    for (token, words) in cases {
        let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
        let (status, body) = read(running.call(0, Method::GET, "/devices/a", &headers, None).await).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let message = body["Message"].as_str().unwrap();
        assert!(
            message.starts_with("ErrorCode:IotHubUnauthorizedAccess;") && message.contains(words),
            "{message}"
        );
    }
    let headers = [("authorization", good.as_str())];
    assert_eq!(
        running.call(0, Method::GET, "/devices/a", &headers, None).await.status(),
        StatusCode::NOT_FOUND
    );
    running.clock.advance(3_600_000);
    let (status, body) = read(running.call(0, Method::GET, "/devices/a", &headers, None).await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(body["Message"].as_str().unwrap().contains("expired"), "{body}");
}

#[tokio::test]
async fn what_iot_hub_cannot_take_is_refused_with_the_reason() {
    let running = start(1).await;
    let long = "x".repeat(129);
    let large = "x".repeat(200_000);
    let keys =
        |key: &str| json!({ "deviceId": "a", "authentication": { "symmetricKey": { "primaryKey": key } } });
    let cases = [
        ("/devices/a%2Bb", json!({ "deviceId": "a+b" }), 400, "device id has"),
        ("/devices/a%2Fb", json!({ "deviceId": "a/b" }), 400, "device id has"),
        (&format!("/devices/{long}"), json!({ "deviceId": long }), 400, "device id has"),
        ("/devices/%FF", json!({}), 400, "percent-encoded"),
        ("/devices/a", json!({ "deviceId": "b" }), 400, "not the path's"),
        ("/devices/a", json!([]), 400, "no device"),
        ("/devices/a", json!({ "deviceId": "a", "status": "asleep" }), 400, "asleep"),
        ("/devices/a", keys("not base64"), 400, "base64"),
        ("/devices/a", keys("c2hvcnQ="), 400, "16 to 64"),
        (
            "/devices/a",
            json!({ "deviceId": "a", "authentication": { "type": "selfSigned" } }),
            400,
            "use sas",
        ),
        ("/devices/a", json!({ "deviceId": large }), 413, "over"),
        ("/devices/a/modules/m", json!({}), 404, "modules"),
        ("/nothing/a", json!({}), 404, "/devices"),
    ];
    for (path, body, status, words) in cases {
        let (seen, reply) = call(&running, Method::PUT, path, "iothubowner", Some(body)).await;
        assert_eq!(seen.as_u16(), status, "{path}: {reply}");
        assert!(reply["Message"].as_str().unwrap().contains(words), "{path}: {reply}");
    }
    let odd = "a%25.%3A%40'(1)";
    let body = Some(json!({ "deviceId": "a%.:@'(1)" }));
    let (status, _) = call(&running, Method::PUT, &format!("/devices/{odd}"), "iothubowner", body).await;
    assert_eq!(status, StatusCode::OK, "an unusual id that is allowed");
    assert!(running.emulator.hubs()[0].device("a%.:@'(1)").is_some());
    let (status, _) = call(&running, Method::PATCH, "/devices/a", "iothubowner", None).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn the_host_header_chooses_the_hub_and_else_the_address_does() {
    let running = start(2).await;
    let hubs = running.emulator.hubs();
    hubs[1].create_device("only-there", None).unwrap();
    let token = running.policy(1, "registryRead");
    let found = |hub, host: &'static str| {
        let headers = [("authorization", token.clone()), ("host", host.to_owned())];
        let running = &running;
        async move {
            let headers: Vec<_> = headers
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            running.call(hub, Method::GET, "/devices/only-there", &headers, None).await.status()
        }
    };
    assert_eq!(found(1, "").await, StatusCode::OK);
    assert_eq!(found(0, "").await, StatusCode::UNAUTHORIZED, "another hub's token");
    assert_eq!(found(0, "127.0.0.2:443").await, StatusCode::OK);
    assert_eq!(found(1, "hub.azure-devices.net").await, StatusCode::OK, "an unknown name: the address");
}
