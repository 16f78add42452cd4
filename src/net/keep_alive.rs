//! Keeps a quiet AMQP connection alive: empty frames between real ones, often enough for the peer.
//!
//! The crate's own heartbeat comes once per whole idle time-out of the peer, which races the peer's check.
//! Knows bytes and frame boundaries only.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::frame_bytes::{Boundaries, FrameKind, frame_kind};

const EMPTY_FRAME: [u8; 8] = [0, 0, 0, 8, 2, 0, 0, 0];
/// No peer can make us send empty frames more often than this.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
/// Writing may stand still for at least this part of the limit, however long the peer was silent before.
const LEAST_STALL: u32 = 4;

/// An AMQP byte stream that writes an empty frame when nothing was written for a while.
///
/// The interval is the smaller of the one given and half the idle time-out in the peer's Open. Empty frames come
/// only between whole frames, after our Open and before our Close. Both directions must be polled by one task, as
/// the crate's connection engine does; the empty frames are written while it polls for reading.
#[derive(Debug)]
pub struct KeepAlive<S> {
    stream: S,
    interval: Duration,
    last_write: Instant,
    timer: Pin<Box<Sleep>>,
    written: Boundaries,
    phase: Phase,
    /// How much of an empty frame is out, while one is under way.
    empty_sent: Option<usize>,
    /// Until the peer's Open has been read.
    read: Option<Boundaries>,
    /// Runs while the peer takes no bytes.
    stall: Stall,
}

/// How long writing may stand still. The crate's engine reads nothing and watches no time-out while it writes, so a
/// peer that stops reading would hold it for ever.
///
/// The peer's silence before counts too: with a dead one, the time until our bytes fill all buffers comes first.
#[derive(Debug)]
struct Stall {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the peer last gave a sign of life.
    heard: Instant,
}

impl Stall {
    /// Passes `poll` on, but turns the last of too many pending ones into an error.
    fn watch<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let (Poll::Pending, Some(limit)) = (&poll, self.limit) else {
            if self.timer.take().is_some() {
                // What stood still went on: the peer took something.
                self.heard = Instant::now();
            }
            return poll;
        };
        let heard = self.heard;
        let until = || (heard + limit).max(Instant::now() + limit / LEAST_STALL);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until())));
        if timer.as_mut().poll_now(cx) {
            let text = "the peer takes no more bytes";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        poll
    }
}

/// Whether an empty frame may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    BeforeOpen,
    Open,
    Closed,
}

impl<S> KeepAlive<S> {
    /// Wraps a stream before its first byte (or at a protocol header). `interval` is in force until the peer's
    /// Open asks for a shorter one.
    pub fn new(stream: S, interval: Duration) -> Self {
        let interval = interval.max(SHORTEST_INTERVAL);
        let now = Instant::now();
        Self {
            stream,
            interval,
            last_write: now,
            timer: Box::pin(sleep_until(now + interval)),
            written: Boundaries::of_sizes(),
            phase: Phase::BeforeOpen,
            empty_sent: None,
            read: Some(Boundaries::of_open()),
            stall: Stall { limit: None, timer: None, heard: now },
        }
    }

