//! Which files a replay posts, and their payloads one by one. Knows no HTTP.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::ReplayError;

/// Sixteen times the webhook's default limit.
const MAX_PAYLOAD_BYTES: u64 = 16 * 1024 * 1024;
/// Folders within folders: enough for any collection, and an end to a loop of mounts.
const MAX_DEPTH: usize = 32;
/// Where this project keeps what the payloads should become.
const EXPECTED_FOLDER: &str = "expected";
const EXPECTED_SUFFIXES: [&str; 2] = [".golden.json", ".expected.json"];

/// One body to post.
#[derive(Debug)]
pub(super) struct Payload {
    /// The file, with its line if it has several payloads.
    pub(super) name: String,
    pub(super) body: Bytes,
    /// How much of its file it takes, for the progress bar.
    pub(super) bytes_of_file: u64,
}

/// A file with one payload, or with one in each line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PayloadFile {
    path: PathBuf,
    lines: bool,
    pub(super) bytes: u64,
}

/// All files that `paths` mean, in order.
pub(super) fn list(paths: &[PathBuf]) -> Result<Vec<PayloadFile>, ReplayError> {
    let mut files = Vec::new();
    for path in paths {
        let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
        if metadata.is_dir() {
            list_folder(path, MAX_DEPTH, &mut files)?;
        } else {
            files.push(PayloadFile { path: path.clone(), lines: has_lines(path), bytes: metadata.len() });
        }
    }
    if files.is_empty() { Err(ReplayError::NoPayloads) } else { Ok(files) }
}

/// Sends every payload until all are read or nobody takes them any more: then the posting has ended early, with an error of
/// its own. Blocks.
pub(super) fn read(files: Vec<PayloadFile>, sender: &mpsc::Sender<Payload>) -> Result<(), ReplayError> {
    for file in files {
        file.read(|payload| sender.blocking_send(payload).is_ok())?;
        if sender.is_closed() {
            break;
        }
    }
    Ok(())
}

fn list_folder(folder: &Path, depth: usize, files: &mut Vec<PayloadFile>) -> Result<(), ReplayError> {
    if depth == 0 {
        return Err(ReplayError::TooDeep(folder.to_owned()));
    }
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(|source| unreadable(folder, source))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let metadata = fs::metadata(&path).map_err(|source| unreadable(&path, source))?;
        if metadata.is_dir() {
            if entry.file_name() != EXPECTED_FOLDER {
                list_folder(&path, depth - 1, files)?;
            }
        } else if is_payload(&path) {
            files.push(PayloadFile { lines: has_lines(&path), path, bytes: metadata.len() });
        }
    }
    Ok(())
}

fn is_payload(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    has_lines(path)
        || (name.ends_with(".json") && !EXPECTED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)))
}

fn has_lines(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        extension.eq_ignore_ascii_case("ndjson") || extension.eq_ignore_ascii_case("jsonl")
    })
}

fn unreadable(path: &Path, source: io::Error) -> ReplayError {
    ReplayError::Read { path: path.to_owned(), source }
}

impl PayloadFile {
    /// Hands each payload to `take` until it says `false`. Empty lines are none.
    pub(super) fn read(&self, mut take: impl FnMut(Payload) -> bool) -> Result<(), ReplayError> {
        let mut file =
            BufReader::new(File::open(&self.path).map_err(|source| unreadable(&self.path, source))?);
        for number in 1_u64.. {
            let name = if self.lines {
                format!("{}:{number}", self.path.display())
            } else {
                self.path.display().to_string()
            };
            let mut body = Vec::new();
            let mut part = file.by_ref().take(MAX_PAYLOAD_BYTES + 1);
            let read =
                if self.lines { part.read_until(b'\n', &mut body) } else { part.read_to_end(&mut body) };
            let read = read.map_err(|source| unreadable(&self.path, source))? as u64;
            if read > MAX_PAYLOAD_BYTES {
                return Err(ReplayError::TooLong(name));
            }
            if read == 0 && self.lines {
                break;
            }
            let is_blank = body.trim_ascii().is_empty();
            let payload = Payload { name, body: body.into(), bytes_of_file: read };
            let is_gap = self.lines && is_blank;
            let go_on = is_gap || take(payload);
            if !go_on || !self.lines {
                break;
            }
        }
        Ok(())
    }
}
