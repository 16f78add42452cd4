//! Every file in `payloads/` against its expected telemetry in `payloads/expected/`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test it payloads::` writes the expected files anew; read the difference before you
//! commit it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tti_connector::config::TelemetryFormat;
use tti_connector::model::EndDevice;
use tti_connector::things_stack::{Envelope, Kind};
use tti_connector::uplink::{Translated, translate};

/// 2025-03-14T07:00:00.000Z: when the payloads are taken to have reached us.
const RECEIVED_MS: i64 = 1_741_935_600_000;

/// Payloads that are also held against the other formats.
const OTHER_FORMATS: [&str; 3] =
    ["uplink_message", "uplink_message_raw_only", "uplink_message_nested_decoded"];

#[derive(Serialize, Deserialize)]
struct Golden {
    telemetry: Option<GoldenTelemetry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct GoldenTelemetry {
    #[serde(rename = "messageId")]
    message_id: String,
    properties: BTreeMap<String, String>,
    /// Compared byte for byte.
    body: Box<RawValue>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("payloads")
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn body(name: &str) -> Vec<u8> {
    fs::read(folder().join(name).with_extension("json")).unwrap()
}

/// Name of the expected file, payload and format.
fn cases() -> Vec<(String, String, TelemetryFormat)> {
    let connector = names(&folder()).into_iter().map(|name| (name.clone(), name, TelemetryFormat::Connector));
    let others = OTHER_FORMATS.into_iter().flat_map(|name| {
        [
            (format!("{name}.things_stack"), name.to_owned(), TelemetryFormat::ThingsStack),
            (format!("{name}.decoded"), name.to_owned(), TelemetryFormat::Decoded),
        ]
    });
    connector.chain(others).collect()
}

fn actual(body: &[u8], format: TelemetryFormat) -> Golden {
    let envelope = Envelope::parse(body).unwrap();
    let (application, device) = (envelope.application_id.unwrap(), envelope.device_id.unwrap());
    let device = EndDevice::new("", &application, &device).unwrap();
    match translate(body, &device, RECEIVED_MS, format).unwrap() {
        Translated::Telemetry { telemetry, dev_eui, trimmed } => {
            assert!(!trimmed);
            let property = telemetry.properties.iter().find(|(name, _)| *name == "DeviceEUI");
            assert_eq!(property.map(|(_, value)| value), dev_eui.as_ref());
            let count = telemetry.properties.len();
            let properties: BTreeMap<_, _> =
                telemetry.properties.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            assert_eq!(properties.len(), count, "a property comes twice");
            let body = String::from_utf8(telemetry.body.to_vec()).unwrap().trim_end().to_owned();
            let body = RawValue::from_string(body).unwrap();
            let telemetry = GoldenTelemetry { message_id: telemetry.message_id, properties, body };
            Golden { telemetry: Some(telemetry), reason: None }
        }
        Translated::Skipped(reason) => Golden { telemetry: None, reason: Some(reason.to_string()) },
    }
}

#[test]
fn every_payload_gives_its_expected_telemetry() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for (expected, payload, format) in cases() {
        let path = folder().join("expected").join(format!("{expected}.json"));
        let actual = serde_json::to_string_pretty(&actual(&body(&payload), format)).unwrap() + "\n";
        if update {
            fs::write(&path, &actual).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(actual, golden, "{expected}");
    }
}

#[test]
fn no_expected_file_is_left_over() {
    let wanted: BTreeSet<String> = cases().into_iter().map(|(expected, ..)| expected).collect();
    assert_eq!(names(&folder().join("expected")), wanted);
}

#[test]
fn every_kind_has_a_payload_named_after_it() {
    for kind in Kind::ALL {
        assert_eq!(Envelope::parse(&body(kind.as_str())).unwrap().kind, kind);
    }
    for name in names(&folder()) {
        let kind = Envelope::parse(&body(&name)).unwrap().kind;
        assert!(name.starts_with(kind.as_str()), "{name} holds {kind}");
    }
}

#[test]
fn payloads_are_in_the_current_wire_format() {
    // These show older or looser spellings on purpose.
    let loose =
        ["uplink_message_enums_as_numbers", "uplink_message_old_settings", "uplink_message_simulated"];
    for name in names(&folder()).iter().filter(|name| !loose.contains(&name.as_str())) {
        let text = String::from_utf8(body(name)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        // A decoded payload and an unknown kind belong to somebody else.
        let mut trouble = Vec::new();
        wire_trouble("", &json, &mut trouble);
        assert!(trouble.is_empty(), "{name}: {trouble:?}");
    }
}

fn wire_trouble(path: &str, value: &serde_json::Value, trouble: &mut Vec<String>) {
    use serde_json::Value;
    let field = path.rsplit('.').next().unwrap_or_default();
    if ["decoded_payload", "normalized_payload", "data", "device_rested"].contains(&field) {
        return;
    }
    match value {
        Value::Null | Value::Bool(false) => trouble.push(format!("{path} is zero and must be left out")),
        Value::Number(number) if number.as_f64() == Some(0.0) => trouble.push(format!("{path} is zero")),
        Value::Number(_) if ["frequency", "frequency_offset", "fine_timestamp"].contains(&field) => {
            trouble.push(format!("{path} has 64 bits and must be a text"));
        }
        Value::String(text) if text.is_empty() => trouble.push(format!("{path} is empty")),
        Value::String(text) if field == "received_at" || field == "time" => {
            let digits = text.trim_end_matches('Z').split_once('.').map_or(0, |(_, digits)| digits.len());
            let parses = text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z');
            if !parses || ![0, 3, 6, 9].contains(&digits) {
                trouble.push(format!("{path} is no time as on the wire"));
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| wire_trouble(path, item, trouble));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| wire_trouble(&format!("{path}.{name}"), value, trouble));
        }
        Value::Bool(true) | Value::Number(_) | Value::String(_) => {}
    }
}
