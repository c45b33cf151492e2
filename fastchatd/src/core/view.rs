//! How rows look from outside: the API's types made of the store's.
//!
//! **Invariant**: nothing here changes anything.

use fastchat_e2ee::{Fingerprint, IdentityKey};
use fastchat_ipc::{
    Account, AccountState, ApiError, Chat, ChatKind, Contact, ContactState, ErrorCode, EventKind, GroupState, Message,
    MessageKind, MessageState, Sent,
};
use fastchat_wire::{AccountName, MessageId};
use uuid::Uuid;

use crate::store::rows::{ChatRow, ContactRow, GroupRow, MessageRow, OutboxRow, Peer, Standing};

use super::{Broken, Core, outbox::held_reason};

/// What we call somebody.
pub(super) fn shown_name(contact: &ContactRow) -> String {
    if contact.alias.is_empty() { contact.name.to_string() } else { contact.alias.clone() }
}

impl Core {
    /// The number of the account that a call names; the default one if it names none.
    pub(super) fn account_number(&self, name: &str) -> Result<u32, ApiError> {
        let accounts = &self.store.tables().accounts;
        if name.is_empty() {
            return accounts.keys().next().copied().ok_or_else(no_account);
        }
        let matches: Vec<u32> = accounts
            .iter()
            .filter(|(_, row)| {
                let full = format!("{}@{}", row.name, row.server);
                full == name || row.name.as_str() == name || full == format!("{name}:{}", fastchat_wire::DEFAULT_PORT)
            })
            .map(|(number, _)| *number)
            .collect();
        match matches.as_slice() {
            [one] => Ok(*one),
            [] => Err(ApiError::new(ErrorCode::NoAccount, format!("there is no account `{}`", name.escape_default()))
                .hint("`fastchatctl status` lists the accounts")),
            _ => Err(ApiError::new(ErrorCode::InvalidParams, format!("`{name}` is the name of several accounts"))
                .hint("name it in full, as in alice@chat.example.org:8887")),
        }
    }

    pub(super) fn contacts_of(&self, account: u32) -> impl Iterator<Item = (u32, &ContactRow)> {
        let contacts = &self.store.tables().contacts;
        contacts.range((account, 0)..=(account, u32::MAX)).map(|((_, number), row)| (*number, row))
    }

    /// The chats that a person sees.
    pub(super) fn chats_of(&self, account: u32) -> impl Iterator<Item = (u32, &ChatRow)> {
        self.all_chats_of(account).filter(|(_, row)| row.peer != Peer::Own)
    }

    pub(super) fn all_chats_of(&self, account: u32) -> impl Iterator<Item = (u32, &ChatRow)> {
        let chats = &self.store.tables().chats;
        chats.range((account, 0)..=(account, u32::MAX)).map(|((_, number), row)| (*number, row))
    }

    pub(super) fn contact_named(&self, account: u32, name: &AccountName) -> Option<(u32, &ContactRow)> {
        self.contacts_of(account).find(|(_, row)| row.name == *name)
    }

    /// The other side of a direct chat.
    pub(super) fn contact_of_chat(&self, account: u32, chat: u32) -> Option<&ContactRow> {
        match self.store.tables().chats.get(&(account, chat))?.peer {
            Peer::Contact(contact) => self.store.tables().contacts.get(&(account, contact)),
            Peer::Group | Peer::Own => None,
        }
    }

    pub(super) fn chat_row(&self, account: u32, chat: u32) -> Option<ChatRow> {
        self.store.tables().chats.get(&(account, chat)).cloned()
    }

    pub(super) fn group_row(&self, account: u32, chat: u32) -> Option<&GroupRow> {
        self.store.tables().groups.get(&(account, chat))
    }

    /// The account's own name on its server.
    pub(super) fn own_name(&self, account: u32) -> String {
        self.store.tables().accounts.get(&account).map_or_else(String::new, |row| row.name.to_string())
    }

    pub(super) fn is_own_name(&self, account: u32, name: &AccountName) -> bool {
        self.store.tables().accounts.get(&account).is_some_and(|row| row.name == *name)
    }

