//! Answers that go wrong on purpose, for those who test a client: which, how often, and whether the call had its effect.
//!
//! Knows no HTTP connection.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Deserialize;

use super::refusal::{EMULATOR, Refusal};

/// Faults that wait at most.
const MAX_FAULTS: usize = 1_000;
/// Headers of one fault at most.
const MAX_HEADERS: usize = 20;
/// Longest delay.
const MAX_DELAY_MS: u64 = 600_000;

/// What goes wrong with the next calls of the API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// HTTP status of the answer; if absent the real answer is given, unless `close`.
    pub status: Option<u16>,
    /// Calls it lasts for.
    pub count: u32,
    /// Which calls it is for.
    pub calls: Calls,
    /// Headers of the answer, such as `x-rate-limit-retry`.
    pub headers: BTreeMap<String, String>,
    /// Whether the call has its effect before it goes wrong.
    pub effect: Effect,
    /// Time before the answer.
    pub delay_ms: u64,
    /// Ends the connection instead of answering.
    pub close: bool,
}

/// Whether a call that goes wrong has its effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It goes wrong before: nothing is queued. With neither `status` nor `close` it is only late.
    #[default]
    Before,
    /// It goes wrong after: the downlink is queued and the answer lost.
    After,
}

/// Which calls a fault is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Calls {
    /// Any.
    #[default]
    All,
    /// Pushes and replaces.
    Write,
    /// Reading the queue or the device.
    Read,
}

impl Default for Fault {
    fn default() -> Self {
        Self {
            status: None,
            count: 1,
            calls: Calls::All,
            headers: BTreeMap::new(),
            effect: Effect::Before,
            delay_ms: 0,
            close: false,
        }
    }
}

impl Fault {
    /// How long the answer waits.
    pub(super) fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }

    fn check(&self) -> Result<(), Refusal> {
        let wrong = if self.status.is_some_and(|status| !(200..600).contains(&status)) {
            "status must be 200 to 599"
        } else if self.headers.len() > MAX_HEADERS {
            "a fault has 20 headers at most"
        } else if self.delay_ms > MAX_DELAY_MS {
            "delay_ms must be 600000 at most"
        } else {
            return Ok(());
        };
        Err(Refusal::invalid((EMULATOR, "invalid_fault"), wrong))
    }
}

/// Faults in the order they were asked for.
#[derive(Debug, Default)]
pub(super) struct Faults(VecDeque<Fault>);

impl Faults {
    /// Adds one at the end.
    pub(super) fn add(&mut self, fault: Fault) -> Result<(), Refusal> {
        fault.check()?;
        if self.0.len() >= MAX_FAULTS {
            return Err(Refusal::invalid((EMULATOR, "too_many_faults"), "1000 faults wait already"));
        }
        if fault.count > 0 {
            self.0.push_back(fault);
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the oldest that is for a call that writes or reads, once.
    pub(super) fn take(&mut self, writes: bool) -> Option<Fault> {
        let fits = |fault: &Fault| match fault.calls {
            Calls::All => true,
            Calls::Write => writes,
            Calls::Read => !writes,
        };
        let at = self.0.iter().position(fits)?;
        let fault = self.0.get_mut(at)?;
        fault.count -= 1;
        let taken = fault.clone();
        if taken.count == 0 {
            self.0.remove(at);
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_lasts_for_its_count_and_minds_what_it_is_for() {
        let mut faults = Faults::default();
        faults.add(Fault { count: 2, calls: Calls::Write, ..Fault::default() }).unwrap();
        faults.add(Fault { status: Some(500), ..Fault::default() }).unwrap();
        assert_eq!(faults.take(false).unwrap().status, Some(500));
        assert_eq!(faults.take(false), None);
        assert_eq!(faults.take(true).unwrap().count, 1);
        assert_eq!(faults.take(true).unwrap().count, 0);
        assert_eq!(faults.take(true), None);
        assert!(faults.add(Fault { status: Some(99), ..Fault::default() }).is_err());
    }
}
