//! AMQP 1.0 to IoT Hub: many devices over few connections, with the crate's defects kept in one safe layer.
//!
//! Knows no LoRaWAN and no spool.

mod absence;
mod c2d;
mod cbs;
mod classify;
mod client;
mod condition;
mod connection;
mod connects;
mod contest;
mod decode;
mod device;
mod dial;
mod error;
mod event;
mod follower;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod hub;
mod inbound;
mod inner;
mod keeper;
mod kept;
mod link_names;
mod links;
mod message;
mod methods;
mod options;
mod pool;
mod renewals;
mod safe_link;
mod safe_receiver;
mod session;
mod shared;
mod token;
mod turns;
mod twin;

pub use client::{IotHub, Status};
pub use error::{RetryReason, SendError, Trouble};
pub use event::{DeviceEvent, Links};
pub use options::{IotHubOptions, Transport};
