//! Who an end device is at Azure: directory, resolver, DPS.
//!
//! Knows no AMQP.

mod error;

pub use error::ResolveError;
