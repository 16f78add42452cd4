//! The dispatcher between hubs, a ledger and a Things Stack that fail as told: one downlink for one message, in the
//! device's order, each answered within its lock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod commands;
mod complete_on;
mod crash;
pub(super) mod kit;
mod lanes;
pub(super) mod network;
mod stop;
