//! The Things Stack's API and events: the client over real sockets, events from their bodies, keys from headers.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod calls;
mod events;
mod failures;
mod keys;
pub(crate) mod server;
mod stored;
mod whereabouts;
