//! By what a frame is recognised, however it came and whenever: webhook, its retries, or the Storage Integration.
//!
//! Pure. Knows no storage.

use sha2::{Digest as _, Sha256};

use crate::things_stack::Frame;

/// What a frame is remembered by, and what it is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// To be remembered.
    pub key: [u8; 16],
    /// If one of these is remembered, the frame was taken in before.
    pub known_by: Vec<[u8; 16]>,
}

impl Identity {
    /// Of an uplink that the webhook brought. Without the network server's time it is recognised by nothing: a device
    /// that starts its counters anew within a session repeats them, and its new uplinks must not be taken for old.
    pub fn live(application_id: &str, device_id: &str, frame: &Frame) -> Self {
        let key = key(application_id, device_id, frame, frame.received_ms);
        let known_by = if frame.received_ms.is_some() { vec![key] } else { Vec::new() };
        Self { key, known_by }
    }

    /// Of a stored uplink, which the webhook may have brought without its time.
    pub fn stored(application_id: &str, device_id: &str, frame: &Frame) -> Self {
        let exact = key(application_id, device_id, frame, frame.received_ms);
        Self { key: exact, known_by: vec![exact, key(application_id, device_id, frame, None)] }
    }
}

/// The tenant is not part of it: the Storage Integration does not name it, and with session and time in it no two
/// tenants' frames are alike.
fn key(application_id: &str, device_id: &str, frame: &Frame, received_ms: Option<i64>) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(application_id.as_bytes());
    part(device_id.as_bytes());
    part(frame.session_key_id.as_bytes());
    part(&frame.f_cnt.to_le_bytes());
    part(&received_ms.map_or_else(Vec::new, |ms| ms.to_le_bytes().to_vec()));
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(f_cnt: u32, received_ms: Option<i64>) -> Frame {
        Frame { session_key_id: "AQ==".to_owned(), f_cnt, received_ms }
    }

    fn recognises(stored: &Frame, live: &Frame) -> bool {
        let (stored, live) =
            (Identity::stored("house", "cellar", stored), Identity::live("house", "cellar", live));
        stored.known_by.contains(&live.key)
    }

    #[test]
    fn a_frame_is_the_same_with_its_time_or_without() {
        assert!(recognises(&frame(7, Some(1000)), &frame(7, Some(1000))));
        assert!(recognises(&frame(7, Some(1000)), &frame(7, None)));
        assert!(!recognises(&frame(7, Some(1000)), &frame(8, Some(1000))));
        let other = Identity::live("house", "attic", &frame(7, None));
        assert!(!Identity::stored("house", "cellar", &frame(7, Some(1))).known_by.contains(&other.key));
    }

    #[test]
    fn a_counter_that_comes_again_at_another_time_is_another_frame() {
        assert!(!recognises(&frame(7, Some(1000)), &frame(7, Some(900_000))));
        assert!(Identity::live("house", "cellar", &frame(7, None)).known_by.is_empty());
    }
}
