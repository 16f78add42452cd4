//! What the air adds to an uplink: gateway, data rate, frequency. Made up, in the shape of the real thing.

use serde_json::{Value, json};

use super::device::Uplink;
use super::downlink::{decode, encode};
use super::refusal::{EMULATOR, Refusal};
use super::session::Session;

/// Longest payload of a frame.
pub(super) const MAX_PAYLOAD_BYTES: usize = 255;
/// Longest made-up decoded payload, as JSON text; formatters of the real one make no more.
const MAX_DECODED_BYTES: usize = 64 * 1024;

/// `uplink_message` with the session's next frame counter; without `received_at`.
pub(super) fn uplink_message(session: &mut Session, uplink: &Uplink) -> Result<Value, Refusal> {
    let f_port = uplink.f_port.unwrap_or(1);
    if f_port > 223 {
        return Err(invalid("f_port must be 0 to 223"));
    }
    let payload = match &uplink.frm_payload {
        Some(text) => decode(text).ok_or_else(|| invalid("frm_payload is no base64"))?,
        None => Vec::new(),
    };
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(invalid("frm_payload must have 255 bytes at most"));
    }
    let f_cnt = session.next_f_cnt_up;
    session.next_f_cnt_up = f_cnt.wrapping_add(1);
    let mut body = json!({
        "session_key_id": encode(&session.session_key_id),
        "rx_metadata": [{
            "gateway_ids": { "gateway_id": "emulated-gateway", "eui": "70B3D57ED0FFFFFF" },
            "timestamp": fastrand::u32(1..),
            "rssi": -87,
            "channel_rssi": -87,
            "snr": 9.5,
            "channel_index": 2,
        }],
        "settings": {
            "data_rate": { "lora": { "bandwidth": 125_000, "spreading_factor": 7, "coding_rate": "4/5" } },
            "frequency": "868500000",
            "timestamp": fastrand::u32(1..),
        },
        "consumed_airtime": "0.051456s",
        "network_ids": { "net_id": "000001", "cluster_id": "emulated" },
    });
    if f_port != 0 {
        body["f_port"] = json!(f_port);
        if !payload.is_empty() {
            body["frm_payload"] = json!(encode(&payload));
        }
        if let Some(decoded) = &uplink.decoded_payload {
            let decoded = json!(decoded);
            if decoded.to_string().len() > MAX_DECODED_BYTES {
                return Err(invalid("decoded_payload is over 64 KiB"));
            }
            body["decoded_payload"] = decoded;
        }
    }
    if f_cnt != 0 {
        body["f_cnt"] = json!(f_cnt);
    }
    if uplink.confirmed {
        body["confirmed"] = json!(true);
    }
    Ok(body)
}

fn invalid(message: &str) -> Refusal {
    Refusal::invalid((EMULATOR, "invalid_uplink"), message)
}
