//! The records of one conversation's public state, as OpenMLS asks for them.
//!
//! **Invariant**: one conversation per storage: group ids are not looked at.

use std::cell::RefCell;

use openmls_traits::{
    public_storage::PublicStorageProvider,
    storage::{CURRENT_VERSION, traits},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::encoding;

const V: u16 = CURRENT_VERSION;

/// A record does not encode or decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored conversation is damaged")]
pub(crate) struct Damaged;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Records {
    tree: Option<Vec<u8>>,
    context: Option<Vec<u8>>,
    interim_transcript_hash: Option<Vec<u8>>,
    confirmation_tag: Option<Vec<u8>>,
    /// Reference and proposal.
    proposals: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Default)]
pub(crate) struct PublicStorage(pub(crate) RefCell<Records>);

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Damaged> {
    encoding::encode(value).map_err(|_| Damaged)
}

fn decode<T: DeserializeOwned>(record: Option<&Vec<u8>>) -> Result<Option<T>, Damaged> {
    record.map(|bytes| encoding::decode(bytes)).transpose().map_err(|_| Damaged)
}

/// The three methods of a record that is written, read and deleted as a whole.
macro_rules! record {
    ($field:ident: $write:ident $read:ident $delete:ident $value:ident) => {
        fn $write<G: traits::GroupId<V>, T: traits::$value<V>>(&self, _: &G, value: &T) -> Result<(), Damaged> {
            self.0.borrow_mut().$field = Some(encode(value)?);
            Ok(())
        }
        fn $read<G: traits::GroupId<V>, T: traits::$value<V>>(&self, _: &G) -> Result<Option<T>, Damaged> {
            decode(self.0.borrow().$field.as_ref())
        }
        fn $delete<G: traits::GroupId<V>>(&self, _: &G) -> Result<(), Damaged> {
            self.0.borrow_mut().$field = None;
            Ok(())
        }
    };
}

impl PublicStorageProvider<V> for PublicStorage {
    type PublicError = Damaged;

    record!(tree: write_tree tree delete_tree TreeSync);
    record!(context: write_context group_context delete_context GroupContext);
    record!(interim_transcript_hash: write_interim_transcript_hash interim_transcript_hash
        delete_interim_transcript_hash InterimTranscriptHash);
    record!(confirmation_tag: write_confirmation_tag confirmation_tag delete_confirmation_tag ConfirmationTag);

    fn queue_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>, P: traits::QueuedProposal<V>>(
        &self,
        _: &G,
        reference: &R,
        proposal: &P,
    ) -> Result<(), Damaged> {
        self.0.borrow_mut().proposals.push((encode(reference)?, encode(proposal)?));
        Ok(())
    }

    fn queued_proposals<G: traits::GroupId<V>, R: traits::ProposalRef<V>, P: traits::QueuedProposal<V>>(
        &self,
        _: &G,
    ) -> Result<Vec<(R, P)>, Damaged> {
        let decode = |(reference, proposal): &(Vec<u8>, Vec<u8>)| {
            Ok((encoding::decode(reference).map_err(|_| Damaged)?, encoding::decode(proposal).map_err(|_| Damaged)?))
        };
        self.0.borrow().proposals.iter().map(decode).collect()
    }

    fn remove_proposal<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(
        &self,
        _: &G,
        reference: &R,
    ) -> Result<(), Damaged> {
        let reference = encode(reference)?;
        self.0.borrow_mut().proposals.retain(|(other, _)| *other != reference);
        Ok(())
    }

    fn clear_proposal_queue<G: traits::GroupId<V>, R: traits::ProposalRef<V>>(&self, _: &G) -> Result<(), Damaged> {
        self.0.borrow_mut().proposals.clear();
        Ok(())
    }
}
