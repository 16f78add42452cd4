//! One walk through the Storage Integration: page by page, what is not known yet goes into the queue, paced.
//!
//! Knows no gap, no mark and no schedule: it is told from where to where.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::mark::MARGIN_MS;
use super::order::Summary;
use super::pace::Pace;
use super::ports::{Fetched, Observer, Outbox, Put, Storage, Unstored};
use super::row::{Bounds, Judged, Row, judge};
use crate::model::{Clock, EndDevice, Outcome};
use crate::things_stack::{ApiError, StoredQuery, StoredUplink};

/// Rows asked for at once: some hundred kilobytes, and at the usual rate some seconds of work.
const PAGE: u32 = 100;
/// Fetched uplinks that wait in the queue at most: while hubs are away, nothing more is fetched. Enough for the
/// highest rate with a quarter of a second to a hub and back.
const OUTSTANDING: usize = 256;
/// Pages overlap by so much, should several uplinks have been received at one time. In nanoseconds.
const PAGE_OVERLAP_NS: i128 = 1_000_000;

/// From where to where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range<'a> {
    pub(super) application: &'a str,
    /// Of the devices that are made of rows.
    pub(super) tenant: &'a str,
    pub(super) device: Option<&'a str>,
    /// Milliseconds since 1970 UTC.
    pub(super) after_ms: i64,
    pub(super) bounds: Bounds,
    /// What is not remembered any more as the walk goes on is passed over: it becomes older than the window, or the
    /// queue has to forget.
    pub(super) within_window: bool,
    pub(super) dry_run: bool,
}

/// Told how a walk goes.
pub(super) trait Watcher: Send {
    /// A row was read, known or not.
    fn row(&mut self, _row: &Row) {}
    /// All that was received up to `at_ms` is dealt with.
    fn page(&mut self, at_ms: i64, so_far: &Summary);
}

/// Why a walk did not come to its end. What was queued is queued.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    /// The Things Stack.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The queue.
    #[error("the spool can't take fetched uplinks: {0}")]
    Queue(#[from] Unstored),
}

/// Walks. Cheap to clone; clones share their pace.
#[derive(Clone)]
pub(super) struct Runner<S, O> {
    pub(super) storage: S,
    pub(super) outbox: O,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) pace: Arc<Pace>,
    pub(super) clock: Clock,
    pub(super) window_ms: i64,
}

/// Until when what is received now is remembered, milliseconds since 1970 UTC.
pub(super) fn remember_until(now_ms: i64, window_ms: i64) -> i64 {
    now_ms.saturating_add(window_ms).saturating_add(MARGIN_MS)
}

/// Of several pages.
struct Walk {
    summary: Summary,
    /// The latest time of receipt seen, in nanoseconds.
    last_ns: i128,
    /// Rows that the next page may give again.
    tail: HashSet<(i128, String, u32)>,
    outstanding: FuturesUnordered<oneshot::Receiver<Outcome>>,
}

/// What a page holds.
#[derive(Default)]
struct Sorted {
    candidates: Vec<Row>,
    ended: bool,
}

impl<S: Storage, O: Outbox> Runner<S, O> {
    /// Walks through a range, oldest first.
    pub(super) async fn run(
        &self,
        range: &Range<'_>,
        watcher: &mut impl Watcher,
    ) -> Result<Summary, RunError> {
        let mut after = Timestamp::from_millisecond(range.after_ms.max(0)).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut walk = Walk {
            summary: Summary::default(),
            last_ns: after.as_nanosecond(),
            tail: HashSet::new(),
            outstanding: FuturesUnordered::new(),
        };
        loop {
            let query = StoredQuery {
                application_id: range.application,
                device_id: range.device,
                after,
                limit: PAGE,
            };
            let page = self.storage.page(&query).await?;
            let mut bounds = range.bounds;
            if range.within_window {
                let window_ms = self.clock.now_ms().saturating_sub(self.window_ms);
                bounds.floor_ms = bounds.floor_ms.max(window_ms).max(self.forgot_ms().await?);
            }
            let (before_ns, bad) = (walk.last_ns, walk.summary.bad);
            walk.summary.bad += page.bad as u64;
            let Sorted { candidates, ended } = walk.sort(page.rows, range.application, &bounds, watcher);
            self.observer.bad_rows(walk.summary.bad - bad);
            self.queue(candidates, range, &mut walk).await?;
            let at_ms = i64::try_from(walk.last_ns / 1_000_000).unwrap_or(i64::MAX);
            watcher.page(if ended { range.bounds.until_ms } else { at_ms }, &walk.summary);
            if ended || walk.last_ns <= before_ns {
                return Ok(walk.summary);
            }
            let overlapping = walk.last_ns - PAGE_OVERLAP_NS;
            let next = if overlapping > after.as_nanosecond() { overlapping } else { walk.last_ns };
            walk.tail.retain(|(at, ..)| *at > next);
            after = Timestamp::from_nanosecond(next).unwrap_or(after);
        }
    }

