//! The steps of one message: what each does, and where each answer leads. Knows no time.

use std::time::Duration;

use super::CloudMessages;
use crate::downlink::alone::{NotYet, alone};
use crate::downlink::ports::{Network, Observer, Outbox, Store};
use crate::downlink::translate::Request;
use crate::downlink::{Begun, End, NewEntry, Progress};
use crate::things_stack::{ApiError, Whereabouts};

/// A push without an answer may still arrive; looked for too early it is not there yet.
const UNSURE_PAUSE: Duration = Duration::from_secs(1);

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Enter it in the ledger.
    Begin,
    /// It may be queued: ask The Things Stack.
    Ask {
        /// Its push began too short a time ago for its absence to prove anything.
        early: bool,
    },
    /// It is entered and not queued: push it.
    Push,
    /// Report that it can't be.
    Reject {
        /// Why, for the sender.
        reason: String,
        /// The same for metrics.
        word: &'static str,
    },
}

/// Where a step led.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// On, at once.
    Next(Step),
    /// On after a while.
    Wait { step: Step, obstacle: Obstacle, after: Option<Duration>, detail: String },
    /// It is queued, by this delivery.
    Queued,
    /// An earlier delivery brought it so far.
    Known(Progress),
    /// It is refused, and the report is on disk.
    Rejected { reason: String, word: &'static str },
}

/// Why a message waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It came, or got its turn, when its lock was all but over.
    Late,
    /// The ledger can't keep an entry.
    Unstored,
    /// No key is known for the application.
    NoKey,
    /// The Things Stack asks to come back.
    NotNow,
    /// Whether it is queued is not known.
    Unsure,
}

impl Obstacle {
    /// The word in logs and metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Unstored => "unstored",
            Self::NoKey => "no_key",
            Self::NotNow => "not_now",
            Self::Unsure => "unsure",
        }
    }
}

impl<N: Network, S: Store, B: Outbox, O: Observer> CloudMessages<N, S, B, O> {
    /// Takes one step. There is no `request` when the first step is to reject.
    pub(super) async fn step(&self, step: Step, entry: &NewEntry, request: Option<&Request>) -> Turn {
        match (step, request) {
            (Step::Begin, _) => self.begin(entry).await,
            (Step::Ask { early }, _) => self.ask(entry, early).await,
            (Step::Push, Some(request)) => self.push(entry, request).await,
            (Step::Push, None) => Turn::Next(Step::Begin),
            (Step::Reject { reason, word }, _) => self.reject(entry, reason, word).await,
        }
    }

    async fn begin(&self, entry: &NewEntry) -> Turn {
        match self.ledger.begin(entry.clone()).await {
            Ok(Begun::New) => Turn::Next(Step::Push),
            // At once: the longer we wait, the likelier it is that a gateway sends it and it can no longer be found.
            Ok(Begun::Unsure) => Turn::Next(Step::Ask { early: true }),
            Ok(Begun::Queued { sent: false }) => Turn::Known(Progress::Queued),
            Ok(Begun::Queued { sent: true }) => Turn::Known(Progress::Sent),
            // Its report may still be on its way to disk.
            Ok(Begun::Ended(End::Rejected(reason))) => match self.ledger.reject(entry, &reason).await {
                Ok(()) => Turn::Known(Progress::Ended(End::Rejected(reason))),
                Err(error) => wait(Step::Begin, Obstacle::Unstored, None, error.to_string()),
            },
            Ok(Begun::Ended(end)) => Turn::Known(Progress::Ended(end)),
            Err(error) => wait(Step::Begin, Obstacle::Unstored, None, error.to_string()),
        }
    }

    async fn ask(&self, entry: &NewEntry, early: bool) -> Turn {
        let ask = Step::Ask { early };
        match self.network.whereabouts(&entry.device, &entry.id.correlation_id()).await {
            Ok(at @ (Whereabouts::Queued | Whereabouts::Taken)) => {
                match self.ledger.found(entry.id, at).await {
                    Ok(()) => Turn::Queued,
                    Err(error) => wait(ask, Obstacle::Unstored, None, error.to_string()),
                }
            }
            Ok(Whereabouts::Nowhere) if early => not_yet(),
            Ok(Whereabouts::Nowhere) => {
                // Entered anew, so that a replace displaces what was queued since its first push.
                self.ledger.put_back(entry.id).await;
                Turn::Next(Step::Begin)
            }
            Err(ApiError::NotNow { detail, after }) => wait(ask, Obstacle::Unsure, after, detail),
            Err(ApiError::Unsure { detail }) => wait(ask, Obstacle::Unsure, None, detail),
            Err(ApiError::Refused { status: Some(400 | 404), .. }) if early => not_yet(),
            // The API knows no such device or session, so no queue holds it; the push will be told the same.
            Err(ApiError::Refused { status: Some(400 | 404), .. }) => {
                self.ledger.put_back(entry.id).await;
                Turn::Next(Step::Begin)
            }
            // Nothing was said about this downlink: the key may push but not read, or is revoked.
            Err(ApiError::Refused { status: _, detail }) => wait(ask, Obstacle::Unsure, None, detail),
        }
    }

    async fn push(&self, entry: &NewEntry, request: &Request) -> Turn {
        let no_key = |detail: String| wait(Step::Push, Obstacle::NoKey, None, detail);
        let application = entry.device.application_id();
        if !self.network.serves(application) {
            return no_key(format!("no key is known for application {application}"));
        }
        let _turn = match alone(&self.network, &self.ledger, entry).await {
            Ok(turn) => turn,
            Err(NotYet { detail, after }) => return wait(Step::Push, Obstacle::NotNow, after, detail),
        };
        match self.network.push(&entry.device, request.operation, &request.downlink).await {
            Ok(()) => self.queued(entry).await,
            Err(ApiError::NotNow { detail, after }) => wait(Step::Push, Obstacle::NotNow, after, detail),
            Err(ApiError::Unsure { detail }) => {
                wait(Step::Ask { early: false }, Obstacle::Unsure, Some(UNSURE_PAUSE), detail)
            }
            Err(ApiError::Refused { status: None, detail }) if !self.network.serves(application) => {
                no_key(detail)
            }
            Err(ApiError::Refused { status: _, detail }) => {
                Turn::Next(Step::Reject { reason: detail, word: "refused" })
            }
        }
    }

    async fn queued(&self, entry: &NewEntry) -> Turn {
        self.ledger.queued(entry.id).await;
        Turn::Queued
    }

    async fn reject(&self, entry: &NewEntry, reason: String, word: &'static str) -> Turn {
        match self.ledger.reject(entry, &reason).await {
            Ok(()) => Turn::Rejected { reason, word },
            Err(error) => wait(Step::Reject { reason, word }, Obstacle::Unstored, None, error.to_string()),
        }
    }
}

/// It is looked for once more before it is pushed.
fn not_yet() -> Turn {
    let detail = "its last push has no known outcome".to_owned();
    wait(Step::Ask { early: false }, Obstacle::Unsure, Some(UNSURE_PAUSE), detail)
}

fn wait(step: Step, obstacle: Obstacle, after: Option<Duration>, detail: String) -> Turn {
    Turn::Wait { step, obstacle, after, detail }
}
