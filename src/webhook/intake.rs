//! What the webhook needs from whoever keeps messages. Knows no storage.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::model::{EndDevice, Outcome};
use crate::things_stack::{DownlinkOffer, Frame};

/// Keeps messages. Cheap to clone.
pub trait Intake: Clone + Send + Sync + 'static {
    /// Resolves once the message is on disk, or was there already.
    ///
    /// The webhook runs it in a task of its own: a client that hangs up cancels nothing.
    ///
    /// # Errors
    /// The message was not kept; see [`StoreError`].
    fn store(&self, message: NewMessage) -> impl Future<Output = Result<Stored, StoreError>> + Send;

    /// A request that showed the secret offers an API key for downlinks to its device (`X-Downlink-*`). Called
    /// before the message is stored, for every such request, so it must be quick when nothing changed. Whether to
    /// believe it is the callee's to decide. Without a body of its own it is ignored.
    fn downlink_access(&self, device: &EndDevice, offer: DownlinkOffer<'_>) {
        let _ = (device, offer);
    }
}

/// One message to keep.
#[derive(Debug)]
pub struct NewMessage {
    /// Whose it is.
    pub device: EndDevice,
    /// Equal for two posts of the same message.
    pub dedup: Option<[u8; 16]>,
    /// The whole message, inflated.
    pub body: Bytes,
    /// Present when the client wishes to know what becomes of the message. Dropping it means: not known, don't wait.
    pub waiter: Option<oneshot::Sender<Outcome>>,
    /// Which frame it is, if it is an uplink that is counted.
    pub frame: Option<Frame>,
    /// It carries no telemetry, but tells what became of a downlink of this program.
    pub about_downlinks: bool,
}

/// The message is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// For the first time.
    New,
    /// Since an earlier post, with what became of that one, if it is known. If not, the waiter may still be told.
    Duplicate(Option<Outcome>),
}

/// The message was not kept; the sender may try again.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StoreError {
    /// Too many messages wait to be sent.
    #[error("the spool is full; it empties as the hub accepts messages")]
    Full,
    /// Parked messages use up their budget, and this application has a share in it.
    #[error(
        "parked messages of application {application} use up their budget; see `tti-connector spool list`, then requeue or discard them"
    )]
    ParkedFull {
        /// The application to clean up.
        application: Arc<str>,
    },
    /// Nothing can be written, or the connector stops.
    #[error("the spool can't write at the moment; the connector's log says why")]
    Unavailable,
}
