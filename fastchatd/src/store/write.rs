//! Changes to the store, collected and then made at once.
//!
//! **Invariant**: either every record of a [`Write`] is in the store after [`Store::commit`], or none.

use fastchat_e2ee::Changes;
use fastchat_wire::{ConversationId, DeviceId, MessageId};
use zeroize::Zeroizing;

use super::{
    EVENTS_KEPT, Record, Store, StoreError, Tables, encode,
    place::{self, Place},
    rows::{
        AccountRow, ChatRow, ContactRow, ConversationRow, EventRow, GroupRow, HandshakeRow, IdempotencyRow, MessageRow,
        OutboxRow, Settings, TaskRow,
    },
};

/// The records of one step, to be committed together.
#[derive(Default)]
pub struct Write {
    records: Vec<Record>,
    tables: Vec<TableChange>,
    state: Vec<(u32, Changes)>,
    idempotency: Vec<(u32, String, IdempotencyRow)>,
    events: Vec<EventRow>,
}

enum TableChange {
    Settings(Settings),
    Account(u32, AccountRow),
    Contact((u32, u32), Option<ContactRow>),
    Chat((u32, u32), Option<ChatRow>),
    Group((u32, u32), Option<GroupRow>),
    Conversation((u32, ConversationId), Option<ConversationRow>),
}

impl Write {
    /// Sets the settings.
    pub fn settings(&mut self, row: Settings) {
        self.tables.push(TableChange::Settings(row));
    }

    /// Sets an account.
    pub fn account(&mut self, account: u32, row: AccountRow) {
        self.tables.push(TableChange::Account(account, row));
    }

    /// Sets or removes a contact.
    pub fn contact(&mut self, account: u32, contact: u32, row: Option<ContactRow>) {
        self.tables.push(TableChange::Contact((account, contact), row));
    }

    /// Sets or removes a chat.
    pub fn chat(&mut self, account: u32, chat: u32, row: Option<ChatRow>) {
        self.tables.push(TableChange::Chat((account, chat), row));
    }

    /// Sets or removes the group of a chat.
    pub fn group(&mut self, account: u32, chat: u32, row: Option<GroupRow>) {
        self.tables.push(TableChange::Group((account, chat), row));
    }

    /// Sets or removes a conversation.
    pub fn conversation(&mut self, account: u32, id: ConversationId, row: Option<ConversationRow>) {
        self.tables.push(TableChange::Conversation((account, id), row));
    }

    /// Sets the message at a position of a chat's history.
    ///
    /// # Errors
    /// The row cannot be encoded.
    pub fn message(&mut self, account: u32, chat: u32, position: u64, row: &MessageRow) -> Result<(), StoreError> {
        self.put(Place::account(place::MESSAGE, account).u32(chat).u64(position), row)?;
        self.put(Place::account(place::SEEN, account).u32(chat).message(row.id), &position)
    }

    /// Removes a message from a chat's history.
    pub fn remove_message(&mut self, account: u32, chat: u32, position: u64, id: MessageId) {
        self.remove(Place::account(place::MESSAGE, account).u32(chat).u64(position));
        self.remove(Place::account(place::SEEN, account).u32(chat).message(id));
    }

    /// Sets or removes a message on its way out.
    ///
    /// # Errors
    /// The row cannot be encoded.
    pub fn outbox(&mut self, account: u32, chat: u32, number: u64, row: Option<&OutboxRow>) -> Result<(), StoreError> {
        self.set(Place::account(place::OUTBOX, account).u32(chat).u64(number), row)
    }

    /// Notes (or forgets) that the own message at `seq` stands at `position` and is not delivered yet.
    ///
    /// # Errors
    /// The row cannot be encoded.
    pub fn undelivered(
        &mut self,
        account: u32,
        conversation: ConversationId,
        seq: u64,
        position: Option<u64>,
    ) -> Result<(), StoreError> {
        let place = Place::account(place::UNDELIVERED, account).conversation(conversation).u64(seq);
        self.set(place, position.as_ref())
    }

    /// Remembers what an idempotency key led to.
    pub fn idempotency(&mut self, account: u32, key: &str, row: IdempotencyRow) {
        self.idempotency.push((account, key.to_owned(), row));
    }

    /// Sets or removes the frame that makes a chat's conversation.
    ///
    /// # Errors
    /// The row cannot be encoded.
    pub fn creation(&mut self, account: u32, chat: u32, frame: Option<&Vec<u8>>) -> Result<(), StoreError> {
        self.set(Place::account(place::CREATION, account).u32(chat), frame)
    }

    /// Sets or removes the handshake message of a chat that the server may have.
    ///
    /// # Errors
    /// The row cannot be encoded.
    pub fn handshake(&mut self, account: u32, chat: u32, row: Option<&HandshakeRow>) -> Result<(), StoreError> {
        self.set(Place::account(place::HANDSHAKE, account).u32(chat), row)
    }

    /// Sets or removes a task of a chat.
    ///
    /// # Errors
    /// The row cannot be encoded.
    pub fn task(&mut self, account: u32, chat: u32, number: u64, row: Option<&TaskRow>) -> Result<(), StoreError> {
        self.set(Place::account(place::TASK, account).u32(chat).u64(number), row)
    }

    /// Sets the last counter seen from a device in a conversation.
    ///
    /// # Errors
    /// The row cannot be encoded.
    pub fn counter(
        &mut self,
        account: u32,
        conversation: ConversationId,
        device: DeviceId,
        counter: u64,
    ) -> Result<(), StoreError> {
        self.put(Place::account(place::COUNTER, account).conversation(conversation).device(device), &counter)
    }

    /// Changes of an account's encryption state.
    pub fn state(&mut self, account: u32, changes: Changes) {
        self.state.push((account, changes));
    }

