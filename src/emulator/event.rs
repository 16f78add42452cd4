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

impl Event {
    /// Its size as the quota counts it: the body, and names and values of its properties.
    pub(super) fn size(&self) -> usize {
        self.body.len() + self.properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// About how many bytes it takes in memory.
    pub(super) fn weight(&self) -> usize {
        let texts = [&self.device_id, &self.generation_id, &self.auth_method];
        let optional = [&self.message_id, &self.correlation_id, &self.content_type, &self.content_encoding];
        let pairs = self.properties.iter().chain(&self.annotations);
        size_of::<Self>()
            + self.body.len()
            + texts.into_iter().map(String::len).sum::<usize>()
            + optional.into_iter().flatten().map(String::len).sum::<usize>()
            + pairs
                .map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len())
                .sum::<usize>()
    }
}
