//! What of one device is under way, and what waits for it. Knows no task.

use std::collections::VecDeque;

use crate::downlink::cloud_messages::CloudJob;

/// Messages of one device that wait behind another: what the hub keeps for it. More would be repetitions.
const MAX_QUEUED: usize = 50;

/// One device with something to do.
#[derive(Default)]
pub(super) struct Lane {
    /// A message is worked on.
    pub(super) cloud_busy: bool,
    /// Direct methods under way.
    pub(super) methods: usize,
    messages: VecDeque<CloudJob>,
}

/// Whether a message was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    Kept,
    Full,
}

impl Lane {
    pub(super) fn is_idle(&self) -> bool {
        !self.cloud_busy && self.methods == 0 && self.messages.is_empty()
    }

    /// Puts a message behind the others.
    pub(super) fn queue(&mut self, job: CloudJob) -> Queued {
        if self.messages.len() >= MAX_QUEUED {
            return Queued::Full;
        }
        self.messages.push_back(job);
        Queued::Kept
    }

    pub(super) fn next_message(&mut self) -> Option<CloudJob> {
        self.messages.pop_front()
    }

    /// Leaves what waits to its lock, so that nothing overtakes a message that comes again; gives its bytes.
    pub(super) fn drop_queue(&mut self) -> usize {
        self.messages.drain(..).map(|job| job.message.body.len()).sum()
    }
}
