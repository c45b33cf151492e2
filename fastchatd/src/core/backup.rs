//! What a backup takes from an account, and what it brings to one: page by page, so that the core waits for no file.
//!
//! History that is brought goes before the history that is here. A chat's positions begin high ([`FIRST_POSITION`]), so
//! there is room.
//!
//! **Invariant**: what is here stays: a backup changes no message, no key and no state of anybody, and nothing that it
//! brings is unread.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use fastchat_e2ee::{Identity, IdentityKey};
use fastchat_ipc::{ApiError, ContactState, ErrorCode, EventKind, MessageKind, MessageState};
use fastchat_wire::{AccountName, ConversationId, MessageId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    backup::{ChatRecord, ChatWith, ContactRecord, Header, IdentityRecord, MessageRecord, Record},
    store::{
        StoreError, Write,
        rows::{ChatRow, ContactRow, GroupRow, MessageRow, Peer, Standing},
    },
};

use super::{Broken, CallId, Core, view::fingerprint_of};

/// The position of a chat's first message.
pub(super) const FIRST_POSITION: u64 = 1 << 32;
/// Messages in a page at most.
const PAGE: usize = 64;

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    account: u32,
    chat: u32,
    position: u64,
}

/// Some of what belongs into a backup.
pub struct Page {
    /// What the backup is of; with the first page.
    pub header: Option<Header>,
    /// Records, in their order.
    pub records: Vec<Record>,
    /// What is asked for the next page with; `None` after the last one.
    pub next: Option<Mark>,
}

/// How far bringing a backup has come. Goes back and forth with the pages.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restoring {
    /// The account, as the caller named it.
    pub account: String,
    /// Contacts that were not here.
    pub contacts: u64,
    /// Chats that were not here.
    pub chats: u64,
    /// Messages that were not here.
    pub messages: u64,
    /// The chat that messages go into now, and where the next one goes; `None` while they go nowhere.
    chat: Option<(u32, u64)>,
}

impl Restoring {
    /// Before the first page.
    #[must_use]
    pub fn into_account(account: String) -> Self {
        Self { account, ..Self::default() }
    }
}

impl Core {
    /// The first page of an account's backup.
    ///
    /// # Errors
    /// There is no such account, or its store is damaged.
    pub fn begin_backup(&self, account: &str) -> Result<Page, ApiError> {
        let account = self.account_number(account)?;
        let row = self.store.tables().accounts.get(&account).ok_or_else(damaged)?;
        let identity = Identity::from_bytes(&row.identity).map_err(|_| damaged())?;
        let fingerprint = identity.public().fingerprint().to_string();
        let mut records = vec![Record::Identity(IdentityRecord { pkcs8: Zeroizing::new(row.identity.clone()) })];
        records.extend(self.contacts_of(account).map(|(_, contact)| Record::Contact(contact_record(contact))));
        let next = self.mark_chat(account, 0)?;
        Ok(Page { header: Some(Header::new(self.full_name(account), self.now, fingerprint)), records, next })
    }

    /// The page after that.
    ///
    /// # Errors
    /// The account is gone, or its store is damaged.
    pub fn go_on_with_backup(&self, mark: Mark) -> Result<Page, ApiError> {
        let Mark { account, chat, position } = mark;
        let mut records = Vec::new();
        if position == 0 {
            records.extend(self.chat_record(account, chat)?.map(Record::Chat));
        }
        let messages = self.store.messages_from(account, chat, position, PAGE).map_err(|_| damaged())?;
        let next = match messages.last() {
            Some((last, _)) => Some(Mark { position: last + 1, ..mark }),
            None => self.mark_chat(account, chat.saturating_add(1))?,
        };
        records.extend(messages.into_iter().map(|(_, row)| Record::Message(message_record(row))));
        Ok(Page { header: None, records, next })
    }

    /// The beginning of the first chat from this number on.
    fn mark_chat(&self, account: u32, from: u32) -> Result<Option<Mark>, ApiError> {
        if !self.store.tables().accounts.contains_key(&account) {
            return Err(ApiError::new(ErrorCode::NoAccount, "the account is gone; there is nothing to back up"));
        }
        let chat = self.chats_of(account).map(|(number, _)| number).find(|number| *number >= from);
        Ok(chat.map(|chat| Mark { account, chat, position: 0 }))
    }

