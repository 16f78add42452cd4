//! SQLite's write-ahead log as bytes: whether it is whole, and a copy of what is sound in it.
//!
//! SQLite takes a log up to the first frame whose checksum does not match, and says nothing of what follows. After a
//! power cut that is right: only the last transaction can be torn, since each is synced before the next begins. When
//! a later transaction follows the broken frame, the disk has changed what was synced, and SQLite would drop it all.
//! The format is SQLite's, "WAL-mode file format" in its documentation.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use super::database::PAGE_BYTES;

const PAGE: usize = PAGE_BYTES as usize;
const HEADER: usize = 32;
const FRAME: usize = 24;
/// Checksums over words of the little end first; SQLite writes the machine's own order, and reads both.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// How far a log can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it.
    Sound,
    /// Its last transaction is not whole, as a power cut leaves it; nobody was told of it.
    Torn,
    /// What was synced is broken.
    Damaged,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// It is what was written, as seen from the frame before it.
    valid: bool,
    /// It is of this log, not left over from the one before.
    ours: bool,
    /// Pages of the database after the transaction that it ends; 0 inside a transaction.
    commit: u32,
    page: u32,
}

/// Where in the log the latest sound version of a page begins.
pub(super) type Latest = HashMap<u32, u64>;

/// What a look at a log gave.
#[derive(Debug)]
pub(super) struct Log {
    frames: Vec<Frame>,
    header_valid: bool,
}

type Sums = (u32, u32);

