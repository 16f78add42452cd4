//! The payloads of a replay that come from the parked messages of a spool. Knows no HTTP, and changes nothing there.

use tokio::sync::mpsc;

use super::ReplayError;
use super::payloads::Payload;
use crate::config;
use crate::spool::{Operator, OperatorError, ParkedFilter, Seq};

/// Messages asked for at once.
const PAGE: usize = 500;

/// What is to be read, and the way to it.
pub(super) struct Parked {
    operator: Operator,
    /// Number and size of each.
    found: Vec<(Seq, u64)>,
}

/// Finds all parked messages that match.
pub(super) async fn list(spool: &config::Spool, filter: &ParkedFilter) -> Result<Parked, ReplayError> {
    let mut operator = Operator::connect(spool).await?;
    let mut found: Vec<(Seq, u64)> = Vec::new();
    loop {
        let after = found.last().map_or(Seq(0), |(seq, _)| *seq);
        let page = operator.list(filter, after, PAGE).await?;
        found.extend(page.iter().map(|record| (record.seq, record.bytes)));
        if page.len() < PAGE {
            return Ok(Parked { operator, found });
        }
    }
}

impl Parked {
    /// Bytes of all bodies.
    pub(super) fn bytes(&self) -> u64 {
        self.found.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Sends every payload until all are read or nobody takes them any more.
    pub(super) async fn read(mut self, sender: &mpsc::Sender<Payload>) -> Result<(), ReplayError> {
        let read = self.read_all(sender).await;
        self.operator.close().await;
        read
    }

    async fn read_all(&mut self, sender: &mpsc::Sender<Payload>) -> Result<(), ReplayError> {
        for (seq, bytes_of_file) in std::mem::take(&mut self.found) {
            let body = match self.operator.show(seq).await {
                Ok((_, body)) => body,
                // Requeued or discarded by somebody else meanwhile.
                Err(OperatorError::NotParked(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            let name = format!("parked message {}", seq.0);
            if sender.send(Payload { name, body, bytes_of_file }).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
