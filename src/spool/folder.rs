//! The spool's folder on disk: its files' names, the instance lock, and which file stands in for which.
//!
//! Knows nothing of what is in the database.

use std::fs::{self, DirBuilder, File, Metadata, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::types::SpoolError;

const DATABASE: &str = "spool.db";
/// A database made out of a damaged one, complete: it takes the place of `spool.db`, now or at the next start.
const SAVED: &str = "spool.db.saved";
const LOCK: &str = "spool.lock";
const CONTROL: &str = "control.sock";
/// What the name of a damaged database begins with.
const DAMAGED: &str = "spool.db.damaged-";
/// Damaged databases kept; with more the disk is not worth going on with, and would be filled.
const MAX_DAMAGED: usize = 16;
/// What a try writes: more than the end of a block that is allocated already.
const PROBE_BYTES: usize = 64 * 1024;

/// The folder, locked for this process while this value lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
    /// Database and log as they were opened.
    known: Option<[Identity; 2]>,
}

/// Which file it is, whatever its name.
type Identity = (u64, u64);

/// Files that are not those which were opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nobody put anything in their place.
    Gone,
    /// Somebody did, and it is not ours.
    Replaced,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread starts holds the file, and so the lock, until it is another program.
        let _ = self.lock.unlock();
    }
}

