//! An account's contacts and history, page by page into a backup and out of one.
//!
//! **Invariant**: what is here already stays as it is; what a backup adds takes its place by time, and counts as read.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use fastchat_ipc::{ApiError, ContactState, ErrorCode, EventKind, MessageState, Restored};
use fastchat_wire::{AccountName, ConversationId, MessageId};
use zeroize::Zeroizing;

use crate::{
    backup::{ChatRecord, ChatWith, ContactRecord, Header, IdentityRecord, MessageRecord, Record},
    store::{
        StoreError, Write,
        rows::{ChatRow, ContactRow, GroupRow, MessageRow, Peer, Standing},
    },
};

use super::{Broken, Core, view::fingerprint_of};

/// Records in one page.
const PAGE: usize = 200;

/// Where the next page of a backup begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupPlace {
    /// With the contacts from this number on.
    Contacts(u32),
    /// With the first chat from this number on.
    Chats(u32),
    /// With a chat's messages from this position on.
    Messages(u32, u64),
}

/// A page of a backup, and where the next one begins.
pub type BackupPage = (Vec<Record>, Option<BackupPlace>);

impl Core {
    /// What a backup of an account begins with.
    ///
    /// # Errors
    /// There is no such account.
    pub fn backup_header(&self, account: &str, now: u64) -> Result<(Header, Record), ApiError> {
        let number = self.account_number(account)?;
        let gone = || ApiError::new(ErrorCode::NoAccount, "the account is gone");
        let row = self.store.tables().accounts.get(&number).ok_or_else(gone)?;
        let print = self.live.get(&number).map(|live| live.fingerprint.to_string()).unwrap_or_default();
        let identity = IdentityRecord { pkcs8: Zeroizing::new(row.identity.clone()) };
        Ok((Header::new(self.full_name(number), now, print), Record::Identity(identity)))
    }

    /// The next page of a backup of an account, by its full name.
    ///
    /// # Errors
    /// The account is gone, or the disk fails.
    pub fn backup_page(&self, account: &str, place: BackupPlace) -> Result<BackupPage, ApiError> {
        let account = self.account_number(account)?;
        match place {
            BackupPlace::Contacts(from) => {
                let contacts = self.contacts_of(account).filter(|(number, _)| *number >= from).take(PAGE + 1);
                let contacts: Vec<(u32, &ContactRow)> = contacts.collect();
                let next =
                    contacts.get(PAGE).map_or(BackupPlace::Chats(0), |(number, _)| BackupPlace::Contacts(*number));
                let records = contacts.iter().take(PAGE).map(|(_, row)| Record::Contact(contact_record(row)));
                Ok((records.collect(), Some(next)))
            }
            BackupPlace::Chats(from) => {
                let Some((number, row)) = self.chats_of(account).find(|(number, _)| *number >= from) else {
                    return Ok((Vec::new(), None));
                };
                let records = self.chat_record(account, number, row).map(Record::Chat);
                let next = match &records {
                    Some(_) => BackupPlace::Messages(number, 0),
                    None => BackupPlace::Chats(number + 1),
                };
                Ok((records.into_iter().collect(), Some(next)))
            }
            BackupPlace::Messages(chat, from) => {
                let failed = |error: StoreError| ApiError::new(ErrorCode::Internal, error.to_string());
                let rows = self.store.history_from(account, chat, from, PAGE).map_err(failed)?;
                let next = match rows.last() {
                    Some((position, _)) if rows.len() == PAGE => BackupPlace::Messages(chat, position + 1),
                    _ => BackupPlace::Chats(chat + 1),
                };
                Ok((rows.into_iter().map(|(_, row)| Record::Message(message_record(row))).collect(), Some(next)))
            }
        }
    }

    fn chat_record(&self, account: u32, number: u32, row: &ChatRow) -> Option<ChatRecord> {
        let with = match row.peer {
            Peer::Contact(_) => ChatWith::Direct { contact: self.contact_of_chat(account, number)?.name.to_string() },
            Peer::Group => {
                let group = self.group_row(account, number)?;
                ChatWith::Group {
                    conversation: row.id.clone(),
                    name: group.name.clone(),
                    topic: group.topic.clone(),
                    created_at_ms: group.created_at_ms,
                }
            }
            Peer::Own => return None,
        };
        Some(ChatRecord { id: row.id.clone(), with, muted: row.muted, last_at_ms: row.last_at_ms })
    }