    /// From then on all that was taken in is remembered, as far as the queue knows.
    pub(super) async fn forgot_ms(&self) -> Result<i64, Unstored> {
        Ok(self.outbox.forgot().await?.map_or(0, |at_ms| at_ms.saturating_add(1)))
    }

    async fn queue(&self, candidates: Vec<Row>, range: &Range<'_>, walk: &mut Walk) -> Result<(), RunError> {
        if candidates.is_empty() {
            return Ok(());
        }
        let identities = candidates.iter().map(|row| row.identity(range.application)).collect();
        let known = self.outbox.known(identities).await?;
        for (row, known) in candidates.into_iter().zip(known) {
            if known {
                walk.summary.known += 1;
            } else if range.dry_run {
                walk.summary.queue(&row.device_id, row.frame.f_cnt);
            } else {
                self.pace.turn().await;
                self.put(row, range, walk).await?;
            }
        }
        Ok(())
    }

    async fn put(&self, row: Row, range: &Range<'_>, walk: &mut Walk) -> Result<(), RunError> {
        let identity = row.identity(range.application);
        let Row { device_id, frame, body, .. } = row;
        let device = EndDevice::new(range.tenant, range.application, &device_id);
        let (Ok(device), Ok(stored)) = (device, StoredUplink::parse(&body)) else {
            walk.summary.bad += 1;
            self.observer.bad_rows(1);
            return Ok(());
        };
        let dedup = stored.envelope.dedup_key(&device, &body);
        let until_ms = remember_until(self.clock.now_ms(), self.window_ms);
        match self.outbox.put(Fetched { device, body: body.clone(), dedup, identity, until_ms }).await? {
            Put::New(waiter) => {
                walk.summary.queue(&device_id, frame.f_cnt);
                self.observer.queued();
                walk.outstanding.extend(waiter);
            }
            Put::Known => walk.summary.known += 1,
        }
        while walk.outstanding.len() >= OUTSTANDING {
            // Sent, parked, or no longer told of: its place is free in any case.
            let _ = walk.outstanding.next().await;
        }
        Ok(())
    }
}

impl Walk {
    fn sort(
        &mut self,
        rows: Vec<Bytes>,
        application: &str,
        bounds: &Bounds,
        watcher: &mut impl Watcher,
    ) -> Sorted {
        let mut sorted = Sorted::default();
        for body in rows {
            let judged = judge(body, application, bounds);
            match judged {
                Judged::Candidate(row) => {
                    if self.is_new(&row, watcher) {
                        sorted.candidates.push(row);
                    }
                }
                Judged::TooOld(row) | Judged::Live(row) => {
                    self.summary.left_out += u64::from(self.is_new(&row, watcher));
                }
                Judged::Passed { received_ns } => {
                    self.summary.passed += u64::from(received_ns > self.last_ns);
                    self.last_ns = self.last_ns.max(received_ns);
                }
                Judged::Bad => self.summary.bad += 1,
                Judged::Beyond => {
                    sorted.ended = true;
                    break;
                }
            }
        }
        sorted
    }

    /// Takes note of a row, unless the page before had it already.
    fn is_new(&mut self, row: &Row, watcher: &mut impl Watcher) -> bool {
        self.last_ns = self.last_ns.max(row.received_ns);
        let is_new = self.tail.insert((row.received_ns, row.device_id.clone(), row.frame.f_cnt));
        if is_new {
            self.summary.rows += 1;
            watcher.row(row);
        }
        is_new
    }
}
