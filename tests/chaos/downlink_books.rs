//! What the cloud asked for and what The Things Stack was given; what that proves. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Who asked, as the first byte of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    Message,
    Method,
    Twin,
}

impl Asker {
    fn tag(self) -> u8 {
        match self {
            Self::Message => b'C',
            Self::Method => b'M',
            Self::Twin => b'T',
        }
    }

    /// Asker and number as five bytes.
    pub(crate) fn payload(self, number: u32) -> [u8; 5] {
        let [a, b, c, d] = number.to_be_bytes();
        [self.tag(), a, b, c, d]
    }

    pub(crate) fn read(payload: &[u8]) -> Option<(Self, u32)> {
        let (tag, number) = payload.split_first()?;
        let asker =
            [Self::Message, Self::Method, Self::Twin].into_iter().find(|asker| asker.tag() == *tag)?;
        Some((asker, u32::from_be_bytes(number.try_into().ok()?)))
    }
}

#[derive(Debug, Default)]
pub(crate) struct DownlinkBooks {
    /// Messages that a hub took: number to device, in order of time.
    pub(crate) messages: BTreeMap<u32, usize>,
    /// When each was taken, for the slowest.
    pub(crate) sent_ms: BTreeMap<u32, i64>,
    /// Messages whose queue was deleted with its device.
    pub(crate) deleted: BTreeSet<u32>,
    /// Calls of methods: whether the answer was that the downlink is queued.
    pub(crate) calls: BTreeMap<u32, bool>,
    /// Desired properties: number to device.
    pub(crate) desired: BTreeMap<u32, usize>,
    /// Downlinks that The Things Stack queued: asker, number, device, time; in order.
    pub(crate) pushed: Vec<(Asker, u32, usize, i64)>,
    /// Pushed downlinks that nobody asked for.
    pub(crate) strange: usize,
}

#[derive(Debug, Default)]
pub(crate) struct DownlinkProof {
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
    pub(crate) disordered: usize,
    pub(crate) strange: usize,
    /// Lost with their device, or given all the same.
    pub(crate) deleted: usize,
    pub(crate) slowest_ms: i64,
    pub(crate) breaches: Vec<String>,
}

impl DownlinkBooks {
    /// Messages that The Things Stack does not have yet, those of deleted devices left out.
    pub(crate) fn waiting(&self) -> usize {
        let pushed: BTreeSet<u32> = self.numbers(Asker::Message).collect();
        self.messages
            .keys()
            .filter(|number| !pushed.contains(number) && !self.deleted.contains(number))
            .count()
    }

    fn numbers(&self, of: Asker) -> impl Iterator<Item = u32> + '_ {
        self.pushed.iter().filter(move |(asker, ..)| *asker == of).map(|(_, number, ..)| *number)
    }

    pub(crate) fn prove(&self) -> DownlinkProof {
        let mut proof =
            DownlinkProof { strange: self.strange, deleted: self.deleted.len(), ..DownlinkProof::default() };
        let mut times: BTreeMap<(Asker, u32), usize> = BTreeMap::new();
        let mut latest: BTreeMap<usize, u32> = BTreeMap::new();
        for (asker, number, device, at_ms) in &self.pushed {
            *times.entry((*asker, *number)).or_default() += 1;
            if *asker != Asker::Message {
                continue;
            }
            if self.messages.get(number) != Some(device) {
                proof.strange += 1;
                proof.breaches.push(format!("message {number} was pushed for device {device}"));
            }
            let before = latest.insert(*device, *number);
            if before > Some(*number) {
                proof.disordered += 1;
                proof
                    .breaches
                    .push(format!("message {number} of device {device} was pushed after {before:?}"));
            }
            proof.slowest_ms =
                proof.slowest_ms.max(self.sent_ms.get(number).map_or(0, |sent_ms| at_ms - sent_ms));
        }
        let doubled = times.iter().filter(|(_, times)| **times > 1);
        for ((asker, number), times) in doubled {
            proof.doubled += 1;
            let of = |push: &&(Asker, u32, usize, i64)| (push.0, push.1) == (*asker, *number);
            let at: Vec<_> =
                self.pushed.iter().filter(of).map(|(_, _, device, at_ms)| (device, at_ms)).collect();
            proof.breaches.push(format!("{asker:?} {number} was pushed {times} times: (device, ms) {at:?}"));
        }
        let is_there = |asker, number| times.contains_key(&(asker, number));
        // A change of a property that was overtaken by the next needs no downlink of its own.
        let last: BTreeMap<usize, u32> =
            self.desired.iter().map(|(number, device)| (*device, *number)).collect();
        let owed = self.messages.keys().filter(|number| !self.deleted.contains(number));
        let owed = owed.map(|number| (Asker::Message, *number));
        let promised = self.calls.iter().filter(|(_, queued)| **queued);
        let owed = owed.chain(promised.map(|(number, _)| (Asker::Method, *number)));
        for (asker, number) in owed.chain(last.values().map(|number| (Asker::Twin, *number))) {
            if !is_there(asker, number) {
                proof.lost += 1;
                proof.breaches.push(format!("{asker:?} {number} was never pushed"));
            }
        }
        proof.breaches.truncate(20);
        proof
    }
}
