//! Which of a device's links are opened: by route, by key, by what the hub's tier offers.

use serde_json::{Value, json};
use tti_connector::config::{Config, DownlinkApplication, DownlinkRoute};
use tti_connector::emulator::things_stack::{Uplink, Webhook};
use tti_connector::emulator::{CloudRefusal, Tier};
use tti_connector::model::Secret;

use super::kit::{APPLICATION, Stage};
use crate::messages::uplink;
use crate::world::World;

const PUSH: &[(&str, &str)] = &[("Port", "1")];

/// Which of its links a device has: messages, methods, twin.
fn links(stage: &Stage, device: &str) -> [bool; 3] {
    let hub = stage.hub();
    [hub.takes_cloud_messages(device), hub.takes_methods(device), hub.follows_twin(device)]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_gets_the_links_of_its_routes_and_no_others() {
    for (route, expected) in [
        (DownlinkRoute::C2d, [true, false, false]),
        (DownlinkRoute::Method, [false, true, false]),
        (DownlinkRoute::Twin, [false, false, true]),
    ] {
        let stage = Stage::with(|config| {
            // The application's own word counts.
            let own = DownlinkApplication { routes: Some(vec![route]), ..DownlinkApplication::default() };
            config.downlink.applications.insert(APPLICATION.to_owned(), own);
        })
        .await;
        stage.meet("valve").await;
        stage.until(|| links(&stage, "valve").contains(&true).then_some(())).await;
        // All links of a session are opened before anything comes over one of them.
        match route {
            DownlinkRoute::C2d => {
                stage.send("valve", "one", PUSH, "AQ==");
                stage.completed("valve").await;
            }
            DownlinkRoute::Method => {
                let (status, _) =
                    stage.call("valve", "downlink", &json!({"port": 1, "payload": "AQ=="})).await;
                assert_eq!(status, 200);
            }
            DownlinkRoute::Twin => {
                stage.desire("valve", &json!({"rawDownlink": {"fPort": 1, "framePayload": "01"}}));
                stage.acknowledged("valve", "rawDownlink", 202).await;
            }
        }
        assert_eq!(links(&stage, "valve"), expected, "{route:?}");
        assert_eq!(stage.pushed().len(), 1);
        stage.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_without_a_key_has_telemetry_and_no_links() {
    let stage = Stage::new().await;
    stage.meet("valve").await;
    stage.hub().create_device("mute", None).expect("a device");
    assert_eq!(stage.post(&uplink("keyless", "mute", 1)).await, 202);
    stage.until(|| stage.telemetry("mute").first().map(drop)).await;
    stage.hub().send_cloud_message("mute", super::kit::message("left", PUSH, "AQ==")).expect("it is taken");
    // A device met later has all of it behind it.
    stage.meet("later").await;
    stage.send("later", "one", PUSH, "AQ==");
    stage.completed("later").await;
    stage.call("later", "downlinkQueue", &Value::Null).await;
    stage.until(|| stage.hub().follows_twin("later").then_some(())).await;
    assert_eq!(links(&stage, "mute"), [false; 3]);
    let left = stage.hub().cloud_queue("mute");
    assert!(left.len() == 1 && !left[0].locked, "{left:?}");
    assert!(stage.hub().twin("mute").expect("a twin").reported.properties.is_empty());
    stage.end().await;
}

fn no_keys(config: &mut Config) {
    config.things_stack.applications.clear();
}

fn with_key(stage: &Stage) -> Webhook {
    let key = Secret::new(stage.stack().api_key().to_owned());
    Webhook { downlink_api_key: Some(key), ..stage.webhook() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_learnt_from_the_webhook_opens_the_links_and_is_learnt_anew_after_a_restart() {
    let stage = Stage::with(no_keys).await;
    for device in ["valve", "meter"] {
        stage.meet(device).await;
        stage.send(device, &format!("{device}-1"), PUSH, "AQ==");
    }
    assert_eq!((links(&stage, "valve"), links(&stage, "meter")), ([false; 3], [false; 3]));
    let webhook = with_key(&stage);
    stage.stack().set_webhook(Some(webhook)).expect("a webhook");
    // One device's uplink brings the key for all devices of the application.
    stage.hello("valve");
    for device in ["valve", "meter"] {
        stage.completed(device).await;
        stage.reported(&format!("{device}-1"), &["queued"]).await;
    }
    assert_eq!(stage.stack().pushes()[0].downlink.correlation_ids.len(), 2, "ours and its own");
    let stage = stage.restart(no_keys).await;
    stage.send("meter", "meter-2", PUSH, "AQ==");
    stage.settled("meter").await;
    assert_eq!(
        (links(&stage, "meter"), stage.pushed().len()),
        ([false; 3], 2),
        "nothing of it was written down"
    );
    let webhook = with_key(&stage);
    stage.stack().set_webhook(Some(webhook)).expect("a webhook");
    stage.hello("valve");
    stage.completed("meter").await;
    assert_eq!(stage.pushed().len(), 3);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basic_hub_gives_telemetry_and_is_not_asked_for_what_it_has_not() {
    let world = World::with(1, |options| options.tier = Tier::Basic).await;
    let stage = Stage::on(world, |_| {}).await;
    stage.meet("valve").await;
    assert_eq!(
        stage.hub().send_cloud_message("valve", super::kit::message("no", PUSH, "AQ==")),
        Err(CloudRefusal::Tier)
    );
    // A device that is met when the hub is known for what it is opens nothing but telemetry's link.
    for number in 0..20 {
        let device = format!("meter-{number}");
        stage.meet(&device).await;
        for _ in 0..4 {
            stage.uplink(&device, Uplink::default());
        }
    }
    stage.until(|| (stage.hub().all_events().len() == 101).then_some(())).await;
    assert_eq!(links(&stage, "valve"), [false; 3]);
    stage.until_metric("connected_devices 21").await;
    stage.end().await;
}
