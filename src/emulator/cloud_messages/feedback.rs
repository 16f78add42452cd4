//! Feedback on cloud-to-device messages: records that gather to batches, for the service to fetch. Pure.

use std::collections::VecDeque;

use serde::Serialize;

use super::message::Fate;

/// Records of one batch, as IoT Hub gathers at most.
const BATCH: usize = 64;
/// Records that wait for a service to fetch them; the oldest go first, so that a hub nobody listens to stays small.
const RECORDS: usize = 10_000;
/// How often a batch is handed out before it is dropped: as often as a message, by default.
const ATTEMPTS: u8 = 10;

/// What became of one message, as the service SDKs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FeedbackRecord {
    /// The message id its sender chose.
    pub original_message_id: Option<String>,
    /// The device's reason if it gave one, else the status again.
    pub description: String,
    /// Tells a device from an earlier one of its name.
    pub device_generation_id: String,
    /// Whose message it was.
    pub device_id: String,
    /// When the message ended, ISO 8601.
    pub enqueued_time_utc: String,
    /// How it ended.
    pub status_code: Fate,
}

/// Records that travel in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::emulator) struct FeedbackBatch {
    pub(in crate::emulator) records: Vec<FeedbackRecord>,
    attempts: u8,
}

impl FeedbackBatch {
    /// Counts that it was handed out.
    pub(super) fn handed_out(&mut self) {
        self.attempts += 1;
    }
}

/// What waits to be fetched.
#[derive(Debug, Default)]
pub(super) struct Feedback {
    /// Batches that were handed out in vain, before all others.
    returned: VecDeque<FeedbackBatch>,
    /// With the time each was added.
    waiting: VecDeque<(i64, FeedbackRecord)>,
}

impl Feedback {
    pub(super) fn push(&mut self, record: FeedbackRecord, now_ms: i64) {
        self.waiting.push_back((now_ms, record));
        while self.len() > RECORDS {
            if self.returned.pop_front().is_none() {
                self.waiting.pop_front();
            }
        }
    }

    /// A batch that is due at `now_ms`: full, or its first record has waited for `delay_ms`.
    pub(super) fn take(&mut self, now_ms: i64, delay_ms: i64) -> Option<FeedbackBatch> {
        if let Some(batch) = self.returned.pop_front() {
            return Some(batch);
        }
        if self.waiting.len() < BATCH && self.due_ms(delay_ms)? > now_ms {
            return None;
        }
        let count = self.waiting.len().min(BATCH);
        let records: Vec<_> = self.waiting.drain(..count).map(|(_, record)| record).collect();
        (!records.is_empty()).then_some(FeedbackBatch { records, attempts: 0 })
    }

    /// Takes a batch back that nobody accepted.
    pub(super) fn put_back(&mut self, batch: FeedbackBatch) {
        if batch.attempts < ATTEMPTS {
            self.returned.push_back(batch);
        }
    }

    /// When the first record that waits is due.
    pub(super) fn due_ms(&self, delay_ms: i64) -> Option<i64> {
        self.waiting.front().map(|(added_ms, _)| added_ms.saturating_add(delay_ms))
    }

    /// All records, in the order they will be handed out.
    pub(super) fn list(&self) -> Vec<FeedbackRecord> {
        let returned = self.returned.iter().flat_map(|batch| &batch.records);
        returned.chain(self.waiting.iter().map(|(_, record)| record)).cloned().collect()
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.returned.iter().map(|batch| batch.records.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::{ATTEMPTS, BATCH, Feedback, FeedbackRecord, RECORDS};
    use crate::emulator::cloud_messages::message::Fate;

    const DELAY_MS: i64 = 15_000;

    fn record(id: usize) -> FeedbackRecord {
        FeedbackRecord {
            original_message_id: Some(id.to_string()),
            description: "Success".into(),
            device_generation_id: "g".into(),
            device_id: "d".into(),
            enqueued_time_utc: "2026-01-01T00:00:00.000Z".into(),
            status_code: Fate::Success,
        }
    }

    #[test]
    fn a_record_is_written_as_the_service_sdks_read_it() {
        assert_eq!(
            serde_json::to_string(&record(7)).unwrap(),
            r#"{"originalMessageId":"7","description":"Success","deviceGenerationId":"g","deviceId":"d","enqueuedTimeUtc":"2026-01-01T00:00:00.000Z","statusCode":"Success"}"#
        );
    }

    #[test]
    fn records_leave_in_batches_of_64_at_once_or_fewer_after_the_delay() {
        let mut feedback = Feedback::default();
        assert_eq!(feedback.take(i64::MAX, DELAY_MS), None);
        for id in 0..BATCH + 2 {
            feedback.push(record(id), 0);
        }
        assert_eq!(feedback.take(0, DELAY_MS).unwrap().records.len(), BATCH);
        assert_eq!(feedback.take(DELAY_MS - 1, DELAY_MS), None);
        assert_eq!(feedback.take(DELAY_MS, DELAY_MS).unwrap().records, [record(64), record(65)]);
    }

    #[test]
    fn a_batch_that_nobody_took_comes_again_but_not_for_ever() {
        let mut feedback = Feedback::default();
        feedback.push(record(0), 0);
        for _ in 0..ATTEMPTS {
            let mut batch = feedback.take(DELAY_MS, DELAY_MS).unwrap();
            batch.handed_out();
            feedback.put_back(batch);
        }
        assert_eq!(feedback.take(i64::MAX, DELAY_MS), None);
    }

    #[test]
    fn the_oldest_records_go_when_nobody_fetches_any() {
        let mut feedback = Feedback::default();
        for id in 0..RECORDS + 1 {
            feedback.push(record(id), 0);
        }
        assert_eq!(feedback.list().len(), RECORDS);
        assert_eq!(feedback.list()[0], record(1));
    }
}