    fn chat_record(&self, account: u32, number: u32) -> Result<Option<ChatRecord>, ApiError> {
        let Some(row) = self.chat_row(account, number) else { return Ok(None) };
        let with = match (self.contact_of_chat(account, number), self.group_row(account, number)) {
            (Some(contact), _) => ChatWith::Direct { contact: contact.name.to_string() },
            (None, Some(GroupRow { name, topic, created_at_ms, .. })) => {
                ChatWith::Group { name: name.clone(), topic: topic.clone(), created_at_ms: *created_at_ms }
            }
            (None, None) => return Ok(None),
        };
        let first = self.store.messages_from(account, number, 0, 1).map_err(|_| damaged())?;
        let messages = first.first().map_or(0, |(first, _)| row.next_position.saturating_sub(*first));
        Ok(Some(ChatRecord { id: row.id.clone(), with, muted: row.muted, last_at_ms: row.last_at_ms, messages }))
    }

    /// Whether a backup may be brought to an account.
    ///
    /// # Errors
    /// There is no such account, or the backup is another one's.
    pub fn may_restore(&self, account: &str, of: &str) -> Result<(), ApiError> {
        let full = self.full_name(self.account_number(account)?);
        if full == of {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Refused, format!("the backup is of {of}, not of {full}"))
            .hint("name its account with `--account`; log in to it first if it is not here"))
    }

    /// Takes a page of a backup in; the call wants to know how far it is.
    pub(super) fn restore(
        &mut self,
        call: CallId,
        mut restoring: Restoring,
        records: Vec<Record>,
    ) -> Result<(), Broken> {
        let account = match self.account_number(&restoring.account) {
            Ok(account) if self.store.has_room() => account,
            Ok(_) => {
                let full = ApiError::new(ErrorCode::StorageFull, "the disk is full: not all of the backup is here");
                self.answer::<()>(call, Err(full.hint("free some space and restore again: what is here stays")));
                return Ok(());
            }
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        let mut messages = Vec::new();
        for record in records {
            if let Record::Message(message) = record {
                messages.push(message);
                continue;
            }
            self.bring_messages(account, &mut restoring, std::mem::take(&mut messages))?;
            match record {
                Record::Contact(contact) => self.bring_contact(account, &mut restoring, contact)?,
                Record::Chat(chat) => self.bring_chat(account, &mut restoring, &chat)?,
                // The account has its identity; another one would not be that of its devices.
                Record::Identity(_) | Record::Message(_) => {}
            }
        }
        self.bring_messages(account, &mut restoring, messages)?;
        self.answer(call, Ok(restoring));
        Ok(())
    }

    fn bring_contact(&mut self, account: u32, restoring: &mut Restoring, record: ContactRecord) -> Result<(), Broken> {
        let Ok(name) = record.name.parse::<AccountName>() else { return Ok(()) };
        let identity = record.identity.filter(|key| IdentityKey::from_der(key).is_ok());
        let is_new = self.contact_named(account, &name).is_none();
        let (number, mut row) = self.contact_for(account, &name, record.state);
        let before = row.clone();
        if is_new {
            restoring.contacts += 1;
            row.before_block = ContactState::Accepted;
            row.block_told = record.state != ContactState::Blocked;
            row.removed = record.removed;
        }
        if row.identity.is_none() {
            row.identity = identity.clone();
        }
        row.verified |= record.verified && identity.is_some() && row.identity == identity;
        if row.alias.is_empty() && !self.is_called(account, &record.alias) {
            row.alias = record.alias;
        }
        if !is_new && row == before {
            return Ok(());
        }
        let mut write = Write::default();
        if let Some(mut own) = self.store.tables().accounts.get(&account).cloned() {
            own.next_contact = own.next_contact.max(number + 1);
            write.account(account, own);
        }
        write.contact(account, number, Some(row));
        self.commit(write, account, vec![EventKind::ContactChanged { contact: name.to_string() }])
    }

    /// Whether somebody is named or called so already.
    fn is_called(&self, account: u32, alias: &str) -> bool {
        self.contacts_of(account).any(|(_, row)| row.alias == alias || row.name.as_str() == alias)
    }

    fn bring_chat(&mut self, account: u32, restoring: &mut Restoring, record: &ChatRecord) -> Result<(), Broken> {
        restoring.chat = None;
        let mut write = Write::default();
        let (number, mut row) = match &record.with {
            ChatWith::Direct { contact } => {
                let Some((contact, mut contact_row)) = self.known_contact(account, contact) else { return Ok(()) };
                let (number, row) = self.chat_for(account, contact, &mut contact_row);
                write.contact(account, contact, Some(contact_row));
                (number, row)
            }
            ChatWith::Group { name, topic, created_at_ms } => {
                let Ok(id) = record.id.parse::<ConversationId>() else { return Ok(()) };
                let (number, row) = self.group_chat(account, id);
                if row.peer != Peer::Group {
                    return Ok(());
                }
                if self.group_row(account, number).is_none() {
                    write.group(account, number, Some(left_group(name, topic, *created_at_ms)));
                }
                (number, row)
            }
        };
        if self.chat_row(account, number).is_none() {
            restoring.chats += 1;
            row.muted = record.muted;
            row.last_at_ms = record.last_at_ms;
        }
        let first = self.store.messages_from(account, number, 0, 1)?.first().map_or(row.next_position, |(at, _)| *at);
        // Without room before them (an earlier layout), older messages stand behind newer ones: better than nowhere.
        let at = first.checked_sub(record.messages).filter(|at| *at > 0).unwrap_or(row.next_position);
        row.read_position = row.read_position.max(first);
        restoring.chat = Some((number, at));
        let chat = row.id.clone();
        if let Some(mut own) = self.store.tables().accounts.get(&account).cloned() {
            own.next_chat = own.next_chat.max(number + 1);
            write.account(account, own);
        }
        write.chat(account, number, Some(row));
        self.commit(write, account, vec![EventKind::ChatChanged { chat }])
    }

    fn known_contact(&self, account: u32, name: &str) -> Option<(u32, ContactRow)> {
        let name = name.parse::<AccountName>().ok()?;
        self.contact_named(account, &name).map(|(number, row)| (number, row.clone()))
    }

    fn bring_messages(
        &mut self,
        account: u32,
        restoring: &mut Restoring,
        messages: Vec<MessageRecord>,
    ) -> Result<(), Broken> {
        let Some((number, mut at)) = restoring.chat.filter(|_| !messages.is_empty()) else { return Ok(()) };
        let Some(mut chat) = self.chat_row(account, number) else { return Ok(()) };
        let (mut write, mut brought) = (Write::default(), BTreeSet::new());
        for row in messages.into_iter().filter_map(message_row) {
            if let Some(here) = self.store.position_of(account, number, row.id)? {
                at = here + 1;
                continue;
            }
            if !brought.insert(row.id) {
                continue;
            }
            if at < chat.next_position && self.store.message(account, number, at)?.is_some() {
                at = chat.next_position;
            }
            write.message(account, number, at, &row)?;
            at += 1;
            chat.next_position = chat.next_position.max(at);
        }
        restoring.messages += brought.len() as u64;
        restoring.chat = Some((number, at));
        write_chat(&mut write, account, number, chat);
        self.commit(write, account, Vec::new())
    }
}

