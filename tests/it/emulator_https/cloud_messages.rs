//! Cloud-to-device messages as far as HTTPS knows of them, and what a hub of the basic tier lacks.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tti_connector::emulator::{CloudMessage, Emulator, Fate, Tier};
use tti_connector::model::Clock;

use super::support::{NOW_MS, Running, client, options, read, start};

#[tokio::test]
async fn a_queue_is_counted_and_purged() {
    let running = start(1).await;
    let hub = &running.emulator.hubs()[0];
    hub.create_device("dev", None).unwrap();
    for _ in 0..3 {
        hub.send_cloud_message("dev", CloudMessage::new("x")).unwrap();
    }
    let token = running.policy(0, "service");
    let owner = running.policy(0, "iothubowner");
    let reader = running.policy(0, "registryRead");
    let commands = "/devices/dev/commands?api-version=2021-04-12";
    let call = async |method, path, token: &str| {
        read(running.call(0, method, path, &[("authorization", token)], None).await).await
    };
    let (_, shown) = call(Method::GET, "/devices/dev", &owner).await;
    assert_eq!(shown["cloudToDeviceMessageCount"], 3);
    let (_, twin) = call(Method::GET, "/twins/dev", &owner).await;
    assert_eq!(twin["cloudToDeviceMessageCount"], 3);
    assert_eq!(call(Method::DELETE, commands, &reader).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(call(Method::GET, commands, &token).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        call(Method::DELETE, commands, &token).await,
        (StatusCode::OK, json!({ "deviceId": "dev", "moduleId": null, "totalMessagesPurged": 3 }))
    );
    assert!(hub.cloud_queue("dev").is_empty());
    assert!(hub.dead_letters("dev").iter().all(|letter| letter.fate == Fate::Purged));
    assert_eq!(call(Method::DELETE, "/devices/no/commands", &token).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_basic_hub_has_a_registry_but_no_twins_and_methods() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW_MS);
    let options = tti_connector::emulator::Options { tier: Tier::Basic, ..options(&dir, 1, &clock) };
    let emulator = Emulator::start(options).await.unwrap();
    let client = client(&emulator);
    let running = Running { emulator, dir, clock, client };
    running.emulator.hubs()[0].create_device("dev", None).unwrap();
    let owner = running.policy(0, "iothubowner");
    let headers = [("authorization", owner.as_str())];
    let (status, _) = read(running.call(0, Method::GET, "/devices/dev", &headers, None).await).await;
    assert_eq!(status, StatusCode::OK);
    for (method, path) in [(Method::GET, "/twins/dev"), (Method::POST, "/twins/dev/methods")] {
        let (status, error) = read(running.call(0, method, path, &headers, None).await).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        let text = error["Message"].as_str().unwrap();
        assert!(text.starts_with("ErrorCode:OperationNotAvailableInCurrentTier;"), "{text}");
    }
}
