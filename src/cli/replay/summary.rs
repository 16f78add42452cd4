//! The count of answers to a replay, as text for people. Knows no HTTP beyond its statuses.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;

use super::client::Answer;

/// Refusals told one by one; of the rest only the count.
const MAX_TOLD: usize = 20;

/// How a replay went. `Display` gives several lines for stdout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many payloads got which HTTP status.
    pub by_status: BTreeMap<u16, u64>,
    /// The first refusals, 20 at most.
    pub refusals: Vec<Refused>,
    /// From the first read to the last answer.
    pub took: Duration,
}

/// One payload that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its file, and line.
    pub payload: String,
    /// The HTTP status.
    pub status: u16,
    /// What the webhook said about it.
    pub detail: Option<String>,
}

impl Summary {
    /// All payloads answered.
    pub fn total(&self) -> u64 {
        self.by_status.values().sum()
    }

    /// Those not answered 2xx.
    pub fn refused(&self) -> u64 {
        self.by_status
            .iter()
            .filter(|(status, _)| !(200..300).contains(*status))
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn add(&mut self, payload: &str, answer: Answer) {
        let status = answer.status.as_u16();
        *self.by_status.entry(status).or_default() += 1;
        if !answer.status.is_success() && self.refusals.len() < MAX_TOLD {
            self.refusals.push(Refused { payload: payload.to_owned(), status, detail: answer.detail });
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let noun = if total == 1 { "payload" } else { "payloads" };
        write!(f, "{total} {noun} posted in {:.1} s", self.took.as_secs_f64())?;
        for (status, count) in &self.by_status {
            write!(f, "\n  {}: {count}", named(*status))?;
        }
        for refused in &self.refusals {
            write!(f, "\nrefused: {}: {}", refused.payload, named(refused.status))?;
            if let Some(detail) = &refused.detail {
                write!(f, ": {}", printable(detail))?;
            }
        }
        let untold = self.refused().saturating_sub(self.refusals.len() as u64);
        if untold > 0 {
            write!(f, "\nrefused: {untold} more")?;
        }
        Ok(())
    }
}

fn named(status: u16) -> String {
    let name = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    name.map_or_else(|| status.to_string(), |name| format!("{status} {name}"))
}

/// The text comes from whatever answers at the URL: nothing in it may steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
