//! The Device Provisioning Service over HTTPS: which hub has a device.
//!
//! Knows registration ids and keys, no end devices.

mod answer;
mod client;
mod endpoint;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(in crate::devices) mod fuzzing;
mod hold;

pub use client::Pace;
pub(super) use client::{DpsClient, Registration};
pub use endpoint::{Endpoint, GLOBAL_ENDPOINT, InvalidEndpoint};
