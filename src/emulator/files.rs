//! Small files written whole or not at all. Knows nothing of what is in them.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;

use super::error::EmulatorError;

/// Who may read a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Readers {
    /// The owner alone: it holds keys.
    Owner,
    /// Everybody.
    All,
}

/// Writes a temporary file beside `path`, syncs it and renames it.
///
/// # Errors
/// `File` with the path.
pub(super) fn write(path: &Path, content: &[u8], readers: Readers) -> Result<(), EmulatorError> {
    let attempt = || -> io::Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        // Made readable by the owner alone.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        share(file.path(), readers)?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(|source| EmulatorError::File { path: path.to_owned(), source })
}

/// As [`write`], for the owner alone, as indented JSON.
///
/// # Errors
/// `File` with the path.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EmulatorError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|source| EmulatorError::File { path: path.to_owned(), source: source.into() })?;
    text.push(b'\n');
    write(path, &text, Readers::Owner)
}

/// A file's content, `None` if there is no such file.
///
/// # Errors
/// `File` with the path.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, EmulatorError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(EmulatorError::File { path: path.to_owned(), source }),
    }
}

/// Removes a file; it may be missing.
///
/// # Errors
/// `File` with the path.
pub(super) fn remove(path: &Path) -> Result<(), EmulatorError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(EmulatorError::File { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(unix)]
fn share(path: &Path, readers: Readers) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::All => 0o644,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn share(_path: &Path, _readers: Readers) -> io::Result<()> {
    Ok(())
}
