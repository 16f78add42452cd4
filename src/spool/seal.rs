//! The checksum of a record: with it, a body that the disk changed, or gives for another record, is found out.
//!
//! CRC-32 of lane, group, time of receipt and body finds every run of up to 32 changed bits. The number is mixed in
//! apart, so that a requeued record gets its new seal without its body being read.

use crc32fast::Hasher;

use super::types::Seq;

/// What a seal is made over, besides the number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed<'a> {
    pub(super) lane: &'a str,
    pub(super) group: &'a str,
    pub(super) received_ms: i64,
    pub(super) body: &'a [u8],
}

impl Sealed<'_> {
    /// The seal of this content under `seq`.
    pub(super) fn seal(&self, seq: Seq) -> u32 {
        let mut hasher = Hasher::new();
        for text in [self.lane, self.group] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&self.received_ms.to_le_bytes());
        hasher.update(self.body);
        hasher.finalize() ^ mixed(seq)
    }
}

/// The seal of a record that moves from one number to another.
pub(super) fn moved(seal: u32, from: Seq, to: Seq) -> u32 {
    seal ^ mixed(from) ^ mixed(to)
}

/// The seal of a row of the small state.
pub(super) fn of_state(namespace: &str, key: &str, value: &[u8], expires_ms: Option<i64>) -> u32 {
    let mut hasher = Hasher::new();
    for part in [namespace.as_bytes(), key.as_bytes(), value] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(&expires_ms.unwrap_or(-1).to_le_bytes());
    hasher.finalize()
}

fn mixed(seq: Seq) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&seq.0.to_le_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Sealed<'static> = Sealed { lane: "ab", group: "c", received_ms: 7, body: b"body" };

    #[test]
    fn another_number_time_lane_or_body_has_another_seal() {
        let seal = RECORD.seal(Seq(1));
        assert_ne!(seal, RECORD.seal(Seq(2)));
        assert_ne!(seal, Sealed { received_ms: 8, ..RECORD }.seal(Seq(1)));
        assert_ne!(seal, Sealed { lane: "a", group: "bc", ..RECORD }.seal(Seq(1)));
        assert_ne!(seal, Sealed { body: b"bodY", ..RECORD }.seal(Seq(1)));
    }

    #[test]
    fn a_moved_record_has_the_seal_of_its_new_number_and_a_broken_one_stays_broken() {
        assert_eq!(moved(RECORD.seal(Seq(3)), Seq(3), Seq(900)), RECORD.seal(Seq(900)));
        assert_ne!(moved(RECORD.seal(Seq(3)) ^ 1, Seq(3), Seq(900)), RECORD.seal(Seq(900)));
    }
}
