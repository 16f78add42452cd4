//! Fuzz targets: tokens and encoded messages, read by every part that takes them from a peer.

use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage as _;
use fe2o3_amqp_types::primitives::Value;
use serde_amqp::read::SliceReader;

use super::address::Address;
use super::{credentials, incoming, methods_wire, twins_wire};
use crate::emulator::Hub;

/// Whether a token opens the hub, by `$cbs` or by SASL PLAIN.
pub(in crate::emulator) fn opens(hub: &Hub, token: &str) -> bool {
    credentials::judge(hub, token).is_ok()
        || credentials::judge_plain(hub, &format!("iothubowner@sas.root.{}", hub.host()), token).is_ok()
}

/// An encoded message, as a device, a service or a batch may send it. What is kept of it is not larger than it was.
pub(crate) fn message(bytes: &[u8]) {
    let read = || Body::<Value>::decode_message_from_reader(SliceReader::new(bytes)).ok();
    for format in [0, incoming::BATCH_FORMAT] {
        let Some(message) = read() else { return };
        if let Ok((events, size)) = incoming::events_of(format, message) {
            let bodies: usize = events.iter().map(|event| event.body.len()).sum();
            assert!(bodies <= bytes.len() && events.len() <= 5_000 && bodies <= size);
        }
    }
    let (Some(twin), Some(method)) = (read(), read()) else { return };
    _ = twins_wire::correlation_id(&twin);
    if let Err(refusal) = twins_wire::wanted(twin) {
        assert!((400..500).contains(&refusal.status) && refusal.message.len() < 2000, "{refusal:?}");
    }
    _ = methods_wire::answer(method);
    if let Ok(text) = std::str::from_utf8(bytes) {
        _ = Address::parse(text);
    }
}
