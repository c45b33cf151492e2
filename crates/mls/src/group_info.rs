//! The `GroupInfo` that comes with a commit: what a device joins with by itself (RFC 9420, section 12.4.3).
//!
//! **Invariant**: what passes here is signed by the committer and says exactly what the commit leads to; only whether
//! its external key belongs to the new epoch is for members to know.

use openmls::{
    messages::group_info::{GroupInfo, VerifiableGroupInfo},
    prelude::{
        ConfirmationTag, Extension, GroupContext, LeafNodeIndex, MlsMessageBodyIn, OpenMlsCrypto, SignaturePublicKey,
        Verifiable as _,
    },
};

use crate::{HandshakeError, Leaf, suite};

/// An X-Wing public key.
const EXTERNAL_PUB_BYTES: usize = 1216;

fn refused(text: &str) -> HandshakeError {
    HandshakeError::GroupInfo(text.to_owned())
}

/// Reads an MLSMessage with a `GroupInfo`.
pub(crate) fn parse(bytes: &[u8]) -> Result<VerifiableGroupInfo, HandshakeError> {
    if bytes.len() > suite::MAX_TREE_BYTES {
        return Err(refused("the GroupInfo is too large"));
    }
    match suite::parse(bytes) {
        Some(MlsMessageBodyIn::GroupInfo(group_info)) => Ok(group_info),
        _ => Err(refused("not an MLSMessage with a GroupInfo")),
    }
}

/// Checks the `GroupInfo` of the epoch that a commit leads to.
pub(crate) fn check(
    crypto: &impl OpenMlsCrypto,
    bytes: &[u8],
    context: &GroupContext,
    confirmation_tag: &ConfirmationTag,
    committer: &Leaf,
) -> Result<(), HandshakeError> {
    let found = parse(bytes)?;
    if found.group_context() != context {
        return Err(refused("the GroupInfo is not that of the epoch that the commit leads to"));
    }
    if !has_external_key_alone(&found) {
        return Err(refused("the GroupInfo must have one extension, the external public key"));
    }
    let expected = VerifiableGroupInfo::new(
        context.clone(),
        found.extensions().clone(),
        confirmation_tag.clone(),
        LeafNodeIndex::new(committer.index),
        found.signature().clone(),
    );
    if expected != found {
        return Err(refused("the GroupInfo has another confirmation tag or signer than the commit"));
    }
    let key = SignaturePublicKey::from(committer.signature_key.as_slice())
        .into_signature_public_key_enriched(suite::SUITE.signature_algorithm());
    let verified: Result<GroupInfo, _> = found.verify(crypto, &key);
    verified.map(drop).map_err(|_| refused("the GroupInfo is not signed by the committer"))
}

fn has_external_key_alone(group_info: &VerifiableGroupInfo) -> bool {
    let mut extensions = group_info.extensions().iter();
    let key = match (extensions.next(), extensions.next()) {
        (Some(Extension::ExternalPub(extension)), None) => extension.external_pub(),
        _ => return false,
    };
    key.as_slice().len() == EXTERNAL_PUB_BYTES
}
