//! From an uplink to reported twin properties. Pure. Knows no pace and no hub.
//!
//! IoT Hub refuses a whole patch for one name or value it does not take, so what would be refused is mended or left out.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::things_stack::{EnvelopeError, Uplink};

/// IoT Hub takes 32 KB of reported properties; acknowledgements of desired ones need room beside ours.
const MAX_BYTES: usize = 24 * 1024;
/// IoT Hub takes ten levels; ours begin below `decodedPayload`.
const MAX_DEPTH: usize = 8;
/// Longest text value IoT Hub takes, in bytes.
const MAX_TEXT_BYTES: usize = 4096;
/// Longest name IoT Hub takes, in bytes.
const MAX_NAME_BYTES: usize = 1024;
/// Largest whole number that IoT Hub takes, either sign.
const MAX_WHOLE: i64 = 4_503_599_627_370_495;

/// What telemetry does not need of an uplink.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Beside {
    uplink_message: Message,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    version_ids: Map<String, Value>,
    locations: Map<String, Value>,
    last_battery_percentage: Value,
}

/// The reported properties that an uplink gives:
/// `lastSeenAt` (ISO 8601 UTC, as the telemetry's creation time), `devEui`, `fPort`, `frameCounter`,
/// `signal` {`rssi` dBm, `snr` dB, `gatewayId`} of the best gateway, `battery` (percent), `location` {`latitude`,
/// `longitude`, `altitude`, `source`}, `versions` (brand, model, hardware, firmware, band, and this `connector`), and
/// `decodedPayload`. Those that the uplink does not tell are left out.
///
/// # Errors
/// The body is no message of The Things Stack.
pub fn reported(body: &[u8], received_ms: i64) -> Result<Map<String, Value>, EnvelopeError> {
    let uplink = Uplink::parse(body)?;
    // Nested deeper than JSON usually is, or of other types: then these few are left out.
    let Beside { uplink_message: beside } = serde_json::from_slice(body).unwrap_or_default();
    let mut properties = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            properties.insert(name.to_owned(), value);
        }
    };
    let seen = Timestamp::from_millisecond(uplink.received_ms(received_ms)).unwrap_or(Timestamp::UNIX_EPOCH);
    set("lastSeenAt", Some(json!(format!("{seen:.3}"))));
    set("devEui", uplink.envelope.dev_eui.as_deref().and_then(text));
    set("fPort", uplink.envelope.f_port.map(Value::from));
    set("frameCounter", Some(uplink.envelope.f_cnt.into()));
    if let Some(best) = uplink.best_gateway() {
        let mut signal = Map::new();
        for (name, value) in [
            ("rssi", best.rssi.map(Value::from)),
            ("snr", best.snr.map(Value::from)),
            ("gatewayId", best.gateway_id.as_deref().and_then(text)),
        ] {
            signal.extend(value.map(|value| (name.to_owned(), value)));
        }
        set("signal", Some(signal.into()));
    }
    set("battery", battery(&beside.last_battery_percentage));
    set("location", location(&beside.locations));
    set("versions", Some(versions(&beside.version_ids)));
    let decoded = uplink.decoded_payload.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    if let Some(Value::Object(decoded)) = decoded {
        let mended = mended(Value::Object(decoded), 0).unwrap_or(Value::Null);
        if mended.to_string().len() <= MAX_BYTES {
            set("decodedPayload", Some(mended));
        }
    }
    Ok(properties)
}

/// What to send so that `now` takes the place of `before`: a patch merges, so what is gone must be named with `null`.
pub fn patch(before: &Map<String, Value>, now: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = now.clone();
    for (name, old) in before {
        match (patch.get_mut(name), old) {
            (None, _) => {
                patch.insert(name.clone(), Value::Null);
            }
            (Some(Value::Object(inner)), Value::Object(old)) => *inner = self::patch(old, inner),
            (Some(_), _) => {}
        }
    }
    patch
}

fn text(text: &str) -> Option<Value> {
    (text.len() <= MAX_TEXT_BYTES).then(|| text.into())
}

/// `{"value": 87.5, …}`, as newer versions of The Things Stack write it; a plain number too.
fn battery(given: &Value) -> Option<Value> {
    let number = given.get("value").unwrap_or(given);
    number.as_f64().filter(|percent| (0.0..=100.0).contains(percent)).map(Value::from)
}

/// The place somebody entered, else the one in the payload, else any that was computed.
fn location(locations: &Map<String, Value>) -> Option<Value> {
    let place = ["user", "frm-payload"].iter().find_map(|source| locations.get(*source));
    let place = place.or_else(|| locations.values().next())?.as_object()?;
    let coordinates =
        ["latitude", "longitude", "altitude"].map(|name| (name, place.get(name).filter(|v| v.is_number())));
    let mut location: Map<String, Value> =
        coordinates.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone()))).collect();
    // Absent is zero, but a place without either is none.
    if !location.contains_key("latitude") && !location.contains_key("longitude") {
        return None;
    }
    location
        .extend(place.get("source").and_then(Value::as_str).and_then(text).map(|s| ("source".to_owned(), s)));
    Some(location.into())
}

fn versions(ids: &Map<String, Value>) -> Value {
    let mut versions = Map::new();
    for (id, name) in [
        ("brand_id", "brand"),
        ("model_id", "model"),
        ("hardware_version", "hardware"),
        ("firmware_version", "firmware"),
        ("band_id", "band"),
    ] {
        versions
            .extend(ids.get(id).and_then(Value::as_str).and_then(text).map(|value| (name.to_owned(), value)));
    }
    versions.insert("connector".to_owned(), env!("CARGO_PKG_VERSION").into());
    versions.into()
}

