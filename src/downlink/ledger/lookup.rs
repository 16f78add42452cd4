//! Asks the ledger about one entry without entering anything.

use tokio::sync::OwnedMutexGuard;

use super::stage::Stage;
use super::{Ledger, Outbox, Store, Unstored};
use crate::downlink::{EntryId, Progress};
use crate::model::EndDevice;

impl<S: Store, O: Outbox> Ledger<S, O> {
    /// How far an entry is, open or ended. `None` when it is not known, or no longer.
    ///
    /// # Errors
    /// The store can't be read; try again.
    pub async fn progress(&self, id: EntryId) -> Result<Option<Progress>, Unstored> {
        let open = self.book().watch(id).map(|progress| progress.borrow().clone());
        if open.is_some() {
            return Ok(open);
        }
        Ok(self.kept(id).await?.map(|kept| match kept.stage {
            Stage::PutBack | Stage::Pushing => Progress::Pushing,
            Stage::Queued => Progress::Queued,
            Stage::Sent => Progress::Sent,
            Stage::Ended(end) => Progress::Ended(end),
        }))
    }

    /// Who pushes an open entry holds this meanwhile, so that its device's pushes come one after another, whoever asked for
    /// them. `None` when it is not open.
    pub(in crate::downlink) async fn push_turn(&self, id: EntryId) -> Option<OwnedMutexGuard<()>> {
        let turn = self.book().push_turn(id)?;
        Some(turn.lock_owned().await)
    }

    /// The entry is pushed next. Gives the others of its device that may be queued, and were not looked for since their
    /// last push.
    pub(in crate::downlink) fn about_to_push(&self, id: EntryId) -> Vec<EntryId> {
        self.book().about_to_push(id)
    }

    /// The device's entries that wait in The Things Stack's queue now.
    pub fn waiting(&self, device: &EndDevice) -> Vec<EntryId> {
        self.book().waiting(device, u64::MAX)
    }
}
