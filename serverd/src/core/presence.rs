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
    since_ms: u64,
    /// With whom each of the account's sessions shares.
    sessions: BTreeMap<SessionId, BTreeSet<AccountName>>,
}

impl Active {
    fn shares_with(&self, other: &AccountName) -> bool {
        self.sessions.values().any(|list| list.contains(other))
    }

    fn list(&self) -> BTreeSet<AccountName> {
        self.sessions.values().flatten().cloned().collect()
    }
}

/// Something to tell a session about an account.
pub(super) type Told = (SessionId, v1::ServerFrame);

/// The accounts that have a session.
#[derive(Debug, Default)]
pub(super) struct Presence {
    active: BTreeMap<AccountName, Active>,
}

impl Presence {
    /// A session of the account has begun. It shares nothing until it says with whom.
    pub(super) fn began(&mut self, now_ms: u64, account: &AccountName, session: SessionId) {
        let fresh = || Active { since_ms: now_ms, sessions: BTreeMap::new() };
        self.active.entry(account.clone()).or_insert_with(fresh).sessions.insert(session, BTreeSet::new());
    }

    /// A session of the account has ended. With its last one the account is away; with another one's it no longer
    /// shares with those whom that one alone listed.
    pub(super) fn ended(&mut self, now_ms: u64, account: &AccountName, session: SessionId) -> Vec<Told> {
        let Some(active) = self.active.get_mut(account) else { return Vec::new() };
        let before = active.list();
        if active.sessions.remove(&session).is_none() {
            return Vec::new();
        }
        let after = active.list();
        if active.sessions.is_empty() {
            self.active.remove(account);
        }
        before.difference(&after).flat_map(|other| self.about(account, other, false, now_ms)).collect()
    }

    /// The session shares its account's presence with these and no others.
    pub(super) fn share(
        &mut self,
        now_ms: u64,
        account: &AccountName,
        session: SessionId,
        list: BTreeSet<AccountName>,
    ) -> Vec<Told> {
        let Some(own) = self.active.get_mut(account) else { return Vec::new() };
        let Some(old) = own.sessions.get(&session).cloned() else { return Vec::new() };
        let before = own.list();
        own.sessions.insert(session, list.clone());
        let (after, since_ms) = (own.list(), own.since_ms);
        let mut told = Vec::new();
        // This session hears of those whom it did not list; all the others' sessions of whom nobody here listed.
        for name in list.difference(&old) {
            if let Some(other) = self.sharing(name, account) {
                told.push((session, frame(name, true, other.since_ms)));
            }
        }
        for name in after.difference(&before) {
            told.extend(self.about(account, name, true, since_ms));
        }
        for name in before.difference(&after) {
            if self.sharing(name, account).is_some() {
                told.push((session, frame(name, false, now_ms)));
            }
            told.extend(self.about(account, name, false, now_ms));
        }
        told
    }

    /// What to tell of `account` to the sessions of `other` that list it.
    fn about(&self, account: &AccountName, other: &AccountName, active: bool, since_ms: u64) -> Vec<Told> {
        let sessions = self.active.get(other).map(|other| &other.sessions);
        let listing = sessions.into_iter().flatten().filter(|(_, list)| list.contains(account));
        listing.map(|(session, _)| (*session, frame(account, active, since_ms))).collect()
    }

    /// The active `other`, if it shares with `account`.
    fn sharing(&self, other: &AccountName, account: &AccountName) -> Option<&Active> {
        self.active.get(other).filter(|active| active.shares_with(account))
    }
}

fn frame(account: &AccountName, active: bool, since_ms: u64) -> v1::ServerFrame {
    frames::unasked(Body::Presence(v1::Presence { account: account.as_str().to_owned(), active, since_ms }))
}
