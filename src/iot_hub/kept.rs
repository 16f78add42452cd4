//! The wish to keep one device's links open, shared by who wishes, who reports, and the keeper that fulfils it.
//!
//! Opens nothing itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::classify::{self, Class};
use super::error::{RetryReason, SendError};
use super::event::Links;
use crate::azure::HubDevice;
use crate::model::ParkReason;

/// Reports of one device under way or waiting at once. They are coalesced before; more would only grow old here.
const MAX_REPORTS: usize = 8;

/// What is to be kept open.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) device: Arc<HubDevice>,
    pub(super) links: Links,
}

/// A report of properties that waits for the twin's links.
#[derive(Debug)]
pub(super) struct Request {
    /// The patch as JSON.
    pub(super) patch: Bytes,
    /// Nobody waits for the answer any more.
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Result<u64, SendError>>,
}

/// How far the keeper is.
#[derive(Clone, Debug, Default)]
pub(super) enum Reach {
    /// The links are being opened.
    #[default]
    Opening,
    /// They are open; the hub may not offer the twin.
    Attached { twin: bool },
    /// Opening failed or they were lost; it goes on after a pause.
    Trouble(SendError),
}

/// One device that is kept open.
#[derive(Debug)]
pub(super) struct Kept {
    state: Mutex<State>,
    /// For the keeper: the wish changed or ended, or a report waits.
    pub(super) news: Notify,
}

#[derive(Debug)]
struct State {
    wish: Wish,
    /// Counts the wishes, so that the keeper sees a new one.
    edition: u64,
    over: bool,
    reach: Reach,
    requests: VecDeque<Request>,
}

impl Kept {
    pub(super) fn new(wish: Wish) -> Self {
        let state = State { wish, edition: 0, over: false, reach: Reach::Opening, requests: VecDeque::new() };
        Self { state: Mutex::new(state), news: Notify::new() }
    }

    /// The wish and its number, `None` once it has ended.
    pub(super) fn wish(&self) -> Option<(u64, Wish)> {
        let state = self.state();
        (!state.over).then(|| (state.edition, state.wish.clone()))
    }

    /// Whether the wish with this number is still the one.
    pub(super) fn stands(&self, edition: u64) -> bool {
        let state = self.state();
        !state.over && state.edition == edition
    }

    /// Waits until the wish with this number is no longer the one. May be cancelled. For the keeper alone.
    pub(super) async fn changes(&self, edition: u64) {
        while self.stands(edition) {
            self.news.notified().await;
        }
    }

    /// Replaces the wish. `false` if it has ended already: then a new one must be kept.
    pub(super) fn replace(&self, wish: Wish) -> bool {
        let mut state = self.state();
        if state.over {
            return false;
        }
        let same = state.wish.links == wish.links && *state.wish.device == *wish.device;
        if !same {
            state.wish = wish;
            state.edition += 1;
            state.reach = Reach::Opening;
            drop(state);
            self.news.notify_one();
        }
        true
    }

    /// Ends the wish for good; reports that wait fail.
    pub(super) fn end(&self) {
        self.finish(self.state());
    }

    /// The same, if the wish with this number is still the one.
    pub(super) fn end_if(&self, edition: u64) -> bool {
        let state = self.state();
        let stands = !state.over && state.edition == edition;
        if stands {
            self.finish(state);
        }
        stands
    }

    fn finish(&self, mut state: MutexGuard<'_, State>) {
        state.over = true;
        let waiting = std::mem::take(&mut state.requests);
        let hub = state.wish.device.hub.clone();
        drop(state);
        for request in waiting {
            let class = Class::Retry(RetryReason::Link, None, false);
            _ = request.answer.send(Err(classify::error(class, "the device is no longer kept open", &hub)));
        }
        self.news.notify_one();
    }

    /// Tells those who report how far the keeper is. In trouble, what waits is told so at once.
    pub(super) fn reached(&self, reach: Reach) {
        let mut state = self.state();
        let failed = match &reach {
            Reach::Trouble(error) => Some((error.clone(), std::mem::take(&mut state.requests))),
            Reach::Opening | Reach::Attached { .. } => None,
        };
        state.reach = reach;
        drop(state);
        for (error, request) in
            failed.into_iter().flat_map(|(error, all)| all.into_iter().map(move |r| (error.clone(), r)))
        {
            _ = request.answer.send(Err(error));
        }
    }

    /// Hands a report to the keeper.
    ///
    /// # Errors
    /// The device's twin is not wished or not offered, its links are in trouble, or too many reports wait.
    pub(super) fn ask(&self, request: Request) -> Result<(), SendError> {
        let mut state = self.state();
        let hub = &state.wish.device.hub;
        if state.over || !state.wish.links.twin {
            return Err(not_among_the_links(&state.wish.device));
        }
        match &state.reach {
            Reach::Opening | Reach::Attached { twin: true } => {}
            Reach::Attached { twin: false } => {
                let class = Class::Park(ParkReason::Rejected);
                return Err(classify::error(class, "the hub offers no twins; its tier is basic", hub));
            }
            Reach::Trouble(error) => return Err(error.clone()),
        }
        if state.requests.len() >= MAX_REPORTS {
            let class = Class::Retry(RetryReason::Timeout, None, false);
            return Err(classify::error(class, "too many reports of this device wait already", hub));
        }
        state.requests.push_back(request);
        drop(state);
        self.news.notify_one();
        Ok(())
    }

    /// The next report, if any waits.
    pub(super) fn next_request(&self) -> Option<Request> {
        self.state().requests.pop_front()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports go over links that somebody must wish for.
pub(super) fn not_among_the_links(device: &HubDevice) -> SendError {
    let detail = format!("the twin of {} is not among the links that are kept open", device.device_id);
    classify::error(Class::Park(ParkReason::Rejected), &detail, &device.hub)
}
