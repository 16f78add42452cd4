//! How many requests are under way, in all and per application, and how many may be. Pure.

use std::collections::HashMap;

/// Requests under way in all: some 4 KB each while they wait, so 64 MB at most.
const MAX_TASKS: usize = 16 * 1024;
/// Of one application, so that one whose downlinks all wait leaves places to the others.
const MAX_PER_APPLICATION: usize = 4 * 1024;

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: usize,
    by_application: HashMap<Box<str>, usize>,
}

impl Places {
    /// Takes a place. False if there is none.
    pub(super) fn take(&mut self, application_id: &str) -> bool {
        if self.taken >= MAX_TASKS {
            return false;
        }
        match self.by_application.get_mut(application_id) {
            Some(taken) if *taken >= MAX_PER_APPLICATION => return false,
            Some(taken) => *taken += 1,
            None => _ = self.by_application.insert(application_id.into(), 1),
        }
        self.taken += 1;
        true
    }

    /// Gives one back.
    pub(super) fn give(&mut self, application_id: &str) {
        let Some(taken) = self.by_application.get_mut(application_id) else { return };
        *taken -= 1;
        self.taken -= 1;
        if *taken == 0 {
            self.by_application.remove(application_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_that_waits_leaves_places_to_others_and_all_come_back() {
        let mut places = Places::default();
        let all = |places: &mut Places, application: &str| {
            (0..MAX_TASKS).filter(|_| places.take(application)).count()
        };
        assert_eq!(all(&mut places, "a"), MAX_PER_APPLICATION);
        assert_eq!(all(&mut places, "b"), MAX_PER_APPLICATION);
        assert_eq!(all(&mut places, "c"), MAX_PER_APPLICATION);
        assert_eq!(all(&mut places, "d"), MAX_PER_APPLICATION);
        assert!(!places.take("e"));
        places.give("a");
        assert!(places.take("e"));
        places.give("e");
        for application in ["b", "c", "d"] {
            (0..MAX_PER_APPLICATION).for_each(|_| places.give(application));
        }
        (1..MAX_PER_APPLICATION).for_each(|_| places.give("a"));
        assert_eq!((places.taken, places.by_application.len()), (0, 0));
    }
}
