//! Calls that go wrong on purpose: before or after their effect, with any status, late, or cut off.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tti_connector::emulator::things_stack::{Calls, Effect, Fault};

use super::support::{APP, DEV, World, first_id, plain};

async fn try_push(world: &World, id: &str) -> Result<u16, reqwest::Error> {
    let path = format!("/api/v3/as/applications/{APP}/devices/{DEV}/down/push");
    let request = world.client.post(world.url(&path)).bearer_auth(world.stack().api_key());
    let body = json!({ "downlinks": [plain(id)] });
    request.json(&body).send().await.map(|response| response.status().as_u16())
}

#[tokio::test]
async fn statuses_come_as_often_as_asked_for_and_queue_nothing() {
    let world = World::new().await;
    for status in [500, 503, 406, 409] {
        let fault = json!({ "status": status, "count": 2 });
        assert_eq!(world.call(Method::POST, "/emulator/faults", Some(fault)).await.0, 204);
        for _ in 0..2 {
            let (got, body) = world.push(json!([plain("a")])).await;
            assert_eq!(got, status);
            assert_eq!(body == Value::Null, status == 406, "a paused webhook answers nothing: {body}");
        }
    }
    assert_eq!(world.push(json!([plain("b")])).await.0, 200);
    assert_eq!(world.list().await.len(), 1);
    assert_eq!(world.call(Method::POST, "/emulator/faults", Some(json!({ "status": 42 }))).await.0, 400);
}

#[tokio::test]
async fn a_rate_limit_has_its_headers() {
    let world = World::new().await;
    let headers = [("x-rate-limit-retry".to_owned(), "7".to_owned())].into();
    world.stack().fault(Fault { status: Some(429), headers, ..Fault::default() }).unwrap();
    let path = format!("/api/v3/as/applications/{APP}/devices/{DEV}/down/push");
    let request = world.client.post(world.url(&path)).bearer_auth(world.stack().api_key());
    let response = request.body("{}").send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["x-rate-limit-retry"], "7");
    assert_eq!(response.headers()["x-rate-limit-available"], "0");
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!((&body["code"], &body["details"][0]["name"]), (&json!(8), &json!("rate_limit_exceeded")));
}

#[tokio::test]
async fn a_lost_answer_leaves_the_downlink_queued_and_readable() {
    let world = World::new().await;
    let lost = Fault { effect: Effect::After, close: true, calls: Calls::Write, ..Fault::default() };
    world.stack().fault(lost.clone()).unwrap();
    assert!(try_push(&world, "lost").await.is_err());
    assert_eq!(first_id(&world.list().await[0]), "lost");
    assert_eq!(world.receiver.kinds(1).await, ["downlink_queued"]);

    world.stack().fault(Fault { status: Some(502), close: false, ..lost }).unwrap();
    assert_eq!(try_push(&world, "bad-gateway").await.unwrap(), 502);
    assert_eq!(world.list().await.len(), 2);
}

#[tokio::test]
async fn a_connection_cut_before_the_effect_queues_nothing() {
    let world = World::new().await;
    world.stack().fault(Fault { close: true, ..Fault::default() }).unwrap();
    assert!(try_push(&world, "cut").await.is_err());
    assert!(world.list().await.is_empty() && world.stack().pushes().is_empty());
}

#[tokio::test]
async fn a_late_answer_is_late_and_faults_for_reads_spare_writes() {
    let world = World::new().await;
    let delay = Duration::from_millis(150);
    world.stack().fault(Fault { delay_ms: 150, effect: Effect::After, ..Fault::default() }).unwrap();
    let began = Instant::now();
    assert_eq!(world.push(json!([plain("a")])).await.0, 200);
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());

    world.stack().fault(Fault { status: Some(500), calls: Calls::Read, ..Fault::default() }).unwrap();
    assert_eq!(world.push(json!([plain("b")])).await.0, 200);
    let path = format!("/api/v3/as/applications/{APP}/devices/{DEV}/down");
    assert_eq!(world.call(Method::GET, &path, None).await.0, 500);
    assert_eq!(world.list().await.len(), 2);

    world.stack().fault(Fault { status: Some(500), count: 9, ..Fault::default() }).unwrap();
    assert_eq!(world.call(Method::DELETE, "/emulator/faults", None).await.0, 204);
    assert_eq!(world.push(json!([plain("c")])).await.0, 200);
}
