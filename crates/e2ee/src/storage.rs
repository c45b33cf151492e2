//! What OpenMLS stores, as records of a [`Trial`].
//!
//! A key is one byte for the kind of record and the postcard of OpenMLS's key; a value is postcard, but for the join
//! configuration, whose untagged enum only a self-describing format reads back: that one is JSON.
//!
//! **Invariant**: a value that does not decode is a failure of the store, never "nothing there".

use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::{
    encoding,
    state::{StorageFailed, StoreError, Trial},
};

const V: u16 = CURRENT_VERSION;

/// The kinds of records. The numbers are in stored keys: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Record {
    KeyPackage = 1,
    Psk = 2,
    EncryptionKeyPair = 3,
    SignatureKeyPair = 4,
    EpochKeyPairs = 5,
    /// Ours, not OpenMLS's: which key packages are kept.
    KeyPackageRefs = 6,
    /// Ours: what an external commit will have done that does not stand in the log yet.
    Rejoining = 7,
    Tree = 10,
    GroupContext = 11,
    InterimTranscriptHash = 12,
    ConfirmationTag = 13,
    JoinConfig = 20,
    OwnLeafNodes = 21,
    GroupState = 22,
    Proposal = 23,
    ProposalRefs = 24,
    OwnLeafIndex = 25,
    EpochSecrets = 26,
    ResumptionPsks = 27,
    MessageSecrets = 28,
}

pub(crate) type Outcome<T> = Result<T, StorageFailed>;

impl Record {
    fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        match self {
            Self::JoinConfig => serde_json::to_vec(value).map(Zeroizing::new).map_err(StoreError::new),
            _ => encoding::encode(value).map_err(|_| self.damaged()),
        }
    }

    fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, StoreError> {
        match self {
            Self::JoinConfig => serde_json::from_slice(bytes).map_err(|_| self.damaged()),
            _ => encoding::decode(bytes).map_err(|_| self.damaged()),
        }
    }

    fn damaged(self) -> StoreError {
        StoreError::new(format!("a record of kind {self:?} is damaged"))
    }
}

impl Trial<'_> {
    fn key<K: Serialize + ?Sized>(&self, record: Record, key: &K) -> Outcome<Vec<u8>> {
        let encoded = encoding::encode(key).map_err(|_| self.note(record.damaged()))?;
        Ok([&[record as u8], encoded.as_slice()].concat())
    }

    pub(crate) fn put<K: Serialize + ?Sized, T: Serialize + ?Sized>(
        &self,
        record: Record,
        key: &K,
        value: &T,
    ) -> Outcome<()> {
        let value = record.encode(value).map_err(|failure| self.note(failure))?;
        self.write(self.key(record, key)?, Some(value));
        Ok(())
    }

    pub(crate) fn get<K: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        record: Record,
        key: &K,
    ) -> Outcome<Option<T>> {
        self.read(&self.key(record, key)?, |bytes| record.decode(bytes))
    }

    pub(crate) fn delete<K: Serialize + ?Sized>(&self, record: Record, key: &K) -> Outcome<()> {
        self.write(self.key(record, key)?, None);
        Ok(())
    }

    /// A list is a record of encoded elements; an empty one is not stored.
    fn list<K: Serialize + ?Sized>(&self, record: Record, key: &K) -> Outcome<Vec<Zeroizing<Vec<u8>>>> {
        let encoded: Vec<Vec<u8>> = self.get(record, key)?.unwrap_or_default();
        Ok(encoded.into_iter().map(Zeroizing::new).collect())
    }

    fn put_list<K: Serialize + ?Sized>(&self, record: Record, key: &K, list: &[Zeroizing<Vec<u8>>]) -> Outcome<()> {
        if list.is_empty() {
            return self.delete(record, key);
        }
        let elements: Vec<&Vec<u8>> = list.iter().map(|element| &**element).collect();
        self.put(record, key, &elements)
    }

    fn element<T: Serialize + ?Sized>(&self, record: Record, value: &T) -> Outcome<Zeroizing<Vec<u8>>> {
        record.encode(value).map_err(|failure| self.note(failure))
    }

    fn elements<K: Serialize + ?Sized, T: DeserializeOwned>(&self, record: Record, key: &K) -> Outcome<Vec<T>> {
        let list = self.list(record, key)?;
        list.iter().map(|element| record.decode(element).map_err(|failure| self.note(failure))).collect()
    }
}

/// The three methods of a record that is written, read and deleted as a whole. Some getters of the trait name the
/// value's type before the key's: those rows say `value_first`.
macro_rules! record {
    ($record:ident: $write:ident $read:ident $delete:ident ($key:ident, $value:ident)) => {
        fn $write<K: traits::$key<V>, T: traits::$value<V>>(&self, key: &K, value: &T) -> Outcome<()> {
            self.put(Record::$record, key, value)
        }
        fn $read<K: traits::$key<V>, T: traits::$value<V>>(&self, key: &K) -> Outcome<Option<T>> {
            self.get(Record::$record, key)
        }
        record!(@delete $record $delete $key);
    };
    (value_first $record:ident: $write:ident $read:ident $delete:ident ($key:ident, $value:ident)) => {
        fn $write<K: traits::$key<V>, T: traits::$value<V>>(&self, key: &K, value: &T) -> Outcome<()> {
            self.put(Record::$record, key, value)
        }
        fn $read<T: traits::$value<V>, K: traits::$key<V>>(&self, key: &K) -> Outcome<Option<T>> {
            self.get(Record::$record, key)
        }
        record!(@delete $record $delete $key);
    };
    (@delete $record:ident $delete:ident $key:ident) => {
        fn $delete<K: traits::$key<V>>(&self, key: &K) -> Outcome<()> {
            Trial::delete(self, Record::$record, key)
        }
    };
}

