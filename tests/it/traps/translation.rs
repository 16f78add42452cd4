//! What becomes of the fields of an uplink that are absent, odd or not ASCII.

use tti_connector::config::TelemetryFormat;
use tti_connector::things_stack::{Envelope, Kind};
use tti_connector::uplink::SkipReason;

use super::*;

#[test]
fn trap_1_an_uplink_without_f_port_is_skipped_and_no_error() {
    for body in [
        r#"{"uplink_message":{"f_cnt":3,"rx_metadata":[]}}"#,
        r#"{"uplink_message":{"f_port":0,"frm_payload":"AA=="}}"#,
        r#"{"uplink_message":{"f_port":null}}"#,
        r#"{"uplink_message":{}}"#,
    ] {
        assert_eq!(skipped(body), SkipReason::NoFPort, "{body}");
        assert_eq!(Envelope::parse(body.as_bytes()).unwrap().f_port, None, "{body}");
    }
}

#[test]
fn trap_3_an_empty_payload_is_sent_with_an_empty_text() {
    for fields in ["", r#""frm_payload":"""#, r#""frm_payload":null"#] {
        assert_eq!(json(&telemetry(&uplink(fields)))["PayloadRaw"], "", "{fields}");
    }
}

#[test]
fn trap_4_a_missing_decoded_payload_never_loses_the_raw_one() {
    for fields in [r#""frm_payload":"AQI=""#, r#""frm_payload":"AQI=","decoded_payload":null"#] {
        for format in [TelemetryFormat::Connector, TelemetryFormat::Decoded] {
            let body = json(&telemetry_as(&uplink(fields), format));
            assert_eq!(body["PayloadRaw"], "AQI=");
            assert!(body.get("PayloadDecoded").is_none());
        }
    }
}

