//! The Device Provisioning Service over HTTPS: which hub has a device.
//!
//! Knows registration ids and keys, no end devices.

mod answer;
mod client;
mod endpoint;
mod hold;

pub use client::Pace;
pub(super) use client::{DpsClient, Registration};
pub use endpoint::{Endpoint, GLOBAL_ENDPOINT, InvalidEndpoint};
