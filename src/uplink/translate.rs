//! From an uplink of The Things Stack to telemetry for IoT Hub: body, application properties, message id.
//!
//! Pure: one body in, one message out. Knows no spool, no HTTP and no AMQP.

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::azure::{MAX_TELEMETRY_BYTES, Telemetry};
use crate::config::TelemetryFormat;
use crate::model::{EndDevice, Lane, ParkReason, dev_eui, hex, iso_utc};
use crate::things_stack::{EnvelopeError, Kind, Reception, Trim, Uplink, trim_gateways};

/// What became of a stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translated {
    /// To be sent.
    Telemetry {
        /// The message for the hub.
        telemetry: Telemetry,
        /// The DevEUI, 16 upper-case hexadecimal digits, when the message told it.
        dev_eui: Option<String>,
        /// Gateway metadata was left out to stay under IoT Hub's limit.
        trimmed: bool,
    },
    /// Nothing to send.
    Skipped(SkipReason),
}

/// Why a message needs no telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// An uplink without FPort carries MAC commands alone.
    NoFPort,
    /// Only `uplink_message` becomes telemetry; the others report on downlinks, or repeat what an uplink says.
    Kind(Kind),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFPort => f.write_str("uplink without FPort"),
            Self::Kind(kind) => write!(f, "{kind} carries no telemetry"),
        }
    }
}

/// Why an uplink can't become telemetry. Neither gets better by trying again: park it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TranslateError {
    /// It could be read when it was stored, so an older version stored it, or the disk changed it.
    #[error("the stored body can't be read as an uplink: {0}")]
    Malformed(#[from] EnvelopeError),
    /// Too large even without gateway metadata.
    #[error(
        "telemetry would have {bytes} bytes, IoT Hub takes {MAX_TELEMETRY_BYTES}; gateway metadata is not the cause"
    )]
    TooLarge {
        /// Its size, as IoT Hub counts it, in the smallest form.
        bytes: usize,
    },
}

impl TranslateError {
    /// Under which reason the message is parked.
    pub const fn park_reason(&self) -> ParkReason {
        match self {
            Self::Malformed(_) => ParkReason::Malformed,
            Self::TooLarge { .. } => ParkReason::TooLarge,
        }
    }
}

/// The telemetry of a stored message.
///
/// `body` is the message as posted, `device` whose it is (its ids come from there, for a field mask may have
/// stripped them from the body), `received_ms` our time of receipt in milliseconds since 1970 UTC.
///
/// The body of the telemetry, by format:
/// - `connector`: an object of `ApplicationID`, `DeviceID`, `DeviceEUI` (left out when unknown), `Port`, `Simulated`
///   (true or false), `ReceivedAtUtc` (the creation time), `PayloadRaw` (base64 as received, `""` for an empty
///   payload), `PayloadDecoded` (byte for byte, left out when not decoded), `FrameCounter`, and of the best gateway
///   `Rssi` (dBm), `Snr` (dB) and `GatewayID`, each left out when unknown. See [`Uplink::best_gateway`].
/// - `things_stack`: the message byte for byte, unless it has to be trimmed.
/// - `decoded`: the decoded object byte for byte. Where there is none (no formatter, or it failed this once), the
///   `connector` body takes its place: the raw payload is not lost, and IoT Central files what its model does not
///   name under unmodeled data.
///
/// Application properties: `iothub-creation-time-utc` (see [`Uplink::received_ms`]), `ApplicationId`, `DeviceEUI`
/// (left out when unknown), `DeviceId`, `port`, `Simulated` (`True` or `False`).
///
/// The message id is the uplink's dedup key as 32 hexadecimal digits, so it stays the same however often the uplink
/// is posted or sent. It has no dashes, because some SDKs turn text in the shape of a UUID into another AMQP type.
///
/// # Errors
/// [`TranslateError`], each for good.
pub fn translate(
    body: &[u8],
    device: &EndDevice,
    received_ms: i64,
    format: TelemetryFormat,
) -> Result<Translated, TranslateError> {
    translate_in(body, &Lane::live(device.clone()), received_ms, format)
}