#[test]
fn trap_4_arrays_nesting_and_names_of_our_own_pass_byte_for_byte() {
    let decoded =
        r#"{"Port":"left","DeviceID":[{"a":1},{"a":2},[[3]]],  "z":0,"a":{"b":{"c":[]}},"a":1.50e2}"#;
    let body = uplink(&format!(r#""decoded_payload":{decoded}"#));
    let connector = telemetry(&body);
    let text = std::str::from_utf8(&connector.body).unwrap();
    assert!(text.contains(&format!(r#""PayloadDecoded":{decoded},"#)), "{text}");
    assert_eq!(json(&connector)["Port"], 2);
    assert_eq!(telemetry_as(&body, TelemetryFormat::Decoded).body, decoded.as_bytes());
}

#[test]
fn trap_5_a_simulated_uplink_with_the_zero_time_takes_the_time_of_receipt() {
    let zero = "0001-01-01T00:00:00Z";
    let body = format!(
        r#"{{"received_at":"{zero}","uplink_message":{{"f_port":1,"received_at":"{zero}"}},"simulated":true}}"#
    );
    let message = telemetry(&body);
    assert_eq!(property(&message, "iothub-creation-time-utc"), Some("2025-03-14T07:00:00.000Z"));
    assert_eq!(property(&message, "Simulated"), Some("True"));
    assert_eq!(property(&message, "DeviceEUI"), None);
    assert_eq!(json(&message)["Simulated"], true);
    assert_eq!(property(&telemetry(&uplink("")), "Simulated"), Some("False"));
}

#[test]
fn trap_6_times_of_any_precision_become_milliseconds_cut_off() {
    for (fraction, expected) in
        [("", "000"), (".5", "500"), (".482", "482"), (".482999", "482"), (".999999999", "999")]
    {
        let message = telemetry(&uplink(&format!(r#""received_at":"2025-03-14T06:52:31{fraction}Z""#)));
        let expected = format!("2025-03-14T06:52:31.{expected}Z");
        assert_eq!(property(&message, "iothub-creation-time-utc"), Some(expected.as_str()));
        assert_eq!(json(&message)["ReceivedAtUtc"], expected);
    }
}

#[test]
fn trap_7_an_unknown_dev_eui_is_left_out_of_body_and_properties() {
    for ids in ["{}", r#"{"dev_eui":null}"#, r#"{"dev_eui":""}"#, r#"{"dev_eui":"none"}"#, "null"] {
        let message = telemetry(&format!(r#"{{"end_device_ids":{ids},"uplink_message":{{"f_port":1}}}}"#));
        assert_eq!(property(&message, "DeviceEUI"), None, "{ids}");
        assert!(json(&message).get("DeviceEUI").is_none(), "{ids}");
    }
    let known = r#"{"end_device_ids":{"dev_eui":"70b3d57ed005a1c1"},"uplink_message":{"f_port":1}}"#;
    assert_eq!(property(&telemetry(known), "DeviceEUI"), Some("70B3D57ED005A1C1"));
}

#[test]
fn trap_8_numbers_as_texts_and_enums_as_numbers_are_read() {
    let body = uplink(
        r#""f_port":"7","f_cnt":"4294967295","settings":{"frequency":868100000,"data_rate":3},
        "rx_metadata":[{"rssi":"-97.25","snr":3,"fine_timestamp":"18446744073709551615","location":{"source":3}}]"#,
    );
    let message = telemetry(&body);
    let read = json(&message);
    assert_eq!(property(&message, "port"), Some("7"));
    assert_eq!(read["FrameCounter"], u32::MAX);
    assert_eq!((read["Rssi"].as_f64(), read["Snr"].as_f64()), (Some(-97.25), Some(3.0)));
    assert!(std::str::from_utf8(&message.body).unwrap().contains(r#""Snr":3"#));
}

#[test]
fn trap_8_radio_data_of_any_shape_does_not_fail_an_uplink() {
    for odd in ["null", "3", "[]", "[null]", "[7]", r#"[{"rssi":{},"snr":[]}]"#, r#"{"rssi":1}"#, r#""x""#] {
        let read = json(&telemetry(&uplink(&format!(r#""rx_metadata":{odd}"#))));
        assert!(read.get("Rssi").is_none() && read.get("Snr").is_none(), "{odd}");
    }
}

#[test]
fn trap_9_the_kind_is_told_by_the_bodys_key_alone() {
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::UplinkMessage) {
        let body =
            format!(r#"{{"end_device_ids":{{"device_id":"uplink_message"}},"{kind}":{{"f_port":1}}}}"#);
        assert_eq!(skipped(&body), SkipReason::Kind(kind));
    }
}

#[test]
fn trap_24_non_ascii_values_arrive_as_they_were() {
    let decoded = r#"{"Ort":"Weißenkirchen","unit":"°C","ฝน":"ตก","esc":"\u00e9\ud83c\udf47"}"#;
    let body = uplink(&format!(r#""decoded_payload":{decoded}"#));
    assert_eq!(telemetry_as(&body, TelemetryFormat::Decoded).body, decoded.as_bytes());
    assert_eq!(telemetry_as(&body, TelemetryFormat::ThingsStack).body, body.as_bytes());
    assert!(std::str::from_utf8(&telemetry(&body).body).unwrap().contains(decoded));
}

#[test]
fn a_decoded_value_that_is_no_object_goes_with_the_connectors_fields() {
    for odd in ["[1,2]", "3", "\"text\"", "false"] {
        let body = uplink(&format!(r#""frm_payload":"AQI=","decoded_payload":{odd}"#));
        let message = telemetry_as(&body, TelemetryFormat::Decoded);
        assert_eq!(message.body, telemetry(&body).body);
        assert_eq!(json(&message)["PayloadDecoded"], serde_json::from_str::<serde_json::Value>(odd).unwrap());
    }
}

#[test]
fn a_byte_order_mark_does_not_reach_the_hub() {
    let body = uplink("");
    let marked = format!("\u{feff}{body}");
    for format in FORMATS {
        assert_eq!(telemetry_as(&marked, format).body, telemetry_as(&body, format).body);
    }
}
