//! What is wrong with a configuration: every problem at once, each with its key, the reason and a fix.
//!
//! Knows no keys. Reasons and fixes are written where a value is judged, and never repeat the value of a secret.

use std::fmt;
use std::path::PathBuf;

/// One thing to put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key in dotted form, such as `azure.dps.id_scope`; empty when the whole file is meant.
    pub key: String,
    /// Where the value was given; `None` for a key that is missing or for a rule over several keys.
    pub place: Option<Place>,
    /// Why it cannot stay.
    pub reason: String,
    /// What to do.
    pub fix: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The configuration file.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "in environment variable {name}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.key.is_empty() { "" } else { " " };
        match &self.place {
            Some(place) => write!(f, "{}{separator}({place}): {}", self.key, self.reason)?,
            None if self.key.is_empty() => write!(f, "{}", self.reason)?,
            None => write!(f, "{}: {}", self.key, self.reason)?,
        }
        write!(f, "\n     fix: {}", self.fix)
    }
}

/// All problems of one configuration, at least one. Displays as a numbered list for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigProblems(Vec<Problem>);

impl ConfigProblems {
    /// `None` if the list is empty: there is nothing to report.
    pub(super) fn new(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// The problems in the order of the sections.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for ConfigProblems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "the configuration has 1 problem")?,
            n => write!(f, "the configuration has {n} problems")?,
        }
        for (number, problem) in self.0.iter().enumerate() {
            write!(f, "\n{:>3}. {problem}", number + 1)?;
        }
        Ok(())
    }
}

/// Why one value is refused; the reader adds the key and the place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: String,
    pub(super) fix: String,
}

impl Fault {
    pub(super) fn new(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { reason: reason.into(), fix: fix.into() }
    }
}
