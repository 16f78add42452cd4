//! `kill -9` in the middle of backfilling: all that was missed comes, and only what no commit had settled comes twice.
//!
//! `TTI_KILLS=20 TTI_BACKFILL_ROWS=5000 cargo test backfill::crash` makes it longer; the seed is printed and can be set
//! with `TTI_SEED`.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Child;
use tti_connector::emulator::Event;
use tti_connector::emulator::things_stack::{Uplink, Webhook};

use super::kit::counter;
use crate::crash::{cut_between, from_env, now_ms, up};
use crate::messages::DEADLINE;
use crate::way_back::kit::{APPLICATION, name};
use crate::world::{World, free_port};

const DEVICES: u64 = 4;

fn connector(world: &World, port: u16) -> Child {
    let stack = world.emulator.things_stack().expect("it was asked for");
    let section = "TTI_CONNECTOR__THINGS_STACK__APPLICATIONS__HOUSE";
    let mut command = world.connector(port);
    command
        .env("TTI_CONNECTOR__LOG__LEVEL", "warn")
        .env("TTI_CONNECTOR__THINGS_STACK__BASE_URL", stack.url())
        .env(format!("{section}__API_KEY"), stack.api_key())
        .env(format!("{section}__BACKFILL"), "true")
        .env("TTI_CONNECTOR__BACKFILL__DELAY", "0s")
        .env("TTI_CONNECTOR__BACKFILL__RATE", "300");
    command.stdout(Stdio::null()).spawn().expect("the connector starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_loses_nothing_and_doubles_only_the_unsettled() {
    assert_eq!(APPLICATION, "house");
    let (kills, seed) = (from_env("TTI_KILLS", 4), from_env("TTI_SEED", fastrand::u64(..)));
    let rows = from_env("TTI_BACKFILL_ROWS", 400) / DEVICES;
    println!("TTI_SEED={seed} TTI_KILLS={kills} TTI_BACKFILL_ROWS={}", rows * DEVICES);
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::new(1).await;
    let stack = world.emulator.things_stack().expect("it was asked for").clone();
    let port = free_port();
    let webhook = Webhook::new(format!("http://127.0.0.1:{port}/webhook").parse().expect("a URL"));
    let mut child = connector(&world, port);
    up(port).await;
    stack.set_webhook(Some(webhook.clone())).expect("sound");
    let devices: Vec<String> = (0..DEVICES).map(|n| format!("valve-{n}")).collect();
    for device in &devices {
        stack.uplink(&name(device), &Uplink::default()).expect("a device");
    }
    world.arrived(devices.len()).await;
    // Killed within seconds of its first start, before it wrote down much.
    child.start_kill().expect("it runs");
    child.wait().await.expect("it ended");
    stack.set_webhook(None).expect("none is sound");
    for _ in 0..rows {
        for device in &devices {
            stack.uplink(&name(device), &Uplink::default()).expect("a device");
        }
    }

    let (mut killed, mut pauses) = (now_ms(), Vec::new());
    let mut between = Vec::new();
    for _ in 0..kills {
        let before = world.total();
        child = connector(&world, port);
        up(port).await;
        pauses.push((killed, now_ms()));
        // The random moment itself, not a wait for something.
        tokio::time::sleep(Duration::from_millis(random.u64(50..900))).await;
        child.start_kill().expect("it runs");
        killed = now_ms();
        child.wait().await.expect("it ended");
        between.push(world.total() - before);
    }
    child = connector(&world, port);
    up(port).await;
    pauses.push((killed, now_ms()));
    stack.set_webhook(Some(webhook)).expect("sound");
    for device in &devices {
        stack.uplink(&name(device), &Uplink::default()).expect("a device");
    }

    let expected = devices.len() * (usize::try_from(rows).expect("small") + 2);
    let complete = async {
        let mut events = world.arrived(expected).await;
        while by_counter(&events).len() < expected {
            events = world.arrived(events.len() + 1).await;
        }
        events
    };
    let events = tokio::time::timeout(DEADLINE, complete).await.expect("all that was missed comes");
    child.start_kill().expect("it runs");
    assert!(
        between.iter().sum::<usize>() > 0,
        "nothing came between the kills, so they hit nothing: {between:?}"
    );
    let mut doubled = 0;
    for ((device, f_cnt), arrivals) in by_counter(&events) {
        let is_live = f_cnt == 0 || f_cnt == rows + 1;
        for (at_ms, is_marked) in &arrivals {
            assert_eq!(*is_marked, !is_live, "{device} #{f_cnt} at {at_ms}");
        }
        for pair in arrivals.windows(2) {
            doubled += 1;
            let (first, second) = (pair[0].0, pair[1].0);
            let excused = cut_between(&pauses, first, second);
            assert!(excused, "{device} #{f_cnt} came twice, at {first} and {second}, without a kill between");
        }
    }
    println!(
        "{kills} kills, {expected} uplinks, {between:?} of them between kills, 0 lost, {doubled} sent again"
    );
}

/// When each uplink came, and whether it was marked.
fn by_counter(events: &[Event]) -> BTreeMap<(String, u64), Vec<(i64, bool)>> {
    let mut by: BTreeMap<(String, u64), Vec<(i64, bool)>> = BTreeMap::new();
    for event in events {
        let (f_cnt, marked) = counter(event);
        by.entry((event.device_id.clone(), f_cnt)).or_default().push((event.enqueued_ms, marked));
    }
    by
}
