//! A small Things Stack to test downlinks against: its API, its queues, its webhook, and a radio to play with.
//!
//! Knows nothing of hubs, and nothing of the connector's own reading of The Things Stack.

mod api;
mod control;
mod device;
mod downlink;
mod fault;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(super) mod fuzzing;
mod keys;
mod name;
mod network_server;
mod outbox;
mod radio;
mod refusal;
mod registry;
mod request;
mod running;
mod saved;
mod serve;
mod session;
mod stack;
mod storage;
mod up;
mod webhook;

pub use device::{Class, Invalidated, Operation, Uplink};
pub use downlink::{ConfirmedRetry, Downlink, Priority};
pub use fault::{Calls, Effect, Fault};
pub use keys::Right;
pub use name::DeviceName;
pub use outbox::{Delivered, Delivery, DeliveryCounts};
pub use refusal::Refusal;
pub use stack::{Push, ThingsStack};
pub use storage::Storage;
pub use webhook::Webhook;

pub(super) use running::Running;
