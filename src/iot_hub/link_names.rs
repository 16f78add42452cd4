//! What a device's links are called, and what they say about us. Pure.

use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::azure::HubDevice;

/// The version that Microsoft's C# and Java clients name on device links.
const API_VERSION: &str = "2020-09-30";
const CLIENT_VERSION: &str = concat!("tti-connector/", env!("CARGO_PKG_VERSION"));
/// IoT Hub percent-decodes the id in an address.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A device's node at its hub.
pub(super) fn address(device_id: &str, node: &str) -> String {
    format!("/devices/{}/{node}", utf8_percent_encode(device_id, RESERVED))
}

/// What every link of a device says about us.
pub(super) fn link_properties(device: &HubDevice) -> Fields {
    let mut properties = Fields::new();
    let mut insert = |name: &str, value: &str| {
        properties.insert(Symbol::from(name), Value::String(value.to_owned()));
    };
    insert("com.microsoft:client-version", CLIENT_VERSION);
    insert("com.microsoft:api-version", API_VERSION);
    if let Some(model_id) = &device.model_id {
        insert("com.microsoft:model-id", model_id);
    }
    properties
}
