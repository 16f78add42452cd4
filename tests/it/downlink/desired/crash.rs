//! A crash after any step: the same change never gives two downlinks, none is missed, and the hub learns of each.

use serde_json::json;
use tti_connector::things_stack::{ApiError, DownlinkState};

use super::super::stage::Stage;
use super::{Life, until};

/// More steps than any of the lives below takes.
const ENOUGH: usize = 200;

/// Plays a first life up to each of its steps, then a second one to its end.
async fn at_every_step(
    prepare: impl Fn(&Life),
    first: impl Fn(&Life),
    second: impl Fn(&Life),
    downlinks: usize,
) {
    for steps in 0..ENOUGH {
        let life = Life::on(Stage::new()).await;
        prepare(&life);
        life.stage.crash_after(steps);
        first(&life);
        until("its end", || life.stage.crashed() || life.stage.now().reported.contains_key("d")).await;
        let crashed = life.stage.crashed();
        let life = Life::on(life.stage.again()).await;
        second(&life);
        until("all downlinks", || life.stage.now().pushed.len() >= downlinks).await;
        life.told("setpoint", 202).await;
        life.told("mode", 202).await;
        life.witness(DownlinkState::Sent).await;
        life.witness(DownlinkState::Ack).await;
        life.told("setpoint", 200).await;
        life.told("mode", 200).await;
        life.idle().await;
        assert_eq!(life.stage.now().pushed.len(), downlinks, "a crash after {steps} steps");
        assert_eq!(life.ledger.open(), 0);
        if !crashed {
            assert!(steps > 8, "the first life did nothing");
            return;
        }
    }
    panic!("the first life never ended");
}

#[tokio::test(start_paused = true)]
async fn a_change_seen_again_after_a_crash_is_the_same_downlink() {
    let first = |life: &Life| life.patch(5, json!({"setpoint": 1, "mode": 2}));
    let second = |life: &Life| life.whole(5, json!({"setpoint": 1, "mode": 2}));
    at_every_step(|_| {}, first, second, 2).await;
}

#[tokio::test(start_paused = true)]
async fn also_when_another_property_changed_meanwhile() {
    let first = |life: &Life| life.patch(5, json!({"setpoint": 1, "mode": 2}));
    let second = |life: &Life| life.whole(6, json!({"setpoint": 1, "mode": 2, "decodedPayload": {"a": 1}}));
    at_every_step(|_| {}, first, second, 3).await;
}

#[tokio::test(start_paused = true)]
async fn also_when_all_properties_are_told_twice() {
    let whole = |life: &Life| life.whole(6, json!({"setpoint": 1, "mode": 2}));
    at_every_step(|_| {}, whole, whole, 2).await;
}

#[tokio::test(start_paused = true)]
async fn also_when_a_push_had_no_answer() {
    for queued in [true, false] {
        let prepare = |life: &Life| {
            let unsure = ApiError::Unsure { detail: "time-out".to_owned() };
            life.stage.now().push_errors.push_back((unsure, queued));
        };
        let first = |life: &Life| life.patch(5, json!({"setpoint": 1, "mode": 2}));
        let second = |life: &Life| life.whole(5, json!({"setpoint": 1, "mode": 2}));
        at_every_step(prepare, first, second, 2).await;
    }
}
