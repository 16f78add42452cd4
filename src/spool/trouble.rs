//! What an error of SQLite means for the spool, and what a person does about it.
//!
//! Knows no thread and no table.

use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use super::types::SpoolError;

/// What a failed write or read calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may pass by itself: no space, no memory, or another process holds the lock. The connection is sound.
    Passing,
    /// What is on disk is not known, and a further sync on this connection could lie. Open the files anew.
    Doubtful,
    /// What was read is not what was written. Save what can be read.
    Damaged,
}

pub(super) fn trouble(error: &rusqlite::Error) -> Trouble {
    match error {
        // A column that holds something else than was ever put there.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::Utf8Error(..) => return Trouble::Damaged,
        // The index of the log could not grow: no space, though it is called an I/O error.
        rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE => {
            return Trouble::Passing;
        }
        _ => {}
    }
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DiskFull
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory,
        ) => Trouble::Passing,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Trouble::Damaged,
        Some(_) | None => Trouble::Doubtful,
    }
}

/// For a caller that read: damage is told apart, since trying again does not help.
pub(super) fn told(error: &rusqlite::Error) -> SpoolError {
    match trouble(error) {
        Trouble::Damaged => SpoolError::Damaged(error.to_string()),
        Trouble::Passing | Trouble::Doubtful => SpoolError::Io(error.to_string()),
    }
}

/// An error of ours that counts as damage.
pub(super) fn damage(what: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(what.to_owned()))
}

/// For log and readiness: which folder, what is wrong, and what to do. The writer goes on by itself after it.
pub(super) fn explain(folder: &Path, error: &rusqlite::Error) -> String {
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            "free space on its disk (or raise spool.max_bytes, if the disk has some)"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "end the other process that holds the database"
        }
        Some(ErrorCode::OutOfMemory) => "give the process more memory",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "make the folder and its file system writable for this user"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "check the disk; what can be read is saved into a new database"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "check that the disk is well and its file system writable (see the kernel's log)"
        }
        Some(_) | None => "look at the error; if it stays, report it",
    };
    format!("spool.directory {}: {error}; {remedy}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i32) -> Trouble {
        trouble(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn only_want_of_space_or_of_a_lock_may_pass_on_the_same_connection() {
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_NOMEM, ffi::SQLITE_IOERR_SHMSIZE] {
            assert_eq!(of(code), Trouble::Passing, "{code}");
        }
        for code in [ffi::SQLITE_IOERR, ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_READONLY, ffi::SQLITE_ERROR] {
            assert_eq!(of(code), Trouble::Doubtful, "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            assert_eq!(of(code), Trouble::Damaged, "{code}");
        }
    }

    #[test]
    fn the_folder_and_the_remedy_are_named() {
        let full = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_FULL), None);
        let text = explain(Path::new("/data/spool"), &full);
        assert!(text.contains("/data/spool") && text.contains("free space"), "{text}");
    }
}
