//! A device as the Network Server shows it: what is queued, what waits for its acknowledgement, what was sent last.
//!
//! Changes nothing.

use serde_json::{Map, Value, json};

use super::device::Device;
use super::downlink::{Downlink, encode};
use super::name::end_device_ids;

/// The device with its ids and the fields of the mask: paths with dots; a path means all below it.
pub(super) fn json(device: &Device, mask: &[String]) -> Value {
    let dev_addr = device.session.as_ref().map(|session| session.dev_addr.as_str());
    let whole = whole(device);
    let mut shown = json!({ "ids": end_device_ids(&device.name, &device.euis, dev_addr) });
    for path in mask {
        let parts: Vec<_> = path.split('.').collect();
        copy(&whole, &mut shown, &parts);
    }
    shown
}

fn copy(from: &Value, to: &mut Value, path: &[&str]) {
    let (Some((first, rest)), Value::Object(from), Value::Object(to)) = (path.split_first(), from, to) else {
        return;
    };
    let Some(value) = from.get(*first) else { return };
    if rest.is_empty() {
        to.insert((*first).to_owned(), value.clone());
    } else {
        copy(value, to.entry(*first).or_insert_with(|| Value::Object(Map::new())), rest);
    }
}

fn whole(device: &Device) -> Value {
    let Some(session) = &device.session else { return json!({}) };
    let mut state = json!({ "lorawan_version": "MAC_V1_0_3" });
    if device.class == super::device::Class::C {
        state["device_class"] = json!("CLASS_C");
    }
    if let Some(waiting) = &device.waiting {
        state["pending_application_downlink"] = encrypted(waiting).json();
    }
    if !device.recent.is_empty() {
        state["recent_downlinks"] = device.recent.iter().map(recent).collect();
    }
    let mut shown = json!({
        "dev_addr": session.dev_addr,
        "keys": { "session_key_id": encode(&session.session_key_id) },
        "started_at": session.started_at,
    });
    let counters = [
        ("last_f_cnt_up", session.next_f_cnt_up.saturating_sub(1)),
        ("last_a_f_cnt_down", session.last_f_cnt_down),
    ];
    for (name, counter) in counters.into_iter().filter(|(_, counter)| *counter != 0) {
        shown[name] = json!(counter);
    }
    if !device.queue().is_empty() {
        shown["queued_application_downlinks"] =
            device.queue().iter().map(|item| encrypted(item).json()).collect();
    }
    json!({ "mac_state": state, "session": shown })
}

fn recent(sent: &Downlink) -> Value {
    let kind = if sent.confirmed { "CONFIRMED_DOWN" } else { "UNCONFIRMED_DOWN" };
    let mut message = json!({
        "payload": {
            "m_hdr": { "m_type": kind },
            "mac_payload": { "f_port": sent.f_port, "full_f_cnt": sent.f_cnt },
        },
    });
    if !sent.correlation_ids.is_empty() {
        message["correlation_ids"] = json!(sent.correlation_ids);
    }
    message
}

/// The Network Server never sees a payload in the clear. Nobody can read this one either.
fn encrypted(item: &Downlink) -> Downlink {
    let scramble = |(at, byte): (usize, &u8)| {
        byte ^ item.session_key_id.get(at % item.session_key_id.len().max(1)).copied().unwrap_or(0xA5)
    };
    let frm_payload = item.frm_payload.as_ref().map(|bytes| bytes.iter().enumerate().map(scramble).collect());
    Downlink { frm_payload, decoded_payload: None, ..item.clone() }
}
