//! The thread that reads beside the writer: bodies, the backlog in chunks, lists. It never holds up a commit.
//!
//! Knows nothing of the order in which records are given out.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::{mpsc, oneshot};

use super::database;
use super::schema;
use super::seal::{self, Sealed};
use super::trouble::{damage, told};
use super::types::{Pending, Seq, SpoolError, State, StateRow};
use crate::model::ParkReason;

/// Reads that wait for the thread; further callers wait for a place.
const MAX_WAITING: usize = 256;
/// Names of lanes kept in memory at most, shared by all their records; then all are read anew.
const LANES_CACHED: usize = 131_072;

/// Without a connection while the writer opens the files anew.
type Job = Box<dyn FnOnce(&mut Option<ReadSide>) + Send>;

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
    /// From this number on every record has a seal.
    sealed_from: i64,
}

impl Reader {
    pub(super) fn start(file: &Path) -> Result<(Self, ReaderThread), SpoolError> {
        let mut side = Some(ReadSide::open(file).map_err(|error| told(&error))?);
        let (requests, mut receiver) = mpsc::channel(MAX_WAITING);
        let thread = thread::Builder::new()
            .name("spool-reader".to_owned())
            .spawn(move || {
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
                let _ = reply.send(match side {
                    Some(side) => job(side).map_err(|error| told(&error)),
                    None => Err(SpoolError::Io("its files are being opened anew".to_owned())),
                });
            }
        });
        self.requests.send(Request::Run(job)).await.map_err(|_| SpoolError::Closed)?;
        answer.await.map_err(|_| SpoolError::Closed)?
    }
}

impl ReaderThread {
    /// Closes the connection, after the reads that wait now. Called from the writer's thread only: it blocks.
    pub(super) fn release(&self) {
        self.at_once(|side| *side = None);
    }

    /// Opens the files again after `release`.
    pub(super) fn reopen(&self, file: &Path) -> rusqlite::Result<()> {
        let opened = ReadSide::open(file)?;
        self.at_once(move |side| *side = Some(opened));
        Ok(())
    }

    fn at_once(&self, work: impl FnOnce(&mut Option<ReadSide>) + Send + 'static) {
        let (reply, answer) = std::sync::mpsc::channel();
        let job: Job = Box::new(move |side| {
            work(side);
            let _ = reply.send(());
        });
        // It may have panicked: then there is no connection of its own any more.
        if self.requests.blocking_send(Request::Run(job)).is_ok() {
            let _ = answer.recv();
        }
    }

    /// Ends the thread after the reads that wait now. Called from the writer's thread only: it blocks.
    pub(super) fn stop(self) {
        // It may have panicked: then it has ended already.
        let _ = self.requests.blocking_send(Request::Stop);
        let _ = self.thread.join();
    }
}

impl ReadSide {
    fn open(file: &Path) -> rusqlite::Result<Self> {
        let conn = database::open_reader(file)?;
        let sealed_from = schema::sealed_from(&conn)?;
        Ok(Self { conn, lanes: HashMap::new(), sealed_from })
    }

    /// A pending or parked record's body, compared with its seal.
    pub(super) fn body(&self, seq: Seq) -> rusqlite::Result<Option<Bytes>> {
        Ok(self.sealed(seq)?.map(|(_, body)| body))
    }

    /// A pending record's time of receipt and body, compared with their seal.
    pub(super) fn record(&self, seq: Seq) -> rusqlite::Result<Option<(i64, Bytes)>> {
        let mut pending = self.conn.prepare_cached("SELECT 1 FROM idx WHERE seq = ?")?;
        if pending.exists([seq.0])? { self.sealed(seq) } else { Ok(None) }
    }

    /// What is left of a damaged record's body, for a person.
    pub(super) fn remains(&self, seq: Seq) -> Option<Bytes> {
        let mut statement = self.conn.prepare_cached("SELECT body FROM msg WHERE seq = ?").ok()?;
        statement.query_row([seq.0], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_bytes()?))).ok()
    }

    fn sealed(&self, seq: Seq) -> rusqlite::Result<Option<(i64, Bytes)>> {
        let mut statement = self.conn.prepare_cached(
            "SELECT r.received_ms, r.seal, l.key, l.grp, m.body
             FROM (SELECT seq, lane, received_ms, seal FROM idx WHERE seq = ?1 UNION ALL
                   SELECT seq, lane, received_ms, seal FROM parked WHERE seq = ?1) r
             LEFT JOIN lane l ON l.id = r.lane LEFT JOIN msg m ON m.seq = r.seq",
        )?;
        let mut rows = statement.query([seq.0])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let (received_ms, seal): (i64, Option<u32>) = (row.get(0)?, row.get(1)?);
        let body: Option<Vec<u8>> = row.get(4)?;
        let body = body.ok_or_else(|| damage("the message's body is missing"))?;
        if let Some(seal) = seal {
            let (lane, group) = (row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?);
            if seal != (Sealed { lane, group, received_ms, body: &body }).seal(seq) {
                return Err(damage("the message does not match its checksum"));
            }
        } else if seq.0 >= self.sealed_from {
            return Err(damage("the message's checksum is missing"));
        }
        Ok(Some((received_ms, body.into())))
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

    /// One live value; one that does not match its seal is not given.
    pub(super) fn state_value(
        &self,
        namespace: &str,
        key: &str,
        now_ms: i64,
    ) -> rusqlite::Result<Option<Bytes>> {
        let found = self
            .conn
            .prepare_cached(
                "SELECT key, value, expires_ms, seal FROM state
                 WHERE namespace = ? AND key = ? AND (expires_ms IS NULL OR expires_ms > ?)",
            )?
            .query_row(params![namespace, key, now_ms], |row| state_row(namespace, row))
            .optional()?;
        Ok(found.and_then(|(row, sound)| sound.then_some(row.value)))
    }

    /// Live rows of a namespace above `after`, in key order, the first `limit` of them, each with whether it matches
    /// its seal.
    pub(super) fn state(
        &self,
        namespace: &str,
        after: Option<&str>,
        now_ms: i64,
        limit: u32,
    ) -> rusqlite::Result<Vec<(StateRow, bool)>> {
        self.conn
            .prepare_cached(
                "SELECT key, value, expires_ms, seal FROM state
                 WHERE namespace = ?1 AND (?2 IS NULL OR key > ?2) AND (expires_ms IS NULL OR expires_ms > ?3)
                 ORDER BY key LIMIT ?4",
            )?
            .query_map(params![namespace, after, now_ms, limit], |row| state_row(namespace, row))?
            .collect()
    }
}

fn state_row(namespace: &str, row: &Row<'_>) -> rusqlite::Result<(StateRow, bool)> {
    let (key, value, expires_ms): (String, Vec<u8>, _) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let sound = row.get::<_, Option<u32>>(3)? == Some(seal::of_state(namespace, &key, &value, expires_ms));
    if !sound {
        tracing::error!(
            namespace,
            key,
            "a value beside the queue does not match its checksum; it is not used"
        );
    }
    Ok((StateRow { key, value: value.into(), expires_ms }, sound))
}
