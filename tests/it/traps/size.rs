//! IoT Hub's limit of 256 KB, and what makes way for it.

use tti_connector::azure::MAX_TELEMETRY_BYTES;
use tti_connector::config::TelemetryFormat;
use tti_connector::model::ParkReason;
use tti_connector::uplink::{TranslateError, Translated};

use super::*;

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
