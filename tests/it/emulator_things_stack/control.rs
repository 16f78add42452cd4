//! The controls: for people and tests on this machine, not for web pages.

use reqwest::Method;
use serde_json::json;
use tti_connector::emulator::things_stack::{DeviceName, Uplink};
use tti_connector::emulator::{Options, Tier};

use super::support::{APP, DEV, World, device};

#[tokio::test]
async fn controls_refuse_browsers_and_foreign_names_and_say_what_is_wrong() {
    let world = World::new().await;
    let url = world.url(&format!("/emulator/applications/{APP}/devices/{DEV}/uplink"));
    for (name, value) in [("Origin", "https://evil.example"), ("Host", "rebound.example:1885")] {
        let response = world.client.post(&url).header(name, value).send().await.unwrap();
        assert_eq!(response.status(), 403, "{name}");
    }
    // curl's own content type, or no body at all, will do.
    assert_eq!(world.client.post(&url).send().await.unwrap().status(), 204);
    world.receiver.wait(1).await;
    for (what, body) in [
        ("uplink", json!({ "f_port": 224 })),
        ("uplink", json!({ "frm_payload": "?" })),
        ("uplink", json!({ "fport": 1 })),
        ("join", json!({ "invalidated": "maybe" })),
    ] {
        assert_eq!(world.control(Method::POST, what, body.clone()).await.0, 400, "{what} {body}");
    }
    assert_eq!(world.control(Method::PUT, "class", json!({ "class": "B" })).await.0, 400);
    assert_eq!(world.control(Method::POST, "dance", json!({})).await.0, 404);
    assert_eq!(world.call(Method::GET, "/emulator", None).await.0, 404);
    assert_eq!(world.receiver.messages().len(), 1);
}

#[tokio::test]
async fn a_mac_only_uplink_has_neither_port_nor_payload() {
    let world = World::new().await;
    world.uplink(json!({ "f_port": 0, "frm_payload": "AA==" })).await;
    let message = world.receiver.wait(1).await.remove(0);
    let inner = message.inner();
    assert_eq!((inner.get("f_port"), inner.get("frm_payload"), inner.get("f_cnt")), (None, None, None));
}

#[tokio::test]
async fn euis_and_formatter_are_set_by_control() {
    let world = World::new().await;
    let euis = json!({ "dev_eui": "70b3d57ed005a1c1", "join_eui": "70B3D57ED0001A00" });
    assert_eq!(world.control(Method::PUT, "euis", euis).await.0, 204);
    assert_eq!(world.control(Method::PUT, "euis", json!({ "dev_eui": "1", "join_eui": "2" })).await.0, 400);
    assert_eq!(world.control(Method::PUT, "formatter", json!({ "formatter": true })).await.0, 204);
    world.push(json!([{ "f_port": 1, "decoded_payload": {} }])).await;
    assert_eq!(world.stack().queue(&device())[0].frm_payload.as_deref(), Some(&b"{}"[..]));
    let ids = world.receiver.wait(1).await.remove(0).body["end_device_ids"].clone();
    assert_eq!((&ids["dev_eui"], &ids["join_eui"]), (&json!("70B3D57ED005A1C1"), &json!("70B3D57ED0001A00")));
}

#[tokio::test]
async fn the_same_device_id_in_two_applications_is_two_devices() {
    let world = World::new().await;
    let other = DeviceName::new("another-application", DEV).unwrap();
    world.push(json!([super::support::plain("a")])).await;
    world.stack().uplink(&other, &Uplink::default()).unwrap();
    assert_eq!((world.stack().queue(&device()).len(), world.stack().queue(&other).len()), (1, 0));
    let messages = world.receiver.wait(2).await;
    let eui = |at: usize| messages[at].body["end_device_ids"]["dev_eui"].clone();
    assert_ne!(eui(0), eui(1));
}

