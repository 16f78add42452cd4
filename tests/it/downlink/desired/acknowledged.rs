//! What the cloud is told about a desired property.

use serde_json::{Value, json};
use tti_connector::things_stack::{ApiError, DownlinkState};

use super::Life;

#[tokio::test(start_paused = true)]
async fn queued_is_told_at_once_and_the_end_when_it_is_known() {
    use DownlinkState::{Ack, Failed, Nack, Sent};
    for (property, states, code, text) in [
        ("setpoint", &[][..], 202, "queued"),
        ("setpoint", &[Sent], 200, "sent"),
        ("mode", &[Sent], 202, "queued"),
        ("mode", &[Sent, Nack], 202, "queued"),
        ("mode", &[Sent, Nack, Ack], 200, "acknowledged by the device"),
        ("mode", &[Failed], 502, "failed: ns:max_retries: too many"),
    ] {
        let life = Life::new().await;
        life.patch(5, json!({ property: 1 }));
        life.queued(1).await;
        life.told(property, 202).await;
        for &state in states {
            life.witness(state).await;
        }
        life.told(property, code).await;
        let expected = json!({"value": 1, "ac": code, "ad": text, "av": 5});
        assert_eq!(life.reported(property), expected, "{states:?}");
        if code == 202 {
            assert_eq!(life.flow.busy(), 1, "its end is awaited");
        } else {
            life.idle().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_invalid_or_refused_is_told_with_its_reason_and_once() {
    let refused = |status| Some(ApiError::Refused { status: Some(status), detail: "because".to_owned() });
    for (value, error, code, text) in [
        (
            json!({"fPort": 300}),
            None,
            400,
            "rawDownlink.fPort is 300: it must be a whole number from 1 to 223",
        ),
        (json!("01"), None, 400, "rawDownlink is a string: it must be a JSON object"),
        (json!({}), refused(400), 422, "because"),
        (json!({}), refused(403), 502, "because"),
        (json!({}), refused(404), 404, "because"),
    ] {
        let life = Life::new().await;
        life.stage.now().push_errors.extend(error.map(|error| (error, false)));
        life.whole(5, json!({ "rawDownlink": value }));
        life.told("rawDownlink", code).await;
        life.idle().await;
        assert_eq!(life.reported("rawDownlink"), json!({"value": value, "ac": code, "ad": text, "av": 5}));
        let life = life.restart().await;
        life.whole(8, json!({ "rawDownlink": value, "other": 1 }));
        life.idle().await;
        let inner = life.stage.now();
        assert_eq!((inner.reports_taken, inner.pushed.len()), (1, 0), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_object_holds_nothing_of_an_earlier_one() {
    let life = Life::new().await;
    for (version, value) in
        [(5, json!({"a": {"x": 1, "y": 2}, "b": 1})), (6, json!({"a": {"y": 3}})), (7, json!({"c": 1}))]
    {
        life.whole(version, json!({ "decodedPayload": value }));
        super::until("told", || life.reported("decodedPayloadAck")["av"] == version).await;
        assert_eq!(life.reported("decodedPayloadAck")["value"], value);
        life.witness(DownlinkState::Sent).await;
        life.idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_ended_while_the_connector_was_away_or_could_not_tell_is_told_after_the_start() {
    for (state, code) in [(Some(DownlinkState::Sent), 200), (Some(DownlinkState::Failed), 502), (None, 202)] {
        let life = Life::new().await;
        life.patch(5, json!({"setpoint": 1}));
        life.queued(1).await;
        life.flow.stop().await;
        if let Some(state) = state {
            life.witness(state).await;
        }
        let life = Life::on(life.stage.again()).await;
        let before = life.stage.now().reports_taken;
        life.whole(9, json!({"setpoint": 1, "other": 2}));
        life.told("setpoint", code).await;
        assert_eq!(life.reported("setpoint")["av"], 5, "the version with which it came");
        if state.is_some() {
            life.idle().await;
            life.whole(10, json!({"setpoint": 1}));
            life.idle().await;
        } else {
            life.witness(DownlinkState::Sent).await;
            life.told("setpoint", 200).await;
            life.idle().await;
        }
        let inner = life.stage.now();
        assert_eq!((inner.pushed.len(), inner.reports_taken), (1, before + 1), "told once");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_uplink_s_payload_among_the_reported_properties_is_no_acknowledgement() {
    let life = Life::new().await;
    let uplink = json!({"value": {"a": 1}, "ac": 200, "av": 5});
    life.stage
        .now()
        .reported
        .entry("d".to_owned())
        .or_default()
        .insert("decodedPayload".to_owned(), uplink.clone());
    life.whole(5, json!({"decodedPayload": {"a": 1}}));
    life.told("decodedPayloadAck", 202).await;
    assert_eq!(life.payloads(), [json!({"a": 1})]);
    assert_eq!(life.reported("decodedPayload"), uplink);
}

#[tokio::test(start_paused = true)]
async fn a_removed_property_is_followed_no_more() {
    let life = Life::new().await;
    life.patch(5, json!({"setpoint": 1}));
    life.queued(1).await;
    life.patch(6, json!({"setpoint": Value::Null}));
    life.idle().await;
    life.witness(DownlinkState::Sent).await;
    assert_eq!(life.reported("setpoint")["ac"], 202);
}