    /// Whether a backup is of this account; gives the account's full name.
    ///
    /// # Errors
    /// It is of another one, or there is no such account, or no room.
    pub fn may_restore(&self, account: &str, backup_of: &str) -> Result<String, ApiError> {
        let number = self.account_number(account)?;
        let own = self.own_name(number);
        if backup_of.split('@').next() != Some(own.as_str()) {
            let text = format!("that is a backup of {}, not of {}", backup_of.escape_default(), self.full_name(number));
            return Err(ApiError::new(ErrorCode::Refused, text).hint("name the account: --account USER@HOST"));
        }
        if !self.store.has_room() {
            return Err(ApiError::new(ErrorCode::StorageFull, "the disk is full: nothing was restored"));
        }
        Ok(self.full_name(number))
    }

    /// Takes contacts of a backup over: those that are not here.
    pub(super) fn restore_contacts(
        &mut self,
        account: &str,
        records: Vec<ContactRecord>,
        restored: &mut Restored,
    ) -> Result<(), Broken> {
        let Ok(account) = self.account_number(account) else { return Ok(()) };
        for record in records {
            let Ok(name) = record.name.parse::<AccountName>() else { continue };
            if self.is_own_name(account, &name) || self.contact_named(account, &name).is_some() {
                continue;
            }
            let (number, mut contact) = self.contact_for(account, &name, record.state);
            let print = fingerprint_of(record.identity.as_deref());
            let known = self.known_fingerprint(account, &name);
            // What a group has shown meanwhile is newer than the backup.
            if print.is_some() && (known.is_none() || known == print) {
                contact.identity = record.identity;
                contact.verified = record.verified;
            }
            contact.alias = record.alias;
            contact.removed = record.removed;
            contact.block_told = record.state != ContactState::Blocked;
            let mut write = Write::default();
            if let Some(mut row) = self.store.tables().accounts.get(&account).cloned() {
                row.next_contact = row.next_contact.max(number + 1);
                write.account(account, row);
            }
            write.contact(account, number, Some(contact));
            self.commit(write, account, vec![EventKind::ContactChanged { contact: name.to_string() }])?;
            restored.contacts += 1;
        }
        self.share_presence(account);
        Ok(())
    }

    /// Takes messages of a backup's chat over: those that are not here, each at its place in time.
    pub(super) fn restore_chat(
        &mut self,
        account: &str,
        record: &ChatRecord,
        messages: Vec<MessageRecord>,
        restored: &mut Restored,
    ) -> Result<(), Broken> {
        let Ok(account) = self.account_number(account) else { return Ok(()) };
        let Some((number, mut chat, mut write, new)) = self.chat_to_restore(account, record) else { return Ok(()) };
        restored.chats += u64::from(new);
        let here = if new { Vec::new() } else { self.store.history_from(account, number, 0, usize::MAX)? };
        let mut rows: Vec<(Option<u64>, MessageRow)> = Vec::with_capacity(here.len() + messages.len());
        let mut known: std::collections::BTreeSet<MessageId> = here.iter().map(|(_, row)| row.id).collect();
        for message in messages {
            if let Some(row) = message_row(message).filter(|row| known.insert(row.id)) {
                restored.messages += 1;
                rows.push((None, row));
            }
        }
        if rows.is_empty() && !new {
            return Ok(());
        }
        rows.extend(here.into_iter().map(|(position, row)| (Some(position), row)));
        // Stable: what has one time keeps its order. What was here keeps its own.
        rows.sort_by_key(|(_, row)| if row.accepted_at_ms > 0 { row.accepted_at_ms } else { row.sent_at_ms });
        let end = rows.len() as u64;
        // Where something was taken out of the history, what stood behind the new end would stay there as well.
        for (old, row) in rows.iter().filter_map(|(old, row)| old.filter(|old| *old > end).zip(Some(row))) {
            write.remove_message(account, number, old, row.id);
        }
        let mut moved = BTreeMap::new();
        let mut read = None;
        for (position, (old, row)) in (1_u64..).zip(&rows) {
            if let Some(old) = old {
                moved.insert(*old, position);
                if *old >= chat.read_position && chat.unread > 0 {
                    read.get_or_insert(position);
                }
            }
            if *old != Some(position) {
                write.message(account, number, position, row)?;
            }
        }
        chat.next_position = end + 1;
        chat.read_position = read.unwrap_or(chat.next_position);
        self.move_undelivered(&mut write, account, number, &moved)?;
        let id = chat.id.clone();
        write.chat(account, number, Some(chat));
        self.commit(write, account, vec![EventKind::ChatChanged { chat: id }])
    }

