//! Rolling restarts by SIGTERM under load: each stop is clean and within its grace, and nothing is lost, sent twice or out
//! of order; also while callers of direct methods wait.
//!
//! `TTI_RESTARTS=100 cargo test --test it restarts::` makes it longer; the seed is printed and can be set with `TTI_SEED`.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tti_connector::emulator::things_stack::{DeviceName, Uplink, Webhook};
use tti_connector::emulator::{CloudMessage, Hub};

use crate::crash::{from_env, up};
use crate::fleet::{Arrivals, Fleet};
use crate::messages::DEADLINE;
use crate::world::{Poster, World, free_port};

const DEVICES: usize = 20;
/// `shutdown.grace` of these connectors, and what a busy machine may take to end a process.
const GRACE: Duration = Duration::from_secs(10);
const GONE: Duration = Duration::from_secs(2);
const APPLICATION: &str = "fleet";
/// Of class A and silent, so that who waits for its downlink to be sent waits for long.
const VALVE: &str = "valve";

fn connector(world: &World, port: u16) -> Child {
    let stack = world.emulator.things_stack().expect("it was asked for");
    let mut command = world.connector(port);
    command
        .env("TTI_CONNECTOR__THINGS_STACK__BASE_URL", stack.url())
        .env("TTI_CONNECTOR__THINGS_STACK__APPLICATIONS__FLEET__API_KEY", stack.api_key())
        .env("TTI_CONNECTOR__DOWNLINK__PORT", "10")
        .env("TTI_CONNECTOR__SHUTDOWN__GRACE", format!("{}s", GRACE.as_secs()))
        .env("TTI_CONNECTOR__LOG__LEVEL", "error");
    command.stdout(Stdio::null()).spawn().expect("the connector starts")
}

fn valve() -> DeviceName {
    DeviceName::new(APPLICATION, VALVE).expect("valid ids")
}

/// SIGTERM; gives how long the process took to end well.
async fn terminate(child: &mut Child) -> Duration {
    let id = child.id().expect("it runs").to_string();
    let began = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.expect("kill runs").success());
    let ended = tokio::time::timeout(GRACE + GONE, child.wait()).await;
    let status = ended.expect("it ends within its grace").expect("it ended");
    assert!(status.success(), "SIGTERM is a clean end, not {status}");
    began.elapsed()
}

/// Waits until at most so many messages wait for the valve.
async fn at_most(hub: &Hub, waiting: usize) {
    let fewer = async {
        let mut changes = hub.cloud_changes();
        while hub.cloud_queue(VALVE).len() > waiting {
            changes.changed().await.expect("the hub lives");
        }
    };
    tokio::time::timeout(DEADLINE, fewer).await.expect("messages are completed in time");
}

/// Whoever waits for the valve's next uplink; nothing is expected of the answer.
async fn wait_for_valve(hub: Arc<Hub>, number: u64) {
    let wish = json!({
        "port": 11, "payload": STANDARD.encode(number.to_be_bytes()), "wait": "sent", "waitSeconds": 25,
    });
    _ = hub.invoke_method(VALVE, "downlink", &wish, Duration::from_secs(40)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_under_load_lose_nothing_double_nothing_and_keep_the_order() {
    let (restarts, seed) = (from_env("TTI_RESTARTS", 5), from_env("TTI_SEED", fastrand::u64(..)));
    println!("TTI_SEED={seed} TTI_RESTARTS={restarts}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(2).await;
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/webhook");
    let stack = Arc::clone(world.emulator.things_stack().expect("it was asked for"));
    stack.set_webhook(Some(Webhook::new(url.parse().expect("a URL")))).expect("a sound webhook");
    let mut child = connector(&world, port);
    up(port).await;
    stack.uplink(&valve(), &Uplink::default()).expect("a device");
    world.arrived(1).await;
    let hub = world.emulator.hubs().iter().find(|hub| hub.device(VALVE).is_some());
    let hub = Arc::clone(hub.expect("DPS made it"));
    let fleet = Fleet::start(&world, &Poster::to_url(url), DEVICES).await;
    let mut arrivals = Arrivals::new(&world);

    let (mut longest, mut waiting) = (Duration::ZERO, JoinSet::new());
    for restart in 0..restarts {
        up(port).await;
        // The random moment itself, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.u64(50..800))).await;
        let payload = STANDARD.encode(restart.to_be_bytes());
        // The hub queues fifty; a busy machine hands out few between two restarts.
        at_most(&hub, 40).await;
        hub.send_cloud_message(VALVE, CloudMessage::new(payload)).expect("there is room");
        if random.u8(..4) == 0 {
            waiting.spawn(wait_for_valve(Arc::clone(&hub), restart));
        }
        longest = longest.max(terminate(&mut child).await);
        child = connector(&world, port);
        arrivals.read(&world);
    }
    let sent_between = arrivals.read(&world);
    let answered = fleet.end().await;
    let total: u32 = answered.values().sum();
    arrivals.until(&world, total as usize).await;
    at_most(&hub, 0).await;
    longest = longest.max(terminate(&mut child).await);
    arrivals.read(&world);

    assert!(sent_between as u64 > restarts, "hardly anything was sent between the restarts");
    let again = arrivals.again(&answered);
    assert!(again.is_empty(), "a clean stop leaves nothing unsettled, but these came again: {again:?}");
    let pushes = stack.pushes().into_iter().filter(|push| push.downlink.f_port == 10);
    let numbers: Vec<u64> = pushes
        .map(|push| push.downlink.frm_payload.expect("a payload").try_into().expect("eight bytes"))
        .map(u64::from_be_bytes)
        .collect();
    assert_eq!(numbers, (0..restarts).collect::<Vec<_>>(), "one downlink for each message, in order");
    println!(
        "{restarts} restarts, longest stop {longest:?}, {total} answered 202, {sent_between} of them sent between restarts, \
         0 lost, 0 doubled"
    );
}
