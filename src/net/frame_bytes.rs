//! AMQP as raw bytes: where frames begin and end, and what a peer's Open says about idling.
//!
//! Knows the 8-byte protocol header, the frame's size and type fields and the first fields of Open; no other
//! performative beyond its code, no session, no link.

use std::time::Duration;

/// The protocol header, also of the SASL layer, begins with this text where a frame has its size.
const PROTOCOL: &[u8; 4] = b"AMQP";
const PROTOCOL_HEADER_BYTES: usize = 8;
/// Size (4), data offset, type, channel (2).
const FRAME_HEADER_BYTES: usize = 8;
/// Frame type of AMQP proper; 1 is SASL.
const TYPE_AMQP: u8 = 0;
/// How much of a frame is kept to look at: enough for the first five fields of any sensible Open.
const KEPT_BYTES: usize = 1024;
pub(super) const OPEN_CODE: u64 = 0x10;
pub(super) const BEGIN_CODE: u64 = 0x11;
pub(super) const ATTACH_CODE: u64 = 0x12;
pub(super) const FLOW_CODE: u64 = 0x13;
pub(super) const TRANSFER_CODE: u64 = 0x14;
pub(super) const DISPOSITION_CODE: u64 = 0x15;
pub(super) const DETACH_CODE: u64 = 0x16;
pub(super) const END_CODE: u64 = 0x17;
const CLOSE_CODE: u64 = 0x18;

/// Follows one direction of a connection and says when it stands between two frames.
#[derive(Debug, Default)]
pub(super) struct Boundaries {
    /// The first bytes of the present header or frame.
    head: Vec<u8>,
    /// Bytes of it that are still to come, once its size is known.
    left: Option<usize>,
    /// How many bytes of a frame to keep.
    keep: usize,
}

impl Boundaries {
    /// Looks only at sizes, types and whether a frame is Close.
    pub(super) fn of_sizes() -> Self {
        // Data offset 2, then descriptor marker, a small ulong or a short symbol.
        Self { keep: FRAME_HEADER_BYTES + 24, ..Self::default() }
    }

    /// Keeps enough of each frame to read Open.
    pub(super) fn of_open() -> Self {
        Self { keep: KEPT_BYTES, ..Self::default() }
    }

    /// True between frames.
    pub(super) fn at_boundary(&self) -> bool {
        self.head.is_empty()
    }

    /// Takes the next bytes of the stream and reports each AMQP frame that ends in them (its first bytes).
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let Some(left) = self.left else {
                let wanted = PROTOCOL_HEADER_BYTES - self.head.len();
                let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
                self.head.extend_from_slice(now);
                bytes = rest;
                if self.head.len() == PROTOCOL_HEADER_BYTES {
                    self.left = Some(self.announced_size().saturating_sub(FRAME_HEADER_BYTES));
                    self.finish_if_whole(&mut on_frame);
                }
                continue;
            };
            let (now, rest) = bytes.split_at(left.min(bytes.len()));
            let room = self.keep.saturating_sub(self.head.len());
            self.head.extend_from_slice(&now[..room.min(now.len())]);
            self.left = Some(left - now.len());
            bytes = rest;
            self.finish_if_whole(&mut on_frame);
        }
    }

    fn announced_size(&self) -> usize {
        let field = [self.head[0], self.head[1], self.head[2], self.head[3]];
        if &field == PROTOCOL { PROTOCOL_HEADER_BYTES } else { u32::from_be_bytes(field) as usize }
    }

    fn finish_if_whole(&mut self, on_frame: &mut impl FnMut(&[u8])) {
        if self.left != Some(0) {
            return;
        }
        if !self.head.starts_with(PROTOCOL) && self.head[5] == TYPE_AMQP {
            on_frame(&self.head);
        }
        self.head.clear();
        self.left = None;
    }
}

/// What a frame is, as far as keep-alive cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Open, with the idle time-out it names.
    Open(Option<Duration>),
    /// Close: nothing may follow it.
    Close,
    /// An empty frame, or any other performative.
    Other,
}

/// Reads a frame given from its first byte on; it may be cut short.
pub(super) fn frame_kind(frame: &[u8]) -> FrameKind {
    let body = frame.get(4).and_then(|offset| frame.get(usize::from(*offset) * 4..)).unwrap_or_default();
    let mut reader = Reader(body);
    match reader.performative() {
        Some(OPEN_CODE) => FrameKind::Open(reader.idle_time_out()),
        Some(CLOSE_CODE) => FrameKind::Close,
        Some(_) | None => FrameKind::Other,
    }
}

