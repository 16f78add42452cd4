//! From the spool to the hub: pump, per-device lanes, translation.
//!
//! Knows no HTTP and no AMQP. What it needs of its neighbours it says in [`ports`]; `app` joins them.

mod backoff;
mod deliver;
pub mod ports;
mod pump;
mod schedule;

pub use backoff::Backoff;
pub use pump::{Pump, PumpOptions};
