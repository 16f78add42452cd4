//! Gathers small writes: what is flushed goes out when its writer has nothing more to write at the moment. Knows bytes only.
//!
//! The AMQP crate flushes each frame by itself, which costs a system call and a TLS record each. Before it waits, it
//! always asks for something to read: then what was gathered goes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most: one full TLS record.
const GATHERED: usize = 16 * 1024;
/// After this header frames come. Before it, in the SASL layer, a refusal is written last, and read after no more.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x01\x00\x00";

/// A byte stream that flushes when it is read from, not when it is told to.
///
/// Both directions must be polled by one task, and a reader must be waiting whenever the writer is, as in the crate's
/// connection engine.
#[derive(Debug)]
pub struct Coalesce<S> {
    stream: S,
    gathered: BytesMut,
    /// The protocol header was written.
    frames: bool,
    /// Something was written since the last look: the writer may have more at once.
    fresh: bool,
    /// What was handed to the stream is flushed.
    flushed: bool,
}

impl<S> Coalesce<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> Self {
        Self { stream, gathered: BytesMut::new(), frames: false, fresh: false, flushed: true }
    }
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    /// Hands on what was gathered.
    fn poll_hand_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            self.flushed = false;
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Gets out everything.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_hand_on(cx))?;
        if !self.flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.fresh) {
            // Others run first, and may give the writer more; then it looks here again.
            cx.waker().wake_by_ref();
        } else if let Poll::Ready(result) = self.poll_out(cx) {
            result?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.frames {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
            self.flushed = false;
            // The crate writes it by itself.
            self.frames = bytes[..count].ends_with(PROTOCOL_HEADER);
            return Poll::Ready(Ok(count));
        }
        if self.gathered.len() + bytes.len() > GATHERED {
            ready!(self.poll_hand_on(cx))?;
        }
        if bytes.len() > GATHERED {
            self.flushed = false;
            self.fresh = true;
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        self.gathered.extend_from_slice(bytes);
        self.fresh = true;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Does nothing once frames come: reading flushes.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.frames { Poll::Ready(Ok(())) } else { self.poll_out(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    /// Counts the writes that reach it.
    struct Counting(DuplexStream, usize);

    impl AsyncRead for Counting {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Past the protocol header, which is taken out of `far` again.
    async fn begun<S: AsyncRead + AsyncWrite + Unpin>(stream: S, far: &mut DuplexStream) -> Coalesce<S> {
        let mut near = Coalesce::new(stream);
        near.write_all(PROTOCOL_HEADER).await.unwrap();
        near.flush().await.unwrap();
        let mut header = [0; 8];
        far.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, PROTOCOL_HEADER);
        near
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_before_the_protocol_header_goes_out_when_it_is_flushed() {
        let (near, mut far) = duplex(64 * 1024);
        let mut near = Coalesce::new(near);
        near.write_all(b"AMQP\x03\x01\x00\x00refused").await.unwrap();
        near.flush().await.unwrap();
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"AMQP\x03\x01\x00\x00refused");
    }

    #[tokio::test(start_paused = true)]
    async fn flushed_writes_go_out_together_when_the_writer_waits_for_an_answer() {
        let (near, mut far) = duplex(64 * 1024);
        let mut near = begun(Counting(near, 0), &mut far).await;
        near.stream.1 = 0;
        for _ in 0..10 {
            near.write_all(&[7; 100]).await.unwrap();
            near.flush().await.unwrap();
        }
        assert_eq!(near.stream.1, 0);
        let mut buf = [0; 1];
        assert!(timeout(Duration::from_secs(1), near.read(&mut buf)).await.is_err());
        assert_eq!(near.stream.1, 1);
        let mut got = vec![0; 1000];
        timeout(Duration::from_secs(1), far.read_exact(&mut got)).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn much_goes_out_without_waiting_for_a_read_and_in_order() {
        let (near, mut far) = duplex(1024 * 1024);
        let mut near = begun(near, &mut far).await;
        let text: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
        for chunk in [&text[..10_000], &text[10_000..60_000], &text[60_000..60_001], &text[60_001..]] {
            near.write_all(chunk).await.unwrap();
        }
        let mut got = vec![0; 60_000];
        far.read_exact(&mut got).await.unwrap();
        near.shutdown().await.unwrap();
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!([got, rest].concat(), text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_holds_the_writer_once_a_record_is_gathered() {
        let (near, mut far) = duplex(16);
        let mut near = begun(near, &mut far).await;
        near.write_all(&[7; GATHERED]).await.unwrap();
        // More than the peer's own buffer makes room for.
        assert!(timeout(Duration::from_secs(1), near.write_all(&[8; 100])).await.is_err());
        let mut got = Vec::new();
        let write = async {
            near.write_all(&[8; 100]).await?;
            near.shutdown().await
        };
        let (written, read) = tokio::join!(write, far.read_to_end(&mut got));
        written.unwrap();
        read.unwrap();
        assert_eq!(got, [vec![7; GATHERED], vec![8; 100]].concat());
    }
}
