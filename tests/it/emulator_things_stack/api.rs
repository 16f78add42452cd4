//! The API's calls: rights, validation, the queue, and errors in the real form.

use reqwest::Method;
use serde_json::{Value, json};
use tti_connector::emulator::things_stack::{Operation, Right, Webhook};

use super::support::{APP, DEV, World, device, first_id, plain, read};

async fn with_key(world: &World, method: Method, path: &str, key: Option<&str>) -> (u16, Value) {
    let mut request = world.client.request(method, world.url(path)).body("{\"downlinks\":[]}");
    if let Some(key) = key {
        request = request.header("Authorization", key);
    }
    read(request.send().await.unwrap()).await
}

#[tokio::test]
async fn each_call_needs_a_key_with_its_right() {
    let world = World::new().await;
    let down = format!("/api/v3/as/applications/{APP}/devices/{DEV}/down");
    let (push, hook) = (
        format!("{down}/push"),
        format!("/api/v3/as/applications/{APP}/webhooks/tti-connector/devices/{DEV}/down/replace"),
    );
    let ns = format!("/api/v3/ns/applications/{APP}/devices/{DEV}?field_mask=mac_state");
    let queues = format!("{ns},session.queued_application_downlinks");
    let full = world.stack().api_key().to_owned();
    assert!(full.starts_with("NNSXS.") && full.len() == "NNSXS..".len() + 39 + 52, "{}", full.len());
    let key = |rights: &[Right]| format!("Bearer {}", world.stack().add_key(rights));
    let full = format!("bearer {full}");
    let without_read = key(&[Right::DownWrite, Right::DevicesRead]);
    let without_write = key(&[Right::TrafficRead]);

    for (method, path) in
        [(Method::POST, &push), (Method::POST, &hook), (Method::GET, &down), (Method::GET, &ns)]
    {
        assert_eq!(with_key(&world, method.clone(), path, None).await.0, 401, "{path}");
        let basic = Some("Basic dXNlcjpwYXNz");
        assert_eq!(with_key(&world, method.clone(), path, basic).await.0, 401, "{path}");
        let (status, body) = with_key(&world, method.clone(), path, Some("Bearer NNSXS.X.Y")).await;
        assert_eq!((status, &body["details"][0]["name"]), (403, &json!("no_application_rights")), "{path}");
        assert_eq!(with_key(&world, method, path, Some(&full)).await.0, 200, "{path}");
    }
    assert_eq!(with_key(&world, Method::POST, &push, Some(&without_read)).await.0, 200);
    assert_eq!(with_key(&world, Method::GET, &ns, Some(&without_read)).await.0, 200);
    for path in [&down, &queues] {
        assert_eq!(with_key(&world, Method::GET, path, Some(&without_read)).await.0, 403, "{path}");
    }
    let (status, body) = with_key(&world, Method::POST, &push, Some(&without_write)).await;
    assert_eq!(status, 403);
    assert_eq!(body["details"][0]["attributes"]["missing"], "RIGHT_APPLICATION_TRAFFIC_DOWN_WRITE");
    assert_eq!(with_key(&world, Method::GET, &down, Some(&without_write)).await.0, 200);
}

#[tokio::test]
async fn a_refusal_has_the_real_form_and_queues_nothing() {
    let world = World::new().await;
    let (status, body) = world.push(json!([plain("a"), { "frm_payload": "AA==" }])).await;
    assert_eq!((status, &body["code"]), (400, &json!(3)));
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with("error:pkg/applicationserver:no_f_port ("), "{message}");
    let details = &body["details"][0];
    assert_eq!(details["@type"], "type.googleapis.com/ttn.lorawan.v3.ErrorDetails");
    assert_eq!((&details["namespace"], &details["code"]), (&json!("pkg/applicationserver"), &json!(3)));
    assert!(world.list().await.is_empty() && world.stack().pushes().is_empty());
}

