//! The durable queue before the hub, and the small state beside it.
//!
//! Does not know what a record means. One thread writes (`writer`, a `batch` at a time, `upkeep` between), one
//! reads (`reader`); `handout` decides what the `claim` gets next; `queue` is the handle to all of it; `control` and `operator`
//! are the two ends of an operator's commands.

mod batch;
mod books;
mod carve;
mod claim;
pub mod control;
mod database;
mod duplicates;
mod folder;
#[cfg(all(any(test, fuzzing), feature = "emulator"))]
pub(crate) mod fuzzing;
mod handout;
mod ledger;
mod mailbox;
mod memory;
mod meters;
mod opening;
mod operator;
mod parked;
mod queue;
mod reader;
mod recovery;
mod remembered;
mod rescue;
mod salvage;
mod schema;
mod seal;
mod state_store;
mod trouble;
mod types;
mod upkeep;
mod wal;
mod wire;
mod writer;

pub use claim::Claim;
pub use folder::damaged_files;
pub use operator::{Operator, OperatorError};
pub use queue::Spool;
pub use state_store::StateStore;
pub use types::{
    Appended, DedupKey, NewRecord, ParkedFilter, ParkedRecord, Pending, Remember, Selection, Seq, SpoolError,
    State, StateRow, Stats,
};
