//! Why a command failed, and with which exit code.
//!
//! Knows no command's insides.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use super::health::HealthError;
use crate::config::ConfigProblems;

/// Exit codes, those of `sysexits.h` where it has one. Wrong arguments end with 2, by `clap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Anything that has no code of its own.
    Failure = 1,
    /// Something it needs is not there: a port is taken (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A part of the connector ended for a defect, while it ran (`EX_SOFTWARE`): start it again.
    Software = 70,
    /// The configuration has problems (`EX_CONFIG`).
    Config = 78,
}

/// Why a command ended without success.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    /// The command needs a cargo feature that this binary was built without.
    #[error(
        "`{command}` is not in this binary: it was built without the feature `emulator`\n  \
         hint: install it with default features"
    )]
    NoEmulator {
        /// The command.
        command: &'static str,
    },
    /// The connector is not well, or can't be asked.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// The process can't be set up.
    #[error("{what}")]
    Setup {
        /// What could not be set up.
        what: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A command failed; its own error says why.
    #[error("{source}")]
    Failed {
        /// The exit code that fits.
        exit: Exit,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl CliError {
    /// A command's own error with the exit code that fits.
    pub fn failed(exit: Exit, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed { exit, source: source.into() }
    }

    pub(super) fn setup(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Setup { what, source: source.into() }
    }

    /// The process's exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) => Exit::Config,
            Self::NoEmulator { .. } | Self::Health(_) | Self::Setup { .. } => Exit::Failure,
            Self::Failed { exit, .. } => *exit,
        }
    }

    /// The message with its causes, for standard error.
    pub(super) fn report(&self) -> Report<'_> {
        Report(self)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error and its causes, one a line. A cause that its parent's text already holds is not repeated.
pub(super) struct Report<'e>(&'e CliError);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        write!(f, "error: {text}")?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.contains(&next) {
                write!(f, "\n  cause: {next}")?;
            }
            text = next;
            cause = error.source();
        }
        Ok(())
    }
}
