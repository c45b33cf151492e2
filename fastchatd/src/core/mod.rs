//! The daemon's core: a state machine over the store, without sockets, clocks, tasks or waits.
//!
//! [`Core::step`] takes one input at a given time and leaves the [`Action`]s that follow from it. The engine carries them
//! out after [`Core::sync`], so nothing is acknowledged, sent or told before it is durable. One thread owns the core.
//!
//! **Invariant**: an input that fails has changed nothing but what its answer says.

mod aside;
mod backup;
mod calls;
mod devices;
mod establish;
mod group;
mod identity;
mod join;
mod live;
mod outbox;
mod own;
mod receive;
mod session;
#[cfg(test)]
mod simulation;
mod step;
mod view;
mod waits;

use std::collections::{BTreeMap, BTreeSet};

use fastchat_ipc::{ApiError, ErrorCode, Event, EventKind, KeyStore, Preview, Request, Restored};
use serde_json::Value;

use crate::{
    api::{Alert, Surroundings},
    backup::{ChatRecord, ContactRecord, MessageRecord},
    link::{AccountKey, FromLink, LinkSettings, ToLink},
    sign_in::{PreparedRotation, Rotated, SignedIn},
    store::{
        Store, StoreError, Write,
        rows::{ConversationRow, EventRow, TaskRow},
    },
};

use live::{ChatWork, Live};

pub use backup::{BackupPage, BackupPlace};
pub use calls::discovery;
use waits::Waits;

/// How often a full disk is looked at.
const STALLED_MS: u64 = 5_000;

/// A call's number, by which its answer finds its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Something that happened.
pub enum Input {
    /// A call of the API.
    Call(CallId, Request),
    /// News of an account's link.
    Link(AccountKey, FromLink),
    /// Somebody registered or logged in; the call wants the account.
    SignedIn(CallId, Box<SignedIn>),
    /// A new identity that the server will be told of once it is durable here; the call wants to know.
    RotationPrepared(CallId, Box<PreparedRotation>),
    /// The server has the account's new identity; the call wants the keys.
    Rotated(CallId, Box<Rotated>),
    /// Contacts of a backup, and the counts so far; the call wants the counts.
    RestoredContacts(CallId, String, Vec<ContactRecord>, Restored),
    /// A chat of a backup with messages of it, and the counts so far; the call wants the counts.
    RestoredChat(CallId, String, Box<ChatRecord>, Vec<MessageRecord>, Restored),
    /// A device is to be linked to this account; the call wants the grant, `{"grant": [32 bytes]}`.
    Grant(CallId, String),
    /// Time has passed.
    Tick,
}

/// Something to do, once what led to it is durable.
pub enum Action {
    /// Answer a call.
    Answer(CallId, Result<Value, ApiError>),
    /// Start an account's link.
    StartLink(AccountKey, LinkSettings),
    /// Stop it.
    StopLink(AccountKey),
    /// Tell it something.
    Link(AccountKey, ToLink),
    /// Tell everybody what happened.
    Announce(Event),
    /// Tell the person.
    Alert(Alert),
    /// Show a test notification, and answer the call with how notifications are shown.
    TestNotification(CallId),
}

/// What the configuration says about notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlertDefaults {
    /// Whether to notify at all.
    pub enabled: bool,
    /// How much to show, until somebody sets it otherwise.
    pub preview: Preview,
}

/// Facts about the process that some answers tell.
#[derive(Debug, Clone)]
pub struct Process {
    /// When it started.
    pub started_at_ms: u64,
    /// What protects the store.
    pub key_store: KeyStore,
    /// Whether the configuration wants notifications, and how.
    pub alerts: AlertDefaults,
}

/// Why the core cannot go on.
pub type Broken = StoreError;

/// The core.
pub struct Core {
    store: Store,
    live: BTreeMap<u32, Live>,
    /// What is going on with each chat's conversation, by account and chat.
    work: BTreeMap<(u32, u32), ChatWork>,
    /// Accounts that are disconnected because the disk is full.
    stalled: BTreeSet<u32>,
    /// When the first of all leaves is due for new keys.
    next_update: Option<u64>,
    waits: Waits,
    actions: Vec<Action>,
    process: Process,
    surroundings: Surroundings,
    now: u64,
}

impl Core {
    /// On an open store. The links of its accounts are among the first actions.
    ///
    /// # Errors
    /// An account's keys in the store are damaged.
    pub fn new(store: Store, process: Process, now: u64) -> Result<Self, Broken> {
        let mut core = Self {
            store,
            live: BTreeMap::new(),
            work: BTreeMap::new(),
            stalled: BTreeSet::new(),
            next_update: None,
            waits: Waits::default(),
            actions: Vec::new(),
            process,
            surroundings: Surroundings::default(),
            now,
        };
        let accounts: Vec<u32> = core.store.tables().accounts.keys().copied().collect();
        for account in accounts {
            core.start(account)?;
            core.alert_unread(account)?;
        }
        Ok(core)
    }

