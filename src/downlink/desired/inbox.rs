//! What a device's desired properties became while its worker was busy, in order and bounded.
//!
//! Pure.

use std::collections::VecDeque;

use crate::azure::{Desired, DesiredScope};
use crate::downlink::merge::merge;

/// Changes kept apart; beyond these the newest two become one, so that of one property only the newest value counts.
const MAX_WAITING: usize = 16;

/// Not yet looked at.
#[derive(Debug, Default)]
pub(super) struct Inbox(VecDeque<Desired>);

impl Inbox {
    /// Takes one in. All properties make earlier changes pointless.
    pub(super) fn put(&mut self, desired: Desired) {
        if matches!(desired.scope, DesiredScope::Whole { .. }) {
            self.0.clear();
        } else if self.0.len() >= MAX_WAITING
            && let Some(last) = self.0.pop_back()
        {
            return self.0.push_back(merge(Some(last), desired));
        }
        self.0.push_back(desired);
    }

    /// The oldest.
    pub(super) fn take(&mut self) -> Option<Desired> {
        self.0.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    fn desired(version: u64, properties: Value, scope: DesiredScope) -> Desired {
        Desired { version, properties: properties.as_object().expect("an object").clone(), scope }
    }

    #[test]
    fn changes_wait_in_order_and_beyond_the_limit_the_newest_value_counts() {
        let mut inbox = Inbox::default();
        inbox.put(desired(1, json!({"old": 1}), DesiredScope::Patch));
        inbox.put(desired(2, json!({"a": 1}), DesiredScope::Whole { reported: Map::new() }));
        for version in 3..100 {
            inbox.put(desired(version, json!({"a": version, "b": null}), DesiredScope::Patch));
        }
        let taken: Vec<_> = std::iter::from_fn(|| inbox.take()).collect();
        assert_eq!(taken.len(), MAX_WAITING);
        assert!(matches!(taken[0].scope, DesiredScope::Whole { .. }));
        assert_eq!((taken[1].version, &taken[1].properties["a"]), (3, &json!(3)));
        let last = &taken[MAX_WAITING - 1];
        assert_eq!((last.version, &last.properties["a"]), (99, &json!(99)));
    }
}
