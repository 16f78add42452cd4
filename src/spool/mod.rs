//! The durable queue before the hub, and the small state beside it.
//!
//! Does not know what a record means.

mod types;

pub use types::{Appended, DedupKey, NewRecord, Pending, Seq, SpoolError};