/// A cursor over AMQP-encoded values. `None` means cut short or not understood.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (now, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(now)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|one| one[0])
    }

    fn be32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The descriptor: a ulong of any width, or one of the symbols we look for.
    pub(super) fn performative(&mut self) -> Option<u64> {
        if self.byte()? != 0x00 {
            return None;
        }
        let symbol = match self.byte()? {
            0x44 => return Some(0),
            0x53 => return self.byte().map(u64::from),
            0x80 => return self.take(8)?.try_into().ok().map(u64::from_be_bytes),
            0xa3 => {
                let len = self.byte()?;
                self.take(usize::from(len))?
            }
            0xb3 => {
                let len = self.be32()?;
                self.take(len as usize)?
            }
            _ => return None,
        };
        match symbol {
            b"amqp:open:list" => Some(OPEN_CODE),
            b"amqp:begin:list" => Some(BEGIN_CODE),
            b"amqp:attach:list" => Some(ATTACH_CODE),
            b"amqp:flow:list" => Some(FLOW_CODE),
            b"amqp:transfer:list" => Some(TRANSFER_CODE),
            b"amqp:disposition:list" => Some(DISPOSITION_CODE),
            b"amqp:detach:list" => Some(DETACH_CODE),
            b"amqp:end:list" => Some(END_CODE),
            b"amqp:close:list" => Some(CLOSE_CODE),
            _ => None,
        }
    }

    /// How many fields there are.
    pub(super) fn list_count(&mut self) -> Option<u32> {
        match self.byte()? {
            0x45 => Some(0),
            0xc0 => {
                self.byte()?;
                self.byte().map(u32::from)
            }
            0xd0 => {
                self.be32()?;
                self.be32()
            }
            _ => None,
        }
    }

    /// The fifth field of Open's list, in milliseconds. Absent, null and zero all mean none.
    fn idle_time_out(&mut self) -> Option<Duration> {
        if self.list_count()? < 5 {
            return None;
        }
        for _ in 0..4 {
            self.skip()?;
        }
        let millis = match self.byte()? {
            0x52 => u32::from(self.byte()?),
            0x70 => self.be32()?,
            _ => 0,
        };
        (millis > 0).then(|| Duration::from_millis(u64::from(millis)))
    }

    /// After [`Self::performative`]: the unsigned number that is its field at `place`, if it is one.
    pub(super) fn number_at(&mut self, place: u32) -> Option<u32> {
        if self.list_count()? <= place {
            return None;
        }
        for _ in 0..place {
            self.skip()?;
        }
        self.number()
    }

    /// An unsigned number, if the next value is one.
    pub(super) fn number(&mut self) -> Option<u32> {
        match self.byte()? {
            0x43 => Some(0),
            0x52 => self.byte().map(u32::from),
            0x70 => self.be32(),
            _ => None,
        }
    }

    /// Steps over one primitive value: the upper half of its constructor gives the width.
    fn skip(&mut self) -> Option<()> {
        let code = self.byte()?;
        let width = match code >> 4 {
            0x4 => 0,
            0x5 => 1,
            0x6 => 2,
            0x7 => 4,
            0x8 => 8,
            0x9 => 16,
            0xa | 0xc | 0xe => usize::from(self.byte()?),
            0xb | 0xd | 0xf => self.be32()? as usize,
            _ => return None,
        };
        self.take(width).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len() + 8).expect("small").to_be_bytes().to_vec();
        bytes.extend_from_slice(&[2, 0, 0, 0]);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn reads_the_idle_time_out_in_every_encoding() {
        let five = |descriptor: &[u8], list: &[u8], idle: &[u8]| {
            let fields =
                [&[0xa1, 1, b'c'][..], &[0x40], &[0x70, 0, 1, 0, 0], &[0x60, 0x1f, 0xff], idle].concat();
            frame(&[&[0x00], descriptor, list, &fields].concat())
        };
        let small: &[u8] = &[0x53, 0x10];
        let list8: &[u8] = &[0xc0, 20, 5];
        let second = Some(Duration::from_secs(1));
        let millis = |ms| Some(Duration::from_millis(ms));
        for (bytes, expected) in [
            (five(small, list8, &[0x70, 0, 0, 0x03, 0xe8]), second),
            (five(small, &[0xd0, 0, 0, 0, 20, 0, 0, 0, 5], &[0x52, 200]), millis(200)),
            (five(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0x10], list8, &[0x52, 200]), millis(200)),
            (five(b"\xa3\x0eamqp:open:list", list8, &[0x52, 200]), millis(200)),
            (five(b"\xb3\0\0\0\x0eamqp:open:list", list8, &[0x52, 200]), millis(200)),
            (five(small, list8, &[0x43]), None),
            (five(small, list8, &[0x40]), None),
            (five(small, list8, &[0x70, 0]), None),
            (five(small, &[0xc0, 4, 1], &[]), None),
        ] {
            assert_eq!(frame_kind(&bytes), FrameKind::Open(expected), "{bytes:02x?}");
        }
        assert_eq!(frame_kind(&frame(&[0x00, 0x53, 0x18, 0x45])), FrameKind::Close);
        assert_eq!(frame_kind(&frame(&[])), FrameKind::Other);
        assert_eq!(frame_kind(&[0xff; 9]), FrameKind::Other);
    }

    #[test]
    fn finds_frames_however_the_bytes_are_cut() {
        let mut stream = b"AMQP\x03\x01\x00\x00".to_vec();
        stream.extend_from_slice(&[0, 0, 0, 9, 2, 1, 0, 0, 7]);
        stream.extend_from_slice(b"AMQP\x00\x01\x00\x00");
        stream.extend(frame(&[1; 300]));
        stream.extend(frame(&[]));
        for step in [1, 3, 8, 64, stream.len()] {
            let mut boundaries = Boundaries::of_sizes();
            let mut frames = 0;
            for chunk in stream.chunks(step) {
                boundaries.feed(chunk, |_| frames += 1);
            }
            assert!(boundaries.at_boundary());
            assert_eq!(frames, 2, "cut in {step}s");
        }
    }
}
