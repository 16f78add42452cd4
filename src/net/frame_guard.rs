//! Keeps from the AMQP crate what it can't read safely: values that lie too deep in each other or say that they are of
//! gigabytes, frames shorter than their own header, dispositions of so many deliveries that counting them takes minutes,
//! and a late Open, in which it can't bear an idle time-out of 0.
//!
//! Recursion without a bound ends the process, not the connection, and a peer needs no token for it. Here only the
//! connection ends. Knows of performatives which of them carry or forget a delivery, as one is in pieces.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame_bytes::{
    BEGIN_CODE, DETACH_CODE, DISPOSITION_CODE, END_CODE, OPEN_CODE, Reader, TRANSFER_CODE,
};
use super::nesting::{Nesting, Unreadable};

const HEADER_BYTES: usize = 8;
/// Of these, the first.
const SIZE_BYTES: usize = 4;
const PROTOCOL: &[u8; 4] = b"AMQP";
/// Frame type of AMQP proper; 1 is SASL.
const TYPE_AMQP: u8 = 0;
/// Deliveries of which a part has come, more than a connection has links.
const MAX_DELIVERIES: usize = 16 * 1024;
/// Deliveries settled at once, far more than a session has under way. The crate looks for each number of the range.
const MAX_SETTLED: u32 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsafe {
    #[error("the peer's frame can't be read: {0}")]
    Value(#[from] Unreadable),
    #[error("the peer's frame of {0} bytes is shorter than a frame's header")]
    Short(usize),
    #[error("the peer's frame of {0} bytes is larger than the {1} that it may be")]
    Large(usize, usize),
    #[error("the peer has begun more than {MAX_DELIVERIES} deliveries")]
    Deliveries,
    #[error("the peer's Open is not its first frame")]
    LateOpen,
    #[error("the peer settles more than {MAX_SETTLED} deliveries at once")]
    Settled,
}

/// An AMQP byte stream that fails before a frame is whole that nobody should read.
#[derive(Debug)]
pub struct FrameGuard<S> {
    stream: S,
    /// Bytes of a frame.
    limit: usize,
    /// A frame's beginning.
    partial: Vec<u8>,
    /// A frame has come.
    begun: bool,
    /// By channel and handle, those of which there is more to come.
    deliveries: HashMap<(u16, u32), Nesting>,
    found: Option<Unsafe>,
}

impl<S> FrameGuard<S> {
    /// Wraps a stream before its first byte (or at a protocol header). `limit` is the size of a frame as we advertise it.
    pub fn new(stream: S, limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { stream, limit, partial: Vec::new(), begun: false, deliveries: HashMap::new(), found: None }
    }

    pub(super) fn check(&mut self, mut bytes: &[u8]) -> Result<(), Unsafe> {
        while !bytes.is_empty() {
            if self.partial.is_empty() && bytes.len() >= HEADER_BYTES {
                let size = self.size(bytes)?;
                if let Some((frame, rest)) = bytes.split_at_checked(size) {
                    self.frame(frame)?;
                    bytes = rest;
                    continue;
                }
            }
            let known = self.partial.len() >= SIZE_BYTES;
            let size = if known { self.size(&self.partial)? } else { SIZE_BYTES };
            let (now, rest) = bytes.split_at((size - self.partial.len()).min(bytes.len()));
            self.partial.extend_from_slice(now);
            bytes = rest;
            // The crate takes a frame that is too short as soon as it has its size.
            if self.partial.len() >= SIZE_BYTES && self.partial.len() == self.size(&self.partial)? {
                let mut frame = std::mem::take(&mut self.partial);
                self.frame(&frame)?;
                frame.clear();
                self.partial = frame;
            }
        }
        Ok(())
    }

    fn size(&self, head: &[u8]) -> Result<usize, Unsafe> {
        match head {
            [b'A', b'M', b'Q', b'P', ..] => Ok(HEADER_BYTES),
            [a, b, c, d, ..] => match u32::from_be_bytes([*a, *b, *c, *d]) as usize {
                short if short < HEADER_BYTES => Err(Unsafe::Short(short)),
                large if large > self.limit => Err(Unsafe::Large(large, self.limit)),
                size => Ok(size),
            },
            _ => Ok(HEADER_BYTES),
        }
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), Unsafe> {
        let (head, body) = frame.split_at(HEADER_BYTES);
        if head.starts_with(PROTOCOL) {
            return Ok(());
        }
        let end = Nesting::default().value(body)?;
        if head[5] != TYPE_AMQP {
            return Ok(());
        }
        let channel = u16::from_be_bytes([head[6], head[7]]);
        let first = !std::mem::replace(&mut self.begun, true);
        match Reader(body).performative() {
            Some(OPEN_CODE) if !first => return Err(Unsafe::LateOpen),
            Some(TRANSFER_CODE) => self.delivery(channel, body, &body[end..])?,
            Some(DETACH_CODE) if !self.deliveries.is_empty() => {
                let handle = fields(body).first().copied().and_then(number);
                _ = handle.and_then(|handle| self.deliveries.remove(&(channel, handle)));
            }
            Some(DISPOSITION_CODE) => {
                // Role, first, last.
                let fields = fields(body);
                let of = |at: usize| fields.get(at).copied().and_then(number);
                if let (Some(first), Some(last)) = (of(1), of(2))
                    && last.saturating_sub(first) >= MAX_SETTLED
                {
                    return Err(Unsafe::Settled);
                }
            }
            Some(BEGIN_CODE | END_CODE) => self.deliveries.retain(|(its, _), _| *its != channel),
            Some(_) | None => {}
        }
        Ok(())
    }

    /// A delivery's payload, or a part of it.
    fn delivery(&mut self, channel: u16, body: &[u8], payload: &[u8]) -> Result<(), Unsafe> {
        // Handle, delivery-id, delivery-tag, message-format, settled, more, rcv-settle-mode, state, resume, aborted.
        let fields = fields(body);
        let is = |at: usize| fields.get(at).is_some_and(|field| matches!(field, [0x41, ..] | [0x56, 1, ..]));
        let key = fields.first().copied().and_then(number).map(|handle| (channel, handle));
        let mut nesting = key.and_then(|key| self.deliveries.remove(&key)).unwrap_or_default();
        nesting.values(payload)?;
        if let (Some(key), true, false) = (key, is(5), is(9)) {
            if self.deliveries.len() == MAX_DELIVERIES {
                return Err(Unsafe::Deliveries);
            }
            self.deliveries.insert(key, nesting);
        }
        Ok(())
    }
}

/// A performative's fields, each encoded.
fn fields(body: &[u8]) -> Vec<&[u8]> {
    let mut reader = Reader(body);
    let count = reader.performative().and_then(|_| reader.list_count()).unwrap_or_default();
    let (mut fields, mut rest) = (Vec::new(), reader.0);
    while fields.len() < count as usize && !rest.is_empty() {
        let Ok(end) = Nesting::default().value(rest) else { break };
        let (field, after) = rest.split_at(end);
        fields.push(field);
        rest = after;
    }
    fields
}

fn number(field: &[u8]) -> Option<u32> {
    Reader(field).number()
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.found.is_none() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            self.found = self.check(&buf.filled()[before..]).err();
        }
        let Some(found) = self.found else { return Poll::Ready(Ok(())) };
        buf.set_filled(before);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, found)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether encoded values, one after the other, are such as the AMQP crate should not be given.
