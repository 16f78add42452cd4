//! Whose a message is, and which messages are one and the same.

use std::collections::HashSet;

use tti_connector::config::TelemetryFormat;
use tti_connector::model::EndDevice;
use tti_connector::things_stack::Envelope;
use tti_connector::uplink::Translated;

use super::*;

#[test]
fn trap_2_an_absent_f_cnt_is_zero_in_the_dedup_key_and_the_session_is_part_of_it() {
    let first = dedup_key(&device(), &uplink(r#""session_key_id":"AQ==""#));
    assert_eq!(dedup_key(&device(), &uplink(r#""session_key_id":"AQ==","f_cnt":0"#)), first);
    assert_ne!(dedup_key(&device(), &uplink(r#""session_key_id":"AQ==","f_cnt":1"#)), first);
    assert_ne!(dedup_key(&device(), &uplink(r#""session_key_id":"Ag==""#)), first, "joined again");
    assert_eq!(json(&telemetry(&uplink("")))["FrameCounter"], 0);
}

#[test]
fn trap_10_what_comes_beside_an_uplink_makes_no_second_telemetry_nor_hides_the_first() {
    let frame = r#"{"f_port":2,"f_cnt":9,"session_key_id":"AQ=="}"#;
    let normalized = |value: u8| {
        format!(
            r#"{{"uplink_normalized":{{"f_cnt":9,"session_key_id":"AQ==","normalized_payload":{{"v":{value}}}}}}}"#
        )
    };
    let bodies = [
        format!(r#"{{"uplink_message":{frame}}}"#),
        normalized(1),
        normalized(2),
        r#"{"location_solved":{"service":"frm-payload"}}"#.to_owned(),
    ];
    let keys: HashSet<_> = bodies.iter().map(|body| dedup_key(&device(), body)).collect();
    assert_eq!(keys.len(), bodies.len());
    let sent = bodies.iter().filter(|body| {
        matches!(translated(body, TelemetryFormat::Connector).unwrap(), Translated::Telemetry { .. })
    });
    assert_eq!(sent.count(), 1);
}

#[test]
fn trap_11_ids_stripped_by_a_field_mask_are_absent_and_telemetry_takes_the_device_given() {
    for ids in ["", r#""end_device_ids":{},"#, r#""end_device_ids":{"application_ids":{}},"#] {
        let body = format!(r#"{{{ids}"uplink_message":{{"f_port":1}}}}"#);
        let envelope = Envelope::parse(body.as_bytes()).unwrap();
        assert_eq!((envelope.application_id, envelope.device_id), (None, None));
        let message = telemetry(&body);
        assert_eq!(property(&message, "ApplicationId"), Some("vineyard"));
        assert_eq!(property(&message, "DeviceId"), Some("cellar"));
        assert_eq!(json(&message)["DeviceID"], "cellar");
    }
}

#[test]
fn trap_19_an_uplink_posted_again_has_the_same_dedup_key_and_message_id() {
    let post = |at: &str, correlation: &str| {
        format!(
            r#"{{"correlation_ids":["{correlation}"],"received_at":"{at}",
            "uplink_message":{{"f_port":1,"f_cnt":4,"session_key_id":"AQ=="}}}}"#
        )
    };
    let (first, retried) = (post("2025-03-14T06:00:00Z", "a"), post("2025-03-14T07:12:00Z", "b"));
    assert_eq!(dedup_key(&device(), &first), dedup_key(&device(), &retried));
    for format in FORMATS {
        let id = telemetry_as(&first, format).message_id;
        assert_eq!(id, telemetry_as(&retried, format).message_id);
        assert!(id.len() <= 128 && id.is_ascii() && !id.is_empty());
    }
}

#[test]
fn trap_19_simulated_uplinks_without_a_session_are_not_taken_for_one() {
    let simulated = |payload: &str, session: &str| {
        format!(r#"{{"simulated":true,"uplink_message":{{"f_port":1,"frm_payload":"{payload}"{session}}}}}"#)
    };
    let copied = r#","session_key_id":"AQ==""#;
    let keys = [
        simulated("AQ==", ""),
        simulated("Ag==", ""),
        simulated("AQ==", copied),
        simulated("Ag==", copied),
        uplink(r#""session_key_id":"AQ==""#),
    ]
    .map(|body| dedup_key(&device(), &body));
    assert_eq!(HashSet::from(keys).len(), keys.len());
}

#[test]
fn trap_22_the_same_device_id_in_two_applications_or_tenants_is_two_devices() {
    let body = uplink(r#""session_key_id":"AQ==","f_cnt":1"#);
    let keys =
        [("", "one", "cellar"), ("", "two", "cellar"), ("eu1", "one", "cellar"), ("eu1", "onec", "ellar")]
            .map(|(tenant, application, id)| {
                dedup_key(&EndDevice::new(tenant, application, id).unwrap(), &body)
            });
    assert_eq!(HashSet::from(keys).len(), keys.len());
}

#[test]
fn trap_23_correlation_ids_and_the_place_of_the_coding_rate_change_nothing() {
    let old = r#"{"correlation_ids":["as:up:1","gs:conn:2","ns:uplink:3"],"uplink_message":{"f_port":1,
        "session_key_id":"AQ==","settings":{"coding_rate":"4/5","data_rate":{"lora":{}}}}}"#;
    let new = r#"{"correlation_ids":["gs:uplink:1"],"uplink_message":{"f_port":1,"session_key_id":"AQ==",
        "settings":{"data_rate":{"lora":{"coding_rate":"4/5"}}}}}"#;
    assert_eq!(telemetry(old), telemetry(new));
}
