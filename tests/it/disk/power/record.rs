//! What the shim recorded, read back.

/// One call that the disk saw, on a file named within the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Create(String),
    Write {
        file: String,
        at: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        size: usize,
    },
    Sync(String),
    /// The sync failed: what was written before is not on disk, and no later sync brings it there.
    FailedSync(String),
    Unlink(String),
    Rename {
        from: String,
        to: String,
    },
    SyncFolder,
}

/// All of them, in order.
pub(super) fn read(mut bytes: &[u8]) -> Vec<Call> {
    let mut calls = Vec::new();
    while !bytes.is_empty() {
        let number =
            |at: usize| usize::try_from(u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
        let (kind, first, second) = (bytes[0], usize::from(bytes[1]), usize::from(bytes[2]));
        let (offset, length) = (number(4), number(12));
        let (names, rest) = bytes[20..].split_at(first + second);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (file, other) = (text(&names[..first]), text(&names[first..]));
        let (data, rest) = rest.split_at(length);
        calls.push(match kind {
            b'c' => Call::Create(file),
            b'w' => Call::Write { file, at: offset, data: data.to_vec() },
            b't' => Call::Truncate { file, size: offset },
            b's' => Call::Sync(file),
            b'e' => Call::FailedSync(file),
            b'u' => Call::Unlink(file),
            b'r' => Call::Rename { from: file, to: other },
            b'd' => Call::SyncFolder,
            other => panic!("a record of kind {other}"),
        });
        bytes = rest;
    }
    calls
}
