//! Accounts that were deleted: what the server still keeps of them goes, in memory and on disk.
//!
//! An account may be deleted through this server, through another one of the same ledger, or by a command. So what is kept is compared with the accounts
//! that the ledger has, at the start, when one is deleted here, and once a minute.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use engine::store::Owner;
use ledger::LedgerError;

use crate::generation::batch_runner::owner;
use crate::http::api_keys::{Account, LedgerTag};
use crate::http::metering::Metering;
use crate::state::AppState;

/// Between looks at the ledger.
const SWEEP: Duration = Duration::from_secs(60);
/// Looks between which the disk is looked at in any case: an account may have come and gone between two.
const ROUNDS: u32 = 60;
/// After an account went: what its last requests left is there by then.
const SOON: Duration = Duration::from_secs(10);

/// Whose blocks on disk are to go: owners of this ledger that are none of its accounts. Those of other ledgers, and blocks that are nobody's, stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedOwners {
    ledger: LedgerTag,
    live: HashSet<Owner>,
}

impl DeletedOwners {
    /// Whether the account of this owner was deleted.
    pub fn contains(&self, owner: &Owner) -> bool {
        self.ledger.is_of(owner) && !self.live.contains(owner)
    }

    /// Whether an account that was there before is not there any more.
    fn has_lost(&self, before: &DeletedOwners) -> bool {
        !before.live.is_subset(&self.live)
    }
}

impl AppState {
    /// Forgets what is kept of deleted accounts, until the server ends. `remove` removes blocks from the disk; it is called on a thread that may block.
    /// Nothing is to be done without a ledger.
    pub async fn forget_deleted(self: Arc<Self>, remove: impl Fn(&DeletedOwners) + Send + Sync + 'static) {
        let Some(metering) = self.admission.access.metering.clone() else { return };
        let remove = Arc::new(remove);
        // The disk is looked at when an account has gone, and a little later once more.
        let (mut before, mut again): (Option<DeletedOwners>, bool) = (None, false);
        let (mut deleted, mut round) = (false, 0);
        loop {
            match self.sweep(&metering).await {
                Ok(now) => {
                    let lost = deleted || before.as_ref().is_none_or(|before| now.has_lost(before));
                    if lost || again || round % ROUNDS == 0 {
                        let (owners, remove) = (now.clone(), Arc::clone(&remove));
                        let _ = tokio::task::spawn_blocking(move || remove(&owners)).await;
                    }
                    (before, again) = (Some(now), lost);
                }
                Err(error) => {
                    tracing::debug!(target: "farthing", %error, "deleted accounts are looked for later");
                }
            }
            round = round.wrapping_add(1);
            deleted = tokio::select! {
                () = metering.wait_deleted() => true,
                () = tokio::time::sleep(if again { SOON } else { SWEEP }) => false,
            };
        }
    }

    /// Forgets kept items, files and batches of deleted accounts, and says whose blocks are to go.
    async fn sweep(&self, metering: &Metering) -> Result<DeletedOwners, LedgerError> {
        let ledger = LedgerTag::of(metering.ledger());
        let accounts = metering.ledger().account_ids().await?;
        let live: Vec<Account> = accounts.iter().map(|id| Account::of_ledger(id, [0; 32], ledger)).collect();
        let ids: HashSet<u64> = live.iter().map(|account| account.id).collect();
        self.kept_items.retain(|account| ids.contains(&account));
        if let Some(batches) = &self.batches {
            let (ours, live) = (ledger.to_string(), live.iter().map(owner).collect::<HashSet<String>>());
            let gone = move |owner: &str| owner.starts_with(&ours) && !live.contains(owner);
            // A batch under way ends by itself, since its key is gone, and is deleted a minute later.
            if let Err(e) = batches.work(move |store| store.remove_owned(gone)).await {
                tracing::warn!(target: "farthing", error = e.message, "files of a deleted account are deleted later");
            }
        }
        Ok(DeletedOwners { ledger, live: live.iter().map(|account| account.owner).collect() })
    }
}