/// What is brought behind the read position would be unread: it is not.
fn write_chat(write: &mut Write, account: u32, number: u32, mut chat: ChatRow) {
    if chat.unread == 0 {
        chat.read_position = chat.next_position;
    }
    write.chat(account, number, Some(chat));
}

fn contact_record(row: &ContactRow) -> ContactRecord {
    ContactRecord {
        name: row.name.to_string(),
        alias: row.alias.clone(),
        state: row.state,
        identity: row.identity.clone().filter(|key| fingerprint_of(Some(key)).is_some()),
        verified: row.verified,
        removed: row.removed,
    }
}

fn message_record(row: MessageRow) -> MessageRecord {
    MessageRecord {
        id: row.id.to_string(),
        mine: row.mine,
        from: row.from.map(|from| from.to_string()).unwrap_or_default(),
        sent_at_ms: row.sent_at_ms,
        accepted_at_ms: row.accepted_at_ms,
        kind: row.kind,
        state: row.state,
        held: row.held,
        text: row.text,
    }
}

/// `None` for what no history has.
fn message_row(record: MessageRecord) -> Option<MessageRow> {
    let from = if record.from.is_empty() { None } else { Some(record.from.parse().ok()?) };
    let settled = match record.state {
        // Only the outbox has these; what became of them is not known.
        MessageState::Queued | MessageState::Held => MessageState::Failed,
        settled => settled,
    };
    Some(MessageRow {
        id: record.id.parse::<MessageId>().ok()?,
        mine: record.mine,
        from,
        held: record.held && record.kind == MessageKind::Text,
        sent_at_ms: record.sent_at_ms,
        accepted_at_ms: record.accepted_at_ms,
        kind: record.kind,
        state: settled,
        text: record.text,
    })
}

/// A group of which only the history is here. If the account is a member of it, the server says so.
fn left_group(name: &str, topic: &str, created_at_ms: u64) -> GroupRow {
    GroupRow {
        name: name.to_owned(),
        topic: topic.to_owned(),
        standing: Standing::Left,
        members: Vec::new(),
        created_at_ms,
        epoch: 0,
        authenticator: Vec::new(),
    }
}

fn damaged() -> ApiError {
    ApiError::new(ErrorCode::Internal, StoreError::Damaged.to_string())
}
