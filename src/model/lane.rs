//! The line a stored message stands in: its device's own, or the device's second one for messages fetched later.
//!
//! Two lines, so that a live uplink never waits behind fetched ones, not even those of its own device.

use std::fmt;
use std::sync::Arc;

use super::end_device::EndDevice;

/// Added to the device's key. A version that does not know it leaves such messages in the spool.
const BACKFILLED: &str = "\u{1f}backfilled";

/// Whose message it is, and in which of the two lines it stands.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// Whose.
    pub device: EndDevice,
    /// It was fetched after others of the device had been sent.
    pub backfilled: bool,
}

impl Lane {
    /// The device's own line.
    pub fn live(device: EndDevice) -> Self {
        Self { device, backfilled: false }
    }

    /// The device's second line.
    pub fn backfilled(device: EndDevice) -> Self {
        Self { device, backfilled: true }
    }

    /// As one text, for storage.
    pub fn key(&self) -> Arc<str> {
        if self.backfilled {
            return format!("{}{BACKFILLED}", self.device.key()).into();
        }
        self.device.key().into()
    }

    /// Reads back what [`Lane::key`] gave. `None` if it is no such text.
    pub fn from_key(key: &str) -> Option<Self> {
        // First as it is: a device may be called just like the addition.
        EndDevice::from_key(key)
            .map(Self::live)
            .or_else(|| EndDevice::from_key(key.strip_suffix(BACKFILLED)?).map(Self::backfilled))
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({}{})", self.device, if self.backfilled { ", backfilled" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_two_lines_which_storage_keeps_apart() {
        let device = EndDevice::new("eu1", "house", "backfilled").expect("valid");
        for lane in [Lane::live(device.clone()), Lane::backfilled(device.clone())] {
            assert_eq!(Lane::from_key(&lane.key()), Some(lane));
        }
        assert_eq!(&*Lane::live(device.clone()).key(), device.key());
        assert_eq!(EndDevice::from_key(&Lane::backfilled(device).key()), None);
        assert_eq!(Lane::from_key("\u{1f}backfilled"), None);
    }
}
