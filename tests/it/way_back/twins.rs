//! Desired properties from the service to the radio, their acknowledgements, and reported properties.

use std::time::Duration;

use serde_json::{Value, json};
use tti_connector::config::{Command, Config};
use tti_connector::emulator::Event;
use tti_connector::emulator::things_stack::{Calls, Class, Fault, Uplink};

use super::kit::{Stage, property};

fn properties(config: &mut Config) {
    let interval = Command { port: Some(9), confirmed: Some(true), ..Command::default() };
    config.downlink.properties.insert("interval".to_owned(), interval);
    config.downlink.port = Some(2);
}

async fn stage() -> Stage {
    let stage = Stage::with(properties).await;
    stage.meet("valve").await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_desired_property_becomes_one_downlink_and_is_acknowledged_to_its_end() {
    let stage = stage().await;
    stage.set_class("valve", Class::C);
    let raw = json!({"fPort": 15, "framePayload": "0102", "confirmed": false, "operation": "push"});
    stage.desire("valve", &json!({ "rawDownlink": raw }));
    let told = stage.acknowledged("valve", "rawDownlink", 200).await;
    assert_eq!(told, json!({"value": raw, "ac": 200, "ad": "sent", "av": 2}));
    stage.desire("valve", &json!({"decodedPayload": {"open": 40}, "colour": "not ours"}));
    let told = stage.acknowledged("valve", "decodedPayloadAck", 200).await;
    assert_eq!(told, json!({"value": {"open": 40}, "ac": 200, "ad": "sent", "av": 3}));
    stage.desire("valve", &json!({"interval": 600}));
    let told = stage.acknowledged("valve", "interval", 202).await;
    assert_eq!(told, json!({"value": 600, "ac": 202, "ad": "queued", "av": 4}));
    stage.until(|| (stage.told("downlink_sent").len() == 3).then_some(())).await;
    stage.hello("valve");
    let told = stage.acknowledged("valve", "interval", 200).await;
    assert_eq!(told, json!({"value": 600, "ac": 200, "ad": "acknowledged by the device", "av": 4}));
    let sent: Vec<_> = stage
        .pushed()
        .into_iter()
        .map(|one| (one["f_port"].clone(), one["frm_payload"].clone(), one["decoded_payload"].clone()))
        .collect();
    // Without a formatter the emulator keeps no JSON, as the real one.
    let none = Value::Null;
    assert_eq!(
        sent,
        [
            (json!(15), json!("AQI="), none.clone()),
            (json!(2), none.clone(), none.clone()),
            (json!(9), none.clone(), none.clone()),
        ]
    );
    assert!(stage.hub().twin("valve").expect("a twin").reported.properties.get("colour").is_none());
    let from_twin = |event: &Event| {
        let body: Value = serde_json::from_slice(&event.body).expect("JSON");
        property(event, "kind").is_some() && body["Source"] == "twin"
    };
    // Queued and sent of each, and one ack.
    stage
        .until(|| (stage.hub().all_events().iter().filter(|one| from_twin(one)).count() == 7).then_some(()))
        .await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_while_the_connector_was_away_is_applied_once_and_never_again() {
    let stage = stage().await;
    stage.desire("valve", &json!({"interval": 1}));
    stage.acknowledged("valve", "interval", 202).await;
    let away = |world: &crate::world::World| {
        for value in [2, 3] {
            world.hub(0).update_desired("valve", &json!({ "interval": value })).expect("a device");
        }
    };
    let stage = stage.restart_after(away, properties).await;
    let newest = |told: &Value| told["value"] == 3;
    let told = stage.acknowledged("valve", "interval", 202).await;
    if !newest(&told) {
        stage
            .until(|| {
                stage
                    .hub()
                    .twin("valve")?
                    .reported
                    .properties
                    .get("interval")
                    .filter(|told| newest(told))
                    .map(drop)
            })
            .await;
    }
    assert_eq!(stage.pushed().len(), 2, "1 before, 3 after; 2 was overtaken while nobody looked");
    let mut stage = stage;
    for _ in 0..2 {
        stage = stage.restart(properties).await;
        stage.until(|| stage.hub().follows_twin("valve").then_some(())).await;
        // Twins and methods come over one session: whoever answers a call has asked for the twin.
        stage.call("valve", "downlinkQueue", &Value::Null).await;
    }
    stage.desire("valve", &json!({"interval": 3}));
    stage.until(|| (stage.pushed().len() == 3).then_some(())).await;
    let again = || {
        stage.hub().twin("valve")?.reported.properties.get("interval").filter(|told| told["av"] == 5).cloned()
    };
    assert_eq!(stage.until(again).await["value"], 3, "set anew, although to the same");
    assert_eq!(stage.pushed().len(), 3);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_sent_is_acknowledged_with_why() {
    let stage = stage().await;
    for (number, (value, named)) in [
        (json!({"fPort": 300}), "rawDownlink.fPort is 300: it must be a whole number from 1 to 223"),
        (json!({"fPort": null, "framePayload": "xyz"}), "rawDownlink.framePayload"),
        (json!({"framePayload": null, "operation": "append"}), "rawDownlink.operation is \"append\""),
        (json!({"operation": null, "typo": 1}), "rawDownlink.typo is unknown"),
        (json!("0102"), "rawDownlink is a string"),
    ]
    .into_iter()
    .enumerate()
    {
        stage.desire("valve", &json!({ "rawDownlink": value }));
        let version = number + 2;
        let told = stage
            .until(|| {
                let twin = stage.hub().twin("valve")?;
                twin.reported.properties.get("rawDownlink").filter(|told| told["av"] == version).cloned()
            })
            .await;
        let text = told["ad"].as_str().unwrap_or_default();
        assert!(told["ac"] == 400 && text.contains(named), "{value}: {told}");
    }
    stage.desire("valve", &json!({ "rawDownlink": null }));
    for (code, expected) in [(400, 422), (403, 502), (404, 404)] {
        stage.fault(Fault { status: Some(code), calls: Calls::Write, ..Fault::default() });
        stage.desire("valve", &json!({ "interval": code }));
        let told = stage.acknowledged("valve", "interval", expected).await;
        assert_eq!(told["value"], code);
        assert!(told["ad"].as_str().unwrap_or_default().contains(&format!("answered {code}")), "{told}");
    }
    assert_eq!(stage.pushed(), Vec::<Value>::new());
    // What may pass is tried again.
    stage.fault(Fault { status: Some(503), calls: Calls::Write, count: 2, ..Fault::default() });
    stage.desire("valve", &json!({"interval": 7}));
    assert_eq!(stage.acknowledged("valve", "interval", 202).await["value"], 7);
    assert_eq!(stage.pushed().len(), 1);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_uplink_is_reported_after_its_telemetry_and_no_oftener_than_the_interval() {
    let stage = Stage::with(|config| config.twin.min_interval = Duration::from_millis(700)).await;
    stage.hub().create_device("valve", None).expect("a device");
    let uplink = |open: u8| Uplink {
        decoded_payload: json!({"open": open}).as_object().cloned(),
        ..Uplink::default()
    };
    let reported = || stage.hub().twin("valve").expect("a twin").reported;
    let first = |stage: &Stage| {
        let seen = !reported().properties.is_empty();
        assert!(!seen || stage.telemetry("valve").len() == 1, "never ahead of telemetry");
        seen.then_some(())
    };
    stage.uplink("valve", uplink(1));
    stage.until(|| first(&stage)).await;
    let told = reported();
    assert_eq!(
        (&told.properties["decodedPayload"], &told.properties["frameCounter"]),
        (&json!({"open": 1}), &json!(0))
    );
    assert_eq!(told.properties["signal"]["gatewayId"], "emulated-gateway");
    assert!(told.properties["devEui"].is_string() && told.properties["lastSeenAt"].is_string(), "{told:?}");
    for open in 2..=9 {
        stage.uplink("valve", uplink(open));
    }
    stage.until(|| (reported().properties["decodedPayload"] == json!({"open": 9})).then_some(())).await;
    assert_eq!(reported().version, told.version + 1, "eight uplinks, one report");
    assert_eq!(stage.telemetry("valve").len(), 9);
    stage.end().await;
}
