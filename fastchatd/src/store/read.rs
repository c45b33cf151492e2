//! Reading from the store.
//!
//! **Invariant**: a read never changes anything, and its size is bounded by the caller.

use fastchat_wire::{ConversationId, DeviceId, MessageId};
use serde::de::DeserializeOwned;

use super::{
    Store, StoreError, decode,
    place::{self, Place},
    rows::{EventRow, HandshakeRow, IdempotencyRow, MessageRow, OutboxRow, Settings, TaskRow},
};

impl Store {
    /// The message at a position of a chat's history.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn message(&self, account: u32, chat: u32, position: u64) -> Result<Option<MessageRow>, StoreError> {
        self.get(&Place::account(place::MESSAGE, account).u32(chat).u64(position))
    }

    /// Where a message of a chat stands in its history.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn position_of(&self, account: u32, chat: u32, id: MessageId) -> Result<Option<u64>, StoreError> {
        self.get(&Place::account(place::SEEN, account).u32(chat).message(id))
    }

    /// Up to `limit` messages of a chat before a position, newest first.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn history(
        &self,
        account: u32,
        chat: u32,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let prefix = Place::account(place::MESSAGE, account).u32(chat);
        let (low, high) = (prefix.clone().u64(0).into_bytes(), prefix.u64(before).into_bytes());
        self.tree.range(low..high).rev().take(limit).map(|record| self.numbered(record)).collect()
    }

    /// Up to `limit` messages of a chat from a position on, oldest first.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn history_from(
        &self,
        account: u32,
        chat: u32,
        from: u64,
        limit: usize,
    ) -> Result<Vec<(u64, MessageRow)>, StoreError> {
        let prefix = Place::account(place::MESSAGE, account).u32(chat);
        let (low, high) = (prefix.clone().u64(from).into_bytes(), prefix.u64(u64::MAX).into_bytes());
        self.tree.range(low..high).take(limit).map(|record| self.numbered(record)).collect()
    }

    /// The messages of a chat that are on their way out, oldest first; read one by one.
    pub fn outbox(
        &self,
        account: u32,
        chat: u32,
    ) -> impl DoubleEndedIterator<Item = Result<(u64, OutboxRow), StoreError>> + '_ {
        let prefix = Place::account(place::OUTBOX, account).u32(chat);
        self.tree.scan_prefix(prefix).map(|record| self.numbered(record))
    }

    /// Whether a message of a chat, by its number, is on its way out.
    ///
    /// # Errors
    /// The disk.
    pub fn is_waiting(&self, account: u32, chat: u32, number: u64) -> Result<bool, StoreError> {
        Ok(self.tree.contains_key(Place::account(place::OUTBOX, account).u32(chat).u64(number))?)
    }

    /// Whether a chat has anything on its way out.
    ///
    /// # Errors
    /// The disk.
    pub fn has_outbox(&self, account: u32, chat: u32) -> Result<bool, StoreError> {
        let prefix = Place::account(place::OUTBOX, account).u32(chat);
        Ok(self.tree.scan_prefix(prefix).next().transpose()?.is_some())
    }

    /// Own messages of a conversation up to `seq` that the other side was not known to have: seq and position.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn undelivered(
        &self,
        account: u32,
        conversation: ConversationId,
        seq: u64,
    ) -> Result<Vec<(u64, u64)>, StoreError> {
        let prefix = Place::account(place::UNDELIVERED, account).conversation(conversation);
        let (low, high) = (prefix.clone().u64(0).into_bytes(), prefix.u64(seq).into_bytes());
        self.tree.range(low..=high).map(|record| self.numbered(record)).collect()
    }

    /// What an idempotency key led to.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn idempotency(&self, account: u32, key: &str) -> Result<Option<IdempotencyRow>, StoreError> {
        let name = self.sealer.blind(&[b"idempotency", key.as_bytes()]);
        self.get(&Place::account(place::IDEMPOTENCY, account).name(name))
    }

    /// The frame that makes a chat's conversation, while the server's answer is awaited.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn creation(&self, account: u32, chat: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(&Place::account(place::CREATION, account).u32(chat))
    }

    /// The handshake message of a chat that the server may have.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn handshake(&self, account: u32, chat: u32) -> Result<Option<HandshakeRow>, StoreError> {
        self.get(&Place::account(place::HANDSHAKE, account).u32(chat))
    }

    /// The tasks of a chat, the first one first.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn tasks(&self, account: u32, chat: u32) -> Result<Vec<(u64, TaskRow)>, StoreError> {
        let prefix = Place::account(place::TASK, account).u32(chat);
        self.tree.scan_prefix(prefix).map(|record| self.numbered(record)).collect()
    }

    /// The last counter seen from a device in a conversation.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn counter(&self, account: u32, conversation: ConversationId, device: DeviceId) -> Result<u64, StoreError> {
        let place = Place::account(place::COUNTER, account).conversation(conversation).device(device);
        Ok(self.get(&place)?.unwrap_or_default())
    }

    /// Up to `limit` events after a number.
    ///
    /// # Errors
    /// A damaged record or the disk.
    pub fn events_after(&self, number: u64, limit: usize) -> Result<Vec<(u64, EventRow)>, StoreError> {
        let low = Place::of(place::EVENT).u64(number.saturating_add(1)).into_bytes();
        let high = Place::of(place::EVENT + 1).into_bytes();
        self.tree.range(low..high).take(limit).map(|record| self.numbered(record)).collect()
    }

    pub(super) fn load_tables(&mut self) -> Result<(), StoreError> {
        let settings = self.get::<Settings>(&Place::of(place::SETTINGS))?.unwrap_or_default();
        let mut tables = super::Tables { settings, ..super::Tables::default() };
        for record in self.rows_of(place::ACCOUNT) {
            let (key, row) = record?;
            tables.accounts.insert(place::last_u32(&key).ok_or(StoreError::Damaged)?, row);
        }
        for record in self.rows_of(place::CONTACT) {
            let (key, row) = record?;
            tables.contacts.insert(account_and_number(&key)?, row);
        }
        for record in self.rows_of(place::CHAT) {
            let (key, row) = record?;
            tables.chats.insert(account_and_number(&key)?, row);
        }
        for record in self.rows_of(place::GROUP) {
            let (key, row) = record?;
            tables.groups.insert(account_and_number(&key)?, row);
        }
        for record in self.rows_of(place::CONVERSATION) {
            let (key, row) = record?;
            let account = key.get(1..5).and_then(place::last_u32).ok_or(StoreError::Damaged)?;
            let id = place::last_conversation(&key).ok_or(StoreError::Damaged)?;
            tables.conversations.insert((account, id), row);
        }
        let events = Place::of(place::EVENT);
        let number = |record: Option<sled::Result<(sled::IVec, sled::IVec)>>| -> Result<Option<u64>, StoreError> {
            Ok(record.transpose()?.and_then(|(key, _)| place::last_u64(&key)))
        };
        tables.first_event = number(self.tree.scan_prefix(&events).next())?.unwrap_or(1);
        tables.next_event = number(self.tree.scan_prefix(&events).next_back())?.map_or(1, |last| last + 1);
        self.tables = tables;
        Ok(())
    }

    pub(super) fn get<T: DeserializeOwned>(&self, place: &Place) -> Result<Option<T>, StoreError> {
        let Some(sealed) = self.tree.get(place)? else { return Ok(None) };
        decode(&self.open_record(place.as_ref(), &sealed)?).map(Some)
    }

    fn rows_of<T: DeserializeOwned>(&self, kind: u8) -> impl Iterator<Item = Result<(sled::IVec, T), StoreError>> + '_ {
        self.tree.scan_prefix([kind]).map(|record| {
            let (key, sealed) = record?;
            let row = decode(&self.open_record(&key, &sealed)?)?;
            Ok((key, row))
        })
    }

    fn numbered<T: DeserializeOwned>(
        &self,
        record: sled::Result<(sled::IVec, sled::IVec)>,
    ) -> Result<(u64, T), StoreError> {
        let (key, sealed) = record?;
        let number = place::last_u64(&key).ok_or(StoreError::Damaged)?;
        Ok((number, decode(&self.open_record(&key, &sealed)?)?))
    }
}

fn account_and_number(key: &[u8]) -> Result<(u32, u32), StoreError> {
    let account = key.get(1..5).and_then(place::last_u32).ok_or(StoreError::Damaged)?;
    Ok((account, place::last_u32(key).ok_or(StoreError::Damaged)?))
}
