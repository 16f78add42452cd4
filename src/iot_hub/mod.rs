//! AMQP 1.0 to IoT Hub: many devices over few connections, with the crate's defects kept in one safe layer.
//!
//! Knows no LoRaWAN and no spool.

mod classify;
mod error;
mod message;
mod options;
mod safe_link;

pub use error::{RetryReason, SendError, Trouble};
pub use options::{IotHubOptions, Transport};
