//! The running instance's door for `spool list|show|requeue|discard` (signature first).
#![allow(unused_variables, clippy::unimplemented)]

use tokio_util::sync::CancellationToken;

use super::queue::Spool;

/// Serves the operator's commands on `control.sock` in the spool's folder until `stop`.
///
/// # Errors
/// The socket can't be made; the rest of the spool works without it.
pub async fn serve(spool: Spool, stop: CancellationToken) -> std::io::Result<()> {
    unimplemented!()
}
