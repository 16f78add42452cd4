//! Backfill from end to end: emulated hub, connector, and a Storage Integration, all on real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod archive;
mod away;
mod by_hand;
mod crash;
mod gaps;
mod kit;
mod live;
mod trouble;
