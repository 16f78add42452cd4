//! One push at a time per device, and none while it is unknown what became of another.
//!
//! The Things Stack tells where a downlink is by its queue and by the last one that it sent. If we pushed a further one
//! before asking, that would be the last, and the one before would be found nowhere and pushed twice.

use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::ports::{Network, Outbox, Store};
use super::{EntryId, Ledger, NewEntry};
use crate::things_stack::{ApiError, Whereabouts};

/// Looked for before one push at most; what is left is looked for before the next.
const MAX_LOOKS: usize = 8;

/// Why nothing may be pushed yet.
pub(super) struct NotYet {
    pub(super) detail: String,
    /// The API asked for at least this long.
    pub(super) after: Option<Duration>,
}

/// Waits for the device's turn, and looks for its other downlinks of which a push had no answer. The entry may be pushed
/// while what it gives is held.
pub(super) async fn alone<N: Network, S: Store, O: Outbox>(
    network: &N,
    ledger: &Ledger<S, O>,
    entry: &NewEntry,
) -> Result<Option<OwnedMutexGuard<()>>, NotYet> {
    let turn = ledger.push_turn(entry.id).await;
    for other in ledger.about_to_push(entry.id).into_iter().take(MAX_LOOKS) {
        look(network, ledger, entry, other).await?;
    }
    Ok(turn)
}

async fn look<N: Network, S: Store, O: Outbox>(
    network: &N,
    ledger: &Ledger<S, O>,
    entry: &NewEntry,
    other: EntryId,
) -> Result<(), NotYet> {
    let at = match network.whereabouts(&entry.device, &other.correlation_id()).await {
        Ok(at) => at,
        // No such device or session, so no queue holds it; or a key that may not read: nothing can be known then.
        Err(ApiError::Refused { .. }) => Whereabouts::Nowhere,
        Err(ApiError::NotNow { detail, after }) => return Err(NotYet { detail, after }),
        Err(ApiError::Unsure { detail }) => return Err(NotYet { detail, after: None }),
    };
    let found = ledger.found(other, at).await;
    found.map_err(|error| NotYet { detail: error.to_string(), after: None })
}
