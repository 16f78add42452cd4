//! The Things Stack, the disk or the hub refuse for a while.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tti_connector::downlink::ReportState;
use tti_connector::iot_hub::{RetryReason, SendError, Trouble};
use tti_connector::model::ParkReason;
use tti_connector::things_stack::{ApiError, DownlinkState};

use super::super::stage::EXPIRY;
use super::{Life, device, until};

fn not_now() -> ApiError {
    ApiError::NotNow { detail: "paused".to_owned(), after: None }
}

fn hub_is_away() -> SendError {
    SendError::Retry {
        reason: RetryReason::Link,
        detail: "detached".to_owned(),
        after: None,
        trouble: Trouble::Device,
    }
}

#[tokio::test(start_paused = true)]
async fn a_property_that_can_t_be_queued_is_tried_until_it_is_and_delays_no_other_device() {
    let life = Life::new().await;
    life.stage.now().refusing.insert(device("d"), not_now());
    life.patch(5, json!({"setpoint": 1}));
    until("some tries", || life.stage.now().tries >= 5).await;
    life.patch_of("e", 5, json!({"setpoint": 2}));
    until("the other's", || life.stage.now().pushed.len() == 1).await;
    assert_eq!(life.payloads(), [json!({"setpoint": 2})]);
    life.stage.now().refusing.clear();
    until("its turn", || life.stage.now().pushed.len() == 2).await;
    life.told("setpoint", 202).await;
}

#[tokio::test(start_paused = true)]
async fn the_api_s_own_wait_is_kept() {
    let life = Life::new().await;
    let after = Some(Duration::from_secs(500));
    let error = ApiError::NotNow { detail: "429".to_owned(), after };
    life.stage.now().push_errors.push_back((error, false));
    let begun = Instant::now();
    life.patch(5, json!({"setpoint": 1}));
    life.queued(1).await;
    assert!((500..600).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn of_what_waits_the_newest_value_counts_and_the_older_is_reported_as_rejected() {
    let life = Life::new().await;
    life.stage.now().refusing.insert(device("d"), not_now());
    for (version, value) in [(5, 1), (6, 2), (7, 1)] {
        let tries = life.stage.now().tries;
        life.patch(version, json!({ "setpoint": value }));
        until("a try", || life.stage.now().tries > tries).await;
    }
    life.stage.now().refusing.clear();
    life.queued(1).await;
    assert_eq!(life.payloads(), [json!({"setpoint": 1})]);
    assert_eq!(life.reported("setpoint"), json!({"value": 1, "ac": 202, "ad": "queued", "av": 7}));
    let states: Vec<_> = life.stage.now().reports.iter().map(|report| report.state).collect();
    assert_eq!(states, [ReportState::Rejected, ReportState::Rejected]);
    assert_eq!(life.ledger.open(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_push_without_an_answer_is_looked_for_and_not_repeated() {
    for queued in [true, false] {
        let life = Life::new().await;
        let unsure = ApiError::Unsure { detail: "time-out".to_owned() };
        life.stage.now().push_errors.push_back((unsure.clone(), queued));
        life.stage.now().api_error = Some(unsure);
        life.patch(5, json!({"setpoint": 1}));
        until("it to be pushed", || life.stage.now().tries == 1).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(life.stage.now().tries, 1, "nobody says where it is");
        life.stage.now().api_error = None;
        life.told("setpoint", 202).await;
        let inner = life.stage.now();
        assert_eq!((inner.tries, inner.pushed.len()), (if queued { 1 } else { 2 }, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_expiry_it_is_given_up() {
    let life = Life::new().await;
    life.stage.now().refusing.insert(device("d"), not_now());
    let begun = Instant::now();
    life.patch(5, json!({"setpoint": 1}));
    life.told("setpoint", 504).await;
    assert!((EXPIRY..EXPIRY + Duration::from_secs(120)).contains(&begun.elapsed()));
    life.idle().await;
    assert_eq!(life.reported("setpoint")["ad"], "not queued within downlink.expiry: paused");
    assert_eq!(life.stage.now().reports[0].state, ReportState::Rejected);
    life.stage.now().refusing.clear();
    let life = life.restart().await;
    life.whole(5, json!({"setpoint": 1}));
    life.idle().await;
    assert!(life.stage.now().pushed.is_empty());
    life.patch(6, json!({"setpoint": 1}));
    life.queued(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_is_told_again_until_the_hub_takes_it_and_the_newest_counts() {
    let life = Life::new().await;
    life.stage.now().report_errors.extend([hub_is_away(), hub_is_away(), hub_is_away()]);
    life.patch(5, json!({"setpoint": 1}));
    until("a push", || life.stage.now().pushed.len() == 1).await;
    life.witness(DownlinkState::Sent).await;
    life.told("setpoint", 200).await;
    assert_eq!(life.stage.now().reports_taken, 1);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_the_hub_will_not_take_is_left_until_it_tells_the_properties_anew() {
    let gone = || SendError::Reresolve { reason: ParkReason::DeviceUnknown, detail: "404".to_owned() };
    for errors in [vec![gone()], vec![hub_is_away(); 16]] {
        let life = Life::new().await;
        let count = errors.len();
        life.stage.now().report_errors.extend(errors);
        life.patch(5, json!({"setpoint": 1}));
        until("the last try", || life.stage.now().report_errors.is_empty()).await;
        life.witness(DownlinkState::Sent).await;
        life.told("setpoint", 200).await;
        life.idle().await;

        life.stage.now().report_errors.extend(vec![gone(); count]);
        life.patch(6, json!({"mode": 1}));
        until("a push", || life.stage.now().pushed.len() == 2).await;
        until("the next try", || life.stage.now().report_errors.len() < count).await;
        life.whole(6, json!({"setpoint": 1, "mode": 1}));
        life.stage.now().report_errors.clear();
        life.told("mode", 202).await;
        assert_eq!(life.stage.now().pushed.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_delays_but_doubles_nothing() {
    let life = Life::new().await;
    life.stage.now().disk_fails = true;
    life.patch(5, json!({"setpoint": 1}));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(life.stage.now().tries, 0);
    life.stage.now().disk_fails = false;
    life.queued(1).await;
    life.stage.now().disk_fails = true;
    life.patch(6, json!({"setpoint": 2}));
    tokio::time::sleep(Duration::from_secs(600)).await;
    life.stage.now().disk_fails = false;
    life.queued(2).await;
}

#[tokio::test(start_paused = true)]
async fn each_downlink_of_a_property_is_counted_once_with_what_went_before() {
    let life = Life::new().await;
    let errors = [
        (ApiError::NotNow { detail: String::new(), after: None }, false),
        (ApiError::Unsure { detail: String::new() }, true),
    ];
    life.stage.now().push_errors.extend(errors);
    life.patch(1, json!({"setpoint": 21}));
    life.told("setpoint", 202).await;
    life.patch(2, json!({"rawDownlink": 7}));
    life.told("rawDownlink", 400).await;
    let counted = ["retried not_now", "retried unsure", "queued twin", "rejected twin invalid"];
    assert_eq!(life.stage.now().counted, counted);
}
