//! Faults as part of a hub: asking for them, and what they change about whom a hub lets do what.

use tokio::time::Instant;

use super::faults::{ActiveFault, Fault, FaultError, FaultKind, Verdict};
use super::hub::Hub;

impl Hub {
    /// Lets something go wrong; see [`Fault`]. Gives its id.
    ///
    /// # Errors
    /// [`FaultError`] names the limit it is over.
    pub fn inject(&self, fault: Fault) -> Result<u64, FaultError> {
        tracing::debug!(hub = %self.host(), device = fault.device, kind = %fault.kind, delay = ?fault.delay,
            duration = ?fault.duration, "A fault was asked for.");
        self.faults.inject(fault, Instant::now())
    }

    /// Faults that wait or last.
    pub fn active_faults(&self) -> Vec<ActiveFault> {
        self.faults.active(Instant::now())
    }

    /// Ends all faults now, also those that have not begun.
    pub fn end_faults(&self) {
        self.faults.clear();
    }

    /// The fault among `kinds` that `device` meets now.
    pub(super) fn verdict(&self, device: &str, kinds: &[FaultKind]) -> Option<Verdict> {
        self.faults.verdict(device, kinds, Instant::now())
    }
}