    /// Fails writes that stand still when the peer was not heard for `limit`, but not before a quarter of it.
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.stall.limit = Some(limit);
        self
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> KeepAlive<S> {
    /// Gets the rest of an empty frame out. `Ready(Ok)` when none is under way any more.
    fn poll_empty_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(sent) = self.empty_sent {
            if sent == EMPTY_FRAME.len() {
                // TLS and WebSocket may hold bytes back.
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.empty_sent = None;
                break;
            }
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &EMPTY_FRAME[sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.last_write = Instant::now();
            self.empty_sent = Some(sent + count);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.empty_sent.is_some() {
            return settled(self.poll_empty_frame(cx));
        }
        while self.timer.as_mut().poll_now(cx) {
            let due = self.last_write + self.interval;
            let now = Instant::now();
            if due > now {
                self.timer.as_mut().reset(due);
                continue;
            }
            self.timer.as_mut().reset(now + self.interval);
            if self.phase == Phase::Open && self.written.at_boundary() {
                self.empty_sent = Some(0);
                settled(self.poll_empty_frame(cx))?;
            }
        }
        Ok(())
    }

    fn has_read(&mut self, bytes: &[u8]) {
        let Some(boundaries) = &mut self.read else { return };
        let mut seen = None;
        boundaries.feed(bytes, |frame| {
            seen.get_or_insert_with(|| frame_kind(frame));
        });
        let Some(first) = seen else { return };
        self.read = None;
        if let FrameKind::Open(Some(peer)) = first {
            self.interval = self.interval.min(peer / 2).max(SHORTEST_INTERVAL);
            self.timer.as_mut().reset(self.last_write + self.interval);
        }
    }

    fn has_written(&mut self, bytes: &[u8]) {
        self.last_write = Instant::now();
        let phase = &mut self.phase;
        self.written.feed(bytes, |frame| match frame_kind(frame) {
            FrameKind::Open(_) => *phase = Phase::Open,
            FrameKind::Close => *phase = Phase::Closed,
            FrameKind::Other => {}
        });
    }
}

/// An empty frame that can't go out at once is tried again at the next poll; only an error counts.
fn settled(poll: Poll<io::Result<()>>) -> io::Result<()> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Ok(()),
    }
}

