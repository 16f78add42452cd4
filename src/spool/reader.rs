//! The thread that reads beside the writer: bodies, the backlog in chunks, lists. It never holds up a commit.
//!
//! Knows nothing of the order in which records are given out.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

use super::database;
use super::types::{Pending, Seq, SpoolError, State, StateRow};
use crate::model::ParkReason;

/// Reads that wait for the thread; further callers wait for a place.
const MAX_WAITING: usize = 256;
/// Names of lanes kept in memory at most, shared by all their records; then all are read anew.
const LANES_CACHED: usize = 131_072;

type Job = Box<dyn FnOnce(&mut ReadSide) + Send>;

enum Request {
    Run(Job),
    Stop,
}

/// The way to the thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Reader {
    requests: mpsc::Sender<Request>,
}

/// Ends the thread.
pub(super) struct ReaderThread {
    requests: mpsc::Sender<Request>,
    thread: JoinHandle<()>,
}

/// What a job works with.
pub(super) struct ReadSide {
    pub(super) conn: Connection,
    lanes: HashMap<i64, Arc<str>>,
}

impl Reader {
    pub(super) fn start(file: &Path) -> Result<(Self, ReaderThread), SpoolError> {
        let conn = database::open_reader(file).map_err(|error| database::io(&error))?;
        let (requests, mut receiver) = mpsc::channel(MAX_WAITING);
        let thread = thread::Builder::new()
            .name("spool-reader".to_owned())
            .spawn(move || {
                let mut side = ReadSide { conn, lanes: HashMap::new() };
                while let Some(Request::Run(job)) = receiver.blocking_recv() {
                    job(&mut side);
                }
            })
            .map_err(|error| SpoolError::Io(error.to_string()))?;
        Ok((Self { requests: requests.clone() }, ReaderThread { requests, thread }))
    }

    /// Runs `job` on the thread and gives its result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut ReadSide) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |side| {
            // A caller that no longer waits needs no answer, now or after the work.
            if !reply.is_closed() {
                let _ = reply.send(job(side));
            }
        });
        self.requests.send(Request::Run(job)).await.map_err(|_| SpoolError::Closed)?;
        answer.await.map_err(|_| SpoolError::Closed)?.map_err(|error| database::io(&error))
    }
}

impl ReaderThread {
    /// Ends the thread after the reads that wait now. Called from the writer's thread only: it blocks.
    pub(super) fn stop(self) {
        // It may have panicked: then it has ended already.
        let _ = self.requests.blocking_send(Request::Stop);
        let _ = self.thread.join();
    }
}

impl ReadSide {
    /// A pending or parked record's body.
    pub(super) fn body(&self, seq: Seq) -> rusqlite::Result<Option<Bytes>> {
        self.conn
            .prepare_cached("SELECT body FROM msg WHERE seq = ?")?
            .query_row([seq.0], |row| Ok(Bytes::from(row.get::<_, Vec<u8>>(0)?)))
            .optional()
    }

    /// A pending record's time of receipt and body.
    pub(super) fn record(&self, seq: Seq) -> rusqlite::Result<Option<(i64, Bytes)>> {
        self.conn
            .prepare_cached("SELECT idx.received_ms, msg.body FROM idx JOIN msg USING (seq) WHERE seq = ?")?
            .query_row([seq.0], |row| Ok((row.get(0)?, Bytes::from(row.get::<_, Vec<u8>>(1)?))))
            .optional()
    }

    /// Pending records above `after` and up to `upto`, in order, the first `limit` of them, without bodies.
    pub(super) fn pending(&mut self, after: Seq, upto: Seq, limit: usize) -> rusqlite::Result<Vec<Pending>> {
        let rows: Vec<(Seq, i64, i64)> = self
            .conn
            .prepare_cached(
                "SELECT seq, lane, received_ms FROM idx WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            )?
            .query_map(params![after.0, upto.0, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
                Ok((Seq(row.get(0)?), row.get(1)?, row.get(2)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        rows.into_iter()
            .map(|(seq, lane, received_ms)| {
                Ok(Pending { seq, lane: self.lane(lane)?, received_ms, body: None, waiter: None })
            })
            .collect()
    }

    fn lane(&mut self, id: i64) -> rusqlite::Result<Arc<str>> {
        if let Some(key) = self.lanes.get(&id) {
            return Ok(Arc::clone(key));
        }
        let key: Option<Arc<str>> = self
            .conn
            .prepare_cached("SELECT key FROM lane WHERE id = ?")?
            .query_row([id], |row| Ok(Arc::from(row.get_ref(0)?.as_str()?)))
            .optional()?;
        // Deleted as unused since the rows were read: its records are done, and the claim's `done` finds nothing.
        let key = key.unwrap_or_else(|| Arc::from(""));
        if self.lanes.len() >= LANES_CACHED {
            self.lanes.clear();
        }
        if !key.is_empty() {
            self.lanes.insert(id, Arc::clone(&key));
        }
        Ok(key)
    }

    pub(super) fn state_of(&self, seq: Seq) -> rusqlite::Result<State> {
        // One statement, so that a record can't slip from one table to the other between two.
        let found: Option<(Option<String>, Option<String>)> = self
            .conn
            .prepare_cached(
                "SELECT NULL, NULL FROM idx WHERE seq = ?1
                 UNION ALL SELECT reason, detail FROM parked WHERE seq = ?1",
            )?
            .query_row([seq.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(match found {
            None => State::Gone,
            Some((Some(reason), Some(detail))) => {
                // A word of a newer version: its detail still says what happened.
                let reason = ParkReason::parse(&reason).unwrap_or(ParkReason::Rejected);
                State::Parked { reason, detail }
            }
            Some(_) => State::Pending,
        })
    }

    /// One live value.
    pub(super) fn state_value(
        &self,
        namespace: &str,
        key: &str,
        now_ms: i64,
    ) -> rusqlite::Result<Option<Bytes>> {
        self.conn
            .prepare_cached(
                "SELECT value FROM state
                 WHERE namespace = ? AND key = ? AND (expires_ms IS NULL OR expires_ms > ?)",
            )?
            .query_row(params![namespace, key, now_ms], |row| Ok(Bytes::from(row.get::<_, Vec<u8>>(0)?)))
            .optional()
    }

    /// Live rows of a namespace above `after`, in key order, the first `limit` of them.
    pub(super) fn state(
        &self,
        namespace: &str,
        after: Option<&str>,
        now_ms: i64,
        limit: u32,
    ) -> rusqlite::Result<Vec<StateRow>> {
        self.conn
            .prepare_cached(
                "SELECT key, value, expires_ms FROM state
                 WHERE namespace = ?1 AND (?2 IS NULL OR key > ?2) AND (expires_ms IS NULL OR expires_ms > ?3)
                 ORDER BY key LIMIT ?4",
            )?
            .query_map(params![namespace, after, now_ms, limit], |row| {
                Ok(StateRow {
                    key: row.get(0)?,
                    value: Bytes::from(row.get::<_, Vec<u8>>(1)?),
                    expires_ms: row.get(2)?,
                })
            })?
            .collect()
    }
}
