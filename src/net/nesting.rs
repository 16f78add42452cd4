//! How deep AMQP values lie in each other, and how long they say they are. The AMQP crate reads them by recursion without
//! a bound, so that a frame of twelve kilobytes ends the whole process, and makes room for a text before it looks whether
//! there is one.
//!
//! Goes by constructors and counts alone, as the crate does: what a size says is not looked at. Knows no performative.

/// Values in values, a descriptor's among them. The deepest that anybody means, a filter in a source in an Attach, lies
/// six deep.
const MAX_DEPTH: usize = 32;
/// Longest text or bytes; no message or frame is as large. The crate fills so much memory with zeros first.
const MAX_BYTES: u32 = 32 * 1024 * 1024;
/// Size and count, four bytes each.
const MAX_HEAD: usize = 8;

/// Values that the crate should not be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("values lie more than {MAX_DEPTH} deep in each other")]
    Nested,
    #[error("a value of {0} bytes is longer than {MAX_BYTES}")]
    Long(u32),
    /// The crate reads the second of these wrongly.
    #[error("an array's elements are neither numbers nor text nor bytes")]
    Array,
}

/// Follows values in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    open: Vec<Open>,
    step: Step,
}

/// A list, map or array, or a descriptor and its value.
#[derive(Debug)]
struct Open {
    /// Values that are still to come.
    left: u64,
    /// In an array, the constructor of all.
    constructor: Option<u8>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default)]
enum Step {
    #[default]
    Constructor,
    /// The descriptor's, after which the value comes.
    Descriptor,
    /// Size, or size and count: so many bytes of them have come.
    Head { constructor: u8, bytes: [u8; MAX_HEAD], have: usize },
    /// The constructor of so many elements.
    Elements(u32),
    /// Bytes that say nothing.
    Skip(u64),
    /// No AMQP: the crate reads no further, either.
    Lost,
}

