//! Several hubs behind DPS: what the cloud sends finds each device where it lives, also after it moved.

use serde_json::json;
use tti_connector::emulator::Hub;

use super::kit::{Stage, message};
use crate::messages::DEADLINE;

const PUSH: &[(&str, &str)] = &[("Port", "1")];

/// Devices at each of the hubs.
async fn everywhere(stage: &Stage) -> Vec<(usize, String)> {
    let devices: Vec<_> = (0..24).map(|number| format!("valve-{number}")).collect();
    let met = devices.iter().map(|device| stage.meet_anywhere(device));
    let hubs = futures_util::future::join_all(met).await;
    let devices: Vec<_> = hubs.into_iter().zip(devices).collect();
    for hub in 0..stage.world.emulator.hubs().len() {
        assert!(devices.iter().any(|(at, _)| *at == hub), "no device at hub {hub}");
    }
    devices
}

fn send(hub: &Hub, device: &str, id: &str, body: &str) {
    hub.send_cloud_message(device, message(id, PUSH, body)).expect("the hub takes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_calls_reach_the_right_device_through_each_hub() {
    let stage = Stage::with_dps(3).await;
    let devices = everywhere(&stage).await;
    for (at, device) in &devices {
        // The payload tells whose it is.
        let number: usize = device["valve-".len()..].parse().expect("a number");
        send(stage.world.hub(*at), device, device, &format!("{{\"number\":{number}}}"));
    }
    for (at, device) in &devices {
        let hub = stage.world.hub(*at);
        let report = stage.reported(device, &["queued"]).await;
        assert_eq!(report["DeviceID"], device.as_str());
        stage.until(|| hub.cloud_queue(device).is_empty().then_some(())).await;
        stage.until(|| hub.takes_methods(device).then_some(())).await;
        let answer =
            hub.invoke_method(device, "downlinkQueue", &json!(null), DEADLINE).await.expect("an answer");
        assert_eq!(answer.json()["downlinks"].as_array().map(Vec::len), Some(1), "{device}");
    }
    let pushes = stage.stack().pushes();
    assert_eq!(pushes.len(), devices.len());
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_deleted_at_its_hub_is_provisioned_anew_and_reached_again_without_an_uplink() {
    let stage = Stage::with_dps(1).await;
    stage.meet_anywhere("valve").await;
    let hub = stage.hub();
    send(hub, "valve", "before", "AQ==");
    stage.completed("valve").await;
    stage.reported("before", &["queued"]).await;
    hub.delete_device("valve", None).expect("it was there");
    // Nobody but the connector makes it anew, and it learns of the loss from its links.
    stage.until(|| hub.device("valve").map(drop)).await;
    send(hub, "valve", "after", "AQ==");
    stage.completed("valve").await;
    stage.reported("after", &["queued"]).await;
    assert_eq!(stage.pushed().len(), 2);
    stage.end().await;
}
