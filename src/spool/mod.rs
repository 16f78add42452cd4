//! The durable queue before the hub, and the small state beside it.
//!
//! Does not know what a record means.

mod claim;
pub mod control;
mod queue;
mod state_store;
mod types;

pub use claim::Claim;
pub use queue::Spool;
pub use state_store::StateStore;
pub use types::{
    Appended, DedupKey, NewRecord, ParkedFilter, ParkedRecord, Pending, Selection, Seq, SpoolError, State,
    StateRow, Stats,
};
