//! Gathers small writes: what is flushed goes out when its writer has nothing more to write at the moment. Knows frames, and
//! of links whether they are detached.
//!
//! The AMQP crate flushes each frame by itself, which costs a system call and a TLS record each. Before it waits, it
//! always asks for something to read: then what was gathered goes out.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame_bytes::{ATTACH_CODE, BEGIN_CODE, DETACH_CODE, FLOW_CODE, Reader, TRANSFER_CODE};

const FRAME_HEADER_BYTES: usize = 8;
/// What is gathered at most, unless a frame is larger: one full TLS record.
const GATHERED: usize = 16 * 1024;
/// After this header frames come. Before it, in the SASL layer, a refusal is written last, and read after no more.
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x01\x00\x00";

/// A byte stream that flushes when it is read from, not when it is told to, and that leaves out frames of links which are
/// detached.
///
/// Both directions must be polled by one task, and a reader must be waiting whenever the writer is, as in the crate's
/// connection engine.
#[derive(Debug)]
pub struct Coalesce<S> {
    stream: S,
    gathered: BytesMut,
    /// So many bytes of it are whole frames, which may go.
    whole: usize,
    /// Channel and handle of links that our Detach ended. The crate's link may not know yet that its session has
    /// answered the peer's, and send one more frame, for which the peer would end the session. A Transfer that is left out leaves
    /// a gap in the session's delivery-ids, which Azure's AMQP library takes.
    detached: HashSet<(u16, u32)>,
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
        Self {
            stream,
            gathered: BytesMut::new(),
            whole: 0,
            detached: HashSet::new(),
            frames: false,
            fresh: false,
            flushed: true,
        }
    }

    /// Looks through the frames that have become whole, and takes out those that come too late.
    fn sift(&mut self) {
        while let Some(size) =
            self.gathered[self.whole..].first_chunk::<FRAME_HEADER_BYTES>().map(size_of_frame)
        {
            let Some(frame) = self.gathered.get(self.whole..self.whole + size) else { return };
            if is_late(frame, &mut self.detached) {
                let after = self.gathered.split_off(self.whole + size);
                self.gathered.truncate(self.whole);
                self.gathered.unsplit(after);
            } else {
                self.whole += size;
            }
        }
    }
}

fn size_of_frame(head: &[u8; FRAME_HEADER_BYTES]) -> usize {
    // Ours are never shorter.
    (u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize).max(FRAME_HEADER_BYTES)
}

/// Whether a frame is of a link that is detached; keeps account of which are.
fn is_late(frame: &[u8], detached: &mut HashSet<(u16, u32)>) -> bool {
    let (head, body) = frame.split_at(FRAME_HEADER_BYTES);
    let channel = u16::from_be_bytes([head[6], head[7]]);
    let mut reader = Reader(body);
    match reader.performative() {
        Some(ATTACH_CODE) => {
            if let Some(handle) = reader.number_at(1) {
                detached.remove(&(channel, handle));
            }
            false
        }
        Some(DETACH_CODE) => reader.number_at(0).is_some_and(|handle| !detached.insert((channel, handle))),
        Some(TRANSFER_CODE) => {
            reader.number_at(0).is_some_and(|handle| detached.contains(&(channel, handle)))
        }
        Some(FLOW_CODE) => reader.number_at(4).is_some_and(|handle| detached.contains(&(channel, handle))),
        Some(BEGIN_CODE) => {
            detached.retain(|(its, _)| *its != channel);
            false
        }
        Some(_) | None => false,
    }
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    /// Hands on the whole frames that were gathered.
    fn poll_hand_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.whole > 0 {
            self.flushed = false;
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[..self.whole]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(count);
            self.whole -= count;
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
        self.gathered.extend_from_slice(bytes);
        self.sift();
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

    fn frame(channel: u8, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(FRAME_HEADER_BYTES + body.len()).unwrap();
        [&size.to_be_bytes()[..], &[2, 0, 0, channel], body].concat()
    }

    #[tokio::test(start_paused = true)]
    async fn flushed_writes_go_out_together_when_the_writer_waits_for_an_answer() {
        let (near, mut far) = duplex(64 * 1024);
        let mut near = begun(Counting(near, 0), &mut far).await;
        near.stream.1 = 0;
        for _ in 0..10 {
            near.write_all(&frame(0, &[7; 92])).await.unwrap();
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
    async fn much_goes_out_without_waiting_for_a_read_and_in_order_however_it_is_cut() {
        let (near, mut far) = duplex(1024 * 1024);
        let mut near = begun(near, &mut far).await;
        let text: Vec<u8> = (0..10_u8).flat_map(|number| frame(number, &vec![number; 9_992])).collect();
        for chunk in [&text[..10_000], &text[10_000..61_234], &text[61_234..61_235], &text[61_235..]] {
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
        let (large, small) = (frame(0, &[7; GATHERED - FRAME_HEADER_BYTES]), frame(0, &[8; 92]));
        near.write_all(&large).await.unwrap();
        // More than the peer's own buffer makes room for.
        assert!(timeout(Duration::from_secs(1), near.write_all(&small)).await.is_err());
        let mut got = Vec::new();
        let write = async {
            near.write_all(&small).await?;
            near.shutdown().await
        };
        let (written, read) = tokio::join!(write, far.read_to_end(&mut got));
        written.unwrap();
        read.unwrap();
        assert_eq!(got, [large, small].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_of_a_link_goes_out_after_its_detach_until_its_number_is_attached_anew() {
        const ATTACH: &[u8] = b"\x00\x53\x12\xc0\x07\x03\xa1\x01a\x52\x05\x41";
        const FLOW: &[u8] = b"\x00\x53\x13\xc0\x0a\x06\x43\x43\x43\x43\x52\x05\x43";
        const SESSION_FLOW: &[u8] = b"\x00\x53\x13\xc0\x05\x04\x43\x43\x43\x43";
        const TRANSFER: &[u8] = b"\x00\x53\x14\xc0\x04\x02\x52\x05\x43payload";
        const DETACH: &[u8] = b"\x00\x53\x16\xc0\x04\x02\x52\x05\x41";
        let (near, mut far) = duplex(1024 * 1024);
        let mut near = begun(near, &mut far).await;
        let mut expected = Vec::new();
        for (body, passes) in [
            (ATTACH, true),
            (FLOW, true),
            (TRANSFER, true),
            (DETACH, true),
            (FLOW, false),
            (TRANSFER, false),
            (DETACH, false),
            (SESSION_FLOW, true),
            (ATTACH, true),
            (TRANSFER, true),
        ] {
            let one = frame(1, body);
            near.write_all(&one).await.unwrap();
            if passes {
                expected.extend(one);
            }
        }
        // Another session's link of the same number.
        near.write_all(&frame(2, FLOW)).await.unwrap();
        expected.extend(frame(2, FLOW));
        near.shutdown().await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, expected);
    }
}
