//! What an operator orders by hand, and what is told of it: to a command in this process or over the control socket.

use serde::{Deserialize, Serialize};

/// Devices listed at most; of the rest only the number of uplinks is told.
pub(super) const MAX_DEVICES: usize = 1000;
/// Ranges of frame counters listed of one device at most.
const MAX_RANGES: usize = 20;

/// Fetch what was missed between two times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The application's id.
    pub application: String,
    /// Only of this device.
    pub device: Option<String>,
    /// Milliseconds since 1970 UTC.
    pub since_ms: i64,
    /// Milliseconds since 1970 UTC; `None`: until now, as far as the webhook may no longer bring it.
    pub until_ms: Option<i64>,
    /// Only say what would be sent.
    pub dry_run: bool,
    /// Also of a time of which it is not remembered what was sent; some may be sent twice.
    pub may_double: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where it began, milliseconds since 1970 UTC.
    pub from_ms: i64,
    /// Up to where the Storage Integration was read.
    pub at_ms: i64,
    /// Where it ends.
    pub to_ms: i64,
    /// Rows read so far.
    pub rows: u64,
    /// Of them, put into the queue; in a dry run, what would have been.
    pub queued: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Rows read.
    pub rows: u64,
    /// Put into the queue to be sent, or what would have been.
    pub queued: u64,
    /// Taken in before, by the webhook or by an earlier backfill.
    pub known: u64,
    /// No telemetry, or no session: simulated, or MAC commands alone.
    pub passed: u64,
    /// Of a time of which it is not remembered what was sent, or so new that the webhook may still bring them.
    pub left_out: u64,
    /// Rows that could not be read.
    pub bad: u64,
    /// The earliest time that was sent, milliseconds since 1970 UTC, if it is later than what was asked for.
    pub floor_ms: Option<i64>,
    /// What was queued, by device in the order of names.
    pub devices: Vec<OfDevice>,
    /// Uplinks of further devices, which are not listed.
    pub unlisted: u64,
}

/// What was queued of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfDevice {
    /// Its id.
    pub device: String,
    /// How many uplinks.
    pub count: u64,
    /// Their frame counters, from and to, in the order of receipt.
    pub f_cnts: Vec<(u32, u32)>,
    /// There are more ranges.
    pub more: bool,
}

impl Summary {
    /// One more was queued.
    pub(super) fn queue(&mut self, device_id: &str, f_cnt: u32) {
        self.queued += 1;
        let at = match self.devices.binary_search_by(|known| known.device.as_str().cmp(device_id)) {
            Ok(at) => at,
            Err(at) if self.devices.len() < MAX_DEVICES => {
                self.devices.insert(at, OfDevice { device: device_id.to_owned(), ..OfDevice::default() });
                at
            }
            Err(_) => {
                self.unlisted += 1;
                return;
            }
        };
        self.devices[at].add(f_cnt);
    }
}

impl OfDevice {
    fn add(&mut self, f_cnt: u32) {
        self.count += 1;
        let room = self.f_cnts.len() < MAX_RANGES;
        match self.f_cnts.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(f_cnt) && !self.more => *last = f_cnt,
            Some(_) | None if room => self.f_cnts.push((f_cnt, f_cnt)),
            Some(_) | None => self.more = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_as_ranges_by_device() {
        let mut summary = Summary::default();
        for (device, f_cnt) in [("b", 1), ("a", 7), ("b", 2), ("b", 5), ("b", 6), ("a", 0)] {
            summary.queue(device, f_cnt);
        }
        let told: Vec<_> =
            summary.devices.iter().map(|of| (of.device.as_str(), of.count, of.f_cnts.clone())).collect();
        assert_eq!(told, [("a", 2, vec![(7, 7), (0, 0)]), ("b", 4, vec![(1, 2), (5, 6)])]);
    }

    #[test]
    fn what_is_listed_has_a_limit() {
        let mut summary = Summary::default();
        for n in 0..30 {
            summary.queue("a", n * 2);
        }
        assert_eq!((summary.devices[0].f_cnts.len(), summary.devices[0].more), (MAX_RANGES, true));
        for n in 0..MAX_DEVICES {
            summary.queue(&format!("d-{n}"), 0);
        }
        assert_eq!((summary.devices.len(), summary.unlisted), (MAX_DEVICES, 1));
    }
}
