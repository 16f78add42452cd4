//! Fuzz target: rows of the Storage Integration, judged. Fetches nothing.

use bytes::Bytes;

use super::row::{Bounds, Judged, judge};

/// 2025-03-14T07:00:00Z.
const NOW_MS: i64 = 1_741_935_600_000;
const BOUNDS: Bounds = Bounds { until_ms: NOW_MS, live_ms: NOW_MS - 60_000, floor_ms: NOW_MS - 86_400_000 };

/// Only what lies between the bounds is to be sent, and it is recognised by what it is remembered by.
pub(crate) fn rows(rows: Vec<Bytes>) {
    for body in rows {
        if let Judged::Candidate(row) = judge(body.clone(), "application", &BOUNDS) {
            let network_ms = row.frame.received_ms.expect("judged by it");
            assert!((BOUNDS.floor_ms..=BOUNDS.live_ms).contains(&network_ms), "{network_ms}");
            assert!(row.received_ns / 1_000_000 <= i128::from(BOUNDS.until_ms));
            let identity = row.identity("application");
            assert!(identity.known_by.contains(&identity.key));
            assert_ne!(identity.key, row.identity("another").key);
            assert_eq!(row.body, body);
        }
    }
}
