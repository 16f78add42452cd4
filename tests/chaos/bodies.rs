//! What is posted to the webhook: uplinks as The Things Stack writes them, and bodies that nobody should send. Pure.

use super::cloud::{APPLICATION, id};

/// An uplink of about 1.1 kB with two gateways.
pub(crate) fn uplink(device: usize, f_cnt: u32) -> String {
    let name = id(device);
    format!(
        r#"{{"end_device_ids":{{"device_id":"{name}","application_ids":{{"application_id":"{APPLICATION}"}},"dev_eui":"70B3D57ED0{device:06X}","join_eui":"70B3D57ED0FFFFFF","dev_addr":"260B{device:04X}"}},"correlation_ids":["gs:uplink:01KAEXAMPLE{device:05}{f_cnt:010}"],"received_at":"2026-11-20T10:11:12.223456789Z","uplink_message":{{"session_key_id":"AYk3l2bXw1c4e7mVbJQx0A==","f_port":2,"f_cnt":{f_cnt},"frm_payload":"AWcA5wJoUA==","decoded_payload":{{"battery":3.61,"humidity":40,"temperature":23.1}},"rx_metadata":[{{"gateway_ids":{{"gateway_id":"roof-north","eui":"70B3D57ED0AA0001"}},"time":"2026-11-20T10:11:12.001Z","timestamp":2463457000,"rssi":-97,"channel_rssi":-97,"snr":8.2,"uplink_token":"Ch8KHQoRcm9vZi1ub3J0aAAAAAAAAAAA","received_at":"2026-11-20T10:11:12.051Z"}},{{"gateway_ids":{{"gateway_id":"roof-south","eui":"70B3D57ED0AA0002"}},"timestamp":63457000,"rssi":-111,"channel_rssi":-111,"snr":-2.5,"uplink_token":"Ch8KHQoRcm9vZi1zb3V0aAAAAAAAAAAA"}}],"settings":{{"data_rate":{{"lora":{{"bandwidth":125000,"spreading_factor":7,"coding_rate":"4/5"}}}},"frequency":"868100000","timestamp":2463457000}},"received_at":"2026-11-20T10:11:12.123456789Z","consumed_airtime":"0.056576s"}}}}"#
    )
}

/// Something wrong. None of it names a device of the run.
pub(crate) fn bad(random: &mut fastrand::Rng) -> Vec<u8> {
    let whole = uplink(99_999, random.u32(..));
    match random.u8(..7) {
        0 => Vec::new(),
        1 => whole.as_bytes()[..random.usize(..whole.len())].to_vec(),
        2 => std::iter::repeat_with(|| random.u8(..)).take(300).collect(),
        3 => "[".repeat(20_000).into_bytes(),
        4 => br#"{"end_device_ids":{"device_id":"../../etc","application_ids":{"application_id":"x"}},"uplink_message":{}}"#.to_vec(),
        5 => br#"{"end_device_ids":{"device_id":7},"uplink_message":[]}"#.to_vec(),
        _ => vec![b' '; 2 * 1024 * 1024],
    }
}
