//! Who is in a conversation: the leaves of its tree, taken from their certificates.
//!
//! **Invariant**: leaves are in the order of the tree, and each is for its own signature key. Whether the identities
//! signed them is the devices' to verify.

use std::collections::BTreeSet;

use openmls::prelude::{
    Credential, GroupContext, LeafNode, LeafNodeIndex, PublicGroup, RatchetTreeIn,
    tls_codec::{Serialize as _, Size as _},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Certificate, GroupProfile, MalformedCertificate, Refusal, suite};

/// A device in a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// Its place in the tree.
    pub index: u32,
    /// Its account's name on the server.
    pub account: String,
    /// Its id.
    pub device: Uuid,
    /// The identity in its certificate: a SubjectPublicKeyInfo in DER.
    pub identity: Vec<u8>,
    /// Its Ed25519 key.
    pub signature_key: Vec<u8>,
    /// The whole certificate.
    pub certificate: Vec<u8>,
}

/// A conversation's members at one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// The epoch.
    pub epoch: u64,
    /// A group's profile; `None` for a direct conversation.
    pub profile: Option<GroupProfile>,
    /// The devices, in the order of the tree.
    pub leaves: Vec<Leaf>,
    /// Accounts that have proposed to leave at this epoch; sorted.
    pub leaving: Vec<String>,
}

impl Leaf {
    /// Reads a leaf node.
    ///
    /// # Errors
    /// Its certificate is malformed or for another key, or it declares other capabilities than all leaves do.
    pub fn from_node(index: u32, node: &LeafNode) -> Result<Self, Refusal> {
        if *node.capabilities() != suite::capabilities() || node.extensions().iter().next().is_some() {
            return Err(Refusal::not_allowed("a leaf declares other capabilities or extensions than all devices do"));
        }
        Self::from_credential(index, node.credential(), node.signature_key().as_slice())
    }

    fn from_credential(index: u32, credential: &Credential, signature_key: &[u8]) -> Result<Self, Refusal> {
        let malformed = |error: MalformedCertificate| Refusal::NotAllowed(error.to_string());
        let Certificate { account, device, leaf_key, identity_key, signature: _ } =
            Certificate::from_credential(credential).map_err(malformed)?;
        if leaf_key != signature_key {
            return Err(malformed(MalformedCertificate::OtherKey));
        }
        let certificate = credential.serialized_content().to_vec();
        Ok(Self { index, account, device, identity: identity_key, signature_key: leaf_key, certificate })
    }
}

impl Roster {
    /// Reads a group's public state; `leaving` are the leaves that have proposed to leave.
    ///
    /// # Errors
    /// A leaf or the profile is malformed.
    pub fn of(group: &PublicGroup, leaving: &[u32]) -> Result<Self, Refusal> {
        let profile = GroupProfile::from_extensions(group.group_context().extensions()).map_err(Refusal::from)?;
        let indices: Vec<LeafNodeIndex> = group.members().map(|member| member.index).collect();
        let mut leaves = Vec::with_capacity(indices.len());
        for index in indices {
            let node = group.leaf(index).ok_or_else(|| Refusal::not_allowed("a member has no leaf"))?;
            leaves.push(Leaf::from_node(index.u32(), node)?);
        }
        let epoch = group.group_context().epoch().as_u64();
        let mut roster = Self { epoch, profile, leaves, leaving: Vec::new() };
        let accounts: BTreeSet<String> =
            leaving.iter().filter_map(|index| roster.leaf(*index)).map(|leaf| leaf.account.clone()).collect();
        roster.leaving = accounts.into_iter().collect();
        Ok(roster)
    }

    /// Reads a tree that nothing was verified of yet, for who is about to join by itself.
    ///
    /// # Errors
    /// A leaf or the profile is malformed.
    pub fn of_unverified(context: &GroupContext, tree: &RatchetTreeIn) -> Result<Self, Refusal> {
        let profile = GroupProfile::from_extensions(context.extensions()).map_err(Refusal::from)?;
        let indices = leaf_indices(tree).ok_or_else(|| Refusal::not_allowed("the ratchet tree is malformed"))?;
        let leaves = tree
            .leaves()
            .zip(indices)
            .map(|(leaf, index)| Leaf::from_credential(index, leaf.credential(), leaf.signature_key().as_slice()));
        let leaves = leaves.collect::<Result<_, _>>()?;
        Ok(Self { epoch: context.epoch().as_u64(), profile, leaves, leaving: Vec::new() })
    }

    /// The leaf at this place.
    #[must_use]
    pub fn leaf(&self, index: u32) -> Option<&Leaf> {
        self.leaves.binary_search_by_key(&index, |leaf| leaf.index).ok().map(|position| &self.leaves[position])
    }

    /// The leaves of an account.
    pub fn leaves_of<'a>(&'a self, account: &'a str) -> impl Iterator<Item = &'a Leaf> {
        self.leaves.iter().filter(move |leaf| leaf.account == account)
    }

    /// The leaf of a device.
    #[must_use]
    pub fn device(&self, account: &str, device: Uuid) -> Option<&Leaf> {
        self.leaves.iter().find(|leaf| leaf.device == device && leaf.account == account)
    }

    /// The accounts, each once, sorted.
    #[must_use]
    pub fn accounts(&self) -> Vec<&str> {
        let accounts: BTreeSet<&str> = self.leaves.iter().map(|leaf| leaf.account.as_str()).collect();
        accounts.into_iter().collect()
    }

    /// The identity (DER) of an account's leaves.
    #[must_use]
    pub fn identity_of(&self, account: &str) -> Option<&[u8]> {
        self.leaves.iter().find(|leaf| leaf.account == account).map(|leaf| leaf.identity.as_slice())
    }

    /// Whether the account is an admin of this group.
    #[must_use]
    pub fn is_admin(&self, account: &str) -> bool {
        self.profile.as_ref().is_some_and(|profile| profile.is_admin(account))
    }
}

/// Where in the tree the leaves are that are not blank.
///
/// OpenMLS gives an unverified tree's nodes without their places; the encoding, a vector of optional nodes (RFC 9420,
/// section 12.4.3.3), has them.
fn leaf_indices(tree: &RatchetTreeIn) -> Option<Vec<u32>> {
    let bytes = tree.tls_serialize_detached().ok()?;
    // The vector's length takes 1, 2 or 4 bytes (RFC 9420, section 2.1.2).
    let mut rest = bytes.get(1_usize << (bytes.first()? >> 6)..)?;
    let (mut nodes, mut indices, mut place) = (tree.nodes(), Vec::new(), 0_u32);
    while let Some((present, after)) = rest.split_first() {
        rest = match present {
            0 => after,
            _ => after.get(nodes.next()?.tls_serialized_len()..)?,
        };
        if *present != 0 && place % 2 == 0 {
            indices.push(place / 2);
        }
        place = place.checked_add(1)?;
    }
    Some(indices)
}
