//! One accepted connection from its first byte to its last.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::AmqpOptions;
use crate::emulator::Hub;

/// Serves one connection of `hub` until the peer goes or `stop` fires; leaves no task behind.
pub async fn serve<S>(stream: S, hub: Arc<Hub>, options: AmqpOptions, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    _ = (stream, hub, options, stop);
}
