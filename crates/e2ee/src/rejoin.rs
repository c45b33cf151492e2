//! Joining a group by oneself: the external commit of a device whose account is a member (RFC 9420, section 12.4.3.2).
//!
//! For a new device, one that lost its state, and one that stayed away for longer than the log is kept. With the same
//! signature key in the tree the old leaf is replaced in the same commit.
//!
//! **Invariant**: a device joins only a group in which its account is under its own identity, and in which every leaf's
//! certificate is good.

use fastchat_mls::{Effect, Leaf, Refusal, Roster, rules, suite};
use openmls::{
    messages::group_info::VerifiableGroupInfo,
    prelude::{
        CredentialWithKey, LeafNodeParameters, MlsGroup, MlsMessageBodyIn, OpenMlsProvider as _, PublicMessageIn,
        RatchetTreeIn, Sender, tls_codec::Serialize as _,
    },
};
use uuid::Uuid;

use crate::{
    CertificateError, Device, IdentityKey, JoinError, Prepared, StoreError, commit,
    join::{parse_tree, verify_members},
    mls::{self, Provider, SUITE, group_id},
    storage::Record,
};

fn refused(error: impl Into<mls::MlsError>) -> JoinError {
    JoinError::Mls(error.into())
}

/// Makes the external commit. What this device had of the conversation is gone; the new state is good once the commit
/// stands in the log.
pub(crate) fn rejoin(
    provider: &Provider<'_>,
    device: &Device,
    conversation: Uuid,
    message_id: Uuid,
    group_info: &[u8],
    ratchet_tree: &[u8],
    proposals: &[Vec<u8>],
) -> Result<Prepared, JoinError> {
    let shown = group_info;
    let (group_info, tree) = (parse_group_info(shown, conversation)?, parse_tree(ratchet_tree)?);
    let before = Roster::of_unverified(group_info.group_context(), &tree)?;
    let shown_by = signer_of(shown).and_then(|index| before.leaf(index)).cloned();
    let identity = may_join(&before, device)?;
    let proposals = parse_proposals(proposals)?;
    let leaving: Vec<u32> = proposals.iter().map(|(leaf, _)| *leaf).collect();
    if leaving.iter().filter_map(|index| before.leaf(*index)).any(|leaf| leaf.account == device.account()) {
        return Err(Refusal::NotAllowed("the account leaves the group".to_owned()).into());
    }
    let taken = rules::taken_by_external(&before, &leaving);
    let proposals =
        proposals.into_iter().filter(|(leaf, _)| taken.contains(leaf)).map(|(_, message)| message).collect();
    drop_old(provider, conversation, before.epoch)?;
    let (group, message, group_info) =
        external_commit(provider, device, suite::entry_aad(conversation, message_id), group_info, tree, proposals)?;
    let after = verify_members(&group, device, &identity)?;
    let effect = effect(&before, &after, device)?;
    provider.trial.put(Record::Rejoining, &conversation.into_bytes(), &effect).map_err(StoreError::from)?;
    Ok(Prepared { epoch: before.epoch, message, group_info, welcomes: Vec::new(), shown_by })
}

fn parse_group_info(bytes: &[u8], conversation: Uuid) -> Result<VerifiableGroupInfo, JoinError> {
    if bytes.len() > suite::MAX_TREE_BYTES {
        return Err(JoinError::Malformed);
    }
    let Some(MlsMessageBodyIn::GroupInfo(group_info)) = mls::parse(bytes) else { return Err(JoinError::Malformed) };
    if *group_info.group_id() == group_id(conversation) && group_info.ciphersuite() == SUITE {
        Ok(group_info)
    } else {
        Err(JoinError::OtherConversation)
    }
}

/// The leaf that signed a `GroupInfo`, which OpenMLS verifies and does not name: the four bytes before the signature
/// (RFC 9420, section 12.4.3), whose length is fixed in our suite.
fn signer_of(group_info: &[u8]) -> Option<u32> {
    const SIGNATURE: [u8; 2] = [0x40, 64];
    let (rest, _) = group_info.split_last_chunk::<64>()?;
    let (rest, length) = rest.split_last_chunk::<2>()?;
    let signer = rest.last_chunk::<4>()?;
    (*length == SIGNATURE).then(|| u32::from_be_bytes(*signer))
}

