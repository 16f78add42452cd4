//! Packets vanish and nobody says so: the hub's client notices, comes back, loses nothing and doubles only what was unsettled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tti_connector::azure::{ConnectionString, HubAddress, HubDevice, Settlement, Telemetry};
use tti_connector::emulator::CloudMessage;
use tti_connector::iot_hub::{DeviceEvent, IotHub, IotHubOptions, Links, Transport};
use tti_connector::net::tls::client_config;

use super::relay::{Passes, Relay, until};
use crate::messages::DEADLINE;
use crate::world::World;

/// Instead of 40 s.
const SILENCE: Duration = Duration::from_millis(1_200);

fn options(world: &World) -> IotHubOptions {
    let tls = client_config(Some(world.emulator.ready().ca_file.as_ref())).expect("TLS");
    IotHubOptions {
        silence_limit: SILENCE,
        connect_timeout: Duration::from_millis(1_500),
        // Neither of these notices a dead hub.
        keep_alive: Duration::from_secs(110),
        send_timeout: Duration::from_secs(60),
        ..IotHubOptions::new(tls)
    }
}

fn device(world: &World, port: u16, name: &str) -> Arc<HubDevice> {
    if world.hub(0).device(name).is_none() {
        world.hub(0).create_device(name, None).expect("a new device");
    }
    let string = world.hub(0).connection_string("iothubowner").expect("a policy");
    let credential = ConnectionString::parse(&string).expect("a connection string").credential();
    let hub = HubAddress { host: "localhost".into(), port };
    Arc::new(HubDevice { hub, device_id: name.into(), credential, model_id: None, provisioned: false })
}

fn telemetry(text: &str) -> Telemetry {
    Telemetry {
        body: Bytes::from(text.to_owned()),
        message_id: text.to_owned(),
        correlation_id: None,
        properties: Vec::new(),
    }
}