impl Nesting {
    /// Takes bytes up to the end of a value that lies in no other, and says how many.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub(super) fn value(&mut self, bytes: &[u8]) -> Result<usize, Unreadable> {
        let mut at = 0;
        loop {
            match self.step {
                Step::Lost => return Ok(bytes.len()),
                Step::Constructor => {
                    let of_all = self.open.last().and_then(|open| open.constructor);
                    let Some(constructor) = of_all.or_else(|| bytes.get(at).copied()) else { return Ok(at) };
                    at += usize::from(of_all.is_none());
                    self.begin(constructor)?;
                }
                Step::Descriptor => {
                    let Some(constructor) = bytes.get(at) else { return Ok(at) };
                    at += 1;
                    match constructor {
                        // A ulong or symbol; the crate takes no other.
                        0x44 | 0x53 | 0x80 | 0xa3 | 0xb3 => self.begin(*constructor)?,
                        _ => self.step = Step::Lost,
                    }
                }
                Step::Head { constructor, bytes: mut head, have } => {
                    let (want, rest) = (head_bytes(constructor), &bytes[at..]);
                    let now = (want - have).min(rest.len());
                    head[have..have + now].copy_from_slice(&rest[..now]);
                    at += now;
                    if have + now < want {
                        self.step = Step::Head { constructor, bytes: head, have: have + now };
                        return Ok(at);
                    }
                    self.enter(constructor, &head[..want])?;
                }
                Step::Elements(count) => {
                    let Some(constructor) = bytes.get(at) else { return Ok(at) };
                    at += 1;
                    self.elements(*constructor, count)?;
                }
                Step::Skip(left) => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    at += now;
                    self.step = Step::Skip(left - now as u64);
                    if left > now as u64 || self.ends() {
                        return Ok(at);
                    }
                }
            }
        }
    }

    /// Takes all bytes: values one after the other.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub(super) fn values(&mut self, mut bytes: &[u8]) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            bytes = &bytes[self.value(bytes)?..];
        }
        Ok(())
    }

    fn begin(&mut self, constructor: u8) -> Result<(), Unreadable> {
        self.step = match width(constructor) {
            _ if constructor == 0 => {
                self.push(2, None)?;
                Step::Descriptor
            }
            Some(width) => Step::Skip(width),
            None if head_bytes(constructor) > 0 => Step::Head { constructor, bytes: [0; MAX_HEAD], have: 0 },
            None => Step::Lost,
        };
        Ok(())
    }

    /// Size and count are known.
    fn enter(&mut self, constructor: u8, head: &[u8]) -> Result<(), Unreadable> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let (size, count) = head.split_at(if constructor >> 4 < 0xc { head.len() } else { head.len() / 2 });
        let (size, count) = (number(size), number(count));
        match constructor >> 4 {
            0xa | 0xb if size > MAX_BYTES => return Err(Unreadable::Long(size)),
            0xa | 0xb => self.step = Step::Skip(u64::from(size)),
            _ if count == 0 => self.step = Step::Skip(0),
            0xe | 0xf => self.step = Step::Elements(count),
            // A key without a value: the crate counts below zero, and reads as long as there is something.
            _ if constructor & 0xf == 1 && count % 2 == 1 => return self.push(u64::MAX, None),
            _ => return self.push(u64::from(count), None),
        }
        Ok(())
    }

    fn elements(&mut self, constructor: u8, count: u32) -> Result<(), Unreadable> {
        match (width(constructor), constructor >> 4) {
            (Some(width), _) => self.step = Step::Skip(width * u64::from(count)),
            (None, 0xa | 0xb) => return self.push(u64::from(count), Some(constructor)),
            (None, _) => return Err(Unreadable::Array),
        }
        Ok(())
    }

    fn push(&mut self, left: u64, constructor: Option<u8>) -> Result<(), Unreadable> {
        if self.open.len() == MAX_DEPTH {
            return Err(Unreadable::Nested);
        }
        self.open.push(Open { left, constructor });
        self.step = Step::Constructor;
        Ok(())
    }

    /// A value has ended. True if it lay in no other.
    fn ends(&mut self) -> bool {
        self.step = Step::Constructor;
        while let Some(open) = self.open.last_mut() {
            open.left -= 1;
            if open.left > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// Bytes of a value whose constructor says how many.
fn width(constructor: u8) -> Option<u64> {
    match constructor >> 4 {
        0x4 => Some(0),
        wide @ 0x5..=0x9 => Some(1 << (wide - 5)),
        _ => None,
    }
}

/// Bytes of size, or of size and count.
fn head_bytes(constructor: u8) -> usize {
    match constructor >> 4 {
        0xa => 1,
        0xb => 4,
        0xc | 0xe => 2,
        0xd | 0xf => 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value in so many, each of which begins so.
    fn nested(begin: &[u8], depth: usize) -> Vec<u8> {
        [&begin.repeat(depth)[..], b"\x40"].concat()
    }

    /// However the bytes are cut: how many belong to the first value.
    fn first(bytes: &[u8]) -> Result<usize, Unreadable> {
        let at_once = Nesting::default().value(bytes);
        for piece in [1, 2, 7] {
            let (mut nesting, mut taken) = (Nesting::default(), 0);
            let cut = bytes.chunks(piece).try_for_each(|chunk| {
                let now = nesting.value(chunk)?;
                taken += now;
                if now < chunk.len() || (nesting.open.is_empty() && matches!(nesting.step, Step::Constructor))
                {
                    return Err(None);
                }
                Ok(())
            });
            match cut {
                Ok(()) | Err(None) => assert_eq!(at_once, Ok(taken), "cut into {piece}: {bytes:02x?}"),
                Err(Some(error)) => assert_eq!(at_once, Err(error)),
            }
        }
        at_once
    }

    #[test]
    fn every_kind_of_value_ends_where_it_ends() {
        for value in [
            &b"\x40"[..],
            b"\x43",
            b"\x45",
            b"\x53\x10",
            b"\x60\x01\x02",
            b"\x70\x01\x02\x03\x04",
            b"\x80\x01\x02\x03\x04\x05\x06\x07\x08",
            b"\x98\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08",
            b"\xa0\x00",
            b"\xa1\x02ab",
            b"\xb3\x00\x00\x00\x02ab",
            b"\xc0\x01\x00",
            b"\xc0\x04\x02\x40\x53\x07",
            b"\xc1\x05\x02\xa3\x01a\x41",
            b"\xd0\x00\x00\x00\x05\x00\x00\x00\x01\x40",
            b"\xd1\x00\x00\x00\x04\x00\x00\x00\x00",
            b"\xe0\x01\x00",
            b"\xe0\x08\x02\xa3\x01a\x03abc",
            b"\xf0\x00\x00\x00\x0d\x00\x00\x00\x02\x70\x00\x00\x00\x01\x00\x00\x00\x02",
            b"\x00\x53\x24\x45",
            b"\x00\xa3\x01x\xc0\x06\x02\x00\x53\x01\x40\x41",
        ] {
            for after in [&b""[..], b"\x40", b"\x01\x02"] {
                assert_eq!(first(&[value, after].concat()), Ok(value.len()), "{value:02x?}");
            }
        }
    }

    #[test]
    fn depth_has_a_bound_in_whatever_values_lie() {
        for begin in [
            &b"\xc0\xff\x01"[..],
            b"\xd0\xff\xff\xff\xff\x00\x00\x00\x01",
            b"\xc1\xff\x02\x40",
            b"\xc1\xff\x01",
            b"\xd1\x00\x00\x00\x00\x00\x00\x00\x02\x40",
            b"\x00\x53\x01",
            b"\x00\xa3\x01a",
        ] {
            assert!(first(&nested(begin, MAX_DEPTH)).is_ok(), "{begin:02x?}");
            assert_eq!(first(&nested(begin, MAX_DEPTH + 1)), Err(Unreadable::Nested), "{begin:02x?}");
        }
    }

    #[test]
    fn many_values_beside_each_other_are_not_deep() {
        assert_eq!(Nesting::default().values(&b"\xc0\x02\x01\x45".repeat(10_000)), Ok(()));
        // Four thousand million elements without bytes take no time.
        assert_eq!(first(b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40"), Ok(10));
    }

    #[test]
    fn arrays_of_what_is_no_plain_value_are_refused_and_what_is_no_amqp_is_left_to_the_reader() {
        for constructor in [0x00, 0xc0, 0xd1, 0xe0, 0xf0, 0x10] {
            assert_eq!(first(&[0xe0, 9, 2, constructor, 1, 1]), Err(Unreadable::Array));
        }
        assert_eq!(first(&[&b"\xc0\x03\x01\x17"[..], &[0; 100]].concat()), Ok(104));
        // A descriptor that is neither number nor symbol.
        assert_eq!(first(&[0; 100]), Ok(100));
        assert_eq!(first(&b"\x00\xc0\xff\x01".repeat(100)), Ok(400));
    }

    #[test]
    fn no_value_says_that_it_is_longer_than_anything_can_be() {
        for constructor in [0xb0, 0xb1, 0xb3] {
            assert_eq!(first(&[constructor, 2, 0, 0, 0]), Ok(5));
            assert_eq!(first(&[constructor, 2, 0, 0, 1]), Err(Unreadable::Long(MAX_BYTES + 1)));
        }
        assert_eq!(
            first(&[0xf0, 0, 0, 0, 9, 0, 0, 0, 1, 0xb1, 255, 0, 0, 0]),
            Err(Unreadable::Long(255 << 24))
        );
    }
}
