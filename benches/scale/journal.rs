//! The line between the emulated hub's process and the generator: what arrived, and when. Keeps nothing.

use std::io::{self, Read, Write};

/// One thing that happened at the hub. Times are milliseconds since 1970 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Telemetry of an uplink.
    Uplink { device: u32, f_cnt: u32, at_ms: u64 },
    /// Other telemetry.
    Report,
    /// The Things Stack queued the downlink with this number.
    Downlink { number: u32, at_ms: u64 },
    /// So many links were attached since the start, of all devices together.
    Links { attached: u32 },
    /// Events were lost before they were read.
    Lost,
}

const BYTES: usize = 20;

impl Entry {
    pub(crate) fn write(self, to: &mut impl Write) -> io::Result<()> {
        let (tag, first, second, at_ms) = match self {
            Self::Uplink { device, f_cnt, at_ms } => (0, device, f_cnt, at_ms),
            Self::Report => (1_u32, 0, 0, 0),
            Self::Downlink { number, at_ms } => (2, number, 0, at_ms),
            Self::Links { attached } => (3, attached, 0, 0),
            Self::Lost => (4, 0, 0, 0),
        };
        let mut line = [0; BYTES];
        line[..4].copy_from_slice(&tag.to_le_bytes());
        line[4..8].copy_from_slice(&first.to_le_bytes());
        line[8..12].copy_from_slice(&second.to_le_bytes());
        line[12..].copy_from_slice(&at_ms.to_le_bytes());
        to.write_all(&line)
    }

    /// The next one; `None` at the end.
    pub(crate) fn read(from: &mut impl Read) -> Option<Self> {
        let mut line = [0; BYTES];
        from.read_exact(&mut line).ok()?;
        let word = |at: usize| u32::from_le_bytes(line[at..at + 4].try_into().expect("four"));
        let at_ms = u64::from_le_bytes(line[12..].try_into().expect("eight"));
        Some(match word(0) {
            0 => Self::Uplink { device: word(4), f_cnt: word(8), at_ms },
            1 => Self::Report,
            2 => Self::Downlink { number: word(4), at_ms },
            3 => Self::Links { attached: word(4) },
            _ => Self::Lost,
        })
    }
}