    /// What we call somebody whom we may not know.
    pub(super) fn name_of(&self, account: u32, name: &AccountName) -> String {
        self.contact_named(account, name).map_or_else(|| name.to_string(), |(_, contact)| shown_name(contact))
    }

    pub(super) fn is_member(&self, account: u32, chat: u32, name: &AccountName) -> bool {
        self.group_row(account, chat).is_some_and(|group| group.members.iter().any(|member| member.name == *name))
    }

    /// The identity that we go by for somebody: a contact's, or what was first seen of them in a group.
    pub(super) fn known_fingerprint(&self, account: u32, name: &AccountName) -> Option<Fingerprint> {
        if let Some((_, contact)) = self.contact_named(account, name)
            && let Some(known) = fingerprint_of(contact.identity.as_deref())
        {
            return Some(known);
        }
        let groups = self.store.tables().groups.range((account, 0)..=(account, u32::MAX));
        let mut members = groups.filter(|(_, group)| group.is_current()).flat_map(|(_, group)| &group.members);
        members.find(|member| member.name == *name).map(|member| Fingerprint(member.fingerprint))
    }

    /// Those people of a chat whose identity key has changed and is not trusted yet.
    pub(super) fn changed_people(&self, account: u32, chat: u32) -> Vec<AccountName> {
        let changed = |contact: &ContactRow| contact.changed_identity.is_some();
        if let Some(contact) = self.contact_of_chat(account, chat) {
            return changed(contact).then(|| contact.name.clone()).into_iter().collect();
        }
        let Some(group) = self.group_row(account, chat) else { return Vec::new() };
        let changed =
            self.contacts_of(account).filter(|(_, contact)| changed(contact)).map(|(_, contact)| &contact.name);
        changed.filter(|name| group.members.iter().any(|member| member.name == **name)).cloned().collect()
    }

    /// Whether a message is not to be shown yet.
    pub(super) fn is_hidden(&self, account: u32, row: &MessageRow) -> bool {
        let contact = row.from.as_ref().filter(|_| row.held).and_then(|from| self.contact_named(account, from));
        contact.is_some_and(|(_, contact)| contact.changed_identity.is_some())
    }

    pub(super) fn chat_id(&self, account: u32, chat: u32) -> String {
        self.store.tables().chats.get(&(account, chat)).map_or_else(String::new, |row| row.id.clone())
    }

    /// The contact of that name, or a new one with the account's next number.
    pub(super) fn contact_for(&self, account: u32, name: &AccountName, state: ContactState) -> (u32, ContactRow) {
        if let Some((number, row)) = self.contact_named(account, name) {
            return (number, row.clone());
        }
        let number = self.store.tables().accounts.get(&account).map_or(0, |row| row.next_contact);
        let row = ContactRow {
            name: name.clone(),
            alias: String::new(),
            state,
            before_block: ContactState::Request,
            chat: None,
            identity: None,
            verified: false,
            changed_identity: None,
            block_told: true,
            removed: false,
        };
        (number, row)
    }

    /// The contact's chat, or a new one with the account's next number, which the contact's row then names.
    pub(super) fn chat_for(&self, account: u32, contact_number: u32, contact: &mut ContactRow) -> (u32, ChatRow) {
        let tables = self.store.tables();
        if let Some(number) = contact.chat
            && let Some(row) = tables.chats.get(&(account, number))
        {
            return (number, row.clone());
        }
        let number = tables.accounts.get(&account).map_or(0, |row| row.next_chat);
        contact.chat = Some(number);
        let row = ChatRow { id: Uuid::now_v7().to_string(), ..self.new_chat(Peer::Contact(contact_number)) };
        (number, row)
    }

    pub(super) fn new_chat(&self, peer: Peer) -> ChatRow {
        ChatRow {
            id: String::new(),
            peer,
            conversation: None,
            replaces: None,
            next_position: 1,
            next_outbox: 1,
            unread: 0,
            read_position: 0,
            muted: false,
            last_at_ms: self.now,
            read_elsewhere: None,
            next_task: 1,
        }
    }