pub fn unreadable(encoded: &[u8]) -> bool {
    Nesting::default().values(encoded).is_err()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LIMIT: u32 = 4096;
    /// Handle 1, more to come.
    const FIRST: &[u8] = b"\x00\x53\x14\xc0\x0b\x06\x52\x01\x43\xa0\x01t\x43\x42\x41";
    /// Handle 1, the last of it.
    const LAST: &[u8] = b"\x00\x53\x14\xc0\x03\x01\x52\x01";
    const DETACH: &[u8] = b"\x00\x53\x16\xc0\x03\x01\x52\x01";
    const END: &[u8] = b"\x00\x53\x17\x45";
    const DEEP: &[u8] = &[0xc0, 0xff, 0x01, 0xc0, 0xff, 0x01, 0xc0, 0xff, 0x01, 0xc0, 0xff, 0x01];

    fn frame(channel: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let size = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        [&size.to_be_bytes()[..], &[2, 0, 0, channel], &body].concat()
    }

    /// What is found, however the bytes are cut.
    fn found(bytes: &[u8]) -> Option<Unsafe> {
        let in_pieces = |piece: usize| {
            let mut guard = FrameGuard::new((), LIMIT);
            bytes.chunks(piece).find_map(|chunk| guard.check(chunk).err())
        };
        let at_once = in_pieces(bytes.len());
        for piece in [1, 5, 64] {
            assert_eq!(in_pieces(piece), at_once);
        }
        at_once
    }

    #[test]
    fn a_connection_is_opened_once_and_first_of_all() {
        let open: &[u8] = b"\x00\x53\x10\xc0\x04\x01\xa1\x01a";
        let whole = [&b"AMQP\x00\x01\x00\x00"[..], &frame(0, &[open]), &frame(0, &[END])].concat();
        assert_eq!(found(&whole), None);
        assert_eq!(found(&[&whole[..], &frame(0, &[open])].concat()), Some(Unsafe::LateOpen));
        assert_eq!(found(&[frame(0, &[&[0x18]]), frame(0, &[open])].concat()), Some(Unsafe::LateOpen));
    }

    #[test]
    fn a_frame_that_would_overflow_the_stack_is_found_and_a_usual_one_is_not() {
        let nested = DEEP.repeat(100);
        let deep = Some(Unsafe::Value(Unreadable::Nested));
        let begin: &[u8] = b"\x00\x53\x11\xc0\xff\x08\x40\x43\x43\x43\x40\x40\x40\xc1\xff\x02\xa3\x01a";
        assert_eq!(found(&[&b"AMQP\x00\x01\x00\x00"[..], &frame(0, &[begin, &nested])].concat()), deep);
        assert_eq!(found(&frame(0, &[LAST, b"\x00\x53\x77", &nested])), deep);
        assert_eq!(found(&frame(0, &[begin, DEEP])), None);
        // SASL.
        let mut init = frame(0, &[&nested]);
        init[5] = 1;
        assert_eq!(found(&init), deep);
        // What a message carries as bytes may look like anything.
        let data: &[u8] = b"\x00\x53\x75\xb0\x00\x00\x04\xb0";
        assert_eq!(nested.len(), 0x4b0);
        assert_eq!(found(&frame(0, &[LAST, data, &nested])), None);
    }

    #[test]
    fn a_delivery_in_pieces_is_followed_over_its_frames_and_forgotten_with_its_link() {
        let piece = DEEP.repeat(2);
        let part = |channel| frame(channel, &[FIRST, &piece]);
        let deep = Some(Unsafe::Value(Unreadable::Nested));
        assert_eq!(found(&part(3).repeat(4)), None);
        assert_eq!(found(&part(3).repeat(5)), deep);
        assert_eq!(found(&[part(3).repeat(4), frame(3, &[LAST, &piece])].concat()), deep);
        assert_eq!(found(&[part(3).repeat(4), frame(4, &[LAST, &piece]), part(5)].concat()), None);
        let last = frame(3, &[LAST]);
        for forget in [last, frame(3, &[DETACH]), frame(3, &[END])] {
            assert_eq!(found(&[part(3).repeat(4), forget, part(3).repeat(4)].concat()), None);
        }
    }

    #[test]
    fn a_disposition_of_more_than_anybody_sent_is_refused() {
        let settled = |first: &[u8], last: &[u8]| {
            found(&frame(0, &[b"\x00\x53\x15\xc0\xff\x04\x41", first, last, b"\x41"]))
        };
        assert_eq!(settled(b"\x43", b"\x70\x00\x00\xff\xff"), None);
        assert_eq!(settled(b"\x43", b"\x70\x00\x01\x00\x00"), Some(Unsafe::Settled));
        assert_eq!(settled(b"\x52\x01", b"\x70\xff\xff\xff\xff"), Some(Unsafe::Settled));
        assert_eq!(settled(b"\x70\xff\xff\xff\xff", b"\x40"), None);
        assert_eq!(settled(b"\x70\xff\xff\xff\xff", b"\x43"), None);
    }

    #[test]
    fn a_frame_has_a_least_and_a_largest_size() {
        for size in 0..8 {
            let short = Some(Unsafe::Short(usize::from(size)));
            assert_eq!((found(&[0, 0, 0, size]), found(&[0, 0, 0, size, 2, 0, 0, 0])), (short, short));
        }
        assert_eq!(found(&[0, 0, 0, 8, 2, 0, 0, 0]), None);
        assert_eq!(found(&[0, 0, 16, 0, 2, 0, 0, 0]), None);
        assert_eq!(found(&[0, 0, 16, 1, 2, 0, 0, 0]), Some(Unsafe::Large(4097, 4096)));
    }

    #[tokio::test]
    async fn a_reader_gets_none_of_it_and_the_error_for_good() {
        let (near, mut far) = duplex(64 * 1024);
        let mut guard = FrameGuard::new(near, LIMIT);
        let good = frame(0, &[LAST, b"\x40"]);
        far.write_all(&good).await.unwrap();
        let mut got = vec![0; good.len()];
        guard.read_exact(&mut got).await.unwrap();
        assert_eq!(got, good);
        far.write_all(&frame(0, &[&DEEP.repeat(10)])).await.unwrap();
        for _ in 0..2 {
            let error = guard.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        guard.write_all(b"x").await.unwrap();
    }
}
