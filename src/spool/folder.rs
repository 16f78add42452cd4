//! The spool's folder on disk: its files' names, the instance lock, and moving a damaged database aside.
//!
//! Knows nothing of what is in the database.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::types::SpoolError;

const DATABASE: &str = "spool.db";
const LOCK: &str = "spool.lock";
const CONTROL: &str = "control.sock";

/// The folder, locked for this process while this value lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Creates the folder when absent (for its owner only: bodies are in it) and takes the lock.
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        let failed =
            |error: io::Error| SpoolError::Io(format!("spool.directory {}: {error}", path.display()));
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
            // The new entry must survive a power cut as the database in it does.
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
            }
        }
        let lock =
            File::options().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(path.display().to_string())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Length of the write-ahead log in bytes, 0 when there is none.
    pub(super) fn wal_bytes(&self) -> u64 {
        fs::metadata(beside(&self.database(), "-wal")).map_or(0, |wal| wal.len())
    }

    /// Renames a damaged database and its log, so that nothing of it is lost. Gives the new name.
    pub(super) fn set_aside(&self, now_ms: i64) -> io::Result<PathBuf> {
        let database = self.database();
        let mut aside = beside(&database, &format!(".damaged-{now_ms}"));
        let mut attempt = 1;
        while aside.exists() {
            aside = beside(&database, &format!(".damaged-{now_ms}-{attempt}"));
            attempt += 1;
        }
        fs::rename(&database, &aside)?;
        for part in ["-wal", "-shm"] {
            match fs::rename(beside(&database, part), beside(&aside, part)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        File::open(&self.path)?.sync_all()?;
        Ok(aside)
    }
}

/// Whether a spool was ever made in this folder.
pub(super) fn holds_spool(folder: &Path) -> bool {
    folder.join(DATABASE).is_file()
}

/// Where the running instance listens for an operator's commands.
pub(super) fn control_socket(folder: &Path) -> PathBuf {
    folder.join(CONTROL)
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
