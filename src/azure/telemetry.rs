//! A device-to-cloud message, before any wire format.

use bytes::Bytes;

/// The most IoT Hub takes for one telemetry message: body plus properties, in bytes.
pub const MAX_TELEMETRY_BYTES: usize = 256 * 1024;

/// One telemetry message. `content-type` is always `application/json`, `content-encoding` `utf-8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// UTF-8 JSON.
    pub body: Bytes,
    /// The same text for the same uplink, however often it is sent.
    pub message_id: String,
    /// AMQP's correlation-id: for a report on a downlink, the id of the message that asked for it.
    pub correlation_id: Option<String>,
    /// `iothub-creation-time-utc` and the like: application properties, all strings.
    pub properties: Vec<(&'static str, String)>,
}

impl Telemetry {
    /// Size as IoT Hub counts it: body, system property values, and names and values of application properties.
    pub fn counted_bytes(&self) -> usize {
        let properties: usize = self.properties.iter().map(|(name, value)| name.len() + value.len()).sum();
        let ids = self.message_id.len() + self.correlation_id.as_ref().map_or(0, String::len);
        self.body.len() + ids + "application/json".len() + "utf-8".len() + properties
    }
}
