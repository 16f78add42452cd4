//! The traps that reading and translating a message can fall into; they need no wire.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

use proptest::prelude::*;
use tti_connector::azure::{MAX_TELEMETRY_BYTES, Telemetry};
use tti_connector::config::TelemetryFormat;
use tti_connector::model::{EndDevice, ParkReason};
use tti_connector::things_stack::{Envelope, Kind};
use tti_connector::uplink::{SkipReason, TranslateError, Translated, translate};

/// 2025-03-14T07:00:00.000Z
const RECEIVED_MS: i64 = 1_741_935_600_000;
const FORMATS: [TelemetryFormat; 3] =
    [TelemetryFormat::Connector, TelemetryFormat::ThingsStack, TelemetryFormat::Decoded];

fn device() -> EndDevice {
    EndDevice::new("", "vineyard", "cellar").unwrap()
}

fn translated(body: &str, format: TelemetryFormat) -> Result<Translated, TranslateError> {
    translate(body.as_bytes(), &device(), RECEIVED_MS, format)
}

/// The telemetry in the default format.
fn telemetry(body: &str) -> Telemetry {
    telemetry_as(body, TelemetryFormat::Connector)
}

fn telemetry_as(body: &str, format: TelemetryFormat) -> Telemetry {
    match translated(body, format).unwrap() {
        Translated::Telemetry { telemetry, .. } => telemetry,
        Translated::Skipped(reason) => panic!("{reason}: {body}"),
    }
}

fn skipped(body: &str) -> SkipReason {
    match translated(body, TelemetryFormat::Connector).unwrap() {
        Translated::Skipped(reason) => reason,
        Translated::Telemetry { .. } => panic!("telemetry from {body}"),
    }
}

fn json(telemetry: &Telemetry) -> serde_json::Value {
    serde_json::from_slice(&telemetry.body).unwrap()
}

fn property<'t>(telemetry: &'t Telemetry, name: &str) -> Option<&'t str> {
    telemetry.properties.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
}

