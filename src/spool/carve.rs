//! Bodies by the pages they lie on: for those whose way through the tree is damaged though their own page is not.
//!
//! Reads the database's file and the sound part of its log as bytes. What it finds may be out of date, a record that
//! was deleted long ago; so it is only used where a checksum proves it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::database::PAGE_BYTES;
use super::types::Seq;
use super::wal::{Latest, Log};

const PAGE: usize = PAGE_BYTES as usize;
/// The first byte of a page that holds rows of a table.
const LEAF: u8 = 0x0d;
/// Longest body that is pieced together: the longest one that is ever stored.
const MAX_BODY: u64 = 256 * 1024 * 1024;

/// Where bodies lie.
pub(super) struct Carved {
    file: File,
    log: File,
    latest: Latest,
    pages: u32,
    /// Page, and the place of the row in it. Of several, the last.
    rows: HashMap<Seq, Vec<(u32, u16)>>,
}

/// A stored message as its row holds it.
pub(super) type Body = (Option<Vec<u8>>, Vec<u8>);

impl Carved {
    /// Looks at every page once.
    pub(super) fn read(file: &Path, log: &Path, sound: &Log) -> io::Result<Self> {
        let file = File::open(file)?;
        let latest = sound.latest();
        let in_file = u32::try_from(file.metadata()?.len() / PAGE_BYTES as u64).unwrap_or(u32::MAX);
        let pages = latest.keys().copied().max().unwrap_or(0).max(in_file);
        let log = File::open(log).or_else(|_| file.try_clone())?;
        let mut carved = Self { file, log, latest, pages, rows: HashMap::new() };
        for number in 1..=pages {
            let Ok(page) = carved.page(number) else { continue };
            for at in cells(number, &page) {
                if let Some(row) = Row::read(&page, at) {
                    carved.rows.entry(row.seq).or_default().push((number, at));
                }
            }
        }
        Ok(carved)
    }

    /// Everything that may be this message.
    pub(super) fn bodies(&self, seq: Seq) -> impl Iterator<Item = Body> {
        let places = self.rows.get(&seq).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|(page, at)| self.body(*page, *at))
    }

    fn body(&self, number: u32, at: u16) -> Option<Body> {
        let page = self.page(number).ok()?;
        let row = Row::read(&page, at)?;
        let length = usize::try_from(row.payload).ok()?;
        let mut payload = page.get(row.start..row.start + row.here)?.to_vec();
        let mut next = match row.here < length {
            true => word(&page, row.start + row.here)?,
            false => 0,
        };
        let mut left = self.pages;
        while payload.len() < length {
            // A chain that leads in a circle ends with the pages.
            left = left.checked_sub(1)?;
            if next == 0 || next > self.pages {
                return None;
            }
            let page = self.page(next).ok()?;
            let take = (length - payload.len()).min(PAGE - 4);
            payload.extend_from_slice(&page[4..4 + take]);
            next = word(&page, 0)?;
        }
        let dedup = payload.get(row.head..row.head + row.dedup)?;
        let body = payload.get(row.head + row.dedup..row.head + row.dedup + row.body)?;
        Some(((row.dedup > 0).then(|| dedup.to_vec()), body.to_vec()))
    }

    fn page(&self, number: u32) -> io::Result<[u8; PAGE]> {
        let mut page = [0; PAGE];
        let (mut file, at) = match self.latest.get(&number) {
            Some(at) => (&self.log, *at),
            None => (&self.file, u64::from(number - 1) * PAGE_BYTES as u64),
        };
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut page)?;
        Ok(page)
    }
}

/// A row of the table of bodies: number, key among the duplicates, body.
struct Row {
    seq: Seq,
    payload: u64,
    /// Where the payload begins in the page, and how much of it is there.
    start: usize,
    here: usize,
    /// Lengths of its header, key and body.
    head: usize,
    dedup: usize,
    body: usize,
}

impl Row {
    fn read(page: &[u8; PAGE], at: u16) -> Option<Self> {
        let mut at = usize::from(at);
        let payload = varint(page, &mut at)?;
        let seq = Seq(i64::try_from(varint(page, &mut at)?).ok()?);
        if payload > MAX_BODY || seq.0 < 1 {
            return None;
        }
        let start = at;
        let head = usize::try_from(varint(page, &mut at)?).ok()?;
        let (number, dedup, body) = (varint(page, &mut at)?, varint(page, &mut at)?, varint(page, &mut at)?);
        let bytes = |kind: u64| (kind >= 12 && kind.is_multiple_of(2)).then(|| (kind - 12) / 2);
        let dedup = if dedup == 0 { 0 } else { bytes(dedup).filter(|length| *length == 16)? };
        let body = bytes(body)?;
        let whole = head as u64 + dedup + body;
        if number != 0 || at != start + head || whole != payload {
            return None;
        }
        let (dedup, body) = (usize::try_from(dedup).ok()?, usize::try_from(body).ok()?);
        Some(Self { seq, payload, start, here: here(usize::try_from(payload).ok()?), head, dedup, body })
    }
}

/// How much of a payload is in the row's own page, by SQLite's file format.
fn here(payload: usize) -> usize {
    let (most, least) = (PAGE - 35, (PAGE - 12) * 32 / 255 - 23);
    if payload <= most {
        return payload;
    }
    let some = least + (payload - least) % (PAGE - 4);
    if some <= most { some } else { least }
}

/// Where the rows of a page begin.
fn cells(number: u32, page: &[u8; PAGE]) -> Vec<u16> {
    let head = if number == 1 { 100 } else { 0 };
    let half = |at: usize| page.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    if page[head] != LEAF {
        return Vec::new();
    }
    let count = usize::from(half(head + 3).unwrap_or(0)).min(PAGE / 6);
    (0..count).filter_map(|cell| half(head + 8 + 2 * cell)).filter(|at| usize::from(*at) < PAGE).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for index in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if index == 8 {
            return Some(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
