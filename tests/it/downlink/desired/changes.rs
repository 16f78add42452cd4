//! Which changes become downlinks.

use serde_json::{Value, json};
use tti_connector::things_stack::{DownlinkState, Operation};

use super::{Life, device};

#[tokio::test(start_paused = true)]
async fn all_properties_of_a_device_never_seen_are_applied_each_on_its_port() {
    let life = Life::new().await;
    life.whole(
        7,
        json!({
            "setpoint": 21.5,
            "decodedPayload": {"led": true},
            "rawDownlink": {"fPort": 9, "framePayload": "0aff", "confirmed": true, "operation": "replace"},
            "firmware": "1.2",
        }),
    );
    life.queued(3).await;
    let pushed = life.stage.now().pushed.clone();
    let seen: Vec<_> = pushed
        .iter()
        .map(|(to, operation, downlink)| (to.clone(), *operation, downlink.f_port, downlink.confirmed))
        .collect();
    let d = device("d");
    assert_eq!(
        seen,
        [
            (d.clone(), Operation::Push, 1, false),
            (d.clone(), Operation::Replace, 9, true),
            (d, Operation::Push, 20, false),
        ]
    );
    assert_eq!(life.payloads(), [json!({"led": true}), json!([10, 255]), json!({"setpoint": 21.5})]);
    life.told("setpoint", 202).await;
    assert_eq!(life.reported("firmware"), Value::Null, "not ours to acknowledge");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_only_what_changed_is_applied() {
    let life = Life::new().await;
    life.whole(7, json!({"setpoint": 21, "decodedPayload": {"a": 1}}));
    life.queued(2).await;
    let life = life.restart().await;
    life.whole(9, json!({"setpoint": 21.0, "decodedPayload": {"a": 2}}));
    life.queued(3).await;
    life.witness(DownlinkState::Sent).await;
    life.idle().await;
    assert_eq!(life.payloads()[2], json!({"a": 2}));
}

#[tokio::test(start_paused = true)]
async fn a_change_is_applied_even_to_the_same_value_and_an_old_one_is_ignored() {
    let life = Life::new().await;
    life.patch(5, json!({"setpoint": 21}));
    life.queued(1).await;
    life.patch(6, json!({"setpoint": 21}));
    life.queued(2).await;
    life.patch(6, json!({"setpoint": 22}));
    life.patch(4, json!({"setpoint": 23}));
    life.whole(6, json!({"setpoint": 21}));
    life.witness(DownlinkState::Sent).await;
    life.idle().await;
    assert_eq!(life.payloads(), [json!({"setpoint": 21}), json!({"setpoint": 21})]);
    let ids: Vec<_> =
        life.stage.now().pushed.iter().map(|(_, _, downlink)| downlink.correlation_ids.clone()).collect();
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_one_field_sends_the_whole_property() {
    let life = Life::new().await;
    life.whole(5, json!({"rawDownlink": {"fPort": 9, "framePayload": "01", "confirmed": true}}));
    life.queued(1).await;
    let life = life.restart().await;
    life.whole(5, json!({"rawDownlink": {"fPort": 9, "framePayload": "01", "confirmed": true}}));
    life.patch(6, json!({"rawDownlink": {"framePayload": "02", "confirmed": null}}));
    life.queued(2).await;
    let downlink = life.stage.now().pushed[1].2.clone();
    assert_eq!((downlink.f_port, downlink.confirmed), (9, false));
    assert_eq!(life.payloads()[1], json!([2]));
    let life = life.restart().await;
    life.whole(6, json!({"rawDownlink": {"fPort": 9, "framePayload": "02"}}));
    life.witness(DownlinkState::Sent).await;
    life.witness(DownlinkState::Ack).await;
    life.idle().await;
    assert_eq!(life.stage.now().pushed.len(), 2);
    assert_eq!(life.reported("rawDownlink")["value"], json!({"fPort": 9, "framePayload": "02"}));
}

#[tokio::test(start_paused = true)]
async fn a_property_removed_and_set_again_is_another_change() {
    let life = Life::new().await;
    life.patch(5, json!({"setpoint": 21}));
    life.queued(1).await;
    life.patch(6, json!({"setpoint": null}));
    let life = life.restart().await;
    life.whole(6, json!({}));
    life.idle().await;
    let life = life.restart().await;
    life.whole(7, json!({"setpoint": 21}));
    life.queued(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_made_anew_whose_versions_begin_again_is_not_deaf() {
    let life = Life::new().await;
    life.patch(100, json!({"setpoint": 21}));
    life.queued(1).await;
    life.whole(1, json!({}));
    life.patch(2, json!({"setpoint": 21}));
    life.queued(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_made_anew_with_the_same_properties_hears_of_the_next_change() {
    let life = Life::new().await;
    life.patch(100, json!({"setpoint": 21}));
    life.queued(1).await;
    life.witness(DownlinkState::Sent).await;
    life.told("setpoint", 200).await;
    life.idle().await;
    life.whole(2, json!({"setpoint": 21}));
    life.witness(DownlinkState::Sent).await;
    life.idle().await;
    life.patch(3, json!({"setpoint": 22}));
    life.queued(2).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_not_applied_again_when_the_disk_was_lost() {
    let life = Life::new().await;
    life.patch(5, json!({"setpoint": 21}));
    life.queued(1).await;
    life.witness(DownlinkState::Sent).await;
    life.told("setpoint", 200).await;
    life.stage.lose_disk();
    let life = life.restart().await;
    life.whole(6, json!({"setpoint": 21}));
    life.idle().await;
    assert_eq!(life.stage.now().pushed.len(), 1);
    life.patch(7, json!({"setpoint": 22}));
    life.queued(2).await;
}
