//! Devices that The Things Stack told to wait (429), so that nobody asks before. Makes no calls.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::answer::Call;
use crate::model::EndDevice;

/// Devices remembered at most. One more is not held back, and just told again.
const MAX_HOLDS: usize = 10_000;

/// Until when which device waits. The limit is one per device and kind of call.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<(EndDevice, Call), Instant>>);

impl Holds {
    /// Holds back calls for `wait` from now on.
    pub(super) fn hold(&self, device: &EndDevice, call: Call, wait: Duration) {
        let now = Instant::now();
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holds.len() >= MAX_HOLDS {
            holds.retain(|_, until| *until > now);
        }
        let key = (device.clone(), call);
        if holds.len() < MAX_HOLDS || holds.contains_key(&key) {
            holds.insert(key, now + wait);
        }
    }

    /// How long calls still wait; `None` if they may go.
    pub(super) fn left(&self, device: &EndDevice, call: Call) -> Option<Duration> {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holds.is_empty() {
            return None;
        }
        let key = (device.clone(), call);
        let left = holds.get(&key)?.saturating_duration_since(Instant::now());
        if left.is_zero() {
            holds.remove(&key);
            return None;
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_by_itself_and_is_the_devices_own() {
        let holds = Holds::default();
        let device = |id: &str| EndDevice::new("", "house", id).expect("valid");
        holds.hold(&device("cellar"), Call::Write, Duration::from_secs(5));
        assert_eq!(holds.left(&device("cellar"), Call::Write), Some(Duration::from_secs(5)));
        assert_eq!(holds.left(&device("cellar"), Call::Read), None);
        assert_eq!(holds.left(&device("attic"), Call::Write), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(holds.left(&device("cellar"), Call::Write), None);
        assert!(holds.0.lock().expect("not poisoned").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_for_so_many_and_old_ones_make_room() {
        let holds = Holds::default();
        let device = |n: usize| EndDevice::new("", "house", &n.to_string()).expect("valid");
        for n in 0..MAX_HOLDS {
            holds.hold(&device(n), Call::Write, Duration::from_secs(5));
        }
        holds.hold(&device(MAX_HOLDS), Call::Write, Duration::from_secs(5));
        assert_eq!(holds.left(&device(MAX_HOLDS), Call::Write), None);
        tokio::time::advance(Duration::from_secs(6)).await;
        holds.hold(&device(MAX_HOLDS), Call::Write, Duration::from_secs(5));
        assert!(holds.left(&device(MAX_HOLDS), Call::Write).is_some());
        assert_eq!(holds.0.lock().expect("not poisoned").len(), 1);
    }
}
