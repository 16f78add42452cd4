//! `POST /devices/query`, `/statistics`, and lists of devices in one call.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::support::{Running, read, start};

async fn ask(
    running: &Running,
    query: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, Value, Option<String>) {
    let token = running.policy(0, "registryRead");
    let mut all = vec![("authorization", token.as_str())];
    all.extend_from_slice(headers);
    let body = Some(json!({ "query": query }));
    let response = running.call(0, Method::POST, "/devices/query", &all, body).await;
    let next = response.headers().get("x-ms-continuation").map(|next| next.to_str().unwrap().to_owned());
    let (status, body) = read(response).await;
    (status, body, next)
}

fn ids(page: &Value) -> Vec<&str> {
    page.as_array().unwrap().iter().map(|twin| twin["deviceId"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn results_come_in_pages_and_each_device_once() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    for number in 0..7 {
        hub.create_device(&format!("d{number}"), None).unwrap();
        hub.update_tags(&format!("d{number}"), &json!({ "odd": number % 2 == 1 })).unwrap();
    }
    let odd = "SELECT * FROM devices WHERE tags.odd = true";
    let (status, page, next) = ask(&running, odd, &[("x-ms-max-item-count", "2")]).await;
    assert_eq!((status, ids(&page)), (StatusCode::OK, vec!["d1", "d3"]));
    let next = next.unwrap();
    // What comes and goes between pages moves no other.
    hub.delete_device("d3", None).unwrap();
    let headers = [("x-ms-max-item-count", "2"), ("x-ms-continuation", next.as_str())];
    let (_, page, next) = ask(&running, odd, &headers).await;
    assert_eq!((ids(&page), next), (vec!["d5"], None));
    let (_, all, next) = ask(&running, "SELECT * FROM devices", &[]).await;
    assert_eq!((ids(&all).len(), next), (6, None));
    let (_, counted, _) = ask(&running, "SELECT COUNT() AS n FROM devices WHERE tags.odd = false", &[]).await;
    assert_eq!(counted, json!([{ "n": 4 }]));
    let (_, some, _) =
        ask(&running, "SELECT deviceId, tags.odd AS o FROM devices WHERE deviceId IN ['d1']", &[]).await;
    assert_eq!(some, json!([{ "deviceId": "d1", "o": true }]));
}

#[tokio::test]
async fn what_is_not_understood_is_refused_with_what_is() {
    let running = start(1).await;
    let all = "SELECT * FROM devices";
    for (query, headers, words) in [
        ("SELECT * FROM devices ORDER BY deviceId", vec![], "understands"),
        ("DELETE FROM devices", vec![], "SELECT should be"),
        (all, vec![("x-ms-max-item-count", "0")], "from 1 on"),
        (all, vec![("x-ms-max-item-count", "many")], "from 1 on"),
        (all, vec![("x-ms-continuation", "///")], "not one of ours"),
    ] {
        let (status, reply, _) = ask(&running, query, &headers).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert!(reply["Message"].as_str().unwrap().contains(words), "{reply}");
    }
}

#[tokio::test]
async fn lists_of_devices_are_added_updated_and_removed_in_one_call() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    let token = running.policy(0, "registryReadWrite");
    let headers = [("authorization", token.as_str())];
    let bulk = async |entries: Value| {
        read(running.call(0, Method::POST, "/devices?api-version=2021-04-12", &headers, Some(entries)).await)
            .await
    };
    let good = json!({ "isSuccessful": true, "errors": [], "warnings": [] });
    let added = bulk(json!([
        { "id": "a", "importMode": "create" },
        { "id": "b", "importMode": "create", "status": "disabled" },
    ]));
    assert_eq!(added.await, (StatusCode::OK, good.clone()));
    let etag = hub.device("a").unwrap().etag;
    let (status, mixed) = bulk(json!([
        { "id": "a", "importMode": "create" },
        { "id": "a", "importMode": "UpdateIfMatchETag", "eTag": "other", "status": "disabled" },
        { "id": "a", "importMode": "UpdateIfMatchETag", "etag": etag, "status": "disabled" },
        { "id": "c", "importMode": "Update" },
        { "id": "a+b", "importMode": "create" },
        { "id": "x", "importMode": "rename" },
        7,
    ]))
    .await;
    assert_eq!((status, &mixed["isSuccessful"]), (StatusCode::BAD_REQUEST, &json!(false)));
    let codes: Vec<_> = mixed["errors"].as_array().unwrap().iter().map(|error| &error["errorCode"]).collect();
    let invalid = "ArgumentInvalid";
    assert_eq!(
        codes,
        ["DeviceAlreadyExists", "PreconditionFailed", "DeviceNotFound", invalid, invalid, invalid]
    );
    let statistics = async |kind: &str| {
        read(running.call(0, Method::GET, &format!("/statistics/{kind}"), &headers, None).await).await.1
    };
    let counted = json!({ "totalDeviceCount": 2, "enabledDeviceCount": 0, "disabledDeviceCount": 2 });
    assert_eq!(statistics("devices").await, counted);
    assert_eq!(statistics("service").await, json!({ "connectedDeviceCount": 0 }));
    let removed = bulk(json!([{ "id": "a", "importMode": "Delete" }, { "id": "b", "importMode": "delete" }]));
    assert_eq!((removed.await, hub.device_count()), ((StatusCode::OK, good), 0));
    let many: Vec<_> = (0..101).map(|n| json!({ "id": format!("m{n}"), "importMode": "create" })).collect();
    assert_eq!(bulk(json!(many)).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(hub.device_count(), 0);
}
