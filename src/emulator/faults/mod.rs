//! Faults of an emulated hub: what goes wrong, for whom, when and for how long. Pure; connections act on them.

mod fault;
mod kind;
mod properties;
mod table;

pub use fault::{ActiveFault, Fault, FaultError};
pub use kind::FaultKind;
pub(super) use properties::{Asked, asked};
pub(super) use table::{Begun, Faults, Verdict};
