//! AMQP 1.0 to IoT Hub: many devices over few connections, with the crate's defects kept in one safe layer.
//!
//! Knows no LoRaWAN and no spool.

mod cbs;
mod classify;
mod client;
mod connection;
mod device;
mod dial;
mod error;
mod event;
mod inner;
mod kept;
mod message;
mod options;
mod pool;
mod renewals;
mod safe_link;
mod shared;
mod token;

pub use client::{IotHub, Status};
pub use error::{RetryReason, SendError, Trouble};
pub use event::{DeviceEvent, Links};
pub use options::{IotHubOptions, Transport};
