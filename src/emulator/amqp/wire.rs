//! The byte stream under a connection: replays bytes read ahead, can be cut or slowed, and tells when it is let go.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// What a slow stream reads at a time.
const SLOW_BYTES: usize = 64;
/// How often it does.
const SLOW_PAUSE: Duration = Duration::from_millis(50);

/// How readily a stream reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    Free,
    /// Reads a few bytes at a time.
    Slow,
    /// Neither reads nor writes.
    Silent,
}

/// The pace, and who waits for a better one.
#[derive(Debug, Default)]
struct Paced {
    pace: AtomicU8,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// When bytes were last handed over, unless more were asked for since.
    handed: Mutex<Option<Instant>>,
}

impl Paced {
    fn get(&self, waiter: &AtomicWaker, cx: &Context<'_>) -> Pace {
        let read = || self.pace.load(Ordering::Acquire);
        let mut pace = read();
        if pace != Pace::Free as u8 {
            waiter.register(cx.waker());
            // It may have changed just before we were known to wait.
            pace = read();
        }
        [Pace::Free, Pace::Slow, Pace::Silent]
            .into_iter()
            .find(|one| *one as u8 == pace)
            .unwrap_or(Pace::Free)
    }
}

/// A stream with a prefix. Once cut it reads as ended and refuses writes, so that whoever waits on it wakes.
pub(super) struct Wire<S> {
    stream: S,
    prefix: Bytes,
    read_cut: Cut,
    write_cut: Cut,
    paced: Arc<Paced>,
    /// Until the next slow read.
    pause: Option<Pin<Box<Sleep>>>,
    _dropped: DropGuard,
}

/// One direction's view of the cut: reader and writer may be different tasks, and each must be woken.
struct Cut {
    wait: Pin<Box<WaitForCancellationFutureOwned>>,
    done: bool,
}

impl Cut {
    fn new(control: &WireControl) -> Self {
        Self { wait: Box::pin(control.cut.clone().cancelled_owned()), done: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        self.done = self.done || self.wait.as_mut().poll(cx).is_ready();
        self.done
    }
}

/// The other end of a [`Wire`]'s two signals.
#[derive(Clone, Debug, Default)]
pub(super) struct WireControl {
    cut: CancellationToken,
    dropped: CancellationToken,
    paced: Arc<Paced>,
}

impl WireControl {
    /// From now on reads and writes no faster than this.
    pub(super) fn set_pace(&self, pace: Pace) {
        if self.paced.pace.swap(pace as u8, Ordering::AcqRel) != pace as u8 {
            self.paced.reader.wake();
            self.paced.writer.wake();
        }
    }

    /// For how long nobody has asked for more, though bytes came: whoever reads is held up by what it does with them.
    pub(super) fn held_up(&self) -> Duration {
        let handed = self.paced.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the stream for whoever uses it now.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until nobody uses the stream any more.
    pub(super) async fn dropped(&self) {
        self.dropped.cancelled().await;
    }
}

impl<S> Wire<S> {
    /// Puts `prefix` before what `stream` will still give.
    pub(super) fn new(stream: S, prefix: Bytes, control: &WireControl) -> Self {
        Self {
            stream,
            prefix,
            read_cut: Cut::new(control),
            write_cut: Cut::new(control),
            paced: Arc::clone(&control.paced),
            pause: None,
            _dropped: control.dropped.clone().drop_guard(),
        }
    }
}

impl<S> fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("prefix", &self.prefix.len()).field("cut", &self.read_cut.done).finish()
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    fn poll_slowly(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let mut few = [0; SLOW_BYTES];
        let mut few = ReadBuf::new(&mut few[..SLOW_BYTES.min(buf.remaining())]);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut few))?;
        buf.put_slice(few.filled());
        self.pause = Some(Box::pin(sleep(SLOW_PAUSE)));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_cut.poll(cx) {
            return Poll::Ready(Ok(()));
        }
        if self.prefix.is_empty() {
            let read = match self.paced.get(&self.paced.reader, cx) {
                Pace::Free => Pin::new(&mut self.stream).poll_read(cx, buf),
                Pace::Slow => self.poll_slowly(cx, buf),
                Pace::Silent => Poll::Pending,
            };
            let handed = read.is_ready().then(Instant::now);
            *self.paced.handed.lock().unwrap_or_else(PoisonError::into_inner) = handed;
            return read;
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..count]);
        self.prefix.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.write_cut.poll(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.paced.get(&self.paced.writer, cx) == Pace::Silent {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_cut.poll(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.paced.get(&self.paced.writer, cx) == Pace::Silent {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_cut.poll(cx) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::{Pace, Wire, WireControl};

    #[tokio::test]
    async fn bytes_read_ahead_come_first_and_in_pieces_if_need_be() {
        let (near, mut far) = duplex(64);
        let control = WireControl::default();
        let mut wire = Wire::new(near, Bytes::from_static(b"AMQP"), &control);
        far.write_all(b"rest").await.unwrap();
        let mut got = [0; 3];
        wire.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"AMQ");
        let mut got = [0; 5];
        wire.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"Prest");
    }

    #[tokio::test]
    async fn a_cut_wakes_a_reader_and_a_writer_that_wait() {
        let (near, _far) = duplex(4);
        let control = WireControl::default();
        let (mut read, mut write) = tokio::io::split(Wire::new(near, Bytes::new(), &control));
        let reader = tokio::spawn(async move { read.read(&mut [0; 8]).await });
        let writer = tokio::spawn(async move { write.write_all(&[0; 64]).await });
        tokio::task::yield_now().await;
        control.cut();
        assert_eq!(reader.await.unwrap().unwrap(), 0);
        assert!(writer.await.unwrap().is_err());
        control.dropped().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_waits_and_a_slow_one_takes_its_time() {
        let (near, mut far) = duplex(1024);
        let control = WireControl::default();
        let mut wire = Wire::new(near, Bytes::new(), &control);
        control.set_pace(Pace::Silent);
        far.write_all(&[7; 130]).await.unwrap();
        let mut got = [0; 130];
        let second = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(second, wire.read_exact(&mut got)).await.is_err());
        assert!(tokio::time::timeout(second, wire.write_all(b"x")).await.is_err());
        let began = tokio::time::Instant::now();
        let reader = tokio::spawn(async move { wire.read_exact(&mut got).await.map(|_| wire) });
        tokio::task::yield_now().await;
        control.set_pace(Pace::Slow);
        let mut wire = reader.await.unwrap().unwrap();
        assert_eq!(began.elapsed(), super::SLOW_PAUSE * 2, "64, 64 and 2 bytes");
        wire.write_all(b"x").await.unwrap();
    }
}
