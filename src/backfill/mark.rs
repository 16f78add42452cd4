//! What must survive a restart for one application: until when everything was received, and since when it is
//! remembered what was. Pure but for its reading and writing as JSON.

use serde::{Deserialize, Serialize};

/// Keys are remembered longer than the window by this much: clocks differ, and a run takes its time.
pub(super) const MARGIN_MS: i64 = 3600 * 1000;
/// What is fetched after an absence begins so much earlier: The Things Stack's clock may differ from ours, and
/// messages come side by side.
pub(super) const OVERLAP_MS: i64 = 5 * 60 * 1000;

/// One application's mark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Mark {
    /// All that was received since then is remembered, as far as the window reaches. 0: nothing was ever received
    /// without being remembered. Milliseconds since 1970 UTC, like the others.
    pub(super) since_ms: i64,
    /// The window that was in force.
    pub(super) window_ms: i64,
    /// Nothing that came earlier is missing, but for gaps that were given up, and what came before backfill was
    /// switched on.
    pub(super) received_ms: i64,
    /// The tenant of the latest uplink: the Storage Integration does not name it.
    pub(super) tenant: Option<String>,
}

impl Mark {
    /// The mark from which a start goes on. `is_new`: the queue was made anew.
    pub(super) fn at_start(stored: Option<Self>, window_ms: i64, is_new: bool, now_ms: i64) -> Self {
        let mut mark = stored.unwrap_or_else(|| Self {
            since_ms: if is_new { 0 } else { now_ms },
            window_ms,
            received_ms: now_ms,
            ..Self::default()
        });
        if window_ms > mark.window_ms {
            // What was remembered for the shorter time may be gone.
            mark.since_ms = mark.since_ms.max(now_ms.saturating_sub(mark.window_ms));
        }
        mark.window_ms = window_ms;
        mark
    }

    /// The oldest time from which an uplink may be sent without the risk that it was sent before.
    pub(super) fn floor_ms(&self, now_ms: i64) -> i64 {
        self.since_ms.max(now_ms.saturating_sub(self.window_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600 * 1000;
    const NOW: i64 = 1_000 * HOUR;

    fn stored(since_ms: i64, window_ms: i64) -> Option<Mark> {
        Some(Mark { since_ms, window_ms, received_ms: 5, tenant: None })
    }

    #[test]
    fn nothing_is_sent_of_a_time_that_is_not_remembered() {
        let floor = |mark: Option<Mark>, is_new| Mark::at_start(mark, 24 * HOUR, is_new, NOW).floor_ms(NOW);
        assert_eq!(floor(None, true), NOW - 24 * HOUR, "a new queue knows all that was received: nothing");
        assert_eq!(floor(None, false), NOW, "switched on just now");
        assert_eq!(floor(stored(0, 24 * HOUR), false), NOW - 24 * HOUR);
        assert_eq!(floor(stored(NOW - HOUR, 24 * HOUR), false), NOW - HOUR);
        assert_eq!(floor(stored(0, 2 * HOUR), false), NOW - 2 * HOUR, "the window was shorter");
        assert_eq!(floor(stored(0, 48 * HOUR), false), NOW - 24 * HOUR, "the window was longer");
    }

    #[test]
    fn a_mark_of_another_version_can_be_read() {
        let mark: Mark = serde_json::from_str(r#"{"since_ms":5,"new":[]}"#).expect("read");
        assert_eq!(mark, Mark { since_ms: 5, ..Mark::default() });
    }
}
