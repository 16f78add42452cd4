//! How a twin's desired properties are followed: subscribe, then get all, then changes with rising versions. Pure.
//!
//! Knows no link; says what to ask for next and what to tell.

use std::time::Duration;

use tokio::time::Instant;

use crate::azure::Desired;

/// First pause after a failed request.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after failed requests.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// After so many whole twins older than a change that was told already, the last one is taken.
const MAX_STALE: u32 = 3;

/// What to ask the hub for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Subscribe,
    Get,
}

/// The state of following one twin over one pair of links.
#[derive(Debug)]
pub(super) struct Follower {
    stage: Stage,
    /// The question is under way.
    asked: bool,
    not_before: Instant,
    failures: u32,
    stale: u32,
    /// Version of what was told last.
    told: Option<u64>,
    /// Highest version seen in a change.
    newest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Subscribe,
    Get,
    Follow,
}

impl Follower {
    pub(super) fn new(now: Instant) -> Self {
        let stage = Stage::Subscribe;
        Self { stage, asked: false, not_before: now, failures: 0, stale: 0, told: None, newest: 0 }
    }

    /// The question that is to be asked at the given time, if any; it counts as asked when it was.
    pub(super) fn question(&self) -> Option<(Question, Instant)> {
        let question = match self.stage {
            Stage::Subscribe => Question::Subscribe,
            Stage::Get => Question::Get,
            Stage::Follow => return None,
        };
        (!self.asked).then_some((question, self.not_before))
    }

    /// The question is under way.
    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    /// The hub will tell changes from now on.
    pub(super) fn subscribed(&mut self) {
        (self.stage, self.asked, self.failures) = (Stage::Get, false, 0);
    }

    /// The whole came; gives it back if it is news.
    pub(super) fn got(&mut self, whole: Desired, now: Instant) -> Option<Desired> {
        (self.asked, self.failures) = (false, 0);
        if whole.version < self.newest && self.stale < MAX_STALE {
            // Read before the change that overtook it.
            self.stale += 1;
            self.not_before = now + FIRST_PAUSE;
            return None;
        }
        (self.stage, self.stale, self.newest) = (Stage::Follow, 0, whole.version);
        let news = self.told.is_none_or(|told| whole.version > told);
        self.told = self.told.max(Some(whole.version));
        news.then_some(whole)
    }

    /// A change came; gives it back if it is the next one. `room` says whether it could be told; if not, the whole is
    /// asked for later.
    pub(super) fn changed(&mut self, change: Desired, room: bool) -> Option<Desired> {
        self.newest = self.newest.max(change.version);
        if self.stage != Stage::Follow {
            // The whole that is to come holds it.
            return None;
        }
        let told = self.told.unwrap_or(0);
        if change.version <= told {
            return None;
        }
        if change.version != told + 1 || !room {
            (self.stage, self.asked) = (Stage::Get, false);
            return None;
        }
        self.told = Some(change.version);
        Some(change)
    }

    /// The question failed; it is asked again after a pause, at least as long as the hub wants.
    pub(super) fn failed(&mut self, now: Instant, at_least: Option<Duration>) {
        self.asked = false;
        let doubled = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let pause = doubled.min(LONGEST_PAUSE).max(at_least.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + pause.mul_f64(1.0 + fastrand::f64() / 4.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::azure::DesiredScope;

    fn whole(version: u64) -> Desired {
        Desired { version, properties: Map::new(), scope: DesiredScope::Whole { reported: Map::new() } }
    }

    fn change(version: u64) -> Desired {
        Desired { version, properties: Map::new(), scope: DesiredScope::Patch }
    }

    fn following(version: u64) -> Follower {
        let now = Instant::now();
        let mut follower = Follower::new(now);
        follower.subscribed();
        assert_eq!(follower.got(whole(version), now), Some(whole(version)));
        follower
    }

    fn asks(follower: &Follower) -> Option<Question> {
        follower.question().map(|(question, _)| question)
    }

    #[tokio::test]
    async fn it_subscribes_then_gets_then_follows() {
        let mut follower = Follower::new(Instant::now());
        assert_eq!(asks(&follower), Some(Question::Subscribe));
        follower.asked();
        assert_eq!(asks(&follower), None);
        follower.subscribed();
        assert_eq!(asks(&follower), Some(Question::Get));
        follower.asked();
        assert_eq!(follower.got(whole(3), Instant::now()), Some(whole(3)));
        assert_eq!(asks(&follower), None);
        assert_eq!(follower.changed(change(3), true), None);
        assert_eq!(follower.changed(change(4), true), Some(change(4)));
        assert_eq!(follower.changed(change(2), true), None);
        assert_eq!(asks(&follower), None);
    }

    #[tokio::test]
    async fn a_gap_or_a_full_house_asks_for_the_whole() {
        let mut follower = following(3);
        assert_eq!(follower.changed(change(6), true), None);
        assert_eq!(asks(&follower), Some(Question::Get));
        assert_eq!(follower.got(whole(6), Instant::now()), Some(whole(6)));
        assert_eq!(follower.changed(change(7), false), None);
        assert_eq!(asks(&follower), Some(Question::Get));
        assert_eq!(follower.got(whole(7), Instant::now()), Some(whole(7)));
        assert_eq!(follower.changed(change(8), true), Some(change(8)));
    }

    #[tokio::test]
    async fn a_whole_that_a_change_overtook_is_asked_for_again_but_not_for_ever() {
        let mut follower = following(3);
        follower.changed(change(9), true);
        for _ in 0..MAX_STALE {
            follower.asked();
            assert_eq!(follower.got(whole(5), Instant::now()), None);
            assert_eq!(asks(&follower), Some(Question::Get));
        }
        assert_eq!(follower.got(whole(5), Instant::now()), Some(whole(5)));
        assert_eq!(asks(&follower), None);
    }

    #[tokio::test]
    async fn failures_pause_longer_and_at_least_as_the_hub_wants() {
        let now = Instant::now();
        let mut follower = Follower::new(now);
        follower.failed(now, Some(Duration::from_secs(10)));
        let (_, first) = follower.question().unwrap();
        assert!(first >= now + Duration::from_secs(10));
        for _ in 0..40 {
            follower.failed(now, None);
        }
        let (_, last) = follower.question().unwrap();
        assert!(last >= now + LONGEST_PAUSE && last <= now + LONGEST_PAUSE * 5 / 4);
    }
}
