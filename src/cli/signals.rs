//! Turns SIGTERM and Ctrl-C into a stop token; the second one ends the process at once.
//!
//! Knows nothing of what stops.

use std::io;

use tokio_util::sync::CancellationToken;

/// What shells report for a process that SIGINT ended; the same code for SIGTERM, as both were asked for twice.
const EXIT_AT_ONCE: i32 = 130;

/// A token that the first SIGTERM, SIGINT or Ctrl-C cancels. Call it within the runtime, once: the task behind it
/// lives as long as the process.
///
/// # Errors
/// The system refuses a signal handler.
pub fn stop_token() -> io::Result<CancellationToken> {
    let mut signals = Signals::install()?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "Stopping; a second signal ends at once.");
        stop.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "Ending at once; stored messages stay in the spool.");
        std::process::exit(EXIT_AT_ONCE);
    });
    Ok(token)
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