    /// When the leaves of the conversations in it are due for new keys.
    pub fn updates(&self) -> Vec<u64> {
        let row = |change: &TableChange| match change {
            TableChange::Conversation(_, Some(row)) if !row.closed && row.update_at_ms > 0 => Some(row.update_at_ms),
            _ => None,
        };
        self.tables.iter().filter_map(row).collect()
    }

    /// Appends to the event log.
    pub fn event(&mut self, row: EventRow) {
        self.events.push(row);
    }

    fn put<T: serde::Serialize>(&mut self, place: Place, row: &T) -> Result<(), StoreError> {
        self.records.push((place.into_bytes(), Some(encode(row)?)));
        Ok(())
    }

    fn remove(&mut self, place: Place) {
        self.records.push((place.into_bytes(), None));
    }

    fn set<T: serde::Serialize>(&mut self, place: Place, row: Option<&T>) -> Result<(), StoreError> {
        match row {
            Some(row) => self.put(place, row),
            None => {
                self.remove(place);
                Ok(())
            }
        }
    }
}

impl Store {
    /// Applies all of `write`, atomically. Gives the numbers of its events.
    ///
    /// # Errors
    /// Nothing was changed in memory; after a database error the process has to end.
    pub fn commit(&mut self, write: Write) -> Result<Vec<u64>, StoreError> {
        let Write { mut records, tables, state, idempotency, events } = write;
        for change in &tables {
            records.push(change.record()?);
        }
        for (account, changes) in state {
            self.state_records(account, changes, &mut records)?;
        }
        for (account, key, row) in idempotency {
            let name = self.sealer.blind(&[b"idempotency", key.as_bytes()]);
            let place = Place::account(place::IDEMPOTENCY, account).name(name);
            records.push((place.into_bytes(), Some(encode(&row)?)));
        }
        let mut next_event = self.tables.next_event;
        for event in &events {
            records.push((Place::of(place::EVENT).u64(next_event).into_bytes(), Some(encode(event)?)));
            next_event += 1;
        }
        let first_event = self.tables.first_event.max(next_event.saturating_sub(EVENTS_KEPT));
        for number in self.tables.first_event..first_event {
            records.push((Place::of(place::EVENT).u64(number).into_bytes(), None));
        }
        self.apply(&records)?;
        let numbers = (self.tables.next_event..next_event).collect();
        (self.tables.first_event, self.tables.next_event) = (first_event, next_event);
        for change in tables {
            change.apply(&mut self.tables);
        }
        Ok(numbers)
    }

    /// Removes everything of an account.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn forget_account(&mut self, account: u32) -> Result<(), StoreError> {
        let mut records = Vec::new();
        for kind in place::ACCOUNT..=place::STATE {
            if kind != place::EVENT {
                for key in self.tree.scan_prefix(Place::account(kind, account)).keys() {
                    records.push((key?.to_vec(), None));
                }
            }
        }
        self.apply(&records)?;
        let Tables { accounts, contacts, chats, groups, conversations, .. } = &mut self.tables;
        accounts.remove(&account);
        contacts.retain(|key, _| key.0 != account);
        chats.retain(|key, _| key.0 != account);
        groups.retain(|key, _| key.0 != account);
        conversations.retain(|key, _| key.0 != account);
        Ok(())
    }

    /// Removes what idempotency keys led to before `before_ms`.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn expire_idempotency(&mut self, before_ms: u64) -> Result<(), StoreError> {
        let mut records = Vec::new();
        for record in self.tree.scan_prefix([place::IDEMPOTENCY]) {
            let (key, sealed) = record?;
            let row: IdempotencyRow = super::decode(&self.open_record(&key, &sealed)?)?;
            if row.at_ms < before_ms {
                records.push((key.to_vec(), None));
            }
        }
        if records.is_empty() { Ok(()) } else { self.apply(&records) }
    }
}

impl TableChange {
    fn record(&self) -> Result<Record, StoreError> {
        fn row<T: serde::Serialize>(row: Option<&T>) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
            row.map(encode).transpose()
        }
        let (place, value) = match self {
            Self::Settings(settings) => (Place::of(place::SETTINGS), Some(encode(settings)?)),
            Self::Account(account, account_row) => {
                (Place::account(place::ACCOUNT, *account), Some(encode(account_row)?))
            }
            Self::Contact((account, number), contact) => {
                (Place::account(place::CONTACT, *account).u32(*number), row(contact.as_ref())?)
            }
            Self::Chat((account, number), chat) => {
                (Place::account(place::CHAT, *account).u32(*number), row(chat.as_ref())?)
            }
            Self::Group((account, number), group) => {
                (Place::account(place::GROUP, *account).u32(*number), row(group.as_ref())?)
            }
            Self::Conversation((account, id), conversation) => {
                (Place::account(place::CONVERSATION, *account).conversation(*id), row(conversation.as_ref())?)
            }
        };
        Ok((place.into_bytes(), value))
    }

    fn apply(self, tables: &mut Tables) {
        match self {
            Self::Settings(settings) => tables.settings = settings,
            Self::Account(account, row) => {
                tables.accounts.insert(account, row);
            }
            Self::Contact(key, row) => set(&mut tables.contacts, key, row),
            Self::Chat(key, row) => set(&mut tables.chats, key, row),
            Self::Group(key, row) => set(&mut tables.groups, key, row),
            Self::Conversation(key, row) => set(&mut tables.conversations, key, row),
        }
    }
}

fn set<K: Ord, V>(table: &mut std::collections::BTreeMap<K, V>, key: K, row: Option<V>) {
    match row {
        Some(row) => table.insert(key, row),
        None => table.remove(&key),
    };
}
