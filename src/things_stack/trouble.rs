//! What is wrong with The Things Stack, told once when it begins and once when it is over. Makes no calls, decides nothing.
//!
//! Who asked for a downlink is told each time; this is for the operator, who has many devices and one problem.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::answer::Call;
use super::api::ApiError;

/// An address that fails every now and then is told of once in this time.
const QUIET: Duration = Duration::from_secs(60);
/// Applications and addresses remembered at most; of more nothing is told.
const MAX_REMEMBERED: usize = 1000;

/// The troubles that were told.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    addresses: HashMap<String, Address>,
    applications: HashMap<(String, Call), Refusal>,
}

#[derive(Debug)]
struct Address {
    /// Since when it has not answered, if that was told.
    since: Option<Instant>,
    told: Instant,
}

/// What only a person can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The key is unknown, or lacks the right.
    Key,
    /// The webhook is paused in the console.
    Paused,
}

/// What one call showed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen<'a> {
    /// It answered with success.
    Success,
    /// It answered with this status.
    Status(u16, &'a ApiError),
    /// There was no answer.
    Silence(&'a ApiError),
}

impl Troubles {
    /// Takes note of a call's end. `address` names the API's place.
    pub(super) fn note(&self, address: &str, application: &str, call: Call, seen: Seen<'_>) {
        match seen {
            Seen::Success => {
                self.answers(address);
                self.lock().applications.remove(&(application.to_owned(), call));
            }
            // We did not ask: the request can't be, or the device is held back.
            Seen::Silence(ApiError::Refused { .. } | ApiError::NotNow { after: Some(_), .. }) => {}
            Seen::Silence(error) | Seen::Status(408 | 499 | 500.., error) => self.fails(address, error),
            Seen::Status(status, error) => {
                self.answers(address);
                match status {
                    401 | 403 => self.refuses(application, call, Refusal::Key, error),
                    406 => self.refuses(application, call, Refusal::Paused, error),
                    _ => {}
                }
            }
        }
    }

    fn fails(&self, address: &str, error: &ApiError) {
        let now = Instant::now();
        let mut state = self.lock();
        let full = state.addresses.len() >= MAX_REMEMBERED;
        match state.addresses.get_mut(address) {
            Some(known) if known.since.is_some() || now.duration_since(known.told) < QUIET => return,
            Some(known) => *known = Address { since: Some(now), told: now },
            None if full => return,
            None => {
                state.addresses.insert(address.to_owned(), Address { since: Some(now), told: now });
            }
        }
        drop(state);
        warn!(address, %error, "The Things Stack does not answer as it should; downlinks wait and are tried again.");
    }

    fn answers(&self, address: &str) {
        let since = self.lock().addresses.get_mut(address).and_then(|known| known.since.take());
        if let Some(since) = since {
            let seconds = since.elapsed().as_secs();
            info!(address, seconds, "The Things Stack answers again.");
        }
    }

    fn refuses(&self, application: &str, call: Call, refusal: Refusal, error: &ApiError) {
        let mut state = self.lock();
        let key = (application.to_owned(), call);
        let is_news = state.applications.get(&key) != Some(&refusal);
        if !is_news || state.applications.len() >= MAX_REMEMBERED && !state.applications.contains_key(&key) {
            return;
        }
        state.applications.insert(key, refusal);
        drop(state);
        match refusal {
            Refusal::Key => warn!(
                application,
                %error,
                "The Things Stack refuses the application's API key; correct `api_key` in its section of `things_stack.applications`, or the key that its webhook sends."
            ),
            Refusal::Paused => warn!(
                application,
                %error,
                "The application's webhook is paused in The Things Stack; downlinks wait until it is resumed in the console."
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "https://eu1.example";

    fn silence() -> ApiError {
        ApiError::NotNow { detail: "refused".to_owned(), after: None }
    }

    fn fail(troubles: &Troubles) -> bool {
        troubles.note(AT, "house", Call::Write, Seen::Silence(&silence()));
        troubles.lock().addresses[AT].since.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_begins_once_and_ends_with_any_answer() {
        let troubles = Troubles::default();
        assert!(fail(&troubles));
        let told = troubles.lock().addresses[AT].told;
        tokio::time::advance(QUIET * 3).await;
        assert!(fail(&troubles));
        assert_eq!(troubles.lock().addresses[AT].told, told, "the same outage is not told again");
        let refused = ApiError::Refused { status: Some(404), detail: "404".to_owned() };
        troubles.note(AT, "house", Call::Write, Seen::Status(404, &refused));
        assert!(troubles.lock().addresses[AT].since.is_none());
        assert!(fail(&troubles), "another one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_now_and_then_is_told_of_once_a_minute() {
        let troubles = Troubles::default();
        for round in 0..120 {
            let expected = round % 60 == 0;
            assert_eq!(fail(&troubles), expected, "{round}");
            troubles.note(AT, "house", Call::Write, Seen::Success);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_key_is_the_applications_own_and_told_again_after_a_success() {
        let troubles = Troubles::default();
        let refused = ApiError::Refused { status: Some(403), detail: "403".to_owned() };
        let has = |call| troubles.lock().applications.contains_key(&("house".to_owned(), call));
        troubles.note(AT, "house", Call::Write, Seen::Status(403, &refused));
        assert!(has(Call::Write) && !has(Call::Read));
        troubles.note(AT, "house", Call::Read, Seen::Success);
        assert!(has(Call::Write));
        troubles.note(AT, "house", Call::Write, Seen::Success);
        assert!(!has(Call::Write));
        for n in 0..=MAX_REMEMBERED {
            troubles.note(AT, &n.to_string(), Call::Write, Seen::Status(406, &refused));
        }
        assert_eq!(troubles.lock().applications.len(), MAX_REMEMBERED);
    }
}