impl StorageProvider<V> for Trial<'_> {
    type Error = StorageFailed;

    record!(JoinConfig: write_mls_join_config mls_group_join_config delete_group_config (GroupId, MlsGroupJoinConfig));
    record!(Tree: write_tree tree delete_tree (GroupId, TreeSync));
    record!(InterimTranscriptHash: write_interim_transcript_hash interim_transcript_hash delete_interim_transcript_hash
        (GroupId, InterimTranscriptHash));
    record!(GroupContext: write_context group_context delete_context (GroupId, GroupContext));
    record!(ConfirmationTag: write_confirmation_tag confirmation_tag delete_confirmation_tag
        (GroupId, ConfirmationTag));
    record!(MessageSecrets: write_message_secrets message_secrets delete_message_secrets (GroupId, MessageSecrets));
    record!(ResumptionPsks: write_resumption_psk_store resumption_psk_store delete_all_resumption_psk_secrets
        (GroupId, ResumptionPskStore));
    record!(OwnLeafIndex: write_own_leaf_index own_leaf_index delete_own_leaf_index (GroupId, LeafNodeIndex));
    record!(EpochSecrets: write_group_epoch_secrets group_epoch_secrets delete_group_epoch_secrets
        (GroupId, GroupEpochSecrets));
    record!(SignatureKeyPair: write_signature_key_pair signature_key_pair delete_signature_key_pair
        (SignaturePublicKey, SignatureKeyPair));
    record!(KeyPackage: write_key_package key_package delete_key_package (HashReference, KeyPackage));
    record!(value_first EncryptionKeyPair: write_encryption_key_pair encryption_key_pair delete_encryption_key_pair
        (EncryptionKey, HpkeKeyPair));
    record!(value_first Psk: write_psk psk delete_psk (PskId, PskBundle));

    fn write_group_state<S: traits::GroupState<V>, G: traits::GroupId<V>>(&self, group: &G, state: &S) -> Outcome<()> {
        self.put(Record::GroupState, group, state)
    }

    fn group_state<S: traits::GroupState<V>, G: traits::GroupId<V>>(&self, group: &G) -> Outcome<Option<S>> {
        self.get(Record::GroupState, group)
    }

    record!(@delete GroupState delete_group_state GroupId);

    fn append_own_leaf_node<G: traits::GroupId<V>, L: traits::LeafNode<V>>(&self, group: &G, leaf: &L) -> Outcome<()> {
        let mut list = self.list(Record::OwnLeafNodes, group)?;
        list.push(self.element(Record::OwnLeafNodes, leaf)?);
        self.put_list(Record::OwnLeafNodes, group, &list)
    }

    fn own_leaf_nodes<G: traits::GroupId<V>, L: traits::LeafNode<V>>(&self, group: &G) -> Outcome<Vec<L>> {
        self.elements(Record::OwnLeafNodes, group)
    }

    record!(@delete OwnLeafNodes delete_own_leaf_nodes GroupId);

    fn queue_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>, Q: traits::QueuedProposal<V>>(
        &self,
        group: &G,
        reference: &R,
        proposal: &Q,
    ) -> Outcome<()> {
        self.put(Record::Proposal, &(group, reference), proposal)?;
        let element = self.element(Record::ProposalRefs, reference)?;
        let mut list = self.list(Record::ProposalRefs, group)?;
        if !list.contains(&element) {
            list.push(element);
        }
        self.put_list(Record::ProposalRefs, group, &list)
    }

    fn queued_proposal_refs<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, group: &G) -> Outcome<Vec<R>> {
        self.elements(Record::ProposalRefs, group)
    }

    fn queued_proposals<G: traits::GroupId<V>, R: traits::ProposalRef<V>, Q: traits::QueuedProposal<V>>(
        &self,
        group: &G,
    ) -> Outcome<Vec<(R, Q)>> {
        let references: Vec<R> = self.queued_proposal_refs(group)?;
        let with_proposal = |reference| match self.get(Record::Proposal, &(group, &reference))? {
            Some(proposal) => Ok((reference, proposal)),
            None => Err(self.note(Record::Proposal.damaged())),
        };
        references.into_iter().map(with_proposal).collect()
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        group: &G,
        reference: &R,
    ) -> Outcome<()> {
        let element = self.element(Record::ProposalRefs, reference)?;
        let mut list = self.list(Record::ProposalRefs, group)?;
        list.retain(|other| *other != element);
        self.put_list(Record::ProposalRefs, group, &list)?;
        Trial::delete(self, Record::Proposal, &(group, reference))
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, group: &G) -> Outcome<()> {
        for reference in self.queued_proposal_refs::<G, R>(group)? {
            Trial::delete(self, Record::Proposal, &(group, &reference))?;
        }
        Trial::delete(self, Record::ProposalRefs, group)
    }

    fn write_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>, H: traits::HpkeKeyPair<V>>(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
        pairs: &[H],
    ) -> Outcome<()> {
        self.put(Record::EpochKeyPairs, &(group, epoch, leaf), pairs)
    }

    fn encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>, H: traits::HpkeKeyPair<V>>(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
    ) -> Outcome<Vec<H>> {
        Ok(self.get(Record::EpochKeyPairs, &(group, epoch, leaf))?.unwrap_or_default())
    }

    fn delete_encryption_epoch_key_pairs<G: traits::GroupId<V>, E: traits::EpochKey<V>>(
        &self,
        group: &G,
        epoch: &E,
        leaf: u32,
    ) -> Outcome<()> {
        Trial::delete(self, Record::EpochKeyPairs, &(group, epoch, leaf))
    }
}
