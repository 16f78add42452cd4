//! The one consumer's view of the queue (signatures first).
#![allow(unused_variables, clippy::unimplemented)]

use super::types::Pending;

/// The right to take records out. Today one for the whole queue; later one for each of many partitions.
pub struct Claim;

impl Claim {
    /// The next pending records, at most 1024: first the backlog from disk, bodies not loaded, then live ones;
    /// each record once, in order within its lane. Waits while there are none; `None` once the spool is closed.
    /// May be cancelled: nothing is lost.
    pub async fn next(&mut self) -> Option<Vec<Pending>> {
        unimplemented!()
    }
}
