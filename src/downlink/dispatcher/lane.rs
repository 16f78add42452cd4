//! What of one device is under way, and what waits for it. Knows no task.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::azure::{Desired, HubDevice};
use crate::downlink::cloud_messages::CloudJob;
use crate::downlink::merge::merge;

/// Messages of one device that wait behind another: what the hub keeps for it. More would be repetitions.
const MAX_QUEUED: usize = 50;

/// One device with something to do.
#[derive(Default)]
pub(super) struct Lane {
    /// A message is worked on.
    pub(super) cloud_busy: bool,
    /// Direct methods under way.
    pub(super) methods: usize,
    /// Desired properties are worked on.
    pub(super) desired_busy: bool,
    messages: VecDeque<CloudJob>,
    /// Those that came meanwhile, as one: what counts is what is desired now. With the hub device as last told.
    desired: Option<(Arc<HubDevice>, Desired)>,
}

/// Whether a message was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    Kept,
    Full,
}

impl Lane {
    pub(super) fn is_idle(&self) -> bool {
        !self.cloud_busy
            && self.methods == 0
            && !self.desired_busy
            && self.messages.is_empty()
            && self.desired.is_none()
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

    pub(super) fn has_desired(&self) -> bool {
        self.desired.is_some()
    }

    pub(super) fn put_desired(&mut self, hub_device: Arc<HubDevice>, desired: Desired) {
        let earlier = self.desired.take().map(|(_, earlier)| earlier);
        self.desired = Some((hub_device, merge(earlier, desired)));
    }

    pub(super) fn take_desired(&mut self) -> Option<(Arc<HubDevice>, Desired)> {
        self.desired.take()
    }
}
