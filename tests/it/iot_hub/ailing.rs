//! Devices that are ill in every way slow no healthy one: a whole connector against the scripted hub.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tti_connector::app::Connector;
use tti_connector::config::{Config, DownlinkRoute};
use tti_connector::iot_hub::IotHub;
use tti_connector::model::Secret;

use super::hub::{Answer, Door, Seen, TestHub};
use super::hub_amqp::NO_REPLY;
use super::inbound_hub::c2d_address;
use super::{KEY, by_key, telemetry};
use crate::messages::uplink;
use crate::way_back::kit::{self, APPLICATION};
use crate::world::{Poster, World};

const HEALTHY: usize = 160;
/// Each kind of illness.
const ILL: usize = 5;
const KINDS: [&str; 8] =
    ["deleted", "disabled", "poisoned", "silent", "throttled", "detached", "shut", "backlogged"];
/// Uplinks of healthy devices in one measurement, and the pause between two.
const UPLINKS: (usize, Duration) = (320, Duration::from_millis(10));
/// Cloud-to-device messages of one measurement.
const COMMANDS: usize = 160;
/// Messages that wait in the spool for each backlogged device.
const BACKLOG: u32 = 200;

fn door(address: &str) -> Door {
    match kind(address) {
        "deleted" => Door::Refuse("amqp:not-found"),
        "disabled" => Door::Refuse("amqp:unauthorized-access"),
        "shut" => Door::Silence,
        _ => Door::Open,
    }
}

fn answer(address: &str) -> Answer {
    match kind(address) {
        "poisoned" => Answer::Reject("amqp:invalid-field"),
        "silent" => Answer::Silence,
        "throttled" => Answer::Reject("com.microsoft:device-container-throttled"),
        "detached" => Answer::Detach("amqp:link:detach-forced"),
        "backlogged" => Answer::Release,
        _ => Answer::Accept,
    }
}

/// `well` of `/devices/well-7/messages/events`.
fn kind(address: &str) -> &str {
    address.split('/').nth(2).and_then(|device| device.split('-').next()).unwrap_or_default()
}

fn config(world: &World, hub: &TestHub) -> Config {
    let mut config = kit::config(world);
    let ca_file = world.dir.path().join("hub.pem");
    std::fs::write(&ca_file, &hub.pem).unwrap();
    config.azure.dps = Default::default();
    let string = format!("HostName=127.0.0.1;SharedAccessKeyName=device;SharedAccessKey={KEY}");
    config.azure.iot_hub.connection_string = Some(Secret::new(string));
    config.azure.amqp_port = hub.address.port;
    config.azure.ca_file = Some(ca_file);
    config.downlink.routes = vec![DownlinkRoute::C2d];
    config.twin.reported = false;
    // What is under way for silent devices has no answer to wait for at the end.
    config.shutdown.grace = Duration::from_secs(1);
    // Room for all ill devices at once and some healthy ones, no more.
    config.uplink.max_in_flight = KINDS.len() * ILL + 16;
    config
}

struct Field {
    poster: Poster,
    frames: AtomicU32,
}

impl Field {
    async fn post(&self, device: &str) -> Duration {
        let frame = self.frames.fetch_add(1, Ordering::Relaxed) + 1;
        let began = Instant::now();
        let (status, answer) = self.poster.post_and_wait(&uplink(APPLICATION, device, frame)).await;
        assert_eq!(status, 200, "{answer}");
        began.elapsed()
    }

    async fn post_only(&self, device: &str) {
        let frame = self.frames.fetch_add(1, Ordering::Relaxed) + 1;
        let status = self.poster.post(&uplink(APPLICATION, device, frame)).await;
        assert_eq!(status, 202);
    }

    /// From post to the hub's acceptance, of healthy devices in turn; with each goes one of an ill device if there are
    /// any. Sorted.
    async fn latencies(self: &Arc<Self>, with_ill: bool) -> Vec<Duration> {
        let (mut posts, mut pace) = (JoinSet::new(), interval(UPLINKS.1));
        for number in 0..UPLINKS.0 {
            pace.tick().await;
            let field = Arc::clone(self);
            posts.spawn(async move { field.post(&format!("well-{}", number % HEALTHY)).await });
            if with_ill {
                self.post_only(&format!("{}-{}", KINDS[number % KINDS.len()], number / KINDS.len() % ILL))
                    .await;
            }
        }
        let mut all = posts.join_all().await;
        all.sort_unstable();
        all
    }
}

