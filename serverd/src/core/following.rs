//! Who follows a conversation here, and how far its accounts have come as far as these know.
//!
//! **Invariant**: an account is told of another only when the furthest of that one's devices has moved.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_store::TELLING_ACCOUNTS;
use fastchat_wire::AccountName;

use super::SessionId;

/// The sessions that follow a conversation.
#[derive(Debug, Default)]
pub(super) struct Following {
    pub(super) sessions: BTreeSet<SessionId>,
    /// The log's last seq, as far as commits have been reported.
    pub(super) head: u64,
    /// How far each account has come, with whichever of its devices is furthest.
    furthest: BTreeMap<AccountName, u64>,
    /// How many accounts are members.
    accounts: u32,
}

impl Following {
    /// So many accounts are members from now on.
    pub(super) fn set_accounts(&mut self, accounts: u32) {
        self.accounts = accounts;
        if accounts > TELLING_ACCOUNTS {
            self.furthest.clear();
        }
    }

    /// An account has come so far; `true` when that is further than before, and told in this conversation.
    pub(super) fn came(&mut self, account: &AccountName, seq: u64) -> bool {
        if self.accounts > TELLING_ACCOUNTS || self.furthest.get(account).is_some_and(|known| *known >= seq) {
            return false;
        }
        self.furthest.insert(account.clone(), seq);
        true
    }

    /// How far the accounts other than `own` have come.
    pub(super) fn of_others<'a>(&'a self, own: &'a AccountName) -> impl Iterator<Item = (&'a AccountName, u64)> {
        self.furthest.iter().filter(move |(account, seq)| *account != own && **seq > 0).map(|(name, seq)| (name, *seq))
    }
}
