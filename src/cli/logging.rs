//! Sets up the log: text or JSON lines on standard error.
//!
//! Knows no command. Colours only on a terminal.

use std::error::Error;
use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

/// Installs the log for this process, once.
///
/// # Errors
/// The level is no filter, which a checked configuration rules out, or a log is installed already.
pub fn init(log: &Log) -> Result<(), Box<dyn Error + Send + Sync>> {
    let filter = EnvFilter::builder().parse(&log.level)?;
    let ansi =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(ansi);
    match log.format {
        LogFormat::Text => builder.finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
