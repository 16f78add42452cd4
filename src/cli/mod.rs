//! Arguments, exit codes, one command each. Knows nothing of how parts are built.

pub mod args;
pub mod backfill;
mod check_config;
#[cfg(feature = "emulator")]
mod demo;
#[cfg(feature = "emulator")]
mod emulate;
mod error;
mod health;
mod logging;
mod parked;
pub mod replay;
mod signals;
pub mod spool;

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tokio_util::sync::CancellationToken;

pub use check_config::summary;
pub use error::{CliError, Exit};
pub use health::{HealthError, admin_url, ask};
pub use logging::init as init_logging;
pub use signals::stop_token;

use crate::app::{self, AppError};
use crate::backfill::Order;
use crate::config::Config;
#[cfg(feature = "emulator")]
use crate::config::Log;
use crate::model::Clock;
use args::{Cli, Command, ConfigArgs, HealthArgs};

/// Reads the arguments, runs the command, and answers with the process's exit code.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if standard error is closed.
            let _ = writeln!(std::io::stderr(), "{}", error.report());
            error.exit().into()
        }
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Run(args) => connector(&args),
        Command::CheckConfig(args) => {
            let (config, sources) = Config::load_for_process(args.config.as_deref())?;
            print(&summary(&config, &sources));
            Ok(())
        }
        Command::Demo(args) => demo(args),
        Command::Emulate(args) => emulate(args),
        Command::Replay(args) => block_on(replay(args)),
        Command::Backfill(args) => block_on(backfill(args)),
        Command::Spool(args) => block_on(parked::run(args.command)),
        Command::Health(args) => block_on(async { health(args).await }),
    }
}

/// `run`
fn connector(args: &ConfigArgs) -> Result<(), CliError> {
    let (config, _) = Config::load_for_process(args.config.as_deref())?;
    init_logging(&config.log).map_err(|error| CliError::setup("the log can't be set up", error))?;
    block_on(async {
        let stop = stopper()?;
        app::run(config, stop).await.map_err(app_error)
    })
}

#[cfg(feature = "emulator")]
fn demo(args: args::DemoArgs) -> Result<(), CliError> {
    quiet_log()?;
    block_on(async { demo::demo(args, stopper()?).await })
}

#[cfg(feature = "emulator")]
fn emulate(args: args::EmulateArgs) -> Result<(), CliError> {
    quiet_log()?;
    block_on(async { emulate::emulate(args, stopper()?).await })
}

/// Warnings only: what these commands have to say goes to standard output.
#[cfg(feature = "emulator")]
fn quiet_log() -> Result<(), CliError> {
    let log = Log { level: "warn".to_owned(), ..Log::default() };
    init_logging(&log).map_err(|error| CliError::setup("the log can't be set up", error))
}

#[cfg(not(feature = "emulator"))]
fn demo(_: args::DemoArgs) -> Result<(), CliError> {
    Err(CliError::NoEmulator { command: "demo" })
}

#[cfg(not(feature = "emulator"))]
fn emulate(_: args::EmulateArgs) -> Result<(), CliError> {
    Err(CliError::NoEmulator { command: "emulate" })
}

/// `health`: every failure is exit code 1, the only one Docker knows.
async fn health(args: HealthArgs) -> Result<(), CliError> {
    let url = match args.url {
        Some(url) => url,
        None => {
            let (config, _) = Config::load_for_process(args.config.config.as_deref())
                .map_err(|problems| CliError::failed(Exit::Failure, problems))?;
            admin_url(config.admin.listen, if args.ready { "/ready" } else { "/live" })
        }
    };
    let answer = ask(url).await?;
    print(&format!("{answer}\n"));
    Ok(())
}

/// `replay`: exit code 1 if any message was refused.
async fn replay(args: args::ReplayArgs) -> Result<(), CliError> {
    let args::ReplayArgs { paths, parked, filter, config, to, secret, secret_file, concurrency } = args;
    let source = if parked {
        let spool = Config::load_spool_for_process(config.config.as_deref())?;
        replay::Source::Parked { spool: Box::new(spool), filter: parked::filter(filter) }
    } else {
        replay::Source::Paths(paths)
    };
    let args =
        replay::ReplayArgs { source, to: to.into(), secret, secret_file, concurrency: concurrency.into() };
    let summary = replay::replay(args).await.map_err(|error| CliError::failed(Exit::Failure, error))?;
    print(&format!("{summary}\n"));
    match summary.refused() {
        0 => Ok(()),
        refused => Err(CliError::failed(Exit::Failure, format!("{refused} messages were refused"))),
    }
}

/// `backfill`
async fn backfill(args: args::BackfillArgs) -> Result<(), CliError> {
    let (config, _) = Config::load_for_process(args.config.config.as_deref())?;
    let now_ms = Clock::system().now_ms();
    let order = Order {
        application: args.application,
        device: args.device,
        since_ms: args.since.ms(now_ms),
        until_ms: args.until.map(|until| until.ms(now_ms)),
        dry_run: args.dry_run,
        may_double: args.may_double,
    };
    let done = backfill::run(&config, &order, &mut std::io::stdout()).await;
    done.map_err(|error| CliError::failed(Exit::Failure, error))
}

fn stopper() -> Result<CancellationToken, CliError> {
    stop_token().map_err(|error| CliError::setup("signals can't be watched", error))
}

fn app_error(error: AppError) -> CliError {
    let exit = match (error.is_unavailable(), error.is_defect()) {
        (true, _) => Exit::Unavailable,
        (false, true) => Exit::Software,
        (false, false) => Exit::Failure,
    };
    CliError::failed(exit, error)
}

fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::setup("the runtime can't be started", error))?;
    runtime.block_on(work)
}

/// Prints to standard output; a reader that went away, such as `head`, is no failure.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_ended_gives_an_exit_code_of_its_own() {
        let error = app_error(AppError::PartEnded("pump"));
        assert_eq!((error.exit(), error.exit() as u8), (Exit::Software, 70));
        assert!(error.report().to_string().contains("the pump ended unexpectedly"), "{}", error.report());
    }
}
