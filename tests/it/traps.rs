//! The known traps of The Things Stack, one test each, named by number and by what it guards.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod any_input;
#[cfg(feature = "emulator")]
mod downlink_secrets;
#[cfg(feature = "emulator")]
mod downlinks;
#[cfg(feature = "emulator")]
mod end_to_end;
mod identity;
#[cfg(feature = "emulator")]
mod iot_hub;
mod size;
mod translation;

use tti_connector::azure::Telemetry;
use tti_connector::config::TelemetryFormat;
use tti_connector::model::EndDevice;
use tti_connector::things_stack::Envelope;
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