impl Folder {
    /// Creates the folder when absent (for its owner only: bodies are in it) and takes the lock.
    pub(super) fn open(path: &Path) -> Result<Self, SpoolError> {
        let lock = make(path).and_then(|()| lock(path));
        match lock {
            Ok(lock) => Ok(Self { path: path.to_owned(), lock, known: None }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(SpoolError::InUse(path.display().to_string()))
            }
            Err(error) => Err(SpoolError::Io(format!(
                "spool.directory {}: {error}; the folder must be on a disk with space, writable for this user",
                path.display()
            ))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    pub(super) fn log(&self) -> PathBuf {
        beside(&self.database(), "-wal")
    }

    /// Where a new database is made that will be `saved`.
    pub(super) fn draft(&self) -> PathBuf {
        self.path.join("spool.db.draft")
    }

    /// Another name of the database, under which a damaged one is read with another log.
    pub(super) fn view(&self) -> PathBuf {
        self.path.join("spool.db.view")
    }

    /// Length of the write-ahead log in bytes, 0 when there is none.
    pub(super) fn wal_bytes(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |wal| wal.len())
    }

    /// Remembers which files are open now.
    pub(super) fn remember(&mut self) -> io::Result<()> {
        self.known = Some([identity(&fs::metadata(self.database())?), identity(&fs::metadata(self.log())?)]);
        Ok(())
    }

    /// Whether the open files are no longer those of the folder: what is written to them is lost at their closing.
    pub(super) fn moved(&self) -> Option<Moved> {
        let [database, log] = self.known?;
        let same =
            |path: PathBuf, known: Identity| fs::metadata(path).is_ok_and(|now| identity(&now) == known);
        if same(self.database(), database) && same(self.log(), log) {
            return None;
        }
        match fs::metadata(self.database()) {
            Ok(now) if identity(&now) != database => Some(Moved::Replaced),
            Ok(_) | Err(_) => Some(Moved::Gone),
        }
    }

    /// After [`Moved::Gone`]: a folder, and its lock if somebody took that away too.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        make(&self.path)?;
        let ours = fs::metadata(self.path.join(LOCK)).ok().map(|now| identity(&now));
        if ours != Some(identity(&self.lock.metadata()?)) {
            self.lock = lock(&self.path)?;
        }
        Ok(())
    }

    /// Whether a file can be written and synced. Needs no new file, so that it works without free inodes.
    pub(super) fn probe(&mut self) -> io::Result<()> {
        self.lock.rewind()?;
        let written = self.lock.write_all(&[0; PROBE_BYTES]).and_then(|()| self.lock.sync_all());
        written.and(self.lock.set_len(0)).and_then(|()| self.lock.sync_all())
    }

    /// Writes the log once more, as it reads now, and syncs it. After a failed sync the system takes its pages for
    /// written though the disk may not have them; then what comes after them would be lost with them.
    pub(super) fn rewrite_log(&self) -> io::Result<()> {
        let mut log = match File::options().read(true).write(true).open(self.log()) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut chunk = vec![0; 1024 * 1024];
        let mut at = 0;
        loop {
            log.seek(SeekFrom::Start(at))?;
            let read = log.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            log.seek(SeekFrom::Start(at))?;
            log.write_all(&chunk[..read])?;
            at += read as u64;
        }
        log.sync_all()?;
        self.sync()
    }

    /// Puts the draft in the place of the database, which goes aside with its log. A crash in between leaves either
    /// the old one, or the new one for [`Folder::finish_saving`].
    pub(super) fn save(&self, now_ms: i64) -> io::Result<Option<PathBuf>> {
        File::open(self.draft())?.sync_all()?;
        fs::rename(self.draft(), self.path.join(SAVED))?;
        self.sync()?;
        self.finish_saving(now_ms)
    }

    /// Ends what `save` began. Gives the damaged database's new name, if one went aside.
    pub(super) fn finish_saving(&self, now_ms: i64) -> io::Result<Option<PathBuf>> {
        let saved = self.path.join(SAVED);
        if !saved.exists() {
            return Ok(None);
        }
        let aside = if self.database().exists() { Some(self.set_aside(now_ms)?) } else { None };
        // A log without its database would be taken for the new one's.
        for part in ["-wal", "-shm"] {
            remove(&beside(&self.database(), part))?;
        }
        fs::rename(saved, self.database())?;
        self.sync()?;
        Ok(aside)
    }

    /// Renames a damaged database and its log, so that nothing of it is lost. Gives the new name. The log goes first:
    /// a crash in between must not leave it to a new database.
    fn set_aside(&self, now_ms: i64) -> io::Result<PathBuf> {
        let database = self.database();
        let mut aside = self.path.join(format!("{DAMAGED}{now_ms}"));
        let mut attempt = 1;
        while aside.exists() {
            aside = self.path.join(format!("{DAMAGED}{now_ms}-{attempt}"));
            attempt += 1;
        }
        match fs::rename(beside(&database, "-wal"), beside(&aside, "-wal")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        remove(&beside(&database, "-shm"))?;
        fs::rename(&database, &aside)?;
        self.sync()?;
        Ok(aside)
    }

    /// Whether one more damaged database may be kept.
    pub(super) fn may_set_aside(&self) -> Result<(), SpoolError> {
        let kept = damaged_files(&self.path).len();
        if kept < MAX_DAMAGED {
            return Ok(());
        }
        Err(SpoolError::Incompatible(format!(
            "it is damaged, and {kept} damaged ones lie in {} already; check the disk, then delete or move the files {DAMAGED}*",
            self.path.display()
        )))
    }

    /// Takes away what an interrupted saving left.
    pub(super) fn sweep(&self) -> io::Result<()> {
        for file in [self.draft(), self.view()] {
            for part in ["", "-wal", "-shm", "-journal"] {
                remove(&beside(&file, part))?;
            }
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // The new entry must survive a power cut as the database in it does.
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether a spool was ever made in this folder.
pub(super) fn holds_spool(folder: &Path) -> bool {
    folder.join(DATABASE).is_file() || folder.join(SAVED).is_file()
}

/// Damaged databases that were set aside in this folder, oldest first; empty when it can't be read. They are never
/// deleted by the program: look at them, then delete them.
pub fn damaged_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_one = |name: &str| name.starts_with(DAMAGED) && !name.ends_with("-wal") && !name.ends_with("-shm");
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// Where the running instance listens for an operator's commands.
pub(super) fn control_socket(folder: &Path) -> PathBuf {
    folder.join(CONTROL)
}

pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_free_at_once_though_a_child_still_has_the_lock_open() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = Folder::open(dir.path()).expect("free");
        let childs = folder.lock.try_clone().expect("another handle on the same open file");
        assert!(matches!(Folder::open(dir.path()), Err(SpoolError::InUse(_))));
        drop(folder);
        assert!(Folder::open(dir.path()).is_ok());
        drop(childs);
    }
}
