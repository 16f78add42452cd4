//! What the parts of a run share: books, health, breaches. Locks for moments only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::books::DeviceBook;
use super::downlink_books::DownlinkBooks;
use super::health::Health;
use super::posters::Answers;

/// Breaches that are kept; all are counted.
const BREACHES: usize = 50;

pub(crate) struct State {
    books: Mutex<Vec<DeviceBook>>,
    downlinks: Mutex<DownlinkBooks>,
    health: Mutex<Health>,
    answers: Mutex<Answers>,
    breaches: Mutex<(usize, Vec<String>)>,
    /// Strikes done, by name.
    done: Mutex<BTreeMap<&'static str, usize>>,
}

impl State {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            books: Mutex::new(vec![DeviceBook::default(); devices]),
            downlinks: Mutex::default(),
            health: Mutex::default(),
            answers: Mutex::default(),
            breaches: Mutex::default(),
            done: Mutex::default(),
        }
    }

    pub(crate) fn devices(&self) -> usize {
        self.books().len()
    }

    pub(crate) fn taken(&self, device: usize, f_cnt: u32, now_ms: i64) {
        self.books()[device].take(f_cnt, now_ms);
    }

    pub(crate) fn answered(&self, status: u16) {
        *lock(&self.answers).entry(status).or_default() += 1;
    }

    pub(crate) fn answers(&self) -> Answers {
        lock(&self.answers).clone()
    }

    /// Something that must not be.
    pub(crate) fn breach(&self, text: String) {
        let (count, shown) = &mut *lock(&self.breaches);
        *count += 1;
        if shown.len() < BREACHES {
            println!("BREACH {text}");
            shown.push(text);
        }
    }

    pub(crate) fn breaches(&self) -> usize {
        lock(&self.breaches).0
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Vec<DeviceBook>> {
        lock(&self.books)
    }

    pub(crate) fn downlinks(&self) -> MutexGuard<'_, DownlinkBooks> {
        lock(&self.downlinks)
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }

    pub(crate) fn struck(&self, name: &'static str) {
        *lock(&self.done).entry(name).or_default() += 1;
    }

    pub(crate) fn strikes(&self) -> BTreeMap<&'static str, usize> {
        lock(&self.done).clone()
    }

    /// Uplinks that were taken and have not arrived.
    pub(crate) fn waiting(&self) -> usize {
        let missing = |book: &mut DeviceBook| book.waiting_since().map_or(0, |_| book.missing());
        self.books().iter_mut().map(missing).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
