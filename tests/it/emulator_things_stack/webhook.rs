//! What the webhook gets beside the body, and that its failures are its own.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tti_connector::emulator::Options;
use tti_connector::emulator::things_stack::{Delivered, Webhook};
use tti_connector::model::Secret;

use super::support::{APP, DEV, World, plain};

#[tokio::test]
async fn headers_are_the_real_ones_and_custom_ones_cannot_replace_them() {
    let world = World::new().await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    world
        .stack()
        .set_webhook(Some(Webhook {
            secret: Some(Secret::new("hush")),
            headers: vec![header("X-Site", "north"), header("Content-Type", "text/plain")],
            ..world.webhook()
        }))
        .unwrap();
    world.uplink(json!({})).await;
    let headers = world.receiver.wait(1).await.remove(0).headers;
    let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    let down = world.url(&format!("/api/v3/as/applications/{APP}/webhooks/tti-connector/devices/{DEV}/down"));
    assert_eq!(value("content-type"), Some("application/json"));
    assert_eq!(value("authorization"), Some("Bearer hush"));
    assert_eq!(value("x-site"), Some("north"));
    assert_eq!(value("x-tts-domain"), Some("localhost"));
    assert_eq!(value("x-downlink-apikey"), Some(world.stack().api_key()));
    assert_eq!(value("x-downlink-push"), Some(format!("{down}/push").as_str()));
    assert_eq!(value("x-downlink-replace"), Some(format!("{down}/replace").as_str()));
    assert!(value("user-agent").unwrap().starts_with("TheThingsStack/3."), "{headers:?}");
    assert!(!format!("{:?}", world.stack().webhook()).contains("hush"));

    // The URL that it names works with the key that it names.
    let request = world.client.post(value("x-downlink-push").unwrap());
    let request = request.bearer_auth(value("x-downlink-apikey").unwrap());
    let body = json!({ "downlinks": [plain("a")] });
    assert_eq!(request.json(&body).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn without_a_downlink_key_there_are_no_downlink_headers() {
    let world = World::new().await;
    world.stack().set_webhook(Some(Webhook::new(world.receiver.url.clone()))).unwrap();
    world.uplink(json!({})).await;
    let headers = world.receiver.wait(1).await.remove(0).headers;
    assert!(headers.keys().all(|name| !name.as_str().starts_with("x-downlink")), "{headers:?}");
    assert_eq!(headers.get("authorization"), None);
}

#[tokio::test]
async fn a_failing_webhook_fails_no_push_and_hears_nothing_twice() {
    let world = World::new().await;
    world.receiver.answer(500);
    assert_eq!(world.push(json!([plain("a")])).await.0, 200);
    world.receiver.answer(202);
    world.uplink(json!({})).await;
    assert_eq!(world.receiver.kinds(3).await, ["downlink_queued", "uplink_message", "downlink_sent"]);
    let mut changes = world.stack().changes();
    while world.stack().deliveries().len() < 3 {
        changes.changed().await.unwrap();
    }
    let deliveries = world.stack().deliveries();
    let results: Vec<_> =
        deliveries.iter().map(|delivery| (delivery.kind, delivery.result.clone())).collect();
    let expected = [("downlink_queued", 500), ("uplink_message", 202), ("downlink_sent", 202)];
    assert_eq!(results, expected.map(|(kind, status)| (kind, Delivered::Answered(status))));
    let counts = world.stack().counts();
    assert_eq!((counts.delivered, counts.failed, counts.dropped), (2, 1, 0));
}

#[tokio::test]
async fn a_webhook_that_never_answers_holds_a_push_for_its_time_only() {
    let patience = Duration::from_millis(300);
    let world = World::with(|options| Options { webhook_timeout: patience, ..options }).await;
    world.receiver.hold(true);
    let began = Instant::now();
    assert_eq!(world.push(json!([plain("a")])).await.0, 200);
    assert!(began.elapsed() >= patience, "{:?}", began.elapsed());
    let mut changes = world.stack().changes();
    while world.stack().deliveries().is_empty() {
        changes.changed().await.unwrap();
    }
    assert_eq!(world.stack().deliveries()[0].result, Delivered::Failed("no answer in time".to_owned()));
    assert_eq!(world.list().await.len(), 1);
}

#[tokio::test]
async fn a_webhook_that_is_gone_is_no_reason_to_wait() {
    let world = World::new().await;
    let gone = super::receiver::Receiver::start().await.url.clone();
    world.stack().set_webhook(Some(Webhook::new(gone))).unwrap();
    assert_eq!(world.push(json!([plain("a")])).await.0, 200);
    world.stack().set_webhook(None).unwrap();
    assert_eq!(world.push(json!([plain("b")])).await.0, 200);
    let results: Vec<_> = world.stack().deliveries().into_iter().map(|delivery| delivery.result).collect();
    assert_eq!(results, [Delivered::Failed("no connection".to_owned()), Delivered::NoWebhook]);
}

#[tokio::test]
async fn the_webhook_is_set_shown_and_removed_at_run_time_without_showing_secrets() {
    let world = World::new().await;
    let asked = json!({ "url": world.receiver.url.as_str(), "id": "my-hook", "secret": "hush",
        "headers": { "X-Site": "south" }, "downlink_api_key": true });
    assert_eq!(world.call(Method::PUT, "/emulator/webhook", Some(asked)).await.0, 204);
    world.uplink(json!({})).await;
    let headers = world.receiver.wait(1).await.remove(0).headers;
    assert_eq!(headers["authorization"], "Bearer hush");
    assert_eq!(headers["x-downlink-apikey"], world.stack().api_key());
    assert!(headers["x-downlink-push"].to_str().unwrap().contains("/webhooks/my-hook/"));
    let (status, shown) = world.call(Method::GET, "/emulator/webhook", None).await;
    assert_eq!((status, &shown["id"]), (200, &json!("my-hook")));
    assert!(!shown.to_string().contains("hush") && !shown.to_string().contains("NNSXS"), "{shown}");
    assert_eq!(world.call(Method::DELETE, "/emulator/webhook", None).await.0, 204);
    assert!(world.stack().webhook().is_none());
    for wrong in [json!({}), json!({ "url": "ftp://x" }), json!({ "url": "http://x", "id": "?" })] {
        assert_eq!(world.call(Method::PUT, "/emulator/webhook", Some(wrong.clone())).await.0, 400, "{wrong}");
    }
}
