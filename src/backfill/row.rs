//! One row of the Storage Integration: whose it is, which frame, and whether it is to be sent. Pure.

use bytes::Bytes;

use super::identity::Identity;
use crate::things_stack::{Frame, StoredUplink};

/// What is asked of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// What the application server received later is of no interest. Milliseconds since 1970 UTC, like the others.
    pub(super) until_ms: i64,
    /// What the network received later is not sent: it is on its way to the webhook.
    pub(super) live_ms: i64,
    /// What the network received earlier is not sent: it is not remembered whether it was.
    pub(super) floor_ms: i64,
}

/// A row that could be read.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) device_id: String,
    pub(super) frame: Frame,
    /// When the application server received it, in nanoseconds.
    pub(super) received_ns: i128,
    /// The message itself.
    pub(super) body: Bytes,
}

/// What to do with a row.
#[derive(Debug)]
pub(super) enum Judged {
    /// Send it, if it was not taken in before.
    Candidate(Row),
    /// Older than what is remembered. It tells of a gap all the same.
    TooOld(Row),
    /// So new that the webhook may still bring it. It tells of a gap all the same.
    Live(Row),
    /// No telemetry, or without a session: simulated, MAC commands alone.
    Passed { received_ns: i128 },
    /// This and all that follow were received too late.
    Beyond,
    /// Not a stored uplink of this application.
    Bad,
}

impl Row {
    pub(super) fn identity(&self, application_id: &str) -> Identity {
        Identity::stored(application_id, &self.device_id, &self.frame)
    }
}

/// Reads a row and judges it.
pub(super) fn judge(body: Bytes, application_id: &str, bounds: &Bounds) -> Judged {
    let Ok(stored) = StoredUplink::parse(&body) else { return Judged::Bad };
    let Some(received_at) = stored.received_at else { return Judged::Bad };
    let envelope = &stored.envelope;
    if envelope.application_id.as_deref() != Some(application_id) {
        return Judged::Bad;
    }
    if received_at.as_millisecond() > bounds.until_ms {
        return Judged::Beyond;
    }
    let received_ns = received_at.as_nanosecond();
    let Some(frame) = envelope.frame() else { return Judged::Passed { received_ns } };
    // Without the network server's time it could not be told from what the webhook brought.
    let (Some(device_id), Some(network_ms)) = (envelope.device_id.as_deref(), frame.received_ms) else {
        return Judged::Bad;
    };
    let device_id = device_id.to_owned();
    let row = Row { device_id, frame, received_ns, body };
    if network_ms < bounds.floor_ms {
        Judged::TooOld(row)
    } else if network_ms > bounds.live_ms {
        Judged::Live(row)
    } else {
        Judged::Candidate(row)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const BOUNDS: Bounds = Bounds { until_ms: 50_000, live_ms: 40_000, floor_ms: 10_000 };

    fn row(second: u32, change: impl FnOnce(&mut Value)) -> Bytes {
        let at = format!("1970-01-01T00:00:{second:02}.000000500Z");
        let mut row = json!({
            "end_device_ids": { "device_id": "cellar", "application_ids": { "application_id": "house" } },
            "received_at": at,
            "uplink_message": { "session_key_id": "AQ==", "f_port": 1, "f_cnt": second, "received_at": at },
        });
        change(&mut row);
        row.to_string().into()
    }

    fn judged(body: Bytes) -> String {
        match judge(body, "house", &BOUNDS) {
            Judged::Candidate(row) => format!("candidate {} {}", row.frame.f_cnt, row.received_ns),
            Judged::TooOld(_) => "too old".to_owned(),
            Judged::Live(_) => "live".to_owned(),
            Judged::Passed { .. } => "passed".to_owned(),
            Judged::Beyond => "beyond".to_owned(),
            Judged::Bad => "bad".to_owned(),
        }
    }

    #[test]
    fn time_decides_what_becomes_of_a_sound_row() {
        for (second, expected) in [
            (9, "too old"),
            (10, "candidate 10 10000000500"),
            (40, "candidate 40 40000000500"),
            (41, "live"),
            (50, "live"),
            (51, "beyond"),
        ] {
            assert_eq!(judged(row(second, |_| ())), expected, "{second}");
        }
    }

    #[test]
    fn what_has_no_counter_or_no_telemetry_is_passed_over() {
        assert_eq!(judged(row(20, |row| row["simulated"] = json!(true))), "passed");
        assert_eq!(judged(row(20, |row| row["uplink_message"]["f_port"] = json!(0))), "passed");
        assert_eq!(judged(row(20, |row| row["uplink_message"]["session_key_id"] = json!(""))), "passed");
    }

    #[test]
    fn what_is_no_uplink_of_the_application_is_bad() {
        assert_eq!(judged(Bytes::from_static(b"{")), "bad");
        assert_eq!(judged(Bytes::from_static(b"{}")), "bad");
        assert_eq!(judged(row(20, |row| row["received_at"] = json!("0001"))), "bad");
        assert_eq!(judged(row(20, |row| row["uplink_message"]["received_at"] = Value::Null)), "bad");
        let other =
            |row: &mut Value| row["end_device_ids"]["application_ids"]["application_id"] = json!("other");
        assert_eq!(judged(row(20, other)), "bad");
    }
}
