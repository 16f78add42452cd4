//! Traps of IoT Hub's device protocol on the way back that only show when everything runs together. The others are
//! tested on the wire in `iot_hub`, `emulator_amqp` and `tests/interop`.

use serde_json::json;
use tti_connector::emulator::things_stack::{Class, Uplink};
use tti_connector::emulator::{CloudSettings, DeviceStatus, Fate};

use crate::way_back::kit::{Stage, message, name};
use crate::world::World;

const PUSH: &[(&str, &str)] = &[("Port", "1")];

#[tokio::test(flavor = "multi_thread")]
async fn hub_trap_7_ids_that_addresses_must_encode_are_reached_over_every_way() {
    for (rule, id) in [
        ("{application_id}:{device_id}", "house:valve"),
        ("{device_id}@{application_id}=1", "valve@house=1"),
        ("50%2F{device_id}?(a=b),$!'*", "50%2Fvalve?(a=b),$!'*"),
    ] {
        let stage = Stage::with(|config| config.devices.hub_id = rule.to_owned()).await;
        stage.hub().create_device(id, None).expect(id);
        stage.hello("valve");
        stage.until(|| stage.telemetry(id).first().map(drop)).await;
        stage.hub().send_cloud_message(id, message("one", PUSH, "AQ==")).expect(id);
        stage.completed(id).await;
        let (status, _) = stage.call(id, "downlink", &json!({"port": 1, "payload": "AQ=="})).await;
        assert_eq!(status, 200, "{id}");
        stage.desire(id, &json!({"rawDownlink": {"fPort": 1, "framePayload": "01"}}));
        stage.acknowledged(id, "rawDownlink", 202).await;
        assert_eq!(stage.stack().queue(&name("valve")).len(), 3, "{id}");
        assert_eq!(stage.reported("one", &["queued"]).await["DeviceID"], "valve");
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hub_trap_14_a_message_that_is_refused_is_never_abandoned_and_one_that_is_queued_never_comes_again() {
    // An abandoned message would be dropped at its first time here.
    let cloud = CloudSettings { max_delivery_count: 1, ..CloudSettings::default() };
    let world = World::with(1, |options| options.cloud = cloud).await;
    let stage = Stage::on(world, |_| {}).await;
    stage.meet("valve").await;
    stage.set_class("valve", Class::C);
    for number in 0..20 {
        let id = format!("message-{number}");
        stage.send("valve", &id, if number % 2 == 0 { PUSH } else { &[] }, "AQ==");
    }
    for number in 0..20 {
        let id = format!("message-{number}");
        if number % 2 == 0 {
            stage.reported(&id, &["queued", "sent"]).await;
        } else {
            assert_eq!(stage.dead("valve", &id).await.fate, Fate::Rejected);
        }
    }
    stage.until(|| stage.hub().cloud_queue("valve").is_empty().then_some(())).await;
    assert!(stage.hub().dead_letters("valve").iter().all(|letter| letter.fate == Fate::Rejected));
    assert_eq!(stage.pushed().len(), 10);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hub_trap_17_links_that_the_hub_takes_away_come_back_and_nothing_is_lost_or_doubled() {
    let stage = Stage::new().await;
    stage.meet("valve").await;
    stage.set_class("valve", Class::C);
    for number in 0..5 {
        stage.send("valve", &format!("before-{number}"), PUSH, "AQ==");
        // It cuts all links of the device off, but our policy's token stays good.
        let keys = Some(("cHJpbWFyeQ==".to_owned() + &number.to_string(), "c2Vjb25kYXJ5".to_owned()));
        stage.hub().update_device("valve", DeviceStatus::Enabled, keys, None).expect("a device");
        stage.uplink("valve", Uplink::default());
        stage.reported(&format!("before-{number}"), &["queued", "sent"]).await;
    }
    assert_eq!(stage.pushed().len(), 5);
    stage.end().await;
}