/// Sends until the hub takes it; every failure on the way must be a passing one.
async fn send(hub: &IotHub, device: &Arc<HubDevice>, text: &str) {
    let message = telemetry(text);
    let sent = async {
        while let Err(error) = hub.send(device, &message).await {
            assert!(matches!(error, tti_connector::iot_hub::SendError::Retry { .. }), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, sent).await.expect("sent in time");
}

fn arrivals(world: &World) -> HashMap<(String, String), usize> {
    let mut counts = HashMap::new();
    for event in world.hub(0).all_events() {
        let text = String::from_utf8_lossy(&event.body).into_owned();
        *counts.entry((event.device_id.clone(), text)).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_noticed_by_silence_and_only_what_the_hub_had_taken_is_doubled() {
    for (passes, each) in [(Passes::Nothing, 1), (Passes::Requests, 2)] {
        let world = World::new(1).await;
        let relay = Relay::to_port(world.emulator.ready().hubs[0].amqp_port).await;
        let hub = IotHub::new(options(&world));
        let devices: Vec<_> =
            (0..20).map(|number| device(&world, relay.port(), &format!("d{number}"))).collect();
        join_all(devices.iter().map(|device| send(&hub, device, "before"))).await;

        relay.set(passes);
        let dark = Instant::now();
        let under_way = join_all(devices.iter().map(|device| send(&hub, device, "under way")));
        let noticed = async {
            until("a new connect", || relay.accepted() > 1).await;
            let noticed = dark.elapsed();
            relay.heal();
            noticed
        };
        let (_, noticed) = tokio::join!(under_way, noticed);
        println!("{passes:?} passes: noticed after {noticed:?} with a limit of {SILENCE:?}");
        assert!(noticed < SILENCE * 3, "noticed only after {noticed:?}");
        join_all(devices.iter().map(|device| send(&hub, device, "after"))).await;
        let counts = arrivals(&world);
        for device in &devices {
            let count = |text: &str| counts.get(&(device.device_id.to_string(), text.to_owned())).copied();
            assert_eq!(
                (count("before"), count("under way"), count("after")),
                (Some(1), Some(each), Some(1)),
                "{passes:?} {}",
                device.device_id
            );
        }
        hub.close().await;
        world.emulator.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_at_any_moment_of_its_opening_is_given_up() {
    let world = World::new(1).await;
    let ready = world.emulator.ready().clone();
    let mut trials = Vec::new();
    for transport in [Transport::Tls, Transport::WebSocket] {
        // From TLS's first byte over SASL, Open, token links and token to the telemetry link.
        for bytes in [1, 900, 1_400, 1_500, 1_600, 1_800, 2_000, 2_200, 2_500, 2_800] {
            trials.push((transport, bytes));
        }
    }
    let died = join_all(trials.into_iter().map(async |(transport, bytes)| {
        let target = match transport {
            Transport::Tls => ready.hubs[0].amqp_port,
            Transport::WebSocket => ready.https_port,
        };
        let relay = Relay::to_port(target).await;
        relay.dead_after(bytes);
        let hub = IotHub::new(IotHubOptions { transport, websocket_port: relay.port(), ..options(&world) });
        let name = format!("{transport:?}-{bytes}");
        let device = device(&world, relay.port(), &name);
        let began = Instant::now();
        let healed = async {
            until("a second connect", || relay.accepted() > 1).await;
            let noticed = began.elapsed();
            relay.heal();
            noticed
        };
        let (noticed, ()) = tokio::join!(healed, send(&hub, &device, "x"));
        assert!(noticed < Duration::from_secs(10), "{name}: given up after {noticed:?}");
        hub.close().await;
        name
    }))
    .await;
    let counts = arrivals(&world);
    for name in died {
        // Where the dead connection came as far as the message, it may have arrived twice.
        assert!(matches!(counts.get(&(name.clone(), "x".to_owned())), Some(1 | 2)), "{name}: {counts:?}");
    }
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_hub_is_not_taken_for_a_dead_one() {
    let world = World::new(1).await;
    let relay = Relay::to_port(world.emulator.ready().hubs[0].amqp_port).await;
    let hub = IotHub::new(options(&world));
    let device = device(&world, relay.port(), "quiet");
    send(&hub, &device, "before").await;
    sleep(SILENCE * 4).await;
    send(&hub, &device, "after").await;
    assert_eq!(relay.accepted(), 1);
    hub.close().await;
    world.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_from_the_cloud_survive_a_dead_connection() {
    let world = World::new(1).await;
    let relay = Relay::to_port(world.emulator.ready().hubs[0].amqp_port).await;
    let (hub, mut events) = IotHub::with_events(options(&world));
    let device = device(&world, relay.port(), "valve");
    hub.keep_open(&device, Links { c2d: true, ..Links::NONE });
    let message = |id: &str| CloudMessage { message_id: Some(id.to_owned()), ..CloudMessage::new("AQI=") };
    let mut got = Vec::new();
    let mut next = async |answer: bool| loop {
        let event = timeout(DEADLINE, events.recv()).await.expect("an event in time").expect("events go on");
        if let DeviceEvent::CloudMessage { message, settle, .. } = event {
            if answer {
                settle.send(Settlement::Complete).expect("somebody waits");
            }
            got.push(message.message_id.unwrap_or_default());
            return;
        }
    };
    let emulated = world.hub(0);
    emulated.send_cloud_message("valve", message("1")).expect("taken");
    next(true).await;
    until("the first is completed", || emulated.cloud_queue("valve").is_empty()).await;

    // One is under way and unanswered, one is sent into the dark.
    emulated.send_cloud_message("valve", message("2")).expect("taken");
    next(false).await;
    relay.set(Passes::Nothing);
    emulated.send_cloud_message("valve", message("3")).expect("taken");
    until("a new connect", || relay.accepted() > 1).await;
    relay.heal();
    next(true).await;
    next(true).await;
    until("all are completed", || emulated.cloud_queue("valve").is_empty()).await;
    // The one whose answer could not be given comes again; the ledger behind knows it.
    assert_eq!(got, ["1", "2", "2", "3"]);
    assert_eq!(emulated.dead_letters("valve"), []);
    hub.close().await;
    world.emulator.shutdown().await;
}
