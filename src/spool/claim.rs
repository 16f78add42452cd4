//! The one consumer's view of the queue: the backlog from disk, then what comes in.

use std::sync::Arc;
use std::time::Duration;

use super::handout::{CHUNK, Handout, Turn};
use super::mailbox::Mailbox;
use super::reader::Reader;
use super::types::{Pending, SpoolError};

/// Between two tries to read the backlog from a disk that fails.
const RETRY: Duration = Duration::from_secs(1);

/// The right to take records out. Today one for the whole queue; later one for each of many partitions.
///
/// A record taken stays on disk until `done` or `park`; one that gets neither comes again after a restart.
pub struct Claim {
    handout: Arc<Handout>,
    reader: Reader,
    mailbox: Arc<Mailbox>,
    failing: bool,
}

impl Claim {
    pub(super) fn new(handout: Arc<Handout>, reader: Reader, mailbox: Arc<Mailbox>) -> Self {
        Self { handout, reader, mailbox, failing: false }
    }

    /// The next pending records, at most 1024: first the backlog from disk, bodies not loaded, then live ones;
    /// each record once, in order within its lane. Waits while there are none; `None` once the spool is closed.
    /// May be cancelled: nothing is lost. Memory stays small only if no more is taken than can be kept.
    pub async fn next(&mut self) -> Option<Vec<Pending>> {
        loop {
            match self.handout.turn() {
                Turn::Give(records) => return Some(records),
                Turn::Ended => return None,
                Turn::Wait => self.handout.news().await,
                Turn::Read { after, upto } => {
                    match self.reader.run(move |side| side.pending(after, upto, CHUNK)).await {
                        Ok(mut records) => {
                            self.failing = false;
                            self.handout.fetched(upto, &mut records);
                            if !records.is_empty() {
                                return Some(records);
                            }
                        }
                        Err(SpoolError::Closed) => return None,
                        Err(error) => {
                            if !self.failing {
                                tracing::error!(error = %error, "the spool's backlog can't be read; trying again");
                            }
                            self.failing = true;
                            if let SpoolError::Damaged(why) = error {
                                // Nothing behind the damage would ever come out: the writer saves it.
                                self.mailbox.damaged(why);
                            }
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
            }
        }
    }
}