/// The same for a message in one of its device's lanes. A backfilled one has the application property `Backfilled`
/// with the value `true` besides: it comes after later ones of its device.
///
/// # Errors
/// [`TranslateError`], each for good.
pub fn translate_in(
    body: &[u8],
    lane: &Lane,
    received_ms: i64,
    format: TelemetryFormat,
) -> Result<Translated, TranslateError> {
    let device = &lane.device;
    let uplink = Uplink::parse(body)?;
    let envelope = &uplink.envelope;
    if envelope.kind != Kind::UplinkMessage {
        return Ok(Translated::Skipped(SkipReason::Kind(envelope.kind)));
    }
    let Some(port) = envelope.f_port else {
        return Ok(Translated::Skipped(SkipReason::NoFPort));
    };
    let dev_eui = envelope.dev_eui.as_deref().and_then(dev_eui);
    let created = iso_utc(uplink.received_ms(received_ms));

    let decoded_object = uplink.decoded_payload.filter(|raw| raw.get().starts_with('{'));
    let telemetry_body = match (format, decoded_object) {
        (TelemetryFormat::ThingsStack, _) => Bytes::copy_from_slice(without_mark(body)),
        (TelemetryFormat::Decoded, Some(decoded)) => Bytes::copy_from_slice(decoded.get().as_bytes()),
        (TelemetryFormat::Decoded, None) | (TelemetryFormat::Connector, _) => {
            connector_body(&uplink, device, dev_eui.as_deref(), port, &created)?
        }
    };

    let mut properties = Vec::with_capacity(7);
    properties.push(("iothub-creation-time-utc", created));
    properties.push(("ApplicationId", device.application_id().to_owned()));
    if let Some(dev_eui) = &dev_eui {
        properties.push(("DeviceEUI", dev_eui.clone()));
    }
    properties.push(("DeviceId", device.device_id().to_owned()));
    properties.push(("port", port.to_string()));
    properties.push(("Simulated", if envelope.simulated { "True" } else { "False" }.to_owned()));

    if lane.backfilled {
        properties.push(("Backfilled", "true".to_owned()));
    }

    let message_id = hex(envelope.dedup_key(device, body));
    let mut telemetry = Telemetry { body: telemetry_body, message_id, correlation_id: None, properties };
    let trimmed = fit(&mut telemetry, body, format)?;
    Ok(Translated::Telemetry { telemetry, dev_eui, trimmed })
}

/// Leaves out gateway metadata, step by step, until the message fits. True if any was left out.
fn fit(telemetry: &mut Telemetry, body: &[u8], format: TelemetryFormat) -> Result<bool, TranslateError> {
    if telemetry.counted_bytes() <= MAX_TELEMETRY_BYTES {
        return Ok(false);
    }
    match format {
        TelemetryFormat::ThingsStack => {
            for step in Trim::STEPS {
                telemetry.body = trim_gateways(body, step)?.into();
                if telemetry.counted_bytes() <= MAX_TELEMETRY_BYTES {
                    return Ok(true);
                }
            }
        }
        // These hold no list of gateways.
        TelemetryFormat::Connector | TelemetryFormat::Decoded => {}
    }
    Err(TranslateError::TooLarge { bytes: telemetry.counted_bytes() })
}

#[derive(Serialize)]
struct Connector<'a> {
    #[serde(rename = "ApplicationID")]
    application_id: &'a str,
    #[serde(rename = "DeviceID")]
    device_id: &'a str,
    #[serde(rename = "DeviceEUI", skip_serializing_if = "Option::is_none")]
    device_eui: Option<&'a str>,
    #[serde(rename = "Port")]
    port: u32,
    #[serde(rename = "Simulated")]
    simulated: bool,
    #[serde(rename = "ReceivedAtUtc")]
    received_at_utc: &'a str,
    #[serde(rename = "PayloadRaw")]
    payload_raw: &'a str,
    #[serde(rename = "PayloadDecoded", skip_serializing_if = "Option::is_none")]
    payload_decoded: Option<&'a RawValue>,
    #[serde(rename = "FrameCounter")]
    frame_counter: u32,
    #[serde(rename = "Rssi", skip_serializing_if = "Option::is_none", serialize_with = "plain_number")]
    rssi: Option<f64>,
    #[serde(rename = "Snr", skip_serializing_if = "Option::is_none", serialize_with = "plain_number")]
    snr: Option<f64>,
    #[serde(rename = "GatewayID", skip_serializing_if = "Option::is_none")]
    gateway_id: Option<&'a str>,
}

fn connector_body(
    uplink: &Uplink<'_>,
    device: &EndDevice,
    dev_eui: Option<&str>,
    port: u32,
    created: &str,
) -> Result<Bytes, EnvelopeError> {
    let Reception { gateway_id, rssi, snr } = uplink.best_gateway().unwrap_or_default();
    let body = serde_json::to_vec(&Connector {
        application_id: device.application_id(),
        device_id: device.device_id(),
        device_eui: dev_eui,
        port,
        simulated: uplink.envelope.simulated,
        received_at_utc: created,
        payload_raw: uplink.frm_payload.as_deref().unwrap_or_default(),
        payload_decoded: uplink.decoded_payload,
        frame_counter: uplink.envelope.f_cnt,
        rssi,
        snr,
        gateway_id: gateway_id.as_deref(),
    })?;
    Ok(body.into())
}

/// -97 as `-97`, as The Things Stack writes it, not as `-97.0`.
#[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
#[expect(clippy::ref_option, reason = "serde's signature")]
fn plain_number<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match number {
        Some(number) if number.fract() == 0.0 && number.abs() < 1e9 => {
            serializer.serialize_i64(*number as i64)
        }
        Some(number) => serializer.serialize_f64(*number),
        None => serializer.serialize_none(),
    }
}

fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}
