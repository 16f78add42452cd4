//! The Device Provisioning Service over HTTPS: which hub has a device.
//!
//! Knows registration ids and keys, no end devices.

mod answer;
mod client;
mod endpoint;
mod hold;
mod http;

pub use client::Pace;
pub(super) use client::{DpsClient, Registration};
pub use endpoint::{Endpoint, GLOBAL_ENDPOINT, InvalidEndpoint};
pub use http::{HttpClientError, http_client};
