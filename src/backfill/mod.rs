//! Missed uplinks, fetched from The Things Stack's Storage Integration and sent once.
//!
//! Three things show that something was missed: a gap in a device's frame counters, the time that the connector was
//! away, or an operator. Each application with backfill on has a worker, which walks through what is stored, oldest
//! first, and puts what was never taken in into the queue, in the device's second line (`model::Lane`): behind all live
//! uplinks, at a pace of its own, in the order of receipt among themselves.
//!
//! **Once**: every uplink of these applications is remembered by session, counter and the network server's time, for
//! `backfill.window` and an hour, in the transaction that stores it; a fetched one is stored only if it is not
//! remembered, and is remembered with that. So neither a crash nor a late retry of the webhook doubles it, and nothing
//! is fetched of a time of which that is not known (`mark`).
//!
//! Knows no HTTP, no SQLite and no hub.

mod application;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod gaps;
mod handle;
mod identity;
mod keeper;
mod mark;
mod order;
mod pace;
pub mod ports;
mod row;
mod runner;
mod worker;

pub use handle::{Backfill, Options, OrderError, Parts, Remembered};
pub use identity::Identity;
pub use order::{OfDevice, Order, Progress, Summary};