/// A value as IoT Hub takes it; `None` if it can't be one. `null` would remove a property, so it is left out too.
fn mended(value: Value, depth: usize) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) if (-MAX_WHOLE..=MAX_WHOLE).contains(&whole) => Some(number.into()),
            None if !number.is_u64() => Some(number.into()),
            Some(_) | None => Some(number.to_string().into()),
        },
        Value::String(given) => text(&given),
        Value::Array(_) | Value::Object(_) if depth >= MAX_DEPTH => None,
        // A null within an array has no meaning to a patch, and IoT Hub refuses it.
        Value::Array(items) => Some(items.into_iter().filter_map(|item| mended(item, depth + 1)).collect()),
        Value::Object(fields) => Some(Value::Object(
            fields
                .into_iter()
                .filter_map(|(name, value)| Some((mended_name(&name)?, mended(value, depth + 1)?)))
                .collect(),
        )),
    }
}

/// Dots, dollar signs, spaces and control characters become `_`.
fn mended_name(name: &str) -> Option<String> {
    let mended = name.replace(|c: char| matches!(c, '.' | '$' | ' ') || c.is_control(), "_");
    (1..=MAX_NAME_BYTES).contains(&mended.len()).then_some(mended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uplink_message: &Value) -> Map<String, Value> {
        let body =
            json!({"end_device_ids": {"dev_eui": "70B3D57ED005A1C1"}, "uplink_message": uplink_message});
        reported(body.to_string().as_bytes(), 1_772_366_400_000).expect("an uplink")
    }

    #[test]
    fn an_uplink_gives_what_it_knows() {
        let properties = of(&json!({
            "f_port": 2, "f_cnt": 7, "decoded_payload": {"temperature": 21.5, "on": true},
            "rx_metadata": [{"gateway_ids": {"gateway_id": "roof"}, "rssi": -97, "snr": 8.5}],
            "last_battery_percentage": {"f_cnt": 5, "value": 87.5},
            "locations": {"frm-payload": {"latitude": 1.5, "longitude": 2.5}, "user": {"latitude": 48.25, "altitude": 281, "source": "SOURCE_REGISTRY"}},
            "version_ids": {"brand_id": "acme", "firmware_version": "1.1", "other": "x"},
        }));
        assert_eq!(
            Value::from(properties),
            json!({
                "lastSeenAt": "2026-03-01T12:00:00.000Z", "devEui": "70B3D57ED005A1C1", "fPort": 2, "frameCounter": 7,
                "signal": {"rssi": -97.0, "snr": 8.5, "gatewayId": "roof"}, "battery": 87.5,
                "location": {"latitude": 48.25, "altitude": 281, "source": "SOURCE_REGISTRY"},
                "versions": {"brand": "acme", "firmware": "1.1", "connector": env!("CARGO_PKG_VERSION")},
                "decodedPayload": {"temperature": 21.5, "on": true},
            })
        );
        let bare = of(&json!({"f_port": 1}));
        assert_eq!(
            bare.keys().collect::<Vec<_>>(),
            ["devEui", "fPort", "frameCounter", "lastSeenAt", "versions"]
        );
    }

    #[test]
    fn what_iot_hub_would_refuse_is_mended_or_left_out() {
        let deep = (0..20).fold(json!(1), |inner, _| json!({ "in": inner }));
        let properties = of(&json!({"decoded_payload": {
            "air.temp °C": 1, "$x": 2, "": 3, "none": null, "long": "x".repeat(5000), "id": 9_007_199_254_740_993_i64,
            "huge": u64::MAX, "list": [1, null, {"a b": 2}], "deep": deep, "n": 1.5e300,
        }}));
        let decoded = &properties["decodedPayload"];
        assert_eq!(decoded["air_temp_°C"], 1);
        assert_eq!(decoded["_x"], 2);
        assert_eq!(decoded["id"], "9007199254740993");
        assert_eq!(decoded["huge"], "18446744073709551615");
        assert_eq!(decoded["list"], json!([1, {"a_b": 2}]));
        assert_eq!(decoded["n"], 1.5e300);
        for gone in ["", "none", "long"] {
            assert_eq!(decoded.get(gone), None, "{gone}");
        }
        let too_large = of(&json!({"decoded_payload": {"a": vec!["x".repeat(4000); 7]}}));
        assert!(!too_large.contains_key("decodedPayload"));
    }

    #[test]
    fn a_body_nested_ten_thousand_deep_gives_what_can_be_read() {
        let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        let body = format!(r#"{{"uplink_message":{{"f_port":3,"decoded_payload":{{"a":{nested}}}}}}}"#);
        let properties = reported(body.as_bytes(), 0).expect("an uplink");
        assert_eq!(properties["fPort"], 3);
        assert!(!properties.contains_key("decodedPayload"));
    }

    #[test]
    fn a_patch_names_what_is_gone() {
        let map = |value: Value| value.as_object().cloned().expect("an object");
        let before = map(json!({"a": 1, "b": {"c": 1, "d": {"e": 1}}, "f": {"g": 1}}));
        let now = map(json!({"b": {"d": {"h": 2}}, "f": 3}));
        let expected = json!({"a": null, "b": {"c": null, "d": {"e": null, "h": 2}}, "f": 3});
        assert_eq!(Value::from(patch(&before, &now)), expected);
        assert_eq!(patch(&Map::new(), &now), now);
    }
}