/// The account is in the group under the device's identity; gives the identity.
fn may_join(before: &Roster, device: &Device) -> Result<IdentityKey, JoinError> {
    if before.profile.is_none() {
        return Err(JoinError::OtherConversation);
    }
    let own = fastchat_mls::Certificate::from_bytes(device.certificate()).map_err(CertificateError::from)?;
    let identity = IdentityKey::from_der(&own.identity_key).map_err(|_| CertificateError::Malformed)?;
    device.verify(&identity)?;
    match before.identity_of(device.account()) {
        Some(known) if known == identity.to_der() => Ok(identity),
        Some(_) => Err(CertificateError::OtherIdentity.into()),
        None => Err(Refusal::NotAllowed("only a device of a member joins by itself".to_owned()).into()),
    }
}

/// Proposals with the leaves that made them.
fn parse_proposals(proposals: &[Vec<u8>]) -> Result<Vec<(u32, PublicMessageIn)>, JoinError> {
    let parse = |bytes: &Vec<u8>| match mls::parse(bytes) {
        Some(MlsMessageBodyIn::PublicMessage(message)) => match message.sender() {
            Sender::Member(leaf) => Ok((leaf.u32(), message)),
            _ => Err(JoinError::Malformed),
        },
        _ => Err(JoinError::Malformed),
    };
    if proposals.len() > suite::MAX_LEAVES {
        return Err(JoinError::Malformed);
    }
    proposals.iter().map(parse).collect()
}

/// Deletes what this device has of the group, unless that is newer than what is offered.
fn drop_old(provider: &Provider<'_>, conversation: Uuid, offered: u64) -> Result<(), JoinError> {
    let on_its_way = commit::rejoining(provider, conversation)?.is_some();
    provider.trial.delete(Record::Rejoining, &conversation.into_bytes()).map_err(StoreError::from)?;
    let Some(mut group) = provider.load(conversation).map_err(StoreError::from)? else { return Ok(()) };
    let had = group.epoch().as_u64();
    if had > offered && !on_its_way {
        return Err(JoinError::Older { had, offered });
    }
    Ok(group.delete(&provider.trial).map_err(StoreError::from)?)
}

/// The group after the commit, the commit, and the new epoch's `GroupInfo`.
fn external_commit(
    provider: &Provider<'_>,
    device: &Device,
    aad: Vec<u8>,
    group_info: VerifiableGroupInfo,
    tree: RatchetTreeIn,
    proposals: Vec<PublicMessageIn>,
) -> Result<(MlsGroup, Vec<u8>, Vec<u8>), JoinError> {
    let credential: CredentialWithKey = device.credential();
    let leaf = LeafNodeParameters::builder().with_capabilities(suite::capabilities()).build();
    let (group, bundle) = MlsGroup::external_commit_builder()
        .with_config(mls::join_config())
        .with_ratchet_tree(tree)
        .with_proposals(proposals)
        .with_aad(aad)
        .skip_lifetime_validation()
        .build_group(provider, group_info, credential)
        .map_err(refused)?
        .leaf_node_parameters(leaf)
        .load_psks(provider.storage())
        .map_err(refused)?
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), device.signer(), |_| true)
        .map_err(refused)?
        .finalize(provider)
        .map_err(refused)?;
    let (message, _, group_info) = bundle.into_messages();
    let group_info = group_info.ok_or_else(|| refused("no group info was made"))?;
    let message = message.tls_serialize_detached().map_err(refused)?;
    Ok((group, message, group_info.tls_serialize_detached().map_err(refused)?))
}

fn effect(before: &Roster, after: &Roster, device: &Device) -> Result<Effect, JoinError> {
    let own = after.device(device.account(), device.id()).ok_or(CertificateError::OtherDevice)?;
    let gone = |old: &&Leaf| {
        let stays = after.leaf(old.index).is_some_and(|new| new.signature_key == old.signature_key);
        !stays || old.signature_key == own.signature_key
    };
    Ok(commit::external_effect(own, before.leaves.iter().filter(gone).cloned().collect()))
}