/// From a cloud-to-device message to its completion, of healthy devices. Sorted.
async fn round_trips(hub: &TestHub, round: &str) -> Vec<Duration> {
    let mut sent = HashMap::new();
    for number in 0..COMMANDS {
        let (device, id) = (format!("well-{}", number % HEALTHY), format!("{round}-{number}"));
        hub.wait_attached(&c2d_address(&device), 1).await;
        let began = Instant::now();
        hub.send_c2d(&device, &id);
        sent.insert(id, began);
        sleep(UPLINKS.1).await;
    }
    // By the hub's own times: each look through all that it saw takes longer the more that is.
    let ours = |seen: &Seen| matches!(seen, Seen::Settled { id, .. } if sent.contains_key(id));
    hub.wait(COMMANDS, ours).await;
    let took = |seen: Seen| match seen {
        Seen::Settled { id, at, .. } => Some(at - *sent.get(&id)?),
        _ => None,
    };
    let mut all: Vec<_> = hub.seen().into_iter().filter_map(took).collect();
    all.sort_unstable();
    all
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn compare(what: &str, without: &[Duration], with: &[Duration]) {
    let (p50, p99) = (|all| quantile(all, 0.5), |all| quantile(all, 0.99));
    println!(
        "{what}: p50 {:?}, p99 {:?} without ill devices; p50 {:?}, p99 {:?} with",
        p50(without),
        p99(without),
        p50(with),
        p99(with)
    );
    // Generous, as cores may be shared; what blocks does so for seconds.
    let bound = p99(without) * 3 + Duration::from_millis(400);
    assert!(p99(with) <= bound, "{what}: {:?} with ill devices, {:?} without", p99(with), p99(without));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_ill_in_every_way_slow_no_healthy_one() {
    let test_hub = TestHub::start().await;
    test_hub.on_attach(|address| door(&address));
    test_hub.on_message(|address| answer(&address));
    let world = World::new(1).await;
    let connector = Connector::start(config(&world, &test_hub)).await.unwrap();
    let field = Arc::new(Field { poster: Poster::to(&connector), frames: AtomicU32::new(0) });
    join_all((0..HEALTHY).map(|number| {
        let field = Arc::clone(&field);
        async move { field.post(&format!("well-{number}")).await }
    }))
    .await;
    let (without, commands_without) = (field.latencies(false).await, round_trips(&test_hub, "without").await);

    for number in 0..ILL {
        join_all((0..BACKLOG).map(|_| {
            let field = Arc::clone(&field);
            async move { field.post_only(&format!("backlogged-{number}")).await }
        }))
        .await;
    }
    for kind in KINDS {
        for number in 0..ILL {
            field.post_only(&format!("{kind}-{number}")).await;
        }
    }
    let (with, commands_with) = (field.latencies(true).await, round_trips(&test_hub, "with").await);
    compare("telemetry", &without, &with);
    compare("cloud-to-device", &commands_without, &commands_with);
    assert_eq!(
        test_hub.count(|seen| matches!(seen, Seen::Opened(_))),
        1,
        "nobody's illness costs the connection"
    );
    connector.stop().await;
    world.emulator.shutdown().await;
}

#[tokio::test]
async fn devices_whose_tokens_get_no_answer_do_not_cost_the_others_their_connection() {
    let test_hub = TestHub::start().await;
    let mut options = test_hub.options();
    options.send_timeout = Duration::from_millis(200);
    let hub = IotHub::new(options);
    let well = by_key(&test_hub, "well");
    hub.send(&well, &telemetry("before")).await.unwrap();
    test_hub.on_put(|audience| if audience.contains("/ill-") { (NO_REPLY, "") } else { (200, "") });
    for number in 0..7 {
        hub.send(&by_key(&test_hub, &format!("ill-{number}")), &telemetry("ill")).await.unwrap_err();
    }
    hub.send(&well, &telemetry("after")).await.unwrap();
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Opened(_))), 1);
    assert_eq!(test_hub.count(|seen| matches!(seen, Seen::Attached { .. })), 1);
    hub.close().await;
}
