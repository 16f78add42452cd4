//! The device as the Network Server shows it: what left the queue, and what waits for its acknowledgement.

use reqwest::Method;
use serde_json::{Value, json};

use super::support::{APP, DEV, World, confirmed, first_id, plain};

async fn get(world: &World, mask: &str) -> Value {
    let path = format!("/api/v3/ns/applications/{APP}/devices/{DEV}?field_mask={mask}");
    let (status, body) = world.call(Method::GET, &path, None).await;
    assert_eq!(status, 200);
    body
}

#[tokio::test]
async fn a_downlink_is_in_the_queue_then_recent_and_pending() {
    let world = World::new().await;
    let mask = "mac_state.recent_downlinks,mac_state.pending_application_downlink,\
                session.queued_application_downlinks";
    world.push(json!([plain("a"), confirmed("b")])).await;
    let device = get(&world, mask).await;
    let queue = device["session"]["queued_application_downlinks"].as_array().unwrap();
    assert_eq!(queue.iter().map(first_id).collect::<Vec<_>>(), ["a", "b"]);
    assert_ne!(queue[0]["frm_payload"], "AQI=", "the Network Server sees no payload in the clear");
    assert_eq!(device["mac_state"].get("recent_downlinks"), None);
    assert_eq!(device["ids"]["device_id"], DEV);

    world.uplink(json!({})).await;
    world.uplink(json!({})).await;
    let device = get(&world, mask).await;
    assert_eq!(device.pointer("/session/queued_application_downlinks"), None);
    assert_eq!(first_id(&device["mac_state"]["pending_application_downlink"]), "b");
    let recent = device["mac_state"]["recent_downlinks"].as_array().unwrap();
    assert_eq!(recent.len(), 2);
    assert_eq!(recent[0].get("correlation_ids"), None, "only the last one has them");
    assert_eq!(first_id(&recent[1]), "b");
    let payload = &recent[1]["payload"];
    assert_eq!(payload["m_hdr"]["m_type"], "CONFIRMED_DOWN");
    assert_eq!(payload["mac_payload"], json!({ "f_port": 10, "full_f_cnt": 2 }));

    world.uplink(json!({})).await;
    assert_eq!(get(&world, mask).await.pointer("/mac_state/pending_application_downlink"), None);
}

#[tokio::test]
async fn five_recent_downlinks_are_kept_and_only_asked_fields_are_shown() {
    let world = World::new().await;
    for id in ["a", "b", "c", "d", "e", "f"] {
        world.push(json!([plain(id)])).await;
        world.uplink(json!({})).await;
    }
    let device = get(&world, "mac_state.recent_downlinks").await;
    assert_eq!(device["mac_state"]["recent_downlinks"].as_array().unwrap().len(), 5);
    assert_eq!(device.get("session"), None);
    let device = get(&world, "").await;
    assert_eq!(device.as_object().unwrap().keys().collect::<Vec<_>>(), ["ids"]);
    let device = get(&world, "session&field_mask=mac_state.device_class").await;
    assert_eq!(device["session"]["last_f_cnt_up"], 5);
    assert_eq!(device["session"]["last_a_f_cnt_down"], 6);
}