#[tokio::test]
async fn what_the_real_one_refuses_is_refused() {
    let world = World::new().await;
    let long = "A".repeat(344);
    for (downlink, name) in [
        (json!({ "f_port": 0, "frm_payload": "AA==" }), "no_f_port"),
        (json!({ "f_port": 224, "frm_payload": "AA==" }), "validate_body"),
        (json!({ "f_port": 1 }), "no_payload"),
        (json!({ "f_port": 1, "frm_payload": long }), "validate_body"),
        (json!({ "f_port": 1, "frm_payload": "(no base64)" }), "decode_body"),
        (json!({ "f_port": 1, "frm_payload": "", "priority": "URGENT" }), "decode_body"),
        (json!({ "f_port": 1, "frm_payload": "", "correlation_ids": ["x".repeat(101)] }), "validate_body"),
        (
            json!({ "f_port": 1, "frm_payload": "", "confirmed": true, "confirmed_retry": { "max_attempts": 33 } }),
            "downlink_max_retries_invalid",
        ),
        (
            json!({ "f_port": 1, "frm_payload": "", "class_b_c": { "absolute_time": "2020-01-01T00:00:00Z" } }),
            "expired_downlink",
        ),
    ] {
        let (status, body) = world.push(json!([downlink])).await;
        assert_eq!((status, &body["details"][0]["name"]), (400, &json!(name)), "{downlink}");
    }
    let path = format!("/api/v3/as/applications/{APP}/devices/NOT_AN_ID/down/push");
    assert_eq!(world.call(Method::POST, &path, Some(json!({}))).await.0, 400);
    assert_eq!(world.call(Method::GET, "/api/v3/applications", None).await.0, 404);
    assert!(world.stack().pushes().is_empty());
}

