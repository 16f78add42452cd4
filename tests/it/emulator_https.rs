//! The emulator over its real HTTPS: start-up, registry, DPS, WebSocket upgrade, restart.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod dps;
mod registry;
mod start;
mod support;
mod websocket;
