//! What the cloud sends to a device, before any wire format: messages, direct methods, desired properties.

use bytes::Bytes;
use serde_json::{Map, Value};

/// A cloud-to-device message as IoT Hub hands it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudMessage {
    /// What the sender called it; feedback and our reports name it so. Absent when the sender gave none.
    pub message_id: Option<String>,
    /// `x-opt-sequence-number`: counts the messages of one hub device.
    pub sequence_number: Option<u64>,
    /// `iothub-enqueuedtime`, milliseconds since 1970 UTC.
    pub enqueued_ms: Option<i64>,
    /// When the hub drops it (absolute-expiry-time), milliseconds since 1970 UTC.
    pub expires_ms: Option<i64>,
    /// `iothub-deliverycount`: how often it was handed out and abandoned before.
    pub delivery_count: u32,
    /// Application properties as text, in the order received. Names keep their case.
    pub properties: Vec<(String, String)>,
    /// The body, as sent.
    pub body: Bytes,
}

/// The three answers to a cloud-to-device message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is ours now; the hub forgets it. AMQP `accepted`.
    Complete,
    /// The hub hands it out again and counts that; after 10 times (the hub's setting) it is dropped. AMQP `released`.
    Abandon,
    /// Never again; the hub dead-letters it. AMQP `rejected`.
    Reject {
        /// One sentence for the sender, in the AMQP error's description. Holds no payload.
        reason: String,
    },
}

/// A direct method's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodRequest {
    /// The hub's id of this call, as text.
    pub id: String,
    /// `IoThub-methodname`.
    pub name: String,
    /// JSON as the caller sent it; empty when there was none.
    pub payload: Bytes,
}

/// The answer to a direct method's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodReply {
    /// `IoThub-status`, HTTP's numbers.
    pub status: i32,
    /// JSON.
    pub payload: Value,
}

/// Desired properties as the hub tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// `$version` of the desired properties.
    pub version: u64,
    /// The properties, without `$version` and other names that begin with `$`. In a patch, `null` removes one.
    pub properties: Map<String, Value>,
    /// Everything there is, or only what changed.
    pub scope: DesiredScope,
}

/// How much of the desired properties was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredScope {
    /// All of them, asked for after (re)attaching.
    Whole {
        /// The reported properties of that moment, likewise without `$` names: our earlier acknowledgements are there.
        reported: Map<String, Value>,
    },
    /// Only what a change pushed.
    Patch,
}
