//! What a disk may hold after a power cut: all that was synced, and of the rest any part, torn at sectors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::record::Call;

/// Files by name.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// What a crash rebuilds by itself, or is made anew.
const NOT_KEPT: [&str; 2] = ["spool.db-shm", "spool.lock"];

/// How a cut falls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// What the disk writes whole.
    sector: usize,
    /// Of a hundred sectors that were not synced, so many are there all the same.
    kept: u8,
    /// The same for entries of the folder, though these keep their order.
    entries: u8,
}

impl Cut {
    /// Only what was synced is left.
    pub(super) const NOTHING_KEPT: Self = Self { sector: 512, kept: 0, entries: 0 };

    pub(super) fn random(random: &mut fastrand::Rng) -> Self {
        let some = |random: &mut fastrand::Rng| *random.choice(&[0, 0, 20, 50, 80, 95, 100]).unwrap();
        Self { sector: *random.choice(&[512, 4096]).unwrap(), kept: some(random), entries: some(random) }
    }
}

/// A file while it is written to: what is surely on disk, and what may be.
#[derive(Default)]
struct File {
    synced: Vec<u8>,
    later: Vec<Change>,
}

enum Change {
    Write { at: usize, data: Vec<u8> },
    Size(usize),
}

enum Entry {
    Made(String, usize),
    Gone(String),
    Moved(String, String),
}

pub(super) fn empty() -> Image {
    Image::new()
}

/// Puts it into a folder that is not there yet.
pub(super) fn write(image: &Image, folder: &Path) {
    fs::create_dir(folder).unwrap();
    for (name, bytes) in image {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// What is left of `before` and these calls, and how many pieces of writes were dropped.
pub(super) fn after(before: &Image, calls: &[Call], cut: Cut, random: &mut fastrand::Rng) -> (Image, usize) {
    let mut files: Vec<File> =
        before.values().map(|bytes| File { synced: bytes.clone(), later: Vec::new() }).collect();
    // Names as the process sees them, as they are on disk, and the changes between the two.
    let mut now: BTreeMap<String, usize> = before.keys().cloned().zip(0..).collect();
    let mut on_disk = now.clone();
    let mut entries: Vec<Entry> = Vec::new();
    let mut dropped = 0;
    for call in calls {
        match call {
            Call::Create(name) => {
                files.push(File::default());
                now.insert(name.clone(), files.len() - 1);
                entries.push(Entry::Made(name.clone(), files.len() - 1));
            }
            Call::Write { file, at, data } => {
                let change = Change::Write { at: *at, data: data.clone() };
                files[now[file]].later.push(change);
            }
            Call::Truncate { file, size } => files[now[file]].later.push(Change::Size(*size)),
            Call::Sync(file) => files[now[file]].sync(),
            // It is decided now what of it came to the disk: the system takes all of it for written, and no later
            // sync brings the rest there.
            Call::FailedSync(file) => files[now[file]].keep_some(cut, random, &mut dropped),
            Call::Unlink(name) => {
                now.remove(name);
                entries.push(Entry::Gone(name.clone()));
            }
            Call::Rename { from, to } => {
                let file = now.remove(from).unwrap();
                now.insert(to.clone(), file);
                entries.push(Entry::Moved(from.clone(), to.clone()));
            }
            Call::SyncFolder => {
                entries.clear();
                on_disk.clone_from(&now);
            }
        }
    }
    for entry in entries {
        if random.u8(..100) >= cut.entries {
            break;
        }
        match entry {
            Entry::Made(name, file) => drop(on_disk.insert(name, file)),
            Entry::Gone(name) => drop(on_disk.remove(&name)),
            Entry::Moved(from, to) => {
                if let Some(file) = on_disk.remove(&from) {
                    on_disk.insert(to, file);
                }
            }
        }
    }
    let image = on_disk
        .into_iter()
        .filter(|(name, _)| !NOT_KEPT.contains(&name.as_str()))
        .map(|(name, file)| {
            files[file].keep_some(cut, random, &mut dropped);
            (name, std::mem::take(&mut files[file].synced))
        })
        .collect();
    (image, dropped)
}

impl File {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.later) {
            apply(&mut self.synced, &change);
        }
    }

    /// Of what was not synced, any part.
    fn keep_some(&mut self, cut: Cut, random: &mut fastrand::Rng, dropped: &mut usize) {
        for change in std::mem::take(&mut self.later) {
            match change {
                Change::Size(_) => {
                    if random.u8(..100) < cut.kept {
                        apply(&mut self.synced, &change);
                    }
                }
                Change::Write { at, data } => {
                    let mut from = 0;
                    while from < data.len() {
                        let end = (((at + from) / cut.sector + 1) * cut.sector - at).min(data.len());
                        if random.u8(..100) < cut.kept {
                            let piece = Change::Write { at: at + from, data: data[from..end].to_vec() };
                            apply(&mut self.synced, &piece);
                        } else {
                            *dropped += 1;
                        }
                        from = end;
                    }
                }
            }
        }
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Size(size) => bytes.resize(*size, 0),
        Change::Write { at, data } => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}
