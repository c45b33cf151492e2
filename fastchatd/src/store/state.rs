//! The encryption state (OpenMLS's records) in the store.
//!
//! sled moves values of 32 KB and more into files of their own that it does not shrink, and a ratchet step changes little
//! of a large record: records are kept in blocks, and only blocks that differ are written.
//!
//! **Invariant**: the blocks of a record are always those of one version of it.

use fastchat_e2ee::{Changes, StateStore, StoreError as StateError};
use zeroize::Zeroizing;

use super::{
    Record, Store, StoreError,
    place::{self, Place},
};

const BLOCK: usize = 8 * 1024;

/// The encryption state of one account, for `e2ee::Transaction`.
pub struct StateReader<'a> {
    store: &'a Store,
    account: u32,
}

impl StateStore for StateReader<'_> {
    fn read(&self, key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        self.store.read_state(self.account, key).map_err(StateError::new)
    }
}

impl Store {
    /// The encryption state of an account.
    #[must_use]
    pub fn state(&self, account: u32) -> StateReader<'_> {
        StateReader { store: self, account }
    }

    /// The records that turn the state on disk into the changed one.
    pub(super) fn state_records(
        &self,
        account: u32,
        changes: Changes,
        records: &mut Vec<Record>,
    ) -> Result<(), StoreError> {
        for (key, value) in changes {
            let prefix = self.state_place(account, &key);
            let old = self.blocks(&prefix)?;
            let new = value.as_deref().map(|value| with_length(value));
            let mut count = 0;
            for (index, block) in new.iter().flat_map(|value| value.chunks(BLOCK)).enumerate() {
                if old.get(index).is_none_or(|old| old.as_slice() != block) {
                    records.push((block_place(&prefix, index)?, Some(Zeroizing::new(block.to_vec()))));
                }
                count = index + 1;
            }
            for index in count..old.len() {
                records.push((block_place(&prefix, index)?, None));
            }
        }
        Ok(())
    }

    fn read_state(&self, account: u32, key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let blocks = self.blocks(&self.state_place(account, key))?;
        let Some(first) = blocks.first() else { return Ok(None) };
        let length = first.first_chunk::<4>().ok_or(StoreError::Damaged)?;
        let length = u32::from_be_bytes(*length) as usize;
        let mut value = Zeroizing::new(Vec::with_capacity(length + 4));
        for block in &blocks {
            value.extend_from_slice(block);
        }
        value.drain(..4);
        if value.len() == length { Ok(Some(value)) } else { Err(StoreError::Damaged) }
    }

    fn blocks(&self, prefix: &Place) -> Result<Vec<Zeroizing<Vec<u8>>>, StoreError> {
        let mut blocks = Vec::new();
        for record in self.tree.scan_prefix(prefix) {
            let (key, sealed) = record?;
            blocks.push(self.sealer.open(&key, &sealed)?);
        }
        Ok(blocks)
    }

    fn state_place(&self, account: u32, key: &[u8]) -> Place {
        Place::account(place::STATE, account).name(self.sealer.blind(&[b"state", key]))
    }
}

fn block_place(prefix: &Place, index: usize) -> Result<Vec<u8>, StoreError> {
    let index = u32::try_from(index).map_err(|_| StoreError::Damaged)?;
    Ok(prefix.clone().u32(index).into_bytes())
}

fn with_length(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(value.len() + 4));
    // A record is far below 4 GiB; a longer one would be found damaged when read.
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}
