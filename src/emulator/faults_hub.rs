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
        let moved = fault.device.clone().filter(|_| fault.kind == FaultKind::HubMoved);
        let id = self.faults.inject(fault, Instant::now())?;
        if let Some(device) = moved
            && let Err(error) = self.delete_device(&device, None)
        {
            tracing::debug!(hub = %self.host(), device, %error, "The device to be moved is not here.");
        }
        Ok(id)
    }

    /// Faults that wait or last.
    pub fn active_faults(&self) -> Vec<ActiveFault> {
        self.faults.active(Instant::now())
    }

    /// Ends all faults now, also those that have not begun.
    pub fn end_faults(&self) {
        self.faults.clear();
    }

    /// Whether the hub as a whole is down.
    pub(super) fn is_down(&self) -> bool {
        self.verdict("", &[FaultKind::HubDown]).is_some()
    }

    /// Whether `device` was moved to another hub.
    pub(super) fn has_moved(&self, device: &str) -> bool {
        self.verdict(device, &[FaultKind::HubMoved]).is_some()
    }

    /// The fault among `kinds` that `device` meets now.
    pub(super) fn verdict(&self, device: &str, kinds: &[FaultKind]) -> Option<Verdict> {
        self.faults.verdict(device, kinds, Instant::now())
    }
}