#[tokio::test]
async fn the_log_of_pushes_is_shown_from_any_number_on() {
    let world = World::new().await;
    for payload in ["a", "b", "c"] {
        world.push(json!([super::support::plain(payload)])).await;
    }
    let shown = |query: &'static str| world.call(Method::GET, query, None);
    let (status, all) = shown("/emulator/pushes").await;
    assert_eq!((status, &all["pushed"], &all["first"]), (200, &json!(3), &json!(0)));
    let (_, last) = shown("/emulator/pushes?from=2").await;
    assert_eq!((&last["first"], &last["pushes"][0]), (&json!(2), &all["pushes"][2]));
    let push = &last["pushes"][0];
    assert_eq!((&push["device_id"], &push["operation"]), (&json!(DEV), &json!("push")));
    assert!(push["time_ms"].is_i64() && push["downlink"]["f_cnt"] == json!(3), "{push}");
    let (_, beyond) = shown("/emulator/pushes?from=9").await;
    assert_eq!((&beyond["first"], &beyond["pushes"]), (&json!(3), &json!([])));
    assert_eq!(shown("/emulator/pushes?from=x").await.0, 400);
}

/// Sends a device of the emulated hub a message; status and answer.
async fn send(world: &World, path: &str, body: impl Into<reqwest::Body>) -> (u16, serde_json::Value) {
    let url = world.url(&format!("/emulator/hubs/{path}"));
    super::support::read(world.client.post(url).body(body).send().await.unwrap()).await
}

