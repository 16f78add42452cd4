//! A telemetry message as the hub keeps it. Pure data.

use bytes::Bytes;

/// A telemetry message as it arrived and is kept for readers.
#[derive(Clone, Debug)]
pub struct Event {
    /// Position within its partition, from 0.
    pub sequence_number: i64,
    /// Milliseconds since 1970 UTC.
    pub enqueued_ms: i64,
    /// Who sent it.
    pub device_id: String,
    /// That device's generation.
    pub generation_id: String,
    /// How it authenticated, as IoT Hub's JSON text.
    pub auth_method: String,
    /// `properties.message-id` as text.
    pub message_id: Option<String>,
    /// `properties.correlation-id` as text.
    pub correlation_id: Option<String>,
    /// `properties.content-type`.
    pub content_type: Option<String>,
    /// `properties.content-encoding`.
    pub content_encoding: Option<String>,
    /// Application properties as text, in the order sent.
    pub properties: Vec<(String, String)>,
    /// Message annotations the device set (`dt-subject` and the like), as text.
    pub annotations: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}
