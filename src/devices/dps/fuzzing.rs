//! Fuzz target: one answer of DPS. Sends nothing.

use std::time::Duration;

use super::Endpoint;
use super::answer::{self, Answer, Step};
use super::hold::Holds;
use crate::model::fuzzing::head_and_body;

/// 2025-03-14T07:00:00Z.
const NOW_MS: i64 = 1_741_935_600_000;

/// The first line is `PUT` or `GET`, the status, and `Retry-After`; the body the answer's.
pub(in crate::devices) fn answer(data: &[u8]) {
    let (lines, body) = head_and_body(data);
    let mut words = lines.first().copied().unwrap_or_default().splitn(3, ' ');
    let step = if words.next() == Some("GET") { Step::Poll } else { Step::Register };
    let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(200);
    let after = words.next().and_then(|after| answer::retry_after(after, NOW_MS));
    let endpoint = Endpoint::parse("localhost:8443").expect("a good endpoint");
    match answer::read(step, status, body) {
        Answer::Assigned { device_id, .. } => assert!(device_id.len() <= 128),
        Answer::Wait { operation_id } => {
            let url = endpoint.operation("0ne1", "device", &operation_id);
            assert_eq!(url.path_segments().expect("https").count(), 5, "{url}");
        }
        Answer::Refused { detail } | Answer::Retry { detail, .. } => {
            assert!(detail.chars().count() <= 1200 && !detail.chars().any(char::is_control), "{detail}");
            assert!(!detail.contains("sig=") && !detail.contains("SharedAccessSignature"), "{detail}");
            let holds = Holds::default();
            for _ in 0..3 {
                assert!(holds.failed(endpoint.authority(), after, &detail) <= Duration::from_secs(60));
            }
        }
    }
}
