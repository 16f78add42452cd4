//! One try to bring a request into The Things Stack's queue, exactly once however often it is tried.
//!
//! Knows neither who asked nor how long to wait for the next try.

use std::time::Duration;

use tokio::time::Instant;

use super::alone::{NotYet, alone};
use super::ports::{Network, Observer, Outbox, Store};
use super::translate::Request;
use super::{Begun, End, Ledger, NewEntry};
use crate::things_stack::{ApiError, Whereabouts};

/// What a try led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is in the queue, or was already taken from it.
    Queued,
    /// It is over since an earlier try.
    Ended(End),
    /// The Things Stack will never take it as it is; its entry is ended and reported.
    Refused {
        /// The HTTP status; `None` when no call was made.
        status: Option<u16>,
        /// The reason for its sender.
        detail: String,
    },
    /// Certainly not queued; a later try may succeed.
    NotNow {
        /// What was seen.
        detail: String,
        /// The API asked for at least this long.
        after: Option<Duration>,
    },
    /// It may be queued; a later try looks first.
    Unsure {
        /// What was seen.
        detail: String,
        /// The API asked for at least this long.
        after: Option<Duration>,
    },
}

/// Who counts what a try led to.
#[derive(Clone, Copy)]
pub(super) struct Count<'a> {
    pub(super) observer: &'a dyn Observer,
    /// When the request came.
    pub(super) since: Instant,
}

impl Count<'_> {
    fn queued(&self, entry: &NewEntry) -> Attempt {
        self.observer.queued(entry.source, self.since.elapsed());
        Attempt::Queued
    }
}

/// Where an entry is that may be queued.
enum Found {
    Somewhere(Whereabouts),
    Nowhere,
    Unknown { detail: String, after: Option<Duration> },
}

/// Enters the request in the ledger, looks for it if an earlier try has no known outcome, and pushes it. Nobody else may
/// work on this entry meanwhile.
pub(super) async fn attempt<N: Network, S: Store, O: Outbox>(
    network: &N,
    ledger: &Ledger<S, O>,
    count: Count<'_>,
    entry: &NewEntry,
    request: &Request,
) -> Attempt {
    let mut begun = ledger.begin(entry.clone()).await;
    if begun == Ok(Begun::Unsure) {
        match look(network, entry).await {
            Found::Somewhere(at) => return found(ledger, count, entry, at).await,
            Found::Unknown { detail, after } => return Attempt::Unsure { detail, after },
            Found::Nowhere => {
                // Entered anew, so that a replace displaces what was queued since its first push.
                ledger.put_back(entry.id).await;
                begun = ledger.begin(entry.clone()).await;
            }
        }
    }
    match begun {
        Ok(Begun::New) => push(network, ledger, count, entry, request).await,
        Ok(Begun::Unsure) => {
            let detail = "whether an earlier push succeeded is not known".to_owned();
            Attempt::Unsure { detail, after: None }
        }
        Ok(Begun::Queued { sent: _ }) => Attempt::Queued,
        Ok(Begun::Ended(end)) => Attempt::Ended(end),
        Err(error) => Attempt::NotNow { detail: error.to_string(), after: None },
    }
}

/// Looks whether an entry of which a push had no answer is queued. Gives [`Attempt::Queued`] or [`Attempt::Unsure`].
pub(super) async fn look_again<N: Network, S: Store, O: Outbox>(
    network: &N,
    ledger: &Ledger<S, O>,
    count: Count<'_>,
    entry: &NewEntry,
) -> Attempt {
    match look(network, entry).await {
        Found::Somewhere(at) => found(ledger, count, entry, at).await,
        Found::Nowhere => Attempt::Unsure {
            detail: "The Things Stack did not answer, and its queue does not show the downlink".to_owned(),
            after: None,
        },
        Found::Unknown { detail, after } => Attempt::Unsure { detail, after },
    }
}

async fn push<N: Network, S: Store, O: Outbox>(
    network: &N,
    ledger: &Ledger<S, O>,
    count: Count<'_>,
    entry: &NewEntry,
    request: &Request,
) -> Attempt {
    let _turn = match alone(network, ledger, entry).await {
        Ok(turn) => turn,
        Err(NotYet { detail, after }) => {
            ledger.put_back(entry.id).await;
            return Attempt::NotNow { detail, after };
        }
    };
    let mut downlink = request.downlink.clone();
    downlink.correlation_ids = vec![entry.id.correlation_id()];
    match network.push(&entry.device, request.operation, &downlink).await {
        Ok(()) => {
            ledger.queued(entry.id).await;
            count.queued(entry)
        }
        Err(ApiError::Unsure { detail }) => Attempt::Unsure { detail, after: None },
        Err(ApiError::NotNow { detail, after }) => {
            ledger.put_back(entry.id).await;
            Attempt::NotNow { detail, after }
        }
        // The device's next uplink may bring a key.
        Err(ApiError::Refused { status: None, detail }) if !network.serves(entry.device.application_id()) => {
            ledger.put_back(entry.id).await;
            Attempt::NotNow { detail, after: None }
        }
        Err(ApiError::Refused { status, detail }) => match ledger.reject(entry, &detail).await {
            Ok(()) => {
                count.observer.rejected(entry.source, "refused");
                Attempt::Refused { status, detail }
            }
            Err(error) => {
                ledger.put_back(entry.id).await;
                Attempt::NotNow { detail: error.to_string(), after: None }
            }
        },
    }
}

async fn look<N: Network>(network: &N, entry: &NewEntry) -> Found {
    match network.whereabouts(&entry.device, &entry.id.correlation_id()).await {
        Ok(at @ (Whereabouts::Queued | Whereabouts::Taken)) => Found::Somewhere(at),
        Ok(Whereabouts::Nowhere) => Found::Nowhere,
        // No such device or session, so no queue holds it.
        Err(ApiError::Refused { status: Some(400 | 404), .. }) => Found::Nowhere,
        Err(ApiError::NotNow { detail, after }) => Found::Unknown { detail, after },
        Err(ApiError::Unsure { detail } | ApiError::Refused { status: _, detail }) => {
            Found::Unknown { detail, after: None }
        }
    }
}

async fn found<S: Store, O: Outbox>(
    ledger: &Ledger<S, O>,
    count: Count<'_>,
    entry: &NewEntry,
    at: Whereabouts,
) -> Attempt {
    match ledger.found(entry.id, at).await {
        Ok(()) => count.queued(entry),
        Err(error) => Attempt::Unsure { detail: error.to_string(), after: None },
    }
}
