//! Bodies that are no message, and fields of any shape.

use proptest::prelude::*;
use tti_connector::azure::MAX_TELEMETRY_BYTES;
use tti_connector::config::TelemetryFormat;
use tti_connector::model::ParkReason;
use tti_connector::things_stack::Envelope;
use tti_connector::uplink::{Translated, translate};

use super::*;

#[test]
fn trap_24_a_body_that_is_no_json_object_is_malformed_and_parked_as_such() {
    for body in ["@", "", "[]", "null", "\"uplink_message\"", "{\"uplink_message\":\"@\"}"] {
        let error = translated(body, TelemetryFormat::Connector).unwrap_err();
        assert_eq!(error.park_reason(), ParkReason::Malformed, "{body}");
    }
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
