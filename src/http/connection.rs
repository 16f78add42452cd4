//! One client's TCP stream with a clock: slow and stuck clients end in an error. Knows no HTTP syntax.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may be silent between two requests. Longer than the 90 s after which Go's client
/// (and so The Things Stack) drops an idle connection: were we first, a post could meet the closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// An answer given before the whole request was read is lost if we close at once: the kernel resets the
/// connection over unread bytes. So the rest is read and dropped, for this long and this much.
const LINGER_TIME: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 8 * 1024 * 1024;
/// Size of the buffer for bytes that are dropped.
const LINGER_BUFFER: usize = 4096;

const HEAD: u8 = 0;
const BUSY: u8 = 1;
const ANSWERED: u8 = 2;
const IDLE: u8 = 3;

/// Where a connection stands, shared between its stream and its requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<ProgressState>);

#[derive(Debug, Default)]
struct ProgressState {
    phase: AtomicU8,
    unread: AtomicBool,
    welcome: AtomicBool,
}

impl Progress {
    /// A request's head has arrived; from here its handler watches the clock.
    pub(super) fn busy(&self) {
        self.0.phase.store(BUSY, Ordering::Relaxed);
    }

    /// The handler has given its answer.
    pub(super) fn answered(&self) {
        self.0.phase.store(ANSWERED, Ordering::Relaxed);
    }

    /// A request's body was dropped before its end.
    pub(super) fn left_unread(&self) {
        self.0.unread.store(true, Ordering::Relaxed);
    }

    /// Whether some request's body was dropped before its end.
    pub(super) fn has_unread(&self) -> bool {
        self.0.unread.load(Ordering::Relaxed)
    }

    /// A request was answered with success: this client has business here.
    pub(super) fn welcome(&self) {
        self.0.welcome.store(true, Ordering::Relaxed);
    }

    /// Whether any request was answered with success.
    pub(super) fn is_welcome(&self) -> bool {
        self.0.welcome.load(Ordering::Relaxed)
    }

    /// Whether a handler works on a request.
    pub(super) fn is_busy(&self) -> bool {
        self.phase() == BUSY
    }

    fn phase(&self) -> u8 {
        self.0.phase.load(Ordering::Relaxed)
    }

    fn enter(&self, phase: u8) {
        self.0.phase.store(phase, Ordering::Relaxed);
    }
}

/// The stream. A read waits `read_timeout` for a request's head, [`IDLE_TIMEOUT`] between requests and
/// without limit while a handler works; a write waits `read_timeout` for a client that does not read.
#[derive(Debug)]
pub(super) struct PatientStream {
    tcp: TcpStream,
    progress: Progress,
    read_timeout: Duration,
    read_clock: Pin<Box<Sleep>>,
    /// The phase for which `read_clock` runs.
    armed: Option<u8>,
    write_clock: Option<Pin<Box<Sleep>>>,
    /// Bytes that may still be dropped after our end of the stream was shut.
    linger: Option<usize>,
}

impl PatientStream {
    pub(super) fn new(tcp: TcpStream, progress: Progress, read_timeout: Duration) -> Self {
        Self {
            tcp,
            progress,
            read_timeout,
            read_clock: Box::pin(sleep(read_timeout)),
            armed: Some(HEAD),
            write_clock: None,
            linger: None,
        }
    }

    /// Called when a read has to wait.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let phase = self.progress.phase();
        let patience = match phase {
            HEAD => self.read_timeout,
            IDLE => IDLE_TIMEOUT,
            _ => return Poll::Pending,
        };
        if self.armed != Some(phase) {
            self.arm(phase, patience);
        }
        ready!(self.read_clock.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client sent no request in time")))
    }

    fn arm(&mut self, phase: u8, patience: Duration) {
        self.read_clock.as_mut().reset(Instant::now() + patience);
        self.armed = Some(phase);
    }

    /// Called with the outcome of each write.
    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            let patience = self.read_timeout;
            let clock = self.write_clock.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(clock.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(
                ErrorKind::TimedOut,
                "the client did not read our answer in time",
            )));
        }
        self.write_clock = None;
        if self.progress.phase() == ANSWERED {
            self.progress.enter(IDLE);
            self.arm(IDLE, IDLE_TIMEOUT);
            // hyper may have a read waiting since the handler worked, and then starts no other: the clock must
            // wake the task by itself.
            let _ = self.read_clock.as_mut().poll(cx);
        }
        written
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = match self.linger {
            Some(left) => left,
            None => {
                self.read_clock.as_mut().reset(Instant::now() + LINGER_TIME);
                LINGER_BYTES
            }
        };
        self.linger = Some(left);
        let mut scratch = [0; LINGER_BUFFER];
        while self.linger > Some(0) {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.tcp).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.linger = self.linger.map(|left| left.saturating_sub(buffer.filled().len()));
                }
                Poll::Ready(Ok(()) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.read_clock.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.tcp).poll_read(cx, buffer) {
            Poll::Ready(outcome) => {
                if buffer.filled().len() > before && self.progress.phase() == IDLE {
                    self.progress.enter(HEAD);
                    self.armed = None;
                }
                Poll::Ready(outcome)
            }
            Poll::Pending => self.poll_patience(cx),
        }
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.after_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, slices);
        self.after_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
        }
        if self.progress.has_unread() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let _client = TcpStream::connect(address).await.expect("connect");
        let (tcp, _) = listener.accept().await.expect("accept");
        let mut stream = PatientStream::new(tcp, Progress::default(), Duration::from_millis(100));
        // Far more than the kernel's buffers take.
        let error = stream.write_all(&vec![0; 64 * 1024 * 1024]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
