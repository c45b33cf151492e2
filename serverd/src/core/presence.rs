//! Who is active, told to those with whom it is shared both ways.
//!
//! **Invariant**: an account learns another's presence only while each lists the other.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_wire::{
    AccountName,
    v1::{self, server_frame::Body},
};

use super::{SessionId, frames};

#[derive(Debug)]
struct Active {
    session: SessionId,
    since_ms: u64,
    shares_with: BTreeSet<AccountName>,
}

/// Something to tell a session about an account.
pub(super) type Told = (SessionId, v1::ServerFrame);

/// The accounts that have a session.
#[derive(Debug, Default)]
pub(super) struct Presence {
    active: BTreeMap<AccountName, Active>,
}

impl Presence {
    /// The account's session has begun. It shares nothing until it says with whom.
    pub(super) fn began(&mut self, now_ms: u64, account: &AccountName, session: SessionId) {
        let fresh = Active { session, since_ms: now_ms, shares_with: BTreeSet::new() };
        self.active.insert(account.clone(), fresh);
    }

    /// The account's session has ended (unless another one took its place).
    pub(super) fn ended(&mut self, now_ms: u64, account: &AccountName, session: SessionId) -> Vec<Told> {
        if self.active.get(account).is_none_or(|active| active.session != session) {
            return Vec::new();
        }
        let Some(gone) = self.active.remove(account) else { return Vec::new() };
        let told = gone.shares_with.iter().filter_map(|other| self.sharing(other, account));
        told.map(|other| (other.session, frame(account, false, now_ms))).collect()
    }

    /// The account shares its presence with these and no others.
    pub(super) fn share(&mut self, now_ms: u64, account: &AccountName, list: BTreeSet<AccountName>) -> Vec<Told> {
        let Some(own) = self.active.get_mut(account) else { return Vec::new() };
        let (session, since_ms) = (own.session, own.since_ms);
        let before = std::mem::replace(&mut own.shares_with, list.clone());
        let mut told = Vec::new();
        for name in list.difference(&before) {
            if let Some(other) = self.sharing(name, account) {
                told.push((session, frame(name, true, other.since_ms)));
                told.push((other.session, frame(account, true, since_ms)));
            }
        }
        for name in before.difference(&list) {
            if let Some(other) = self.sharing(name, account) {
                told.push((session, frame(name, false, now_ms)));
                told.push((other.session, frame(account, false, now_ms)));
            }
        }
        told
    }

    /// The active `other`, if it shares with `account`.
    fn sharing(&self, other: &AccountName, account: &AccountName) -> Option<&Active> {
        self.active.get(other).filter(|active| active.shares_with.contains(account))
    }
}

fn frame(account: &AccountName, active: bool, since_ms: u64) -> v1::ServerFrame {
    frames::unasked(Body::Presence(v1::Presence { account: account.as_str().to_owned(), active, since_ms }))
}