#[tokio::test]
async fn push_appends_replace_drops_silently_and_an_empty_replace_clears() {
    let world = World::new().await;
    assert_eq!(world.push(json!([plain("a"), plain("b")])).await, (200, Value::Null));
    assert_eq!(world.push(json!([plain("c")])).await.0, 200);
    let queue = world.list().await;
    assert_eq!(queue.iter().map(first_id).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(queue.iter().map(|item| item["f_cnt"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    let ids = queue[0]["correlation_ids"].as_array().unwrap();
    assert!(ids.len() == 2 && ids[1].as_str().unwrap().starts_with("as:downlink:"), "{ids:?}");
    assert_eq!(queue[0]["priority"], "NORMAL");

    assert_eq!(world.replace(json!([plain("d")])).await.0, 200);
    assert_eq!(world.list().await.iter().map(first_id).collect::<Vec<_>>(), ["d"]);
    assert_eq!(world.replace(json!([])).await.0, 200);
    assert!(world.list().await.is_empty());
    // Nothing tells of a, b, c and d that were dropped.
    assert_eq!(world.receiver.kinds(4).await, ["downlink_queued"; 4]);

    let pushes = world.stack().pushes();
    assert_eq!((pushes.len(), world.stack().pushed()), (4, 4));
    assert_eq!(pushes[3].operation, Operation::Replace);
    assert_eq!(
        (pushes[3].downlink.correlation_ids[0].as_str(), pushes[3].device.device_id.as_str()),
        ("d", DEV)
    );
}

#[tokio::test]
async fn zero_values_are_left_out_and_what_is_unknown_is_ignored() {
    let world = World::new().await;
    let asked = json!({ "f_port": 200, "frm_payload": "_-8", "priority": 0, "confirmed": false, "no_such": 1,
        "f_cnt": 999, "session_key_id": "AAAA" });
    assert_eq!(world.push(json!([asked])).await.0, 200);
    let queued = world.list().await.remove(0);
    let mut keys: Vec<_> = queued.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["correlation_ids", "f_cnt", "f_port", "frm_payload", "session_key_id"]);
    assert_eq!((&queued["frm_payload"], &queued["f_cnt"]), (&json!("/+8="), &json!(1)));
}

#[tokio::test]
async fn decoded_payload_without_a_formatter_is_a_silent_empty_downlink() {
    let world = World::new().await;
    let downlink = json!({ "f_port": 5, "decoded_payload": { "open": true } });
    assert_eq!(world.push(json!([downlink])).await.0, 200);
    assert_eq!(world.list().await[0].get("frm_payload"), None);

    world.stack().set_formatter(&device(), true).unwrap();
    assert_eq!(world.replace(json!([downlink])).await.0, 200);
    let queued = world.list().await.remove(0);
    assert_eq!(queued["frm_payload"], "eyJvcGVuIjp0cnVlfQ==", "the text of the JSON");
    assert_eq!(queued["decoded_payload"], json!({ "open": true }));
    let both = json!({ "f_port": 5, "decoded_payload": { "open": true }, "frm_payload": "AA==" });
    assert_eq!(world.replace(json!([both])).await.0, 200);
    assert_eq!(world.list().await[0]["frm_payload"], "AA==", "bytes win");
}

#[tokio::test]
async fn a_full_queue_is_429() {
    let world = World::new().await;
    world.stack().set_webhook(None).unwrap();
    let many: Vec<_> = (0..10_000).map(|_| json!({ "f_port": 1, "frm_payload": "AA==" })).collect();
    assert_eq!(world.push(json!(many)).await.0, 200);
    let (status, body) = world.push(json!([plain("one more")])).await;
    assert_eq!((status, &body["details"][0]["name"]), (429, &json!("downlink_queue_capacity")));
    assert_eq!(world.replace(json!([plain("instead")])).await.0, 200);
    assert_eq!(world.list().await.len(), 1);
}

#[tokio::test]
async fn a_strict_registry_knows_only_devices_that_were_made_and_joined() {
    let world = World::strict().await;
    let (status, body) = world.push(json!([plain("a")])).await;
    assert_eq!((status, &body["details"][0]["name"]), (404, &json!("device_not_found")));
    assert_eq!(body["details"][0]["attributes"]["device_uid"], format!("{APP}.{DEV}"));

    assert_eq!(world.control(Method::PUT, "", json!({})).await.0, 204);
    let (status, body) = world.push(json!([plain("a")])).await;
    assert_eq!((status, &body["details"][0]["name"]), (400, &json!("no_device_session")));
    assert_eq!(body["code"], 9);

    assert_eq!(world.control(Method::POST, "join", json!({})).await.0, 204);
    assert_eq!(world.push(json!([plain("a")])).await.0, 200);

    let path = format!("/api/v3/as/applications/{APP}/webhooks/some-other/devices/{DEV}/down/push");
    let (status, body) = world.call(Method::POST, &path, Some(json!({}))).await;
    assert_eq!((status, &body["details"][0]["name"]), (404, &json!("webhook_not_found")));
}

#[tokio::test]
async fn a_paused_webhook_takes_no_downlinks_and_no_messages() {
    let world = World::new().await;
    let webhook = Webhook { paused: true, ..world.webhook() };
    world.stack().set_webhook(Some(webhook)).unwrap();
    let path = format!("/api/v3/as/applications/{APP}/webhooks/tti-connector/devices/{DEV}/down/push");
    let body = json!({ "downlinks": [plain("a")] });
    assert_eq!(world.call(Method::POST, &path, Some(body.clone())).await, (406, Value::Null));
    assert!(world.stack().pushes().is_empty());
    assert_eq!(world.push(json!([plain("b")])).await.0, 200, "the other way in is not paused");
    assert!(world.receiver.messages().is_empty());

    world.stack().set_webhook(Some(world.webhook())).unwrap();
    assert_eq!(world.call(Method::POST, &path, Some(body)).await.0, 200);
    assert_eq!(first_id(&world.receiver.wait(1).await[0].body), "a");
}

#[tokio::test]
async fn a_simulated_uplink_is_marked_and_goes_out_as_it_is() {
    let world = World::new().await;
    let path = format!("/api/v3/as/applications/{APP}/devices/{DEV}/up/simulate");
    let body =
        json!({ "uplink_message": { "f_port": 3, "frm_payload": "AA==", "settings": { "data_rate": {} } } });
    assert_eq!(world.call(Method::POST, &path, Some(body)).await.0, 200);
    let message = world.receiver.wait(1).await.remove(0);
    assert_eq!((message.kind().as_str(), &message.body["simulated"]), ("uplink_message", &json!(true)));
    assert_eq!(message.inner()["settings"], json!({ "data_rate": {} }));
    assert_eq!(message.inner().get("f_cnt"), None);
    for wrong in [json!({}), json!({ "simulated": true, "uplink_message": {} }), json!([])] {
        assert_eq!(world.call(Method::POST, &path, Some(wrong.clone())).await.0, 400, "{wrong}");
    }
}
