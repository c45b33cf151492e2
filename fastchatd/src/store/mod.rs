//! The daemon's store: one sled tree, every value sealed, every change atomic.
//!
//! A [`Write`] collects all records of one step of the daemon (MLS state, message, cursor, event); [`Store::commit`]
//! applies them as one batch, [`Store::sync`] makes everything committed so far survive a power cut. Small tables
//! (accounts, contacts, chats, conversations) are held in memory as well and change together with their records.
//!
//! sled 0.34's `flush` hands pages to the system without waiting for the disk, so `sync` adds an `fdatasync` of its file.
//!
//! **Invariant**: memory never shows a change that its batch has not made; nothing outside is told of a change before `sync`.

mod parts;
mod place;
mod read;
pub mod rows;
mod seal;
mod state;
mod write;

use std::{collections::BTreeMap, fs::File, path::Path};

use fastchat_ipc::KeyStore;
use fastchat_wire::ConversationId;
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use place::Place;
use rows::{AccountRow, ChatRow, ContactRow, ConversationRow, GroupRow, Header, Settings};
use seal::Sealer;

pub use state::StateReader;
pub use write::Write;

/// The layout that this program writes.
const LAYOUT: u32 = 2;
/// The version byte of a row's encoding.
const ROW_VERSION: u8 = 1;
/// Memory that sled may use for pages.
const CACHE_BYTES: u64 = 8 << 20;
/// Durable events kept.
pub const EVENTS_KEPT: u64 = 20_000;
/// Below this much free space nothing new is taken in, so that what is there can still be finished.
const ROOM_BYTES: u64 = 32 << 20;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The root key is not the one that the store was made with.
    #[error("the key does not open the store")]
    WrongKey,
    /// A newer program wrote it.
    #[error("the store has layout {0}, this program knows {LAYOUT}: it was written by a newer version")]
    Newer(u32),
    /// A program from before groups and devices wrote it; none of those was released.
    #[error("the store has layout {0}, which no released version wrote; move it away and log in again")]
    Older(u32),
    /// A record does not open or is not what it should be.
    #[error("a record of the store is damaged")]
    Damaged,
    /// Sealing failed, which no input can cause.
    #[error("a record could not be sealed")]
    Seal,
    /// A row could not be encoded.
    #[error("a row could not be encoded: {0}")]
    Encode(#[from] postcard::Error),
    /// The database.
    #[error("the database: {0}")]
    Database(#[from] sled::Error),
    /// The file system.
    #[error("the disk: {0}")]
    Disk(#[from] std::io::Error),
}

/// What is held in memory as well as on disk.
#[derive(Default)]
pub struct Tables {
    /// What the people set.
    pub settings: Settings,
    /// Accounts by number.
    pub accounts: BTreeMap<u32, AccountRow>,
    /// Contacts by account and number.
    pub contacts: BTreeMap<(u32, u32), ContactRow>,
    /// Chats by account and number.
    pub chats: BTreeMap<(u32, u32), ChatRow>,
    /// Groups by account and chat.
    pub groups: BTreeMap<(u32, u32), GroupRow>,
    /// Conversations by account and id.
    pub conversations: BTreeMap<(u32, ConversationId), ConversationRow>,
    /// The oldest event kept.
    pub first_event: u64,
    /// The next event's number.
    pub next_event: u64,
}

/// The store, open.
pub struct Store {
    tree: sled::Db,
    file: File,
    sealer: Sealer,
    tables: Tables,
    dirty: bool,
}

impl Store {
    /// Opens the store in `directory`, or makes it there.
    ///
    /// # Errors
    /// The key is another store's, the disk fails, or another process has it open.
    pub fn open(directory: &Path, root: &[u8; 32], key_store: KeyStore) -> Result<Self, StoreError> {
        let tree = sled::Config::new().path(directory).flush_every_ms(None).cache_capacity(CACHE_BYTES).open()?;
        let file = File::open(directory.join("db"))?;
        let sealer = Sealer::new(root)?;
        let mut store = Self { tree, file, sealer, tables: Tables::default(), dirty: false };
        store.check_header(key_store)?;
        store.load_tables()?;
        store.sync()?;
        // sled never syncs its own files' names, nor what it writes beside the log at the first opening.
        File::open(directory.join("conf"))?.sync_all()?;
        File::open(directory)?.sync_all()?;
        Ok(store)
    }

    /// What is held in memory.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Makes everything that was committed survive a power cut.
    ///
    /// # Errors
    /// After an error the state of the disk is unknown: the process has to end.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        if self.dirty {
            self.tree.flush()?;
            self.file.sync_data()?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Whether there is room for more on the disk.
    #[must_use]
    pub fn has_room(&self) -> bool {
        rustix::fs::fstatvfs(&self.file).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > ROOM_BYTES)
    }

    fn check_header(&mut self, key_store: KeyStore) -> Result<(), StoreError> {
        let place = Place::of(place::HEADER);
        let Some(sealed) = self.tree.get(&place)? else {
            let header = encode(&Header { layout: LAYOUT, key_store })?;
            let mut batch = sled::Batch::default();
            batch.insert(place.as_ref(), self.sealer.seal(place.as_ref(), &header)?);
            self.tree.apply_batch(batch)?;
            self.dirty = true;
            return Ok(());
        };
        let header = self.sealer.open(place.as_ref(), &sealed).map_err(|_| StoreError::WrongKey)?;
        let header: Header = decode(&header)?;
        match header.layout {
            LAYOUT => Ok(()),
            newer if newer > LAYOUT => Err(StoreError::Newer(newer)),
            older => Err(StoreError::Older(older)),
        }
    }
}

/// A record to write at a key (`None`: to remove), before it is sealed.
type Record = (Vec<u8>, Option<Zeroizing<Vec<u8>>>);

fn encode<T: Serialize>(row: &T) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    Ok(Zeroizing::new(postcard::to_extend(row, vec![ROW_VERSION])?))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&ROW_VERSION, row)) => Ok(postcard::from_bytes(row)?),
        _ => Err(StoreError::Damaged),
    }
}

#[cfg(test)]
mod tests;
