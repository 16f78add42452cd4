//! Reads the small files a configuration names: itself, secrets, certificates. Each with a limit.
//!
//! Knows no keys.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The file's text. Errors: what the system says, "not UTF-8", or longer than `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    // Opening a FIFO would wait for its writer, and a device may never end.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8 text"))
}

/// The path, unless it looks as if somebody wrote the secret itself where its file was asked for.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let secret =
        text.contains(['=', ';', '@']) || text.starts_with("NNSXS.") || !text.contains(['/', '\\', '.']);
    if secret { "the file (not shown: its name looks like a secret)".to_owned() } else { text.into_owned() }
}
