//! An operator's way to the parked records: through the running instance if there is one, else on the files.
//!
//! Knows nothing of how they are shown.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::control::MAX_REQUEST_BYTES;
use super::folder::{control_socket, holds_spool};
use super::queue::Spool;
use super::types::{ParkedFilter, ParkedRecord, Selection, Seq, SpoolError};
use super::wire::{Answer, Request, Which};
use crate::config;
use crate::model::Clock;

/// Longest wait for the running instance's answer: requeueing all may take long, but not so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest answer: a body in base64.
const MAX_ANSWER_BYTES: u64 = 512 * 1024 * 1024;
/// Numbers in one request, so that it stays far below what the instance reads.
const NUMBERS_AT_ONCE: usize = (MAX_REQUEST_BYTES / 32) as usize;

/// Why an operator's command failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is nothing to work on; perhaps the wrong configuration.
    #[error("{0} holds no spool; is spool.directory right?")]
    NoSpool(String),
    /// The database can't be worked on.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A process holds the folder but can't be talked to.
    #[error(
        "the process that uses {directory} does not answer on control.sock: {error}; run this as its user, or stop it first"
    )]
    Unreachable {
        /// `spool.directory`.
        directory: String,
        /// Why.
        error: io::Error,
    },
    /// The running instance could not do it.
    #[error("the running connector says: {0}")]
    Failed(String),
    /// No parked message has this number.
    #[error("no parked message has the number {0}; `spool list` shows them")]
    NotParked(i64),
    /// The result can't be written out.
    #[error("the output can't be written: {0}")]
    Output(#[from] io::Error),
}

/// The way in.
pub struct Operator {
    directory: String,
    way: Way,
}

enum Way {
    Files(Spool),
    Running(BufReader<UnixStream>),
}

