//! Values that are too long for one record of sled.
//!
//! sled moves long values into files of their own, which it neither syncs nor shrinks: a power cut could take a message
//! that was confirmed. So a sealed value is cut into parts, each of which stays in sled's log.
//!
//! **Invariant**: no record is longer than [`WHOLE`]; the parts of a value are always those of one version of it.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{
    Record, Store, StoreError,
    place::{self, Place},
};

/// The most bytes of one record.
const WHOLE: usize = 16 * 1024;

impl Store {
    /// Makes all changes at once; of two for one key the later counts.
    pub(super) fn apply(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let last: BTreeMap<&[u8], Option<&[u8]>> =
            records.iter().map(|(key, value)| (key.as_slice(), value.as_ref().map(|value| value.as_slice()))).collect();
        let mut batch = sled::Batch::default();
        for (key, value) in last {
            for part in self.part_keys(key)? {
                batch.remove(part);
            }
            let Some(value) = value else {
                batch.remove(key);
                continue;
            };
            let sealed = self.sealer.seal(key, value)?;
            let mut parts = sealed.chunks(WHOLE);
            batch.insert(key, parts.next().unwrap_or_default());
            for (index, part) in (0_u32..).zip(parts) {
                batch.insert(part_place(key).u32(index).into_bytes(), part);
            }
        }
        self.tree.apply_batch(batch)?;
        self.dirty = true;
        Ok(())
    }

    /// Opens the value at `key` whose record, or the first part of it, is `first`.
    pub(super) fn open_record(&self, key: &[u8], first: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        if first.len() < WHOLE {
            return self.sealer.open(key, first);
        }
        let mut sealed = first.to_vec();
        for part in self.tree.scan_prefix(part_place(key)).values() {
            sealed.extend_from_slice(&part?);
        }
        self.sealer.open(key, &sealed)
    }

    /// The keys of the parts that the value at `key` has beside its first.
    fn part_keys(&self, key: &[u8]) -> Result<Vec<sled::IVec>, StoreError> {
        if self.tree.get(key)?.is_none_or(|first| first.len() < WHOLE) {
            return Ok(Vec::new());
        }
        Ok(self.tree.scan_prefix(part_place(key)).keys().collect::<Result<_, _>>()?)
    }
}

fn part_place(key: &[u8]) -> Place {
    Place::of(place::PART).key(key)
}
