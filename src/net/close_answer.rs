//! Waits for the peer's answer to our AMQP Close, where the crate would spin.
//!
//! The crate's connection engine, once it has sent Close, asks a queue that it has closed itself over and over until the
//! peer's Close comes: a whole core for a peer that is slow, and for ever for one that only sends empty frames. So the
//! flush of our Close ends when the answer is there to be read. Knows frame boundaries only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::frame_bytes::{Boundaries, FrameKind, frame_kind};

/// How long the peer may take to answer; shorter than anybody waits for a connection to close.
const PATIENCE: Duration = Duration::from_secs(3);
/// What may come before the answer, in bytes: what was on its way to us when we closed.
const MAX_HELD: usize = 1024 * 1024;
/// Read at once.
const PIECE: usize = 8 * 1024;

/// An AMQP byte stream whose flush after our Close ends with the peer's, or in vain: then the stream fails.
///
/// Both directions must be polled by one task, as the crate's connection engine does.
#[derive(Debug)]
pub struct CloseAnswer<S> {
    stream: S,
    written: Boundaries,
    read: Boundaries,
    state: State,
    /// Read ahead while waiting.
    held: BytesMut,
}

#[derive(Debug)]
enum State {
    /// Nobody has closed.
    Open,
    /// Our Close is written.
    Asked(Pin<Box<Sleep>>),
    /// The peer's Close, or its end, has been read.
    Answered,
    /// It never came.
    InVain,
}

impl<S> CloseAnswer<S> {
    /// Wraps a stream before its first byte (or at a protocol header).
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            written: Boundaries::of_sizes(),
            read: Boundaries::of_sizes(),
            state: State::Open,
            held: BytesMut::new(),
        }
    }

    fn has_read(&mut self, bytes: &[u8]) {
        let mut closed = bytes.is_empty();
        self.read.feed(bytes, |frame| closed |= frame_kind(frame) == FrameKind::Close);
        if closed {
            self.state = State::Answered;
        }
    }

    fn has_written(&mut self, bytes: &[u8]) {
        let mut closed = false;
        self.written.feed(bytes, |frame| closed |= frame_kind(frame) == FrameKind::Close);
        if closed && matches!(self.state, State::Open) {
            self.state = State::Asked(Box::pin(sleep(PATIENCE)));
        }
    }
}

impl<S: AsyncRead + Unpin> CloseAnswer<S> {
    /// Reads ahead until the answer is there.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let State::Asked(patience) = &mut self.state {
            if self.held.len() >= MAX_HELD || patience.as_mut().poll(cx).is_ready() {
                self.state = State::InVain;
                break;
            }
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece)) {
                Ok(()) => {
                    self.has_read(piece.filled());
                    self.held.extend_from_slice(piece.filled());
                }
                // The next read meets it too.
                Err(_) => self.state = State::Answered,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for CloseAnswer<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            let count = self.held.len().min(buf.remaining());
            buf.put_slice(&self.held[..count]);
            self.held.advance(count);
            return Poll::Ready(Ok(()));
        }
        if matches!(self.state, State::InVain) {
            let text = "the peer does not answer our Close";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.has_read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for CloseAnswer<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.has_written(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.poll_answer(cx).map(Ok)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    const CLOSE: &[u8] = b"\0\0\0\x0c\x02\0\0\0\0\x53\x18\x45";
    const EMPTY: &[u8] = b"\0\0\0\x08\x02\0\0\0";

    #[tokio::test(start_paused = true)]
    async fn the_flush_of_our_close_ends_with_the_peers_and_loses_nothing_before_it() {
        let (near, mut far) = duplex(256);
        let mut near = CloseAnswer::new(near);
        near.write_all(EMPTY).await.unwrap();
        near.flush().await.unwrap();
        near.write_all(CLOSE).await.unwrap();
        let began = Instant::now();
        let answering = async {
            sleep(Duration::from_secs(2)).await;
            far.write_all(&[EMPTY, EMPTY, CLOSE].concat()).await.unwrap();
        };
        let (flushed, ()) = tokio::join!(near.flush(), answering);
        flushed.unwrap();
        assert_eq!(began.elapsed().as_secs(), 2);
        let mut got = vec![0; EMPTY.len() * 2 + CLOSE.len()];
        near.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [EMPTY, EMPTY, CLOSE].concat());
        near.flush().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_answers_ends_the_stream_whatever_else_it_sends() {
        for chatty in [false, true] {
            let (near, mut far) = duplex(4096);
            let mut near = CloseAnswer::new(near);
            near.write_all(CLOSE).await.unwrap();
            let began = Instant::now();
            let chatting = async {
                while chatty && far.write_all(EMPTY).await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                flushed = near.flush() => flushed.unwrap(),
                () = chatting => {}
            }
            assert_eq!(began.elapsed(), PATIENCE);
            let mut rest = Vec::new();
            let error = near.read_to_end(&mut rest).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_peer_that_closed_first_or_went() {
        let (near, mut far) = duplex(256);
        let mut near = CloseAnswer::new(near);
        far.write_all(CLOSE).await.unwrap();
        near.read_exact(&mut [0; CLOSE.len()]).await.unwrap();
        let began = Instant::now();
        near.write_all(CLOSE).await.unwrap();
        near.flush().await.unwrap();

        let (near, far) = duplex(256);
        let mut near = CloseAnswer::new(near);
        near.write_all(CLOSE).await.unwrap();
        drop(far);
        near.flush().await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_instead_of_an_answer_is_not_kept() {
        let (near, mut far) = duplex(64 * 1024);
        let mut near = CloseAnswer::new(near);
        near.write_all(CLOSE).await.unwrap();
        let flooding = async { while far.write_all(&EMPTY.repeat(1024)).await.is_ok() {} };
        tokio::select! {
            flushed = near.flush() => flushed.unwrap(),
            () = flooding => {}
        }
        assert!(near.held.len() < MAX_HELD + PIECE && matches!(near.state, State::InVain));
    }
}