impl Operator {
    /// Connects to the running instance; takes the instance lock only when none answers.
    ///
    /// # Errors
    /// `NoSpool`, `Spool`, `Unreachable`.
    pub async fn connect(config: &config::Spool) -> Result<Self, OperatorError> {
        let directory = config.directory.display().to_string();
        if !holds_spool(&config.directory) {
            return Err(OperatorError::NoSpool(directory));
        }
        // The lock is not even tried while an instance answers: one that restarts just then would find it taken.
        let error = match UnixStream::connect(control_socket(&config.directory)).await {
            Ok(stream) => return Ok(Self { directory, way: Way::Running(BufReader::new(stream)) }),
            Err(error) => error,
        };
        match Spool::open(config, Clock::system()) {
            Ok((spool, _)) => Ok(Self { directory, way: Way::Files(spool) }),
            Err(SpoolError::InUse(_)) => Err(OperatorError::Unreachable { directory, error }),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Spool::parked`].
    ///
    /// # Errors
    /// `Spool`, `Unreachable`, `Failed`.
    pub async fn list(
        &mut self,
        filter: &ParkedFilter,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<ParkedRecord>, OperatorError> {
        let reason = filter.reason.map(|reason| reason.as_str().to_owned());
        match &self.way {
            Way::Files(spool) => Ok(spool.parked(filter, after, limit).await?),
            Way::Running(_) => {
                let request =
                    Request::List { application: filter.group.clone(), reason, after: after.0, limit };
                match self.ask(&request).await? {
                    Answer::Parked(listed) => Ok(listed.into_iter().map(ParkedRecord::from).collect()),
                    other => Err(unexpected(other)),
                }
            }
        }
    }

    /// As [`Spool::show`].
    ///
    /// # Errors
    /// `NotParked`, `Spool`, `Unreachable`, `Failed`.
    pub async fn show(&mut self, seq: Seq) -> Result<(ParkedRecord, Bytes), OperatorError> {
        let shown = match &self.way {
            Way::Files(spool) => spool.show(seq).await?,
            Way::Running(_) => match self.ask(&Request::Show { number: seq.0 }).await? {
                Answer::Shown(None) => None,
                Answer::Shown(Some(shown)) => Some(
                    shown
                        .read()
                        .ok_or_else(|| OperatorError::Failed("a body that is no base64".to_owned()))?,
                ),
                other => return Err(unexpected(other)),
            },
        };
        shown.ok_or(OperatorError::NotParked(seq.0))
    }

    /// As [`Spool::requeue`].
    ///
    /// # Errors
    /// `Spool`, `Unreachable`, `Failed`; those moved before stay moved.
    pub async fn requeue(&mut self, selection: &Selection) -> Result<u64, OperatorError> {
        match &self.way {
            Way::Files(spool) => Ok(spool.requeue(selection).await?),
            Way::Running(_) => self.move_parked(selection, Request::Requeue).await,
        }
    }

    /// As [`Spool::discard`].
    ///
    /// # Errors
    /// `Spool`, `Unreachable`, `Failed`; those deleted before stay deleted.
    pub async fn discard(&mut self, selection: &Selection) -> Result<u64, OperatorError> {
        match &self.way {
            Way::Files(spool) => Ok(spool.discard(selection).await?),
            Way::Running(_) => self.move_parked(selection, Request::Discard).await,
        }
    }

    /// The spool itself when no instance runs, and the lock was free. The files are let go by [`Operator::close`].
    pub fn files(&self) -> Option<&Spool> {
        match &self.way {
            Way::Files(spool) => Some(spool),
            Way::Running(_) => None,
        }
    }

    /// Has the running instance carry out an order; `progress` is told how far it is.
    ///
    /// # Errors
    /// `Unreachable`, `Failed`.
    pub async fn order(
        &mut self,
        order: Value,
        mut progress: impl FnMut(Value),
    ) -> Result<Value, OperatorError> {
        let mut answer = self.ask(&Request::Order(order)).await?;
        loop {
            match answer {
                Answer::Progress(told) => progress(told),
                Answer::Done(done) => return Ok(done),
                other => return Err(unexpected(other)),
            }
            answer = self.hear().await?;
        }
    }

    /// Lets go of the files, so that an instance can start.
    pub async fn close(self) {
        match self.way {
            Way::Files(spool) => spool.close().await,
            Way::Running(_) => {}
        }
    }

    async fn move_parked(
        &mut self,
        selection: &Selection,
        request: fn(Which) -> Request,
    ) -> Result<u64, OperatorError> {
        let requests: Vec<Request> = match selection {
            Selection::Seqs(seqs) => seqs
                .chunks(NUMBERS_AT_ONCE)
                .map(|seqs| request(Which::of(&Selection::Seqs(seqs.to_vec()))))
                .collect(),
            Selection::Matching(_) => vec![request(Which::of(selection))],
        };
        let mut count = 0;
        for request in &requests {
            match self.ask(request).await? {
                Answer::Moved(moved) => count += moved,
                other => return Err(unexpected(other)),
            }
        }
        Ok(count)
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, OperatorError> {
        let Way::Running(stream) = &mut self.way else {
            return Err(OperatorError::Failed("there is no running instance".to_owned()));
        };
        let write = async {
            let mut line = serde_json::to_vec(request)?;
            line.push(b'\n');
            stream.write_all(&line).await
        };
        let written = tokio::time::timeout(PATIENCE, write)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        written.map_err(|error| OperatorError::Unreachable { directory: self.directory.clone(), error })?;
        self.hear().await
    }

    /// The next line of the running instance.
    async fn hear(&mut self) -> Result<Answer, OperatorError> {
        let Way::Running(stream) = &mut self.way else {
            return Err(OperatorError::Failed("there is no running instance".to_owned()));
        };
        let exchange = async {
            let mut line = Vec::new();
            stream.take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line).await?;
            if line.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            Ok(serde_json::from_slice(&line)?)
        };
        let answer = tokio::time::timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
            .map_err(|error| OperatorError::Unreachable { directory: self.directory.clone(), error })?;
        match answer {
            Answer::Failed(why) => Err(OperatorError::Failed(why)),
            answer => Ok(answer),
        }
    }
}

fn unexpected(_: Answer) -> OperatorError {
    OperatorError::Failed("something else than was asked; is it another version?".to_owned())
}
