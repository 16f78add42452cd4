//! The controls: for people and tests on this machine, not for web pages.

use reqwest::Method;
use serde_json::json;
use tti_connector::emulator::things_stack::{DeviceName, Uplink};

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
