//! Whether The Things Stack's webhook tells of downlinks at all: an operator who has not ticked these messages there
//! would else only see every downlink expire.

use std::collections::HashMap;

use super::{Ledger, Outbox, Store};
use crate::downlink::EntryId;
use crate::model::EndDevice;

/// After this long without any event the next downlink tells. An event is due before its push is answered.
const PATIENCE_MS: i64 = 60_000;
/// Applications remembered; a further one is not told of.
const MAX_APPLICATIONS: usize = 1000;

/// What was heard of each application's downlinks since the start.
#[derive(Debug, Default)]
pub(super) struct Hearing(HashMap<Box<str>, Heard>);

#[derive(Debug)]
enum Heard {
    Something,
    /// Nothing since the first push was answered then.
    NothingSince(i64),
    /// Nothing, and the operator was told.
    NothingAndTold,
}

impl Hearing {
    /// A push was answered, and no event told of it before. True if the operator is to be told now.
    fn pushed(&mut self, application: &str, now_ms: i64) -> bool {
        match self.0.get_mut(application) {
            Some(Heard::Something | Heard::NothingAndTold) => false,
            Some(heard @ Heard::NothingSince(_)) => {
                let long = matches!(heard, Heard::NothingSince(since) if now_ms - *since >= PATIENCE_MS);
                if long {
                    *heard = Heard::NothingAndTold;
                }
                long
            }
            None => {
                self.put(application, Heard::NothingSince(now_ms));
                false
            }
        }
    }

    fn told(&mut self, application: &str) {
        match self.0.get_mut(application) {
            Some(heard) => *heard = Heard::Something,
            None => self.put(application, Heard::Something),
        }
    }

    fn put(&mut self, application: &str, heard: Heard) {
        if self.0.len() < MAX_APPLICATIONS {
            self.0.insert(application.into(), heard);
        }
    }
}

impl<S: Store, O: Outbox> Ledger<S, O> {
    /// The push of an open entry was answered before any event told of it.
    pub(super) fn note_pushed(&self, id: EntryId, now_ms: i64) {
        let Some(device) = self.book().get(id).map(|entry| entry.device.clone()) else { return };
        let application = device.application_id();
        if self.hearing().pushed(application, now_ms) {
            tracing::warn!(
                application,
                "The Things Stack queues downlinks of this application, and its webhook tells nothing of them; tick the downlink messages in the webhook's settings (queued, sent, ack, nack, failed, queue invalidated)."
            );
        }
    }

    /// An event told of a downlink of ours.
    pub(super) fn note_told(&self, device: &EndDevice) {
        self.hearing().told(device.application_id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_whose_webhook_tells_nothing_is_told_of_once_and_no_other() {
        let mut hearing = Hearing::default();
        assert!(!hearing.pushed("silent", 0));
        assert!(!hearing.pushed("silent", PATIENCE_MS - 1));
        hearing.told("sound");
        assert!(!hearing.pushed("sound", 0) && !hearing.pushed("sound", PATIENCE_MS));
        assert!(!hearing.pushed("late", 0));
        hearing.told("late");
        assert!(!hearing.pushed("late", PATIENCE_MS));
        assert!(hearing.pushed("silent", PATIENCE_MS));
        assert!(!hearing.pushed("silent", 10 * PATIENCE_MS), "once");
        for n in 0..2 * MAX_APPLICATIONS {
            hearing.told(&n.to_string());
        }
        assert_eq!(hearing.0.len(), MAX_APPLICATIONS);
    }
}