trait PollNow {
    fn poll_now(self, cx: &mut Context<'_>) -> bool;
}

impl PollNow for Pin<&mut Sleep> {
    fn poll_now(self, cx: &mut Context<'_>) -> bool {
        self.poll(cx).is_ready()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for KeepAlive<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_timer(cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.stall.heard = Instant::now();
        self.has_read(&buf.filled()[before..]);
        // The Open just read may have moved the timer, and nobody has asked it since.
        self.poll_timer(cx)?;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for KeepAlive<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let poll = match this.poll_empty_frame(cx)? {
            Poll::Ready(()) => Pin::new(&mut this.stream).poll_write(cx, bytes),
            Poll::Pending => Poll::Pending,
        };
        let count = ready!(this.stall.watch(poll, cx))?;
        this.has_written(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let poll = match this.poll_empty_frame(cx)? {
            Poll::Ready(()) => Pin::new(&mut this.stream).poll_flush(cx),
            Poll::Pending => Poll::Pending,
        };
        this.stall.watch(poll, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let poll = match this.poll_empty_frame(cx)? {
            Poll::Ready(()) => Pin::new(&mut this.stream).poll_shutdown(cx),
            Poll::Pending => Poll::Pending,
        };
        this.stall.watch(poll, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Open with container-id `c`, nulls, and an idle time-out of 4,000 ms.
    const OPEN: &[u8] =
        b"\0\0\0\x1a\x02\0\0\0\0\x53\x10\xc0\x0d\x05\xa1\x01c\x40\x40\x40\x70\0\0\x0f\xa0\x40";
    const HEADER: &[u8] = b"AMQP\0\x01\0\0";

    /// Reads what `far` gets within `span` of (paused) time, while the near side only reads.
    async fn quiet(near: &mut KeepAlive<DuplexStream>, far: &mut DuplexStream, span: Duration) -> Vec<u8> {
        let mut got = Vec::new();
        let until = Instant::now() + span;
        let mut near_buf = [0; 64];
        let mut far_buf = [0; 64];
        loop {
            tokio::select! {
                biased;
                read = far.read(&mut far_buf) => got.extend_from_slice(&far_buf[..read.unwrap()]),
                read = near.read(&mut near_buf) => assert_ne!(read.unwrap(), 0),
                () = sleep_until(until) => return got,
            }
        }
    }

    async fn opened(interval: u64, capacity: usize) -> (KeepAlive<DuplexStream>, DuplexStream) {
        let (near, mut far) = duplex(capacity);
        let mut near = KeepAlive::new(near, Duration::from_secs(interval));
        near.write_all(HEADER).await.unwrap();
        near.write_all(OPEN).await.unwrap();
        let mut sink = [0; 34];
        far.read_exact(&mut sink).await.unwrap();
        (near, far)
    }

    #[tokio::test(start_paused = true)]
    async fn sends_an_empty_frame_at_half_the_peers_idle_time_out() {
        let (mut near, mut far) = opened(60, 256).await;
        far.write_all(HEADER).await.unwrap();
        for byte in OPEN {
            far.write_all(&[*byte]).await.unwrap();
        }
        let got = quiet(&mut near, &mut far, Duration::from_millis(10_100)).await;
        assert_eq!(got, EMPTY_FRAME.repeat(5));
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_to_the_given_interval_when_the_peer_asks_for_nothing() {
        let (mut near, mut far) = opened(30, 256).await;
        assert_eq!(quiet(&mut near, &mut far, Duration::from_secs(91)).await, EMPTY_FRAME.repeat(3));
        // A real frame counts as a sign of life.
        near.write_all(&EMPTY_FRAME).await.unwrap();
        assert_eq!(quiet(&mut near, &mut far, Duration::from_secs(29)).await, EMPTY_FRAME);
    }

    #[tokio::test(start_paused = true)]
    async fn sends_nothing_before_open_within_a_frame_or_after_close() {
        let (near, mut far) = duplex(256);
        let mut near = KeepAlive::new(near, Duration::from_secs(1));
        near.write_all(HEADER).await.unwrap();
        assert_eq!(quiet(&mut near, &mut far, Duration::from_secs(5)).await, HEADER);

        let (mut near, mut far) = opened(1, 256).await;
        let begin = b"\0\0\0\x0c\x02\0\0\0\0\x53\x11\x45";
        near.write_all(&begin[..9]).await.unwrap();
        assert_eq!(quiet(&mut near, &mut far, Duration::from_secs(5)).await, &begin[..9]);
        near.write_all(&begin[9..]).await.unwrap();
        let got = quiet(&mut near, &mut far, Duration::from_millis(1_500)).await;
        assert_eq!(got, [&begin[9..], &EMPTY_FRAME].concat());

        near.write_all(b"\0\0\0\x0c\x02\0\0\0\0\x53\x18\x45").await.unwrap();
        assert_eq!(quiet(&mut near, &mut far, Duration::from_secs(5)).await.len(), 12);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_empty_frame_is_finished_before_the_next_real_one() {
        let (mut near, mut far) = opened(1, 34).await;
        // 29 of 34 bytes taken by a frame: the empty frame fits only in part.
        let mut big = vec![0, 0, 0, 29, 2, 0, 0, 0];
        big.resize(29, 7);
        near.write_all(&big).await.unwrap();
        let mut buf = [0; 8];
        let waited = tokio::time::timeout(Duration::from_secs(3), near.read(&mut buf)).await;
        assert!(waited.is_err());
        let next = b"\0\0\0\x09\x02\0\0\0\x07";
        let writer = async {
            near.write_all(next).await.unwrap();
            near
        };
        let mut got = vec![0; 29 + 8 + 9];
        let (_near, read) = tokio::join!(writer, far.read_exact(&mut got));
        read.unwrap();
        assert_eq!(got, [&big[..], &EMPTY_FRAME, next].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stands_still_fails_at_the_limit_and_a_slow_one_does_not() {
        let (near, mut far) = duplex(16);
        let mut near = KeepAlive::new(near, Duration::from_secs(100)).stall_limit(Duration::from_secs(10));
        let slow = async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(9)).await;
                far.read_exact(&mut [0; 16]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[7; 80]), slow);
        written.unwrap();
        let started = Instant::now();
        assert_eq!(near.write_all(&[7; 1]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_was_silent_for_long_may_hold_a_write_only_for_the_rest_of_the_limit() {
        for (silent, held) in [(3, 7), (9, 2)] {
            let (near, _far) = duplex(16);
            let mut near =
                KeepAlive::new(near, Duration::from_secs(100)).stall_limit(Duration::from_secs(10));
            near.write_all(&[7; 16]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(silent)).await;
            let started = Instant::now();
            assert_eq!(near.write_all(&[7; 1]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(started.elapsed().as_secs(), held);
        }
    }
}
