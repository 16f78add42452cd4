//! `tti-connector backfill`, with a running instance and without one.

use std::process::Command;

use tti_connector::backfill::Order;
use tti_connector::cli::backfill::run;
use tti_connector::config::Config;
use tti_connector::emulator::things_stack::{Right, Uplink};

use super::kit::{DELAY, arrived, counters, marked, missed, on, plain, stage, told};
use crate::way_back::kit::{APPLICATION, Stage, application, config, name};

fn order(dry_run: bool) -> Order {
    let since_ms = jiff::Timestamp::now().as_millisecond() - 3_600_000;
    Order {
        application: APPLICATION.to_owned(),
        device: None,
        since_ms,
        until_ms: None,
        dry_run,
        may_double: false,
    }
}

fn settings(stage: &Stage) -> Config {
    let mut config = config(&stage.world);
    on(&mut config);
    config
}

/// Waits until a connector that was just started takes orders.
async fn takes_orders(config: &Config) {
    let socket = config.spool.directory.join("control.sock");
    let there = async {
        while !socket.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::messages::DEADLINE, there).await.expect("it listens");
}

/// What the command prints, or why it fails.
async fn ordered(config: &Config, order: &Order) -> Result<String, String> {
    let mut out = Vec::new();
    run(config, order, &mut out).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(out).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_lists_what_is_missing_and_only_the_real_one_sends_it_once() {
    let stage = stage(&["valve-1", "valve-2"]).await;
    missed(&stage, "valve-1", 3);
    missed(&stage, "valve-2", 1);
    told(&stage, 6).await;
    stage.point_webhook();
    tokio::time::sleep(DELAY).await;
    let config = settings(&stage);
    takes_orders(&config).await;
    let said = ordered(&config, &order(true)).await.expect("done");
    assert_eq!(
        said,
        "valve-1  3 uplinks, f_cnt 1-3\nvalve-2  1 uplink, f_cnt 1\n6 uplinks stored, 2 received before, 4 would be sent\n"
    );
    stage.settled("valve-2").await;
    assert_eq!(counters(&stage, "valve-1"), plain([0]));
    let one = Order { device: Some("valve-1".to_owned()), ..order(false) };
    let said = ordered(&config, &one).await.expect("done");
    assert!(said.ends_with("4 uplinks stored, 1 received before, 3 on their way to the hub\n"), "{said}");
    assert_eq!(arrived(&stage, "valve-1", 4).await, [plain([0]), marked(1..=3)].concat());
    let said = ordered(&config, &one).await.expect("done");
    assert!(said.ends_with("4 uplinks stored, 4 received before, 0 on their way to the hub\n"), "{said}");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_instance_it_waits_in_the_spool_for_the_next_start() {
    let stage = stage(&["valve-1"]).await;
    let config = settings(&stage);
    missed(&stage, "valve-1", 4);
    told(&stage, 5).await;
    tokio::time::sleep(DELAY).await;
    let Stage { world, connector } = stage;
    connector.stop().await;
    for fate in ["1 received before, 4 wait in the spool", "5 received before, 0 wait in the spool"] {
        let said = ordered(&config, &order(false)).await.expect("done");
        assert!(said.contains(fate), "{said}");
    }
    let stage = Stage::on(world, on).await;
    assert_eq!(arrived(&stage, "valve-1", 5).await, [plain([0]), marked(1..=4)].concat());
    stage.settled("valve-1").await;
    assert_eq!(stage.telemetry("valve-1").len(), 6, "the start's own look finds nothing new");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_done_is_said_with_what_to_change() {
    let stage = stage(&["valve-1"]).await;
    let mut config = settings(&stage);
    let later = Order { since_ms: i64::MAX / 2, ..order(true) };
    let why = ordered(&config, &later).await.expect_err("nothing between");
    assert!(why.contains("nothing between the two times"), "{why}");
    let other = Order { application: "other".to_owned(), ..order(true) };
    let why = ordered(&config, &other).await.expect_err("off");
    assert!(why.contains("things_stack.applications.other.backfill = true"), "{why}");
    // A key that may only write downlinks.
    let key = stage.stack().add_key(&[Right::DownWrite]);
    let wrong = move |config: &mut Config| {
        config.things_stack.applications.insert(APPLICATION.to_owned(), application(&key));
        on(config);
    };
    let stage = stage.restart(wrong).await;
    takes_orders(&config).await;
    let why = ordered(&config, &order(true)).await.expect_err("refused");
    assert!(why.contains("RIGHT_APPLICATION_TRAFFIC_READ") && why.contains("403"), "{why}");
    let Stage { world, connector } = stage;
    connector.stop().await;
    config.spool.directory = world.dir.path().join("elsewhere");
    let why = ordered(&config, &order(true)).await.expect_err("no spool");
    assert!(why.contains("holds no spool"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_time_that_is_not_remembered_it_sends_only_what_the_operator_insists_on() {
    let stage = Stage::new().await;
    stage.meet("valve-1").await;
    let meanwhile = |world: &crate::world::World| {
        let stack = world.emulator.things_stack().expect("it was asked for");
        stack.uplink(&name("valve-1"), &Uplink::default()).expect("a device");
    };
    let stage = stage.restart_after(meanwhile, on).await;
    let config = settings(&stage);
    takes_orders(&config).await;
    let before = Order { until_ms: Some(order(true).since_ms + 60_000), ..order(true) };
    let why = ordered(&config, &before).await.expect_err("switched on just now");
    assert!(why.contains("is not remembered") && why.contains("--may-double"), "{why}");
    tokio::time::sleep(DELAY * 2).await;
    let said = ordered(&config, &order(true)).await.expect("done");
    assert!(said.contains("0 would be sent\n") && said.contains("Only since "), "{said}");
    let insisting = Order { may_double: true, ..order(false) };
    let said = ordered(&config, &insisting).await.expect("done");
    // The first was posted within the window of repeated posts, and is known by that.
    assert!(said.contains("f_cnt 1\n2 uplinks stored, 1 received before, 1 on their way"), "{said}");
    assert_eq!(arrived(&stage, "valve-1", 2).await, [plain([0]), marked([1])].concat());
    stage.end().await;
}

#[test]
fn the_command_line_takes_times_and_says_what_is_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tti-connector"))
            .arg("backfill")
            .args(arguments)
            .current_dir(folder.path())
            .env(
                "TTI_CONNECTOR__AZURE__IOT_HUB__CONNECTION_STRING",
                "HostName=hub-1.azure-devices.net;SharedAccessKeyName=device;SharedAccessKey=aHVzaA==",
            )
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for since in ["6h", "2026-11-20T08:00:00Z", "2026-11-20T08:00:00+01:00"] {
        let (code, said) = run(&["--application", "house", "--since", since, "--dry-run"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("backfill is off for application house"), "{said}");
    }
    for wrong in ["yesterday", "2026-11-20T08:00:00", "-6h"] {
        let (code, said) = run(&["--application", "house", &format!("--since={wrong}")]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("6h or 2d"), "{said}");
    }
    assert_eq!(run(&["--since", "6h"]).0, Some(2));
}
