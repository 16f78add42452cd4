//! The emulated hub's AMQP side over real sockets: driven by the fe2o3 client, and by raw bytes where it is too tame.

#![cfg(feature = "emulator")]
#![expect(clippy::unwrap_used, reason = "what fails in a helper must fail the test")]

mod c2d;
mod c2d_links;
mod c2d_service;
mod devices;
mod faults;
mod kit;
mod lifecycle;
mod limits;
mod methods;
mod pair_kit;
mod raw;
mod readers;
mod sasl;
mod telemetry;
mod tokens;
mod twins;
