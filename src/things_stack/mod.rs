//! What The Things Stack defines: message kinds and ids in its webhooks, downlinks and their events, and the
//! client of its API for downlinks and stored uplinks. Knows no Azure.

mod access;
mod address;
mod answer;
mod api;
mod application_up;
mod client;
mod downlink;
mod downlink_event;
mod envelope;
mod event_reader;
mod frame;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod gateways;
mod holds;
mod kind;
mod listing;
mod offered_url;
mod request;
mod storage;
mod stored_lines;
mod tolerant;
mod trouble;
mod uplink;

pub use access::{Access, DownlinkOffer, KeyOptions, Keys, Learnt, NotLearnt};
pub use address::InvalidAddress;
pub use api::{ApiError, QueuedDownlink, Whereabouts};
pub use client::{Client, ClientOptions};
pub use downlink::{ClassBC, Downlink, GatewayAntenna, MAX_PAYLOAD_BYTES, Operation, Payload, Priority};
pub use downlink_event::{CORRELATION_PREFIX, DownlinkEvent, DownlinkState, NamedDownlink, NamedPayload};
pub use envelope::{Envelope, EnvelopeError};
pub use frame::Frame;
pub use gateways::{Reception, Trim, trim_gateways};
pub use kind::Kind;
pub use storage::{StoredPage, StoredQuery, StoredUplink};
pub use uplink::Uplink;
