//! What an operator's command and the running instance say to each other: one JSON object a line, each way.
//!
//! Request: `{"list":{"application":null,"reason":null,"after":0,"limit":100}}`, `{"show":{"number":7}}`,
//! `{"requeue":{"numbers":[7]}}`, `{"discard":{"matching":{"application":"a","reason":null}}}`.
//! Answer: `{"parked":[…]}`, `{"shown":…}`, `{"moved":3}` or `{"failed":"why"}`.
//! `{"order":…}` is answered by lines of `{"progress":…}` and at the end `{"done":…}` or `{"failed":"why"}`.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::types::{ParkedFilter, ParkedRecord, Selection, Seq};
use crate::model::ParkReason;

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    List {
        application: Option<String>,
        reason: Option<String>,
        after: i64,
        limit: usize,
    },
    Show {
        number: i64,
    },
    Requeue(Which),
    Discard(Which),
    /// For a [`super::control::Clerk`]; opaque here. Answered by any number of `Progress`, then `Done` or `Failed`.
    Order(Value),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Which {
    Numbers(Vec<i64>),
    Matching { application: Option<String>, reason: Option<String> },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    Parked(Vec<Listed>),
    Shown(Option<Shown>),
    Moved(u64),
    Progress(Value),
    Done(Value),
    Failed(String),
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Listed {
    number: i64,
    lane: String,
    application: String,
    received_ms: i64,
    parked_ms: i64,
    reason: String,
    detail: String,
    bytes: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Shown {
    record: Listed,
    /// Base64: it need not be text.
    body: String,
}

impl Which {
    pub(super) fn of(selection: &Selection) -> Self {
        match selection {
            Selection::Seqs(seqs) => Self::Numbers(seqs.iter().map(|seq| seq.0).collect()),
            Selection::Matching(filter) => Self::Matching {
                application: filter.group.clone(),
                reason: filter.reason.map(|reason| reason.as_str().to_owned()),
            },
        }
    }

    pub(super) fn selection(self) -> Result<Selection, String> {
        Ok(match self {
            Self::Numbers(numbers) => Selection::Seqs(numbers.into_iter().map(Seq).collect()),
            Self::Matching { application, reason } => Selection::Matching(filter(application, reason)?),
        })
    }
}

/// A word that is no reason is an error: it must never mean "all".
pub(super) fn filter(application: Option<String>, reason: Option<String>) -> Result<ParkedFilter, String> {
    let reason = match reason {
        None => None,
        Some(word) => Some(ParkReason::parse(&word).ok_or_else(|| format!("{word:?} is no reason"))?),
    };
    Ok(ParkedFilter { group: application, reason })
}

impl From<ParkedRecord> for Listed {
    fn from(record: ParkedRecord) -> Self {
        Self {
            number: record.seq.0,
            lane: record.lane.to_string(),
            application: record.group.to_string(),
            received_ms: record.received_ms,
            parked_ms: record.parked_ms,
            reason: record.reason,
            detail: record.detail,
            bytes: record.bytes,
        }
    }
}

impl From<Listed> for ParkedRecord {
    fn from(listed: Listed) -> Self {
        Self {
            seq: Seq(listed.number),
            lane: Arc::from(listed.lane),
            group: Arc::from(listed.application),
            received_ms: listed.received_ms,
            parked_ms: listed.parked_ms,
            reason: listed.reason,
            detail: listed.detail,
            bytes: listed.bytes,
        }
    }
}

impl Shown {
    pub(super) fn new(record: ParkedRecord, body: &Bytes) -> Self {
        Self { record: record.into(), body: BASE64_STANDARD.encode(body) }
    }

    /// `None` when the body is no base64.
    pub(super) fn read(self) -> Option<(ParkedRecord, Bytes)> {
        let body = BASE64_STANDARD.decode(self.body).ok()?;
        Some((self.record.into(), body.into()))
    }
}
