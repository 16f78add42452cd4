//! The main job through real sockets: webhook, spool, DPS, AMQP over TLS, emulated hubs.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use tti_connector::app::Connector;
use tti_connector::config::Transport;
use tti_connector::emulator::DeviceStatus;

use crate::messages::{DEADLINE, uplink};
use crate::world::{Poster, World, frame_counter};

async fn start(config: tti_connector::config::Config) -> (Connector, Poster) {
    let connector = Connector::start(config).await.expect("the connector starts");
    let poster = Poster::to(&connector);
    (connector, poster)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_posted_to_the_webhook_arrives_at_the_hub_dps_chose() {
    let world = World::new(1).await;
    let (connector, poster) = start(world.config()).await;
    assert_eq!(poster.post(&uplink("office", "room-1", 7)).await, 202);
    let event = world.arrived(1).await.remove(0);
    assert_eq!((event.device_id.as_str(), frame_counter(&event)), ("room-1", 7));
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    assert_eq!(event.content_encoding.as_deref(), Some("utf-8"));
    let property =
        |name: &str| event.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(property("iothub-creation-time-utc"), Some("2026-11-20T10:11:12.123Z"));
    assert_eq!(property("ApplicationId"), Some("office"));
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_over_websocket_and_with_a_hub_policy_too() {
    let world = World::new(1).await;
    world.hub(0).create_device("room-1", None).expect("new");
    let mut config = world.config_with_policy();
    config.azure.transport = Transport::AmqpWs;
    let (connector, poster) = start(config).await;
    let (status, body) = poster.post_and_wait(&uplink("office", "room-1", 1)).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(world.arrived(1).await.len(), 1);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_once_hub_or_dps_can_be_reached_without_waiting_for_a_first_message() {
    let world = World::new(1).await;
    for (mut config, name) in [(world.config_with_policy(), "policy"), (world.config(), "DPS")] {
        config.spool.directory = world.dir.path().join(name);
        let (connector, poster) = start(config.clone()).await;
        poster.until_ready(&connector).await;
        connector.stop().await;

        // Nothing listens on port 1.
        config.azure.amqp_port = 1;
        config.azure.dps.endpoint = config.azure.dps.endpoint.map(|_| "localhost:1".to_owned());
        let (connector, poster) = start(config).await;
        let (status, body) = poster.ready(&connector).await;
        assert_eq!(status, 503, "{name}: {body}");
        connector.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_what_became_of_the_message() {
    let world = World::new(1).await;
    let mut config = world.config_with_policy();
    let dps = world.config().azure.dps;
    config.azure.applications.entry("by-dps".to_owned()).or_default().dps = dps;
    let (connector, poster) = start(config).await;
    world.hub(0).create_device("known", None).expect("new");
    world.emulator.dps().set_enabled("barred", false);
    for (application, device, expected) in [
        ("office", "known", 200),
        ("office", "stranger", 404),
        ("by-dps", "barred", 424),
        ("by-dps", "fresh", 200),
    ] {
        let (status, body) = poster.post_and_wait(&uplink(application, device, 1)).await;
        assert_eq!(status, expected, "{application}/{device}: {body}");
    }
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_not_configured_is_told_and_its_message_kept() {
    let world = World::new(1).await;
    let mut config = world.config();
    let dps = std::mem::take(&mut config.azure.dps);
    config.azure.applications.entry("office".to_owned()).or_default().dps = dps;
    let (connector, poster) = start(config).await;
    let (status, body) = poster.post_and_wait(&uplink("elsewhere", "d-1", 1)).await;
    assert_eq!(status, 422, "{body}");
    assert_eq!(connector.spool().stats().parked, 1);
    assert_eq!(poster.post_and_wait(&uplink("office", "d-1", 1)).await.0, 200);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_new_devices_spread_evenly_and_a_restart_asks_dps_nothing() {
    const DEVICES: usize = 200;
    let world = World::new(5).await;
    let config = world.config();
    let (connector, poster) = start(config.clone()).await;
    let names: Vec<_> = (0..DEVICES).map(|index| format!("sensor-{index:03}")).collect();
    let posts = join_all(names.iter().map(|name| async { poster.post(&uplink("fleet", name, 1)).await }));
    assert!(posts.await.iter().all(|status| *status == 202));
    world.arrived(DEVICES).await;
    for hub in world.emulator.hubs() {
        let devices = hub.devices().len();
        assert!((39..=41).contains(&devices), "{} has {devices} devices", hub.host());
    }
    let calls = world.emulator.dps().calls().registers;
    assert_eq!(calls, DEVICES as u64, "one registration a device");
    connector.stop().await;

    let (connector, poster) = start(config).await;
    let posts = join_all(names.iter().map(|name| async { poster.post(&uplink("fleet", name, 2)).await }));
    assert!(posts.await.iter().all(|status| *status == 202));
    let events = world.arrived(2 * DEVICES).await;
    assert_eq!(events.len(), 2 * DEVICES);
    assert_eq!(world.emulator.dps().calls().registers, calls, "no DPS call after the restart");
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_posted_again_is_sent_once_also_across_a_restart() {
    let world = World::new(1).await;
    let config = world.config();
    let (connector, poster) = start(config.clone()).await;
    let message = uplink("office", "room-1", 0);
    for _ in 0..3 {
        assert_eq!(poster.post(&message).await, 202);
    }
    world.arrived(1).await;
    connector.stop().await;
    let (connector, poster) = start(config).await;
    assert_eq!(poster.post(&message).await, 202);
    // A later message of the same device shows that the repeat before it was not sent.
    assert_eq!(poster.post_and_wait(&uplink("office", "room-1", 1)).await.0, 200);
    let counters: Vec<_> = world.arrived(2).await.iter().map(frame_counter).collect();
    assert_eq!(counters, [0, 1]);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn uplinks_that_come_while_the_hub_is_away_arrive_in_order_after_it_returns() {
    const DEVICES: u32 = 64;
    const UPLINKS: u32 = 2_048;
    let world = World::new(1).await;
    let (connector, poster) = start(world.config()).await;
    let name = |device: u32| format!("d-{device:02}");
    let posts = (0..DEVICES).map(|device| {
        let (poster, message) = (poster.clone(), uplink("fleet", &name(device), 1));
        async move { poster.post_and_wait(&message).await.0 }
    });
    assert!(join_all(posts).await.iter().all(|status| *status == 200));
    let World { dir, emulator } = world;
    let ready = emulator.ready().clone();
    emulator.shutdown().await;

    // As many at once as The Things Stack can have under way; those of one device one after the other.
    let posts = join_all((0..DEVICES).map(|device| {
        let (poster, name) = (poster.clone(), name(device));
        async move {
            let mut answers = Vec::new();
            for f_cnt in 2..2 + UPLINKS / DEVICES {
                answers.push(poster.post(&uplink("fleet", &name, f_cnt)).await);
            }
            answers
        }
    }));
    let answers = posts.await.concat();
    assert_eq!(answers.len(), UPLINKS as usize);
    assert!(answers.iter().all(|status| *status == 202));

    let world = World::start_on(dir, &ready).await;
    let events = world.arrived(UPLINKS as usize).await;
    let mut counters: HashMap<String, Vec<u64>> = HashMap::new();
    for event in &events {
        counters.entry(event.device_id.clone()).or_default().push(frame_counter(event));
    }
    let expected: Vec<_> = (2..2 + u64::from(UPLINKS / DEVICES)).collect();
    assert_eq!(counters.len(), DEVICES as usize);
    assert!(counters.values().all(|counters| *counters == expected));
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_its_hub_lost_is_provisioned_again() {
    let world = World::new(2).await;
    let (connector, poster) = start(world.config()).await;
    assert_eq!(poster.post_and_wait(&uplink("office", "room-1", 1)).await.0, 200);
    let calls = world.emulator.dps().calls().registers;
    let home = world.emulator.hubs().iter().find(|hub| hub.device("room-1").is_some()).expect("assigned");
    home.delete_device("room-1", None).expect("there");
    assert_eq!(poster.post_and_wait(&uplink("office", "room-1", 2)).await.0, 200);
    assert_eq!(world.emulator.dps().calls().registers, calls + 1);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_device_is_parked_and_delays_nobody() {
    let world = World::new(1).await;
    let hub = world.hub(0);
    hub.create_device("good", None).expect("new");
    hub.create_device("bad", None).expect("new");
    hub.update_device("bad", DeviceStatus::Disabled, None, None).expect("there");
    let (connector, poster) = start(world.config_with_policy()).await;
    assert_eq!(poster.post(&uplink("office", "bad", 1)).await, 202);
    assert_eq!(poster.post_and_wait(&uplink("office", "good", 1)).await.0, 200);
    // Its key is tried for half a minute; then what comes is parked at once.
    let parked = async {
        while connector.spool().stats().parked == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, parked).await.expect("it is parked");
    let (status, body) = poster.post_and_wait(&uplink("office", "bad", 2)).await;
    assert_eq!(status, 502, "{body}");
    assert_eq!(world.total(), 1);
    assert_eq!(connector.spool().stats().parked, 2);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_device_ids_of_two_applications_are_never_mixed() {
    let world = World::new(1).await;
    let (connector, poster) = start(world.config()).await;
    assert_eq!(poster.post_and_wait(&uplink("office", "room-1", 1)).await.0, 200);
    let (status, body) = poster.post_and_wait(&uplink("garden", "room-1", 1)).await;
    assert!((400..500).contains(&status), "{status} {body}");
    assert_eq!(world.total(), 1);
    connector.stop().await;

    let mut config = world.config();
    config.spool.directory = world.dir.path().join("another-spool");
    config.devices.hub_id = "{application_id}-{device_id}".to_owned();
    let (connector, poster) = start(config).await;
    for application in ["office", "garden"] {
        assert_eq!(poster.post_and_wait(&uplink(application, "room-1", 2)).await.0, 200);
    }
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_parked_messages_use_up_their_budget_only_their_application_is_refused() {
    let world = World::new(1).await;
    let mut config = world.config();
    let dps = std::mem::take(&mut config.azure.dps);
    config.azure.applications.entry("office".to_owned()).or_default().dps = dps;
    config.spool.parked_max_messages = 2;
    let (connector, poster) = start(config).await;
    for f_cnt in 1..=2 {
        assert_eq!(poster.post_and_wait(&uplink("elsewhere", "d-1", f_cnt)).await.0, 422);
    }
    assert_eq!(poster.post(&uplink("elsewhere", "d-1", 3)).await, 503);
    assert_eq!(poster.post_and_wait(&uplink("office", "d-1", 1)).await.0, 200);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_iot_hub_can_not_take_is_parked() {
    let world = World::new(1).await;
    let (connector, poster) = start(world.config_with_policy()).await;
    let (status, body) = poster.post_and_wait(&uplink("office", "room 1/#+", 1)).await;
    assert!((400..500).contains(&status), "{status} {body}");
    assert_eq!(connector.spool().stats().parked, 1);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drains_what_can_be_sent_and_keeps_the_rest() {
    let world = World::new(1).await;
    let config = world.config();
    let (connector, poster) = start(config.clone()).await;
    let posts = join_all((0..100).map(|index| {
        let poster = poster.clone();
        async move { poster.post(&uplink("fleet", &format!("d-{}", index % 10), index / 10 + 1)).await }
    }));
    assert!(posts.await.iter().all(|status| *status == 202));
    connector.stop().await;
    let (connector, _) = start(config).await;
    let events = world.arrived(100).await;
    let mut ids: Vec<_> = events.iter().filter_map(|event| event.message_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), events.len()), (100, 100), "each once");
    assert!(tokio::time::timeout(Duration::from_secs(15), connector.stop()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_policy_key_parks_nothing_and_the_right_one_sends_all() {
    let world = World::new(1).await;
    for device in ["room-1", "room-2"] {
        world.hub(0).create_device(device, None).expect("new");
    }
    let mut config = world.config_with_policy();
    let right = config.azure.iot_hub.connection_string.take();
    let wrong = "HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey=d3Jvbmc=";
    config.azure.iot_hub.connection_string = Some(tti_connector::model::Secret::new(wrong));
    let (connector, poster) = start(config.clone()).await;
    for device in ["room-1", "room-2"] {
        assert_eq!(poster.post(&uplink("office", device, 1)).await, 202);
    }
    let refused = async {
        while !poster.metrics(&connector).await.contains("retried_messages_total{reason=\"token\"}") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("the hub refuses the token");
    connector.stop().await;

    config.azure.iot_hub.connection_string = right;
    let (connector, _) = start(config).await;
    assert_eq!(world.arrived(2).await.len(), 2);
    assert_eq!(connector.spool().stats().parked, 0);
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_the_middle_of_an_upload_does_not_use_up_the_grace_period() {
    use tokio::io::AsyncWriteExt as _;
    let world = World::new(1).await;
    let config = world.config();
    let grace = config.shutdown.grace;
    let (connector, poster) = start(config).await;
    let mut client = tokio::net::TcpStream::connect(connector.webhook()).await.expect("connected");
    client.write_all(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{").await.expect("sent");
    // Its request has been read by the time that a later one is answered.
    assert_eq!(poster.post(&uplink("office", "room-1", 1)).await, 202);
    world.arrived(1).await;
    let began = tokio::time::Instant::now();
    connector.stop().await;
    assert!(began.elapsed() < grace * 3 / 4, "{:?}", began.elapsed());
}