    /// Takes one input in.
    ///
    /// # Errors
    /// The store broke: the process has to end, and begins again from what is durable.
    pub fn step(&mut self, now: u64, input: Input) -> Result<(), Broken> {
        self.now = now;
        match input {
            Input::Call(call, request) => self.take_call(call, request)?,
            Input::Link(account, news) => self.take_news(account.0, news)?,
            Input::SignedIn(call, signed) => self.take_sign_in(call, *signed)?,
            Input::RotationPrepared(call, prepared) => self.prepare_rotation(call, &prepared)?,
            Input::RestoredContacts(call, account, records, mut restored) => {
                self.restore_contacts(&account, records, &mut restored)?;
                self.answer(call, Ok(restored));
            }
            Input::RestoredChat(call, account, chat, messages, mut restored) => {
                self.restore_chat(&account, &chat, messages, &mut restored)?;
                self.answer(call, Ok(restored));
            }
            Input::Grant(call, account) => self.ask_grant(call, &account),
            Input::Rotated(call, rotated) => self.take_rotation(call, &rotated)?,
            Input::Tick => self.tick()?,
        }
        self.follow_own_devices()?;
        self.settle_waits()
    }

    /// Makes every step so far durable and gives what follows from them.
    ///
    /// # Errors
    /// The disk failed: the process has to end without carrying anything out.
    pub fn sync(&mut self) -> Result<Vec<Action>, Broken> {
        self.store.sync()?;
        Ok(std::mem::take(&mut self.actions))
    }

    /// When the core wants a [`Input::Tick`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let retries =
            self.work.values().flat_map(|work| [work.retry_at, work.take_in_at, work.claim_at]).filter(|at| *at > 0);
        let stalled = (!self.stalled.is_empty()).then_some(self.now + STALLED_MS);
        let answers = self.live.values().filter_map(Live::next_deadline);
        let updates = self.next_update.filter(|_| self.live.values().any(Live::is_up));
        self.waits.next_deadline().into_iter().chain(updates).chain(retries).chain(stalled).chain(answers).min()
    }

    /// What the fronts have found out.
    pub fn set_surroundings(&mut self, surroundings: Surroundings) {
        self.surroundings = surroundings;
    }

    fn tick(&mut self) -> Result<(), Broken> {
        const IDEMPOTENCY_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;
        const EVERY_MS: u64 = 3600 * 1000;
        if self.waits.housekeeping_at <= self.now {
            self.waits.housekeeping_at = self.now + EVERY_MS;
            self.store.expire_idempotency(self.now.saturating_sub(IDEMPOTENCY_KEPT_MS))?;
        }
        self.resume_stalled()?;
        self.end_silence()?;
        self.update_leaves()?;
        self.retry_due()
    }

    /// Puts new keys into our leaves whose time has come (RFC 9420, section 12.1.2), so that what somebody once stole
    /// opens nothing for long.
    fn update_leaves(&mut self) -> Result<(), Broken> {
        if self.next_update.is_some_and(|at| at > self.now) {
            return Ok(());
        }
        let rows = self.store.tables().conversations.iter().filter(|(_, row)| !row.closed && row.update_at_ms > 0);
        let due = |row: &ConversationRow| row.update_at_ms <= self.now;
        let now: Vec<(u32, u32)> =
            rows.clone().filter(|(_, row)| due(row)).map(|(key, row)| (key.0, row.chat)).collect();
        self.next_update = rows.filter(|(_, row)| !due(row)).map(|(_, row)| row.update_at_ms).min();
        for (account, chat) in now {
            if self.live.get(&account).is_some_and(Live::is_up) {
                self.add_task(account, chat, &TaskRow::Update)?;
                self.pump(account, chat)?;
            }
        }
        Ok(())
    }

    fn take_news(&mut self, account: u32, news: FromLink) -> Result<(), Broken> {
        if !self.live.contains_key(&account) || self.stalled.contains(&account) {
            return Ok(());
        }
        match news {
            FromLink::Connecting => self.link_connecting(account),
            FromLink::Up(up) => self.link_up(account, *up)?,
            FromLink::Frame(frame) => self.take_frame(account, *frame)?,
            FromLink::Down(down) => self.link_down(account, &down)?,
        }
        Ok(())
    }

    fn answer<T: serde::Serialize>(&mut self, call: CallId, outcome: Result<T, ApiError>) {
        let outcome = outcome.and_then(|result| {
            serde_json::to_value(result).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
        });
        self.actions.push(Action::Answer(call, outcome));
    }

    /// Commits a step's records with what happened in it, and announces that.
    fn commit(&mut self, mut write: Write, account: u32, events: Vec<EventKind>) -> Result<(), Broken> {
        let name = self.full_name(account);
        for kind in &events {
            let kind = serde_json::to_string(kind).map_err(|_| StoreError::Damaged)?;
            write.event(EventRow { at_ms: self.now, account: name.clone(), kind });
        }
        // A leaf's next update may be sooner than the others'.
        for at in write.updates() {
            self.next_update = Some(self.next_update.map_or(at, |next| next.min(at)));
        }
        let numbers = self.store.commit(write)?;
        for (number, kind) in numbers.into_iter().zip(events) {
            let kind = self.with_message(account, kind)?;
            let event =
                Event { cursor: number.to_string(), at_ms: self.now, account: name.clone(), durable: true, kind };
            self.actions.push(Action::Announce(event));
        }
        self.waits.check = true;
        Ok(())
    }

    /// Announces something that only the present counts of.
    fn announce(&mut self, account: u32, kind: EventKind) {
        let cursor = self.newest_cursor().to_string();
        let event = Event { cursor, at_ms: self.now, account: self.full_name(account), durable: false, kind };
        self.actions.push(Action::Announce(event));
    }

    fn newest_cursor(&self) -> u64 {
        self.store.tables().next_event - 1
    }

    /// `alice@host:port`; empty for an account that is not there.
    fn full_name(&self, account: u32) -> String {
        self.store
            .tables()
            .accounts
            .get(&account)
            .map_or_else(String::new, |row| format!("{}@{}", row.name, row.server))
    }
}