/// An uplink with FPort 2 and these further fields of `uplink_message`.
fn uplink(fields: &str) -> String {
    format!(r#"{{"uplink_message":{{"f_port":2{}{fields}}}}}"#, if fields.is_empty() { "" } else { "," })
}

fn dedup_key(device: &EndDevice, body: &str) -> [u8; 16] {
    Envelope::parse(body.as_bytes()).unwrap().dedup_key(device, body.as_bytes())
}

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
fn trap_2_an_absent_f_cnt_is_zero_in_the_dedup_key_and_the_session_is_part_of_it() {
    let first = dedup_key(&device(), &uplink(r#""session_key_id":"AQ==""#));
    assert_eq!(dedup_key(&device(), &uplink(r#""session_key_id":"AQ==","f_cnt":0"#)), first);
    assert_ne!(dedup_key(&device(), &uplink(r#""session_key_id":"AQ==","f_cnt":1"#)), first);
    assert_ne!(dedup_key(&device(), &uplink(r#""session_key_id":"Ag==""#)), first, "joined again");
    assert_eq!(json(&telemetry(&uplink("")))["FrameCounter"], 0);
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

#[test]
fn trap_24_non_ascii_values_arrive_as_they_were() {
    let decoded = r#"{"Ort":"Weißenkirchen","unit":"°C","ฝน":"ตก","esc":"\u00e9\ud83c\udf47"}"#;
    let body = uplink(&format!(r#""decoded_payload":{decoded}"#));
    assert_eq!(telemetry_as(&body, TelemetryFormat::Decoded).body, decoded.as_bytes());
    assert_eq!(telemetry_as(&body, TelemetryFormat::ThingsStack).body, body.as_bytes());
    assert!(std::str::from_utf8(&telemetry(&body).body).unwrap().contains(decoded));
}

#[test]
fn trap_24_a_body_that_is_no_json_object_is_malformed_and_parked_as_such() {
    for body in ["@", "", "[]", "null", "\"uplink_message\"", "{\"uplink_message\":\"@\"}"] {
        let error = translated(body, TelemetryFormat::Connector).unwrap_err();
        assert_eq!(error.park_reason(), ParkReason::Malformed, "{body}");
    }
}

/// An uplink of two gateways with tokens, `pad` bytes of them in the second, and `decoded` bytes decoded.
fn large(token: usize, pad: usize, decoded: usize) -> String {
    let (token, pad, decoded) = ("t".repeat(token), "p".repeat(pad), "d".repeat(decoded));
    uplink(&format!(
        r#""rx_metadata":[{{"gateway_ids":{{"gateway_id":"best"}},"snr":9,"uplink_token":"{token}"}},
        {{"gateway_ids":{{"gateway_id":"far"}},"snr":-9,"pad":"{pad}","uplink_token":"{token}"}}],
        "decoded_payload":{{"d":"{decoded}"}}"#
    ))
}

#[test]
fn trap_29_gateway_metadata_is_trimmed_step_by_step_until_it_fits() {
    let limit = MAX_TELEMETRY_BYTES;
    let bare = telemetry_as(&uplink(r#""decoded_payload":{"d":""}"#), TelemetryFormat::ThingsStack);
    let spare = limit - bare.counted_bytes();
    for (token, pad, decoded, kept) in [
        (10, 0, 0, vec![("best", true), ("far", true)]),
        (limit, 0, 0, vec![("best", false), ("far", false)]),
        (10, limit, 0, vec![("best", false)]),
        (10, limit, spare, vec![]),
    ] {
        let body = large(token, pad, decoded);
        let Translated::Telemetry { telemetry, trimmed, .. } =
            translated(&body, TelemetryFormat::ThingsStack).unwrap()
        else {
            panic!("skipped");
        };
        assert!(telemetry.counted_bytes() <= limit);
        assert_eq!(trimmed, kept != [("best", true), ("far", true)]);
        let read = json(&telemetry);
        assert_eq!(read["uplink_message"]["decoded_payload"]["d"].as_str().map(str::len), Some(decoded));
        let gateways = read["uplink_message"]["rx_metadata"].as_array().cloned().unwrap_or_default();
        let gateways: Vec<_> = gateways
            .iter()
            .map(|gateway| {
                (
                    gateway["gateway_ids"]["gateway_id"].as_str().unwrap(),
                    gateway.get("uplink_token").is_some(),
                )
            })
            .collect();
        assert_eq!(gateways, kept);
    }
}

#[test]
fn trap_29_what_gateway_metadata_did_not_make_too_large_is_parked() {
    let body = large(10, 10, MAX_TELEMETRY_BYTES);
    for format in FORMATS {
        let error = translated(&body, format).unwrap_err();
        assert_eq!(error.park_reason(), ParkReason::TooLarge);
    }
    // Many gateways do not count where their list is not sent.
    let body = large(MAX_TELEMETRY_BYTES, MAX_TELEMETRY_BYTES, 10);
    assert!(telemetry(&body).body.len() < 1000);
}

#[test]
fn trap_29_the_limit_is_met_to_the_byte() {
    let spare = MAX_TELEMETRY_BYTES - telemetry(&uplink(r#""decoded_payload":{"d":""}"#)).counted_bytes();
    let of = |length: usize| uplink(&format!(r#""decoded_payload":{{"d":"{}"}}"#, "d".repeat(length)));
    assert_eq!(telemetry(&of(spare)).counted_bytes(), MAX_TELEMETRY_BYTES);
    let bytes = MAX_TELEMETRY_BYTES + 1;
    assert_eq!(
        translated(&of(spare + 1), TelemetryFormat::Connector),
        Err(TranslateError::TooLarge { bytes })
    );
}

#[test]
fn trap_30_broken_json_is_malformed_and_says_where() {
    let missing_comma =
        "{\n  \"received_at\": \"2025-03-14T06:52:31Z\"\n  \"uplink_message\": {\"f_port\": 1}\n}";
    let error = Envelope::parse(missing_comma.as_bytes()).unwrap_err();
    assert_eq!((error.line, error.column), (3, 3));
    assert!(!error.to_string().contains("2025"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_translation_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in FORMATS {
            let _ = translate(&bytes, &device(), RECEIVED_MS, format);
        }
    }

    #[test]
    fn no_value_in_any_field_makes_translation_panic(
        field in prop::sample::select(vec![
            "f_port", "f_cnt", "session_key_id", "frm_payload", "decoded_payload", "rx_metadata", "received_at",
        ]),
        value in prop_oneof![
            "-?[0-9]{1,25}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,4})?",
            "\"[ -!#-\\[\\]-~äß]{0,30}\"",
            "\\[{0,200}",
            prop::sample::select(vec!["null", "true", "{}", "[]", "[{}]", "{\"snr\":1e400}", "[{\"snr\":1e308}]"])
                .prop_map(str::to_owned),
        ],
    ) {
        for format in FORMATS {
            if let Ok(Translated::Telemetry { telemetry, .. }) =
                translated(&uplink(&format!("\"{field}\":{value}")), format)
            {
                prop_assert!(telemetry.counted_bytes() <= MAX_TELEMETRY_BYTES);
                let time = property(&telemetry, "iothub-creation-time-utc").unwrap();
                prop_assert!(time.len() == 24 && time.ends_with('Z'), "{}", time);
            }
        }
    }
}