    /// The contact that a call names: by its name, its alias, or its full address on this server.
    pub(super) fn contact_number(&self, account: u32, name: &str) -> Result<u32, ApiError> {
        let contacts = || self.contacts_of(account);
        let name = self.local_part(account, name)?;
        contacts()
            .find(|(_, row)| row.name.as_str() == name)
            .or_else(|| contacts().find(|(_, row)| !row.alias.is_empty() && row.alias == name))
            .map(|(number, _)| number)
            .ok_or_else(|| {
                ApiError::new(ErrorCode::NotFound, format!("there is no contact `{}`", name.escape_default()))
                    .hint("`fastchatctl contact list` shows all; `fastchatctl contact add NAME` makes one")
            })
    }

    /// `bob` of `bob@host:port`, when that is this account's server.
    pub(super) fn local_part<'a>(&self, account: u32, name: &'a str) -> Result<&'a str, ApiError> {
        let Some((local, server)) = name.split_once('@') else { return Ok(name) };
        let ours = self.store.tables().accounts.get(&account).map(|row| row.server.to_string()).unwrap_or_default();
        if server == ours || format!("{server}:{}", fastchat_wire::DEFAULT_PORT) == ours {
            return Ok(local);
        }
        Err(ApiError::new(ErrorCode::NotFound, format!("`{}` is on another server", name.escape_default()))
            .hint(format!("this account is on {ours}: people there are named without a server")))
    }

    /// The chat that a call names: by its id, or by its contact.
    pub(super) fn chat_number(&self, account: u32, name: &str) -> Result<u32, ApiError> {
        if let Some((number, _)) = self.chats_of(account).find(|(_, row)| row.id == name) {
            return Ok(number);
        }
        let contact = self.contact_number(account, name).ok();
        if let Some(chat) = contact.and_then(|number| self.store.tables().contacts.get(&(account, number))?.chat) {
            return Ok(chat);
        }
        self.group_number(account, name).map_err(|error| match error.code {
            ErrorCode::NotFound => {
                ApiError::new(ErrorCode::NotFound, format!("there is no chat `{}`", name.escape_default()))
                    .hint("`fastchatctl chats` lists all")
            }
            _ => error,
        })
    }

    /// The chat of the group that a call names: by its id, or by its name, if only one has it.
    pub(super) fn group_number(&self, account: u32, name: &str) -> Result<u32, ApiError> {
        let groups = || self.store.tables().groups.range((account, 0)..=(account, u32::MAX));
        if let Some(((_, chat), _)) = groups().find(|((_, chat), _)| self.chat_id(account, *chat) == name) {
            return Ok(*chat);
        }
        let named = |group: &GroupRow| group.name == name;
        let active = groups().filter(|(_, group)| named(group) && group.is_current());
        let named: Vec<u32> = match active.map(|((_, chat), _)| *chat).collect::<Vec<_>>() {
            none if none.is_empty() => groups().filter(|(_, group)| named(group)).map(|((_, chat), _)| *chat).collect(),
            some => some,
        };
        match named.as_slice() {
            [one] => Ok(*one),
            [] => Err(ApiError::new(ErrorCode::NotFound, format!("there is no group `{}`", name.escape_default()))
                .hint("`fastchatctl group list` shows all")),
            _ => Err(ApiError::new(
                ErrorCode::InvalidParams,
                format!("several groups are called `{}`", name.escape_default()),
            )
            .hint("name it by its id: `fastchatctl group list` shows them")),
        }
    }

    pub(super) fn view_account(&self, number: u32) -> Result<Account, ApiError> {
        let (Some(row), Some(live)) = (self.store.tables().accounts.get(&number), self.live.get(&number)) else {
            return Err(no_account());
        };
        Ok(Account {
            account: format!("{}@{}", row.name, row.server),
            state: live.state,
            reason: live.reason.clone(),
            device: live.device.id().to_string(),
            device_name: row.device_name.clone(),
            fingerprint: live.fingerprint.to_string(),
            pin: row.pin.map_or_else(String::new, |pin| pin.to_string()),
            outbox: self.waiting_messages(number),
        })
    }

    /// How many messages of the person's are on their way out.
    pub(super) fn waiting_messages(&self, account: u32) -> u64 {
        self.chats_of(account).map(|(chat, _)| self.store.outbox(account, chat).count() as u64).sum()
    }

    pub(super) fn view_contact(&self, account: u32, row: &ContactRow) -> Contact {
        let live = self.live.get(&account);
        let presence = live.and_then(|live| live.presence.get(&row.name)).copied();
        let shown = presence.filter(|_| live.is_some_and(|live| live.state == AccountState::Online));
        let (active, active_since_ms) = shown.unwrap_or_default();
        Contact {
            name: row.name.to_string(),
            alias: row.alias.clone(),
            state: row.state,
            chat: row.chat.map_or_else(String::new, |chat| self.chat_id(account, chat)),
            fingerprint: fingerprint_of(row.identity.as_deref()).map_or_else(String::new, |print| print.to_string()),
            verified: row.verified,
            key_changed: row.changed_identity.is_some(),
            active,
            active_since_ms,
        }
    }

    /// Whether the keys of everybody in a chat were compared.
    pub(super) fn is_verified(&self, account: u32, chat: u32) -> bool {
        let verified = |name: &AccountName| {
            self.contact_named(account, name).is_some_and(|(_, row)| row.verified && row.changed_identity.is_none())
        };
        if let Some(contact) = self.contact_of_chat(account, chat) {
            return contact.verified && contact.changed_identity.is_none();
        }
        let Some(group) = self.group_row(account, chat) else { return false };
        let mut others = group.members.iter().filter(|member| !self.is_own_name(account, &member.name)).peekable();
        others.peek().is_some() && others.all(|member| verified(&member.name))
    }

    pub(super) fn view_chat(&self, account: u32, number: u32) -> Result<Chat, Broken> {
        let Some(row) = self.chat_row(account, number) else {
            return Err(crate::store::StoreError::Damaged);
        };
        let contact = self.contact_of_chat(account, number);
        let group = self.group_row(account, number);
        let request = contact.is_some_and(|contact| contact.state == ContactState::Request);
        let newest = self.store.outbox(account, number).next_back().transpose()?;
        let last = match newest {
            Some((index, waiting)) => Some(self.view_waiting(&row, index, &waiting)),
            None => {
                let newest = self.store.history(account, number, u64::MAX, 1)?.pop();
                newest.map(|(position, message)| self.view_message(account, number, &row, position, message))
            }
        };
        let last = last.map(|mut message| {
            if request {
                message.text.clear();
            }
            message
        });
        Ok(Chat {
            id: row.id.clone(),
            account: self.full_name(account),
            kind: if group.is_some() { ChatKind::Group } else { ChatKind::Direct },
            title: match (contact, group) {
                (Some(contact), _) => shown_name(contact),
                (None, Some(group)) => group.name.clone(),
                (None, None) => String::new(),
            },
            contact: contact.map_or_else(String::new, |contact| contact.name.to_string()),
            unread: row.unread,
            muted: row.muted,
            request,
            held: self.is_held(account, number),
            verified: self.is_verified(account, number),
            group: group.map(GroupRow::state),
            last,
        })
    }

    pub(super) fn view_message(
        &self,
        account: u32,
        number: u32,
        chat: &ChatRow,
        position: u64,
        row: MessageRow,
    ) -> Message {
        let hidden = self.is_hidden(account, &row);
        let from = match (row.kind, &row.from) {
            (MessageKind::Notice, _) => String::new(),
            _ if row.mine => self.own_name(account),
            (_, Some(from)) => from.to_string(),
            (_, None) => self.contact_of_chat(account, number).map_or_else(String::new, |row| row.name.to_string()),
        };
        let (kind, text) = if hidden {
            let text = format!("hidden: {}; `fastchatctl key trust {from}` shows it", held_reason(&from));
            (MessageKind::Unreadable, text)
        } else {
            (row.kind, row.text)
        };
        Message {
            id: row.id.to_string(),
            chat: chat.id.clone(),
            from,
            mine: row.mine && row.kind != MessageKind::Notice,
            sent_at_ms: row.sent_at_ms,
            accepted_at_ms: row.accepted_at_ms,
            kind,
            state: row.state,
            text,
            error: String::new(),
            position,
        }
    }

    /// A message of the outbox stands behind everything in the history.
    pub(super) fn view_waiting(&self, chat: &ChatRow, number: u64, row: &OutboxRow) -> Message {
        Message {
            id: row.id.to_string(),
            chat: chat.id.clone(),
            from: String::new(),
            mine: true,
            sent_at_ms: row.written_at_ms,
            accepted_at_ms: 0,
            kind: MessageKind::Text,
            state: row.state,
            text: row.text.clone(),
            error: row.error.clone(),
            position: chat.next_position.saturating_add(number),
        }
    }

    /// Puts the message into an event that tells of one.
    pub(super) fn with_message(&self, account: u32, kind: EventKind) -> Result<EventKind, Broken> {
        let EventKind::MessageReceived { chat, id, request, message: None } = kind else { return Ok(kind) };
        let mut message = None;
        if let Some((number, row)) = self.chats_of(account).find(|(_, row)| row.id == chat)
            && let Ok(id) = id.parse::<MessageId>()
            && let Some(position) = self.store.position_of(account, number, id)?
            && let Some(found) = self.store.message(account, number, position)?
        {
            message = Some(self.view_message(account, number, row, position, found));
        }
        Ok(EventKind::MessageReceived { chat, id, request, message })
    }

    /// Where a message that was sent stands.
    pub(super) fn sent(&self, account: u32, to: &str, chat: u32, id: MessageId) -> Result<Sent, Broken> {
        // The history first: it has an index, and calls that wait ask often.
        let position = self.store.position_of(account, chat, id)?;
        let stored = position.map(|position| self.store.message(account, chat, position)).transpose()?.flatten();
        let (state, error) = if let Some(row) = stored.filter(|row| row.mine) {
            (row.state, None)
        } else {
            let mut newest_first = self.store.outbox(account, chat).rev();
            let waiting = newest_first.find(|record| record.as_ref().map_or(true, |(_, row)| row.id == id));
            match waiting.transpose()? {
                Some((_, row)) => (row.state, self.outbox_error(account, chat, &row)),
                None => (MessageState::Cancelled, None),
            }
        };
        Ok(Sent { to: to.to_owned(), id: id.to_string(), chat: self.chat_id(account, chat), state, error })
    }

    fn outbox_error(&self, account: u32, chat: u32, row: &OutboxRow) -> Option<ApiError> {
        let name = self.changed_people(account, chat).first().map_or_else(String::new, ToString::to_string);
        match row.state {
            MessageState::Held => Some(
                ApiError::new(ErrorCode::IdentityChanged, held_reason(&name))
                    .hint(format!(
                        "the message is kept; compare the number of `fastchatctl key show {name}` with {name}, then \
                         `fastchatctl key trust {name}` lets it go"
                    ))
                    .with("contact", name),
            ),
            MessageState::Failed => {
                let code = if row.error.starts_with("there is no") { ErrorCode::NotFound } else { ErrorCode::Refused };
                let hint = "the message is kept; `fastchatctl outbox retry` or `fastchatctl outbox cancel`";
                Some(ApiError::new(code, row.error.clone()).hint(hint))
            }
            _ => None,
        }
    }
}

impl GroupRow {
    /// Whether we are, or are about to be, in it.
    pub(super) fn is_current(&self) -> bool {
        matches!(self.standing, Standing::Active | Standing::Joining | Standing::Leaving)
    }

    /// As the API names it.
    pub(super) fn state(&self) -> GroupState {
        match self.standing {
            Standing::Active => GroupState::Active,
            Standing::Joining => GroupState::Joining,
            Standing::Leaving => GroupState::Leaving,
            Standing::Left => GroupState::Left,
            Standing::Deleted => GroupState::Deleted,
        }
    }

    pub(super) fn admins(&self) -> impl Iterator<Item = &AccountName> {
        self.members.iter().filter(|member| member.admin).map(|member| &member.name)
    }
}

pub(super) fn fingerprint_of(key: Option<&[u8]>) -> Option<Fingerprint> {
    IdentityKey::from_der(key?).ok().map(|key| key.fingerprint())
}

fn no_account() -> ApiError {
    ApiError::new(ErrorCode::NoAccount, "there is no account yet")
        .hint("`fastchatctl register NAME@HOST` makes one, `fastchatctl login NAME@HOST` brings yours here")
}
