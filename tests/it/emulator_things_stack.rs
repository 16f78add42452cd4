//! The emulated Things Stack over its real HTTP, with a real webhook receiver: API, events and their order, faults.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod api;
mod connector;
mod control;
mod faults;
mod life_cycle;
mod network_server;
mod receiver;
mod restart;
mod support;
mod webhook;
