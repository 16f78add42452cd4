//! The emulator over its real HTTPS: start-up, registry, twins, methods, queries, DPS, WebSocket upgrade, restart.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod cloud_messages;
mod dps;
mod limits;
mod methods;
mod queries;
mod registry;
mod start;
mod support;
mod twins;
mod websocket;
