//! Fuzz targets: messages of the hub.

use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::messaging::message::DecodeIntoMessage as _;
use fe2o3_amqp_types::primitives::Value;
use serde_amqp::read::SliceReader;

use super::decode::{self, TwinMessage};
use crate::azure::{Desired, DesiredScope};

/// The twin as a hub answers it, `{"desired":…}`, or a change of desired properties.
pub(crate) fn desired(body: &[u8]) -> Option<Desired> {
    let read = decode::patch(body).or_else(|_| decode::whole(body)).ok()?;
    let reported = match &read.scope {
        DesiredScope::Whole { reported } => Some(reported),
        DesiredScope::Patch => None,
    };
    let mut names = read.properties.keys().chain(reported.into_iter().flat_map(|reported| reported.keys()));
    assert!(names.all(|name| !name.starts_with('$')));
    Some(read)
}

/// An encoded message, as it comes over any of a device's links.
pub(crate) fn message(bytes: &[u8]) {
    let read = || Body::<Value>::decode_message_from_reader(SliceReader::new(bytes)).ok();
    let (Some(cloud), Some(method), Some(twin)) = (read(), read(), read()) else { return };
    if let Ok(message) = decode::cloud_message(cloud) {
        assert!(message.body.len() <= bytes.len());
    }
    if let Ok((_, request)) = decode::method_request(method) {
        assert!(request.payload.len() <= bytes.len() && request.name.len() <= bytes.len());
    }
    match decode::twin_message(twin) {
        Ok(TwinMessage::Changed(body)) => _ = decode::patch(&body),
        Ok(TwinMessage::Answer(answer)) => _ = decode::whole(&answer.body),
        Err(_) => {}
    }
}
