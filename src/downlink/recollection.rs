//! After a start: where the downlinks are whose push was under way when the program ended.
//!
//! Knows no request. The hub hands a message out again only when its lock ends, up to a minute later, and a method or
//! a completed message never comes again; until then a gateway may have sent the downlink, and who looks late finds it
//! nowhere. So each is looked for once at once. What is nowhere is left to its request.

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::ports::{Network, Outbox, Store};
use super::{EntryId, Ledger};
use crate::model::EndDevice;
use crate::things_stack::Whereabouts;

/// Looks at once: few enough to leave room for pushes among `things_stack.max_in_flight`.
const PARALLEL: usize = 8;

/// Looks for each, until `stop`.
pub async fn recollect<N: Network, S: Store, O: Outbox>(
    network: &N,
    ledger: &Ledger<S, O>,
    stop: CancellationToken,
) {
    let open = ledger.left_open();
    if open.is_empty() {
        return;
    }
    let count = open.len();
    let looks = stream::iter(open).map(|(id, device)| look(network, ledger, id, device));
    let found = looks.buffer_unordered(PARALLEL).filter(|found| std::future::ready(*found)).count();
    tokio::select! {
        () = stop.cancelled() => {}
        found = found => info!(downlinks = count, found, "Looked for downlinks whose push an earlier run did not see answered."),
    }
}

async fn look<N: Network, S: Store, O: Outbox>(
    network: &N,
    ledger: &Ledger<S, O>,
    id: EntryId,
    device: EndDevice,
) -> bool {
    if !network.serves(device.application_id()) {
        return false;
    }
    match network.whereabouts(&device, &id.correlation_id()).await {
        Ok(at) => {
            if let Err(error) = ledger.found(id, at).await {
                debug!(%device, entry = %id, %error, "What was found of a downlink is not on disk yet; it is tried again.");
            }
            at != Whereabouts::Nowhere
        }
        Err(error) => {
            debug!(%device, entry = %id, %error, "The Things Stack does not say where a downlink is; its request asks again.");
            false
        }
    }
}