    /// The chat that a record is of, or a new one; with the records that make a new one.
    fn chat_to_restore(&self, account: u32, record: &ChatRecord) -> Option<(u32, ChatRow, Write, bool)> {
        let mut write = Write::default();
        let (number, chat, new) = match &record.with {
            ChatWith::Direct { contact } => {
                let name = contact.parse::<AccountName>().ok()?;
                let (contact_number, mut contact) = self.contact_for(account, &name, ContactState::Accepted);
                let new = contact.chat.is_none();
                let (number, chat) = self.chat_for(account, contact_number, &mut contact);
                write.contact(account, contact_number, Some(contact));
                if let Some(mut row) = self.store.tables().accounts.get(&account).cloned() {
                    row.next_contact = row.next_contact.max(contact_number + 1);
                    row.next_chat = row.next_chat.max(number + 1);
                    write.account(account, row);
                }
                (number, chat, new)
            }
            ChatWith::Group { conversation, name, topic, created_at_ms } => {
                let id = conversation.parse::<ConversationId>().ok()?;
                let (number, chat) = self.group_chat(account, id);
                let new = self.group_row(account, number).is_none();
                if new {
                    let group = GroupRow {
                        name: name.clone(),
                        topic: topic.clone(),
                        standing: Standing::Left,
                        members: Vec::new(),
                        created_at_ms: *created_at_ms,
                        epoch: 0,
                        authenticator: Vec::new(),
                        refused: false,
                    };
                    write.group(account, number, Some(group));
                    let mut row = self.store.tables().accounts.get(&account).cloned()?;
                    row.next_chat = row.next_chat.max(number + 1);
                    write.account(account, row);
                }
                (number, chat, new)
            }
        };
        let muted = if new { record.muted } else { chat.muted };
        let last_at_ms = if new { record.last_at_ms } else { chat.last_at_ms };
        Some((number, ChatRow { muted, last_at_ms, ..chat }, write, new))
    }

    fn move_undelivered(
        &self,
        write: &mut Write,
        account: u32,
        chat: u32,
        moved: &BTreeMap<u64, u64>,
    ) -> Result<(), Broken> {
        let conversations = self.store.tables().conversations.iter();
        let conversations = conversations.filter(|((owner, _), row)| *owner == account && row.chat == chat);
        for ((_, id), _) in conversations {
            for (seq, position) in self.store.undelivered(account, *id, u64::MAX)? {
                if let Some(position) = moved.get(&position) {
                    write.undelivered(account, *id, seq, Some(*position))?;
                }
            }
        }
        Ok(())
    }
}

fn contact_record(row: &ContactRow) -> ContactRecord {
    ContactRecord {
        name: row.name.to_string(),
        alias: row.alias.clone(),
        state: row.state,
        identity: row.identity.clone(),
        verified: row.verified,
        removed: row.removed,
    }
}

fn message_record(row: MessageRow) -> MessageRecord {
    MessageRecord {
        id: row.id.to_string(),
        mine: row.mine,
        from: row.from.map_or_else(String::new, |from| from.to_string()),
        sent_at_ms: row.sent_at_ms,
        accepted_at_ms: row.accepted_at_ms,
        kind: row.kind,
        state: row.state,
        held: row.held,
        text: row.text,
    }
}

fn message_row(record: MessageRecord) -> Option<MessageRow> {
    let from = if record.from.is_empty() { None } else { Some(record.from.parse().ok()?) };
    // What was under way when the backup was made has come to its end long since, one way or the other.
    let state = match record.state {
        MessageState::Queued | MessageState::Held => MessageState::Sent,
        state => state,
    };
    Some(MessageRow {
        id: record.id.parse().ok()?,
        mine: record.mine,
        from,
        held: record.held,
        sent_at_ms: record.sent_at_ms,
        accepted_at_ms: record.accepted_at_ms,
        kind: record.kind,
        state,
        text: record.text,
    })
}
