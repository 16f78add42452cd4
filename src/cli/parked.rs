//! `spool …`: from typed arguments to the commands on parked messages.
//!
//! Knows neither how they are stored nor how they are shown.

use std::io;

use super::args::{SpoolCommand, SpoolFilterArgs, SpoolSelectArgs};
use super::{CliError, Exit, spool};
use crate::config::{self, Config};
use crate::model::Clock;
use crate::spool::{ParkedFilter, Selection, Seq};

/// Runs one of `list`, `show`, `requeue`, `discard`.
///
/// # Errors
/// The configuration has problems, or the spool can't be reached.
pub(super) async fn run(command: SpoolCommand) -> Result<(), CliError> {
    let (clock, mut out) = (Clock::system(), io::stdout());
    let done = match command {
        SpoolCommand::List(args) => {
            let (spool, filter) = (spool_of(&args.config)?, filter(args.filter));
            spool::list(&spool, &filter, args.limit as usize, args.json, &clock, &mut out).await
        }
        SpoolCommand::Show(args) => {
            spool::show(&spool_of(&args.config)?, args.number, args.json, &clock, &mut out).await
        }
        SpoolCommand::Requeue(args) => {
            spool::requeue(&spool_of(&args.config)?, &selection(args), &mut out).await
        }
        SpoolCommand::Discard(args) => {
            spool::discard(&spool_of(&args.config)?, &selection(args), &mut out).await
        }
    };
    done.map_err(|error| CliError::failed(Exit::Failure, error))
}

fn spool_of(args: &super::args::ConfigArgs) -> Result<config::Spool, CliError> {
    Ok(Config::load_spool_for_process(args.config.as_deref())?)
}

pub(super) fn filter(args: SpoolFilterArgs) -> ParkedFilter {
    ParkedFilter { group: args.application, reason: args.reason }
}

/// Numbers, or a filter; `--all` is the empty filter. Clap refuses to choose nothing.
fn selection(args: SpoolSelectArgs) -> Selection {
    if args.numbers.is_empty() {
        Selection::Matching(filter(args.filter))
    } else {
        Selection::Seqs(args.numbers.into_iter().map(Seq).collect())
    }
}
