//! The byte stream under a connection: replays bytes read ahead, can be cut, and tells when it is let go.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// A stream with a prefix. Once cut it reads as ended and refuses writes, so that whoever waits on it wakes.
pub(super) struct Wire<S> {
    stream: S,
    prefix: Bytes,
    read_cut: Cut,
    write_cut: Cut,
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
}

impl WireControl {
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
            _dropped: control.dropped.clone().drop_guard(),
        }
    }
}

impl<S> fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("prefix", &self.prefix.len()).field("cut", &self.read_cut.done).finish()
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
            return Pin::new(&mut self.stream).poll_read(cx, buf);
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
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_cut.poll(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
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

    use super::{Wire, WireControl};

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
}
