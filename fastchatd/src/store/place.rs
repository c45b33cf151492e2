//! Where each record lies: the keys of the one sled tree.
//!
//! Keys begin with what they hold and are ordered by number, so a range is a history or a queue. Names of people never
//! stand in a key; conversation and message ids do, which say nothing to somebody without the server's log.
//!
//! **Invariant**: two records never share a place.

use fastchat_wire::{ConversationId, DeviceId, MessageId};

pub(super) const HEADER: u8 = 0x01;
pub(super) const SETTINGS: u8 = 0x02;
pub(super) const ACCOUNT: u8 = 0x10;
pub(super) const CONTACT: u8 = 0x11;
pub(super) const CHAT: u8 = 0x12;
pub(super) const MESSAGE: u8 = 0x13;
pub(super) const SEEN: u8 = 0x14;
pub(super) const OUTBOX: u8 = 0x15;
pub(super) const CONVERSATION: u8 = 0x16;
pub(super) const UNDELIVERED: u8 = 0x17;
pub(super) const IDEMPOTENCY: u8 = 0x18;
pub(super) const CREATION: u8 = 0x19;
pub(super) const GROUP: u8 = 0x1A;
pub(super) const HANDSHAKE: u8 = 0x1B;
pub(super) const TASK: u8 = 0x1C;
pub(super) const COUNTER: u8 = 0x1D;
pub(super) const EVENT: u8 = 0x20;
pub(super) const STATE: u8 = 0x30;
/// The rest of a value that is too long for one record, behind the key of its first part.
pub(super) const PART: u8 = 0x40;

/// A key under construction: what it holds, then numbers in order.
#[derive(Clone)]
pub(super) struct Place(Vec<u8>);

impl Place {
    pub(super) fn of(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(40);
        bytes.push(kind);
        Self(bytes)
    }

    pub(super) fn account(kind: u8, account: u32) -> Self {
        Self::of(kind).u32(account)
    }

    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn conversation(mut self, id: ConversationId) -> Self {
        self.0.extend_from_slice(id.as_bytes());
        self
    }

    pub(super) fn message(mut self, id: MessageId) -> Self {
        self.0.extend_from_slice(id.as_bytes());
        self
    }

    pub(super) fn device(mut self, id: DeviceId) -> Self {
        self.0.extend_from_slice(id.as_bytes());
        self
    }

    pub(super) fn name(mut self, blinded: [u8; 16]) -> Self {
        self.0.extend_from_slice(&blinded);
        self
    }

    /// Of another record's key.
    pub(super) fn key(mut self, key: &[u8]) -> Self {
        self.0.extend_from_slice(key);
        self
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for Place {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The last four bytes of a key as a number.
pub(super) fn last_u32(key: &[u8]) -> Option<u32> {
    key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The last eight bytes of a key as a number.
pub(super) fn last_u64(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The last sixteen bytes of a key as an id.
pub(super) fn last_conversation(key: &[u8]) -> Option<ConversationId> {
    key.last_chunk::<16>().and_then(|bytes| ConversationId::from_wire(bytes).ok())
}
