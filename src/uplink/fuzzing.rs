//! Fuzz target: a stored message becomes telemetry and reported properties, or a reason why not. Knows no hub.

use serde_json::{Map, Value};

use super::{TranslateError, Translated, patch, reported, translate};
use crate::azure::{MAX_TELEMETRY_BYTES, Telemetry};
use crate::config::TelemetryFormat;
use crate::model::EndDevice;
use crate::model::fuzzing::{fit_to_show, is_json};

/// 2025-03-14T07:00:00Z.
const RECEIVED_MS: i64 = 1_741_935_600_000;
const FORMATS: [TelemetryFormat; 3] =
    [TelemetryFormat::Connector, TelemetryFormat::ThingsStack, TelemetryFormat::Decoded];

/// In every format: the same each time, JSON, and no more than IoT Hub takes.
pub(crate) fn telemetry(body: &[u8]) {
    let device = EndDevice::new("tenant", "application", "device").expect("three good ids");
    for format in FORMATS {
        let translated = translate(body, &device, RECEIVED_MS, format);
        assert_eq!(translated, translate(body, &device, RECEIVED_MS, format));
        match translated {
            Ok(Translated::Telemetry { telemetry, dev_eui, trimmed }) => {
                assert_sound(&telemetry);
                assert!(dev_eui.is_none_or(|eui| eui.len() == 16));
                assert!(!trimmed || format == TelemetryFormat::ThingsStack);
            }
            Ok(Translated::Skipped(reason)) => fit_to_show(&reason.to_string(), 100),
            Err(TranslateError::TooLarge { bytes }) => assert!(bytes > MAX_TELEMETRY_BYTES),
            Err(error @ TranslateError::Malformed(_)) => fit_to_show(&error.to_string(), 300),
        }
    }
}

/// What the uplink reports, and what reports it after `before`: applied to `before` it gives exactly that.
pub(crate) fn twin_patch(
    before: &Map<String, Value>,
    body: &[u8],
) -> Option<(Map<String, Value>, Map<String, Value>)> {
    let now = reported(body, RECEIVED_MS).ok()?;
    let change = patch(before, &now);
    Some((now, change))
}

pub(crate) fn assert_sound(telemetry: &Telemetry) {
    assert!(telemetry.counted_bytes() <= MAX_TELEMETRY_BYTES);
    assert!(is_json(&telemetry.body), "telemetry is no JSON");
    assert!(telemetry.message_id.len() == 32 && telemetry.message_id.bytes().all(|b| b.is_ascii_hexdigit()));
    for (at, (name, value)) in telemetry.properties.iter().enumerate() {
        assert!(telemetry.properties[..at].iter().all(|(other, _)| other != name), "{name} comes twice");
        assert!(!value.chars().any(char::is_control), "{name} holds a control character");
    }
    let created = telemetry.properties.iter().find(|(name, _)| *name == "iothub-creation-time-utc");
    assert!(created.is_some_and(|(_, time)| time.len() == 24 && time.ends_with('Z')), "{created:?}");
}
