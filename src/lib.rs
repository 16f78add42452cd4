//! Joins LoRaWAN devices on The Things Stack to Azure IoT Hub, and emulates the hub for tests.
//!
//! `docs/ARCHITECTURE.md` draws the rooms and says which way dependencies point.

pub mod admin;
pub mod app;
pub mod azure;
pub mod backfill;
pub mod cli;
pub mod config;
pub mod devices;
pub mod downlink;
#[cfg(feature = "emulator")]
pub mod emulator;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub mod fuzzing;
pub mod http;
pub mod iot_hub;
pub mod metrics;
pub mod model;
pub mod net;
pub mod spool;
pub mod things_stack;
pub mod uplink;
pub mod webhook;