impl Log {
    /// Reads the whole log once; a missing one is empty.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let empty = Self { frames: Vec::new(), header_valid: true };
        let Some(mut file) = open(path)? else { return Ok(empty) };
        let mut header = [0; HEADER];
        if !fill(&mut file, &mut header)? {
            return Ok(empty);
        }
        let little = word(&header, 0) != MAGIC | 1;
        let sums = checksum((0, 0), &header[..24], little);
        let header_valid = word(&header, 0) & !1 == MAGIC && sums == (word(&header, 24), word(&header, 28));
        let mut salts = header_valid.then(|| (word(&header, 16), word(&header, 20)));
        let mut before = sums;
        let mut frames: Vec<Frame> = Vec::new();
        let (mut head, mut page) = ([0; FRAME], [0; PAGE]);
        while fill(&mut file, &mut head)? && fill(&mut file, &mut page)? {
            let stored = (word(&head, 16), word(&head, 20));
            let matches = checksum(checksum(before, &head[..8], little), &page, little) == stored;
            let own = (word(&head, 8), word(&head, 12));
            if salts.is_none() && matches {
                // With the header gone, the first frame that fits its neighbour knows them.
                salts = Some(own);
            }
            let ours = salts == Some(own);
            frames.push(Frame { valid: matches && ours, ours, commit: word(&head, 4), page: word(&head, 0) });
            before = stored;
        }
        let used = frames.iter().rposition(|frame| frame.ours).map_or(0, |last| last + 1);
        frames.truncate(used);
        Ok(Self { frames, header_valid })
    }

    pub(super) fn verdict(&self) -> Verdict {
        if !self.header_valid {
            // A header is torn only with the first transaction after it.
            let commits = self.frames.iter().filter(|frame| frame.ours && frame.commit > 0).count();
            return if commits > 1 { Verdict::Damaged } else { Verdict::Torn };
        }
        let Some(broken) = self.frames.iter().position(|frame| !frame.valid) else { return Verdict::Sound };
        let mut rest = self.frames[broken..].iter();
        // The end of the broken transaction; what follows it was written after its sync.
        let _ = rest.find(|frame| frame.commit > 0);
        if rest.any(|frame| frame.valid) { Verdict::Damaged } else { Verdict::Torn }
    }

    /// Writes a log of every sound frame up to the last sound end of a transaction, and `first_page` after them, if
    /// given. False when that is nothing, and no log was written.
    pub(super) fn copy_sound(
        &self,
        from: &Path,
        to: &Path,
        first_page: Option<(&[u8; PAGE], u32)>,
    ) -> io::Result<bool> {
        let last = self.frames.iter().rposition(|frame| frame.valid && frame.commit > 0);
        if last.is_none() && first_page.is_none() {
            return Ok(false);
        }
        let mut out = BufWriter::new(File::create(to)?);
        let mut header = [0; HEADER];
        for (at, value) in [(0, MAGIC), (4, VERSION), (8, PAGE as u32), (16, 1), (20, 2)] {
            header[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        let mut sums = checksum((0, 0), &header[..24], true);
        header[24..28].copy_from_slice(&sums.0.to_be_bytes());
        header[28..].copy_from_slice(&sums.1.to_be_bytes());
        out.write_all(&header)?;
        let mut put = |number: u32, commit: u32, page: &[u8; PAGE]| -> io::Result<()> {
            let mut head = [0; FRAME];
            for (at, value) in [(0, number), (4, commit), (8, 1), (12, 2)] {
                head[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            sums = checksum(checksum(sums, &head[..8], true), page, true);
            head[16..20].copy_from_slice(&sums.0.to_be_bytes());
            head[20..].copy_from_slice(&sums.1.to_be_bytes());
            out.write_all(&head)?;
            out.write_all(page)
        };
        if let (Some(last), Some(mut file)) = (last, open(from)?) {
            let (mut head, mut page) = ([0; FRAME], [0; PAGE]);
            fill(&mut file, &mut [0; HEADER])?;
            for frame in &self.frames[..=last] {
                if fill(&mut file, &mut head)? && fill(&mut file, &mut page)? && frame.valid {
                    put(word(&head, 0), frame.commit, &page)?;
                }
            }
        }
        if let Some((page, pages)) = first_page {
            put(1, pages, page)?;
        }
        out.into_inner()?.sync_all()?;
        Ok(true)
    }

    /// The sound pages up to the last sound end of a transaction.
    pub(super) fn latest(&self) -> Latest {
        let last = self.frames.iter().rposition(|frame| frame.valid && frame.commit > 0);
        let used = &self.frames[..last.map_or(0, |last| last + 1)];
        let places = (0_u64..).map(|index| HEADER as u64 + index * (FRAME + PAGE) as u64 + FRAME as u64);
        let sound = used.iter().zip(places).filter(|(frame, _)| frame.valid);
        sound.map(|(frame, at)| (frame.page, at)).collect()
    }

    /// Pages of the database after the last sound transaction; 0 when there is none.
    pub(super) fn pages(&self) -> u32 {
        self.frames.iter().rev().find(|frame| frame.valid && frame.commit > 0).map_or(0, |frame| frame.commit)
    }
}

fn open(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::with_capacity(64 * 1024, file))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// False at the end of the file, also in the middle of what was asked for.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

fn checksum(seed: Sums, bytes: &[u8], little: bool) -> Sums {
    let (mut one, mut two) = seed;
    for pair in bytes.chunks_exact(8) {
        let value = |at: usize| if little { word(pair, at).swap_bytes() } else { word(pair, at) };
        one = one.wrapping_add(value(0)).wrapping_add(two);
        two = two.wrapping_add(value(4)).wrapping_add(one);
    }
    (one, two)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of three transactions, and of how many frames each is.
    fn log(folder: &Path) -> Vec<u8> {
        let conn = rusqlite::Connection::open(folder.join("db")).expect("opens");
        let sql = "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x);
            INSERT INTO t VALUES(zeroblob(9000)); INSERT INTO t VALUES(1);";
        conn.execute_batch(sql).expect("runs");
        std::fs::read(folder.join("db-wal")).expect("a log")
    }

    fn verdict(folder: &Path, bytes: &[u8]) -> Verdict {
        std::fs::write(folder.join("changed"), bytes).expect("written");
        Log::read(&folder.join("changed")).expect("read").verdict()
    }

    #[test]
    fn a_whole_log_is_sound_and_a_cut_one_only_shorter() {
        let folder = tempfile::tempdir().expect("folder");
        let bytes = log(folder.path());
        assert_eq!(verdict(folder.path(), &bytes), Verdict::Sound);
        assert_eq!(verdict(folder.path(), &bytes[..bytes.len() - 100]), Verdict::Sound);
        assert_eq!(verdict(folder.path(), &[]), Verdict::Sound);
    }

    #[test]
    fn a_broken_last_transaction_is_torn_and_an_earlier_one_damage() {
        let folder = tempfile::tempdir().expect("folder");
        let bytes = log(folder.path());
        let frames = (bytes.len() - HEADER) / (FRAME + PAGE);
        assert!(frames > 4, "{frames}");
        for frame in 0..frames {
            let mut changed = bytes.clone();
            changed[HEADER + frame * (FRAME + PAGE) + FRAME + 1000] ^= 4;
            let expected = if frame + 1 == frames { Verdict::Torn } else { Verdict::Damaged };
            assert_eq!(verdict(folder.path(), &changed), expected, "frame {frame} of {frames}");
        }
        let mut changed = bytes;
        changed[17] ^= 1;
        assert_eq!(verdict(folder.path(), &changed), Verdict::Damaged, "the header");
    }

    #[test]
    fn a_copy_of_a_sound_log_is_read_by_sqlite_as_the_same() {
        let folder = tempfile::tempdir().expect("folder");
        let bytes = log(folder.path());
        let (wal, copy) = (folder.path().join("wal"), folder.path().join("copy-wal"));
        std::fs::write(&wal, bytes).expect("written");
        let read = Log::read(&wal).expect("read");
        assert!(read.copy_sound(&wal, &copy, None).expect("copied"));
        // An empty database would have its log thrown away.
        std::fs::write(folder.path().join("copy"), [0; PAGE]).expect("written");
        let conn = rusqlite::Connection::open(folder.path().join("copy")).expect("opens");
        let rows: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("reads");
        assert_eq!(rows, 2);
    }
}
