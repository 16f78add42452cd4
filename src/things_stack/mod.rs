//! What The Things Stack defines: message kinds and ids in its webhooks, downlinks and their events. Knows no Azure.

mod api;
mod application_up;
mod downlink;
mod downlink_event;
mod envelope;
mod gateways;
mod kind;
mod tolerant;
mod uplink;

pub use api::{ApiError, QueuedDownlink, Whereabouts};
pub use downlink::{ClassBC, Downlink, GatewayAntenna, MAX_PAYLOAD_BYTES, Operation, Payload, Priority};
pub use downlink_event::{DownlinkEvent, DownlinkState, NamedDownlink};
pub use envelope::{Envelope, EnvelopeError};
pub use gateways::{Reception, Trim, trim_gateways};
pub use kind::Kind;
pub use uplink::Uplink;
