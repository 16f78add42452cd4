//! Fuzz target: the lines that an operator's command and the running instance say to each other.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::types::{ParkedRecord, Selection};
use super::wire::{self, Answer, Listed, Request};

/// What is read says the same when written again, and a misspelt reason never means all.
pub(crate) fn line(line: &[u8]) {
    if let Some(request) = again::<Request>(line) {
        match request {
            Request::List { application, reason, .. } => {
                let named = reason.is_some();
                if let Ok(filter) = wire::filter(application, reason) {
                    assert_eq!(filter.reason.is_some(), named);
                }
            }
            Request::Requeue(which) | Request::Discard(which) => {
                if let Ok(selection) = which.selection() {
                    let named = matches!(&selection, Selection::Matching(filter) if filter.reason.is_some());
                    let word = String::from_utf8_lossy(line).contains("\"reason\":\"");
                    assert!(!word || named || matches!(selection, Selection::Seqs(_)));
                    _ = wire::Which::of(&selection).selection().expect("its own");
                }
            }
            Request::Show { .. } | Request::Order(_) => {}
        }
    }
    match again::<Answer>(line) {
        Some(Answer::Parked(listed)) => {
            for record in listed {
                _ = Listed::from(ParkedRecord::from(record));
            }
        }
        Some(Answer::Shown(Some(shown))) => _ = shown.read(),
        Some(
            Answer::Shown(None)
            | Answer::Moved(_)
            | Answer::Progress(_)
            | Answer::Done(_)
            | Answer::Failed(_),
        )
        | None => {}
    }
}

fn again<T: DeserializeOwned + Serialize>(line: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(line).ok()?;
    let written = serde_json::to_vec(&read).expect("its own");
    assert!(!written.contains(&b'\n'), "not one line");
    let reread: T = serde_json::from_slice(&written).expect("its own");
    assert_eq!(serde_json::to_vec(&reread).expect("its own"), written);
    Some(read)
}