#[tokio::test]
async fn a_message_for_a_hubs_device_is_sent_with_plain_http() {
    let world = World::new().await;
    let hub = &world.emulator.hubs()[0];
    hub.create_device("valve/7", None).unwrap();
    let (status, answer) =
        send(&world, "localhost/devices/valve%2F7/messages?Port=10&Confirmed=true&message-id=open+7", "AQI=")
            .await;
    assert_eq!((status, answer), (202, json!({ "messageId": "open 7", "sequenceNumber": 1 })));
    let (status, answer) = send(&world, "LOCALHOST/devices/valve%2F7/messages", vec![0, 255]).await;
    assert_eq!((status, &answer["sequenceNumber"]), (202, &json!(2)));
    let queue = hub.cloud_queue("valve/7");
    let [first, second] = queue.as_slice() else { panic!("{queue:?}") };
    assert_eq!(
        (first.message.message_id.as_deref(), &first.message.body[..]),
        (Some("open 7"), &b"AQI="[..])
    );
    let properties = [("Port", "10"), ("Confirmed", "true")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(first.message.properties, properties);
    // Unnamed, it gets a name all the same, so that reports can be told apart.
    assert_eq!(second.message.message_id.as_deref(), answer["messageId"].as_str());
    assert_eq!(second.message.body[..], [0, 255]);
}

#[tokio::test]
async fn a_message_that_can_not_be_sent_is_refused_with_the_reason() {
    let world = World::new().await;
    let hub = &world.emulator.hubs()[0];
    hub.create_device(DEV, None).unwrap();
    let long = "x".repeat(129);
    for (path, status, reason) in [
        ("localhost/devices/nobody/messages".to_owned(), 404, "first uplink"),
        (format!("127.0.0.9/devices/{DEV}/messages"), 404, "localhost"),
        (format!("localhost/devices/{DEV}"), 404, "messages"),
        (format!("localhost/devices/{DEV}/messages?Port=1&Port=2"), 400, "twice"),
        (format!("localhost/devices/{DEV}/messages?message-id="), 400, "message-id"),
        (format!("localhost/devices/{DEV}/messages?message-id={long}"), 400, "message-id"),
    ] {
        let (seen, answer) = send(&world, &path, "AQI=").await;
        assert_eq!(seen, status, "{path} {answer}");
        assert!(answer.to_string().contains(reason), "{path} {answer}");
    }
    let path = format!("localhost/devices/{DEV}/messages");
    assert_eq!(send(&world, &path, vec![0; 64 * 1024 + 1]).await.0, 413);
    let url = world.url(&format!("/emulator/hubs/{path}"));
    let foreign = world.client.post(&url).header("Origin", "https://evil.example").send().await.unwrap();
    assert_eq!(foreign.status(), 403);
    assert_eq!(world.client.get(&url).send().await.unwrap().status(), 404);
    assert_eq!(hub.cloud_queue(DEV), []);
    for _ in 0..50 {
        assert_eq!(send(&world, &path, "AQI=").await.0, 202);
    }
    assert_eq!(send(&world, &path, "AQI=").await.0, 403, "fifty wait");
}

#[tokio::test]
async fn a_basic_hub_takes_no_message_by_control_either() {
    let world = World::with(|options| Options { tier: Tier::Basic, ..options }).await;
    world.emulator.hubs()[0].create_device(DEV, None).unwrap();
    let (status, answer) = send(&world, &format!("localhost/devices/{DEV}/messages"), "AQI=").await;
    assert_eq!(status, 403);
    assert!(answer.to_string().contains("basic tier"), "{answer}");
}

#[tokio::test]
async fn a_hubs_tier_is_shown_and_changed_by_control() {
    let world = World::with(|options| Options { tier: Tier::S2, units: 3, ..options }).await;
    let path = "/emulator/hubs/localhost/tier";
    let (status, shown) = world.call(Method::GET, path, None).await;
    assert_eq!((status, &shown["tier"], &shown["units"]), (200, &json!("s2"), &json!(3)));
    assert_eq!((&shown["daily_messages"], &shown["traffic"]["connections"]), (&json!(18_000_000), &json!(0)));
    let faster = json!({ "tier": "f1", "speed": 2.5, "burst_ms": 500, "daily_messages": 10, "cut_after": 3 });
    let (status, shown) = world.call(Method::PUT, path, Some(faster)).await;
    assert_eq!((status, &shown["burst_ms"], &shown["max_delay_ms"]), (200, &json!(500), &json!(1000)));
    assert_eq!(world.emulator.hubs()[0].tier_settings().daily_messages, Some(10));
    for wrong in [
        json!({}),
        json!({ "tier": "s4" }),
        json!({ "tier": "s1", "units": 0 }),
        json!({ "tier": "s1", "speed": 0 }),
        json!({ "tier": "s1", "burst_ms": 1_000_000_000_u64 }),
        json!({ "tier": "s1", "cut_after": 0 }),
        json!({ "tier": "s1", "unit": 1 }),
    ] {
        assert_eq!(world.call(Method::PUT, path, Some(wrong.clone())).await.0, 400, "{wrong}");
    }
    assert_eq!(world.call(Method::DELETE, path, None).await.0, 405);
    assert_eq!(world.emulator.hubs()[0].tier(), Tier::F1);
}

#[tokio::test]
async fn a_hub_is_told_its_faults_lists_them_and_forgets_them() {
    let world = World::new().await;
    let faults = "/emulator/hubs/localhost/faults";
    let fault = json!({"type": "KillTcp", "device": "dev", "delay": "1m", "duration": 5, "reason": "boom"});
    assert_eq!(world.call(Method::POST, faults, Some(fault)).await, (202, json!({"id": 1})));
    let (status, listed) = world.call(Method::GET, faults, None).await;
    let one = &listed["faults"][0];
    assert_eq!(
        (status, &one["type"], &one["device"], &one["reason"]),
        (200, &json!("KillTcp"), &json!("dev"), &json!("boom"))
    );
    assert!(one["beginsInSeconds"].as_f64().is_some_and(|seconds| seconds > 50.0), "{listed}");
    for wrong in
        [json!({"type": "Kill"}), json!({"type": "KillTcp", "duration": "2d"}), json!({"type": "HubMoved"})]
    {
        assert_eq!(world.call(Method::POST, faults, Some(wrong)).await.0, 400);
    }
    assert_eq!(world.call(Method::POST, "/emulator/hubs/other/faults", Some(json!({}))).await.0, 404);
    assert_eq!(world.call(Method::PUT, faults, None).await.0, 405);
    assert_eq!(world.call(Method::DELETE, faults, None).await.0, 204);
    assert_eq!(world.call(Method::GET, faults, None).await.1, json!({"faults": []}));
}
