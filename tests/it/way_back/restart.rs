//! All known devices get their messages again without an uplink: after a restart of the connector, of the hubs, of both.
//!
//! How fast a thousand are is measured by `cargo bench --bench downlink`.

use std::collections::BTreeSet;

use tti_connector::app::Connector;
use tti_connector::emulator::CloudMessage;
use tti_connector::emulator::things_stack::{ThingsStack, Uplink, Webhook};

use super::kit::{config, name};
use crate::messages::DEADLINE;
use crate::world::World;

fn id(device: usize) -> String {
    format!("valve-{device:04}")
}

fn stack(world: &World) -> &ThingsStack {
    world.emulator.things_stack().expect("it was asked for")
}

/// A connector that hears of `devices` by an uplink of each.
async fn meet(world: &World, devices: usize) -> Connector {
    let mut config = config(world);
    config.devices.max_registrations = 256;
    let connector = Connector::start(config).await.expect("the connector starts");
    listen(world, &connector);
    for device in 0..devices {
        stack(world).uplink(&name(&id(device)), &Uplink::default()).expect("a device");
    }
    world.arrived(devices).await;
    connector
}

/// The webhook is where the connector listens.
fn listen(world: &World, connector: &Connector) {
    let url = format!("http://{}/webhook", connector.webhook());
    stack(world).set_webhook(Some(Webhook::new(url.parse().expect("a URL")))).expect("a sound webhook");
}

/// One message to each device.
fn send(world: &World, devices: usize) {
    for device in (0..devices).map(id) {
        let hubs = world.emulator.hubs();
        let hub = hubs.iter().find(|hub| hub.device(&device).is_some()).expect("it is registered");
        let properties = vec![("Port".to_owned(), "10".to_owned())];
        let message = CloudMessage { properties, ..CloudMessage::new("AQI=") };
        hub.send_cloud_message(&device, message).expect("the hub takes it");
    }
}

/// Waits until each device has its downlink, then until the hub is told so.
async fn all_pushed(world: &World, devices: usize) {
    let mut changes = stack(world).changes();
    let pushed = async {
        while stack(world).pushed() < devices as u64 {
            changes.changed().await.expect("The Things Stack lives");
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, pushed).await;
    assert!(in_time.is_ok(), "{} of {devices} downlinks", stack(world).pushed());
    for device in (0..devices).map(id) {
        for hub in world.emulator.hubs() {
            let mut changes = hub.cloud_changes();
            let answered = async {
                while !hub.cloud_queue(&device).is_empty() {
                    changes.changed().await.expect("the hub lives");
                }
            };
            tokio::time::timeout(DEADLINE, answered).await.expect("the message is completed");
        }
    }
    let pushes = stack(world).pushes();
    let distinct: BTreeSet<_> = pushes.iter().map(|push| &push.device.device_id).collect();
    assert_eq!((pushes.len(), distinct.len()), (devices, devices), "one for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_all_known_devices_get_their_messages_without_an_uplink() {
    // More than are attached at once.
    const DEVICES: usize = 400;
    let world = World::new(1).await;
    meet(&world, DEVICES).await.stop().await;
    send(&world, DEVICES);
    let connector = Connector::start(config(&world)).await.expect("the connector starts");
    listen(&world, &connector);
    all_pushed(&world, DEVICES).await;
    connector.stop().await;
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_five_hubs_get_their_messages_after_a_restart() {
    const DEVICES: usize = 100;
    let world = World::new(5).await;
    meet(&world, DEVICES).await.stop().await;
    assert!(world.emulator.hubs().iter().all(|hub| hub.device_count() > 0), "DPS spreads them");
    send(&world, DEVICES);
    let connector = Connector::start(config(&world)).await.expect("the connector starts");
    listen(&world, &connector);
    all_pushed(&world, DEVICES).await;
    connector.stop().await;
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_come_through_when_the_hub_is_away_at_the_start_and_when_it_goes_away_later() {
    const DEVICES: usize = 100;
    let world = World::new(1).await;
    let config = config(&world);
    meet(&world, DEVICES).await.stop().await;
    let World { dir, emulator } = world;
    let ready = emulator.ready().clone();
    emulator.shutdown().await;
    let connector = Connector::start(config).await.expect("the connector starts without a hub");

    let world = World::start_on(dir, &ready).await;
    listen(&world, &connector);
    send(&world, DEVICES);
    all_pushed(&world, DEVICES).await;

    let World { dir, emulator } = world;
    emulator.shutdown().await;
    let world = World::start_on(dir, &ready).await;
    listen(&world, &connector);
    send(&world, DEVICES);
    all_pushed(&world, DEVICES).await;
    connector.stop().await;
    world.emulator.shutdown().await;
}
