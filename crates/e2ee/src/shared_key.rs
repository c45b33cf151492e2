//! Secrets that go from one identity to another beside a Welcome and into the MLS key schedule.
//!
//! The *friend key* of a direct conversation: 32 random bytes. The *join key* of a commit that adds devices to a group:
//! 32 bytes exported from the epoch at which the commit is made, so members know it and joiners are told. Either is
//! wrapped by RSA-OAEP to the joiner's identity and PSS-signed by the adder's, and becomes an external pre-shared key
//! (RFC 9420, section 8.4): a server that hands out key packages of its own learns nothing without the joiner's RSA key.
//!
//! **Invariant**: the signature is verified before the private key is used, and everything is bound to purpose, both
//! fingerprints, the conversation and the key's id.

use fastchat_mls::suite::{self, JOIN_KEY_BYTES};
use openmls::schedule::{ExternalPsk, Psk};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Identity, IdentityError, IdentityKey, encoding};

const VERSION: u8 = 1;
const FRIEND_CONTEXT: &str = "friend key v1";
const FRIEND_LABEL: &[u8] = b"FastChat friend key v1\0";
const JOIN_CONTEXT: &str = "join key v1";
const JOIN_LABEL: &[u8] = b"FastChat join key v1\0";
/// Two blocks of a 4096-bit key and some ids.
const MAX_BYTES: usize = 1280;

/// Why a friend key or join key is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SharedKeyError {
    /// Not such a key of a version that is known here.
    #[error("the wrapped key is malformed")]
    Malformed,
    /// The adder's identity did not sign it for this person, purpose and conversation.
    #[error("the wrapped key was not signed by the adder's identity for this conversation")]
    Signature,
    /// It is signed, but not wrapped to this identity.
    #[error("the wrapped key does not unwrap with this account's identity")]
    Unwrap,
    /// It could not be made.
    #[error("the key could not be made or wrapped: {0}")]
    Make(#[from] IdentityError),
}

/// What tells one key from another within a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyId {
    Friend([u8; 16]),
    /// The epoch that it was exported from.
    Join(u64),
}

/// A key in the clear, wiped on drop, with what MLS knows it by.
pub(crate) struct SharedKey {
    pub(crate) secret: Zeroizing<Vec<u8>>,
    pub(crate) id: KeyId,
    conversation: Uuid,
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    version: u8,
    id: KeyId,
    ciphertext: Vec<u8>,
    signature: Vec<u8>,
}

impl SharedKey {
    /// A fresh friend key.
    pub(crate) fn friend(conversation: Uuid) -> Self {
        let secret = Zeroizing::new(rand::random::<[u8; JOIN_KEY_BYTES]>());
        Self { secret: Zeroizing::new(secret.to_vec()), id: KeyId::Friend(rand::random()), conversation }
    }

    /// The join key that members exported from `epoch`.
    pub(crate) fn join(conversation: Uuid, epoch: u64, secret: Zeroizing<Vec<u8>>) -> Self {
        Self { secret, id: KeyId::Join(epoch), conversation }
    }

    /// The bytes that travel beside a Welcome to `joiner`.
    pub(crate) fn wrap(&self, adder: &Identity, joiner: &IdentityKey) -> Result<Vec<u8>, SharedKeyError> {
        let label = self.label(adder.public(), joiner);
        let ciphertext = joiner.wrap(&label, &self.secret)?;
        let signature = adder.sign(self.context(), &[label, ciphertext.clone()].concat())?;
        let wrapped = Wrapped { version: VERSION, id: self.id, ciphertext, signature };
        Ok(encoding::encode(&wrapped).map_err(|_| SharedKeyError::Malformed)?.to_vec())
    }

    /// Verifies that `adder` signed the wrapped key for us and this conversation, then unwraps it.
    pub(crate) fn accept(
        me: &Identity,
        adder: &IdentityKey,
        conversation: Uuid,
        bytes: &[u8],
    ) -> Result<Self, SharedKeyError> {
        if bytes.len() > MAX_BYTES {
            return Err(SharedKeyError::Malformed);
        }
        let wrapped: Wrapped = encoding::decode(bytes).map_err(|_| SharedKeyError::Malformed)?;
        if wrapped.version != VERSION {
            return Err(SharedKeyError::Malformed);
        }
        let mut key = Self { secret: Zeroizing::default(), id: wrapped.id, conversation };
        let label = key.label(adder, me.public());
        adder
            .verify(key.context(), &[label.as_slice(), &wrapped.ciphertext].concat(), &wrapped.signature)
            .map_err(|_| SharedKeyError::Signature)?;
        key.secret = me.unwrap(&label, &wrapped.ciphertext).map_err(|_| SharedKeyError::Unwrap)?;
        if key.secret.len() == JOIN_KEY_BYTES { Ok(key) } else { Err(SharedKeyError::Unwrap) }
    }

    /// The external pre-shared key.
    pub(crate) fn psk(&self) -> Psk {
        let id = match self.id {
            KeyId::Friend(id) => [FRIEND_LABEL, self.conversation.as_bytes(), &id].concat(),
            KeyId::Join(epoch) => suite::join_key_id(self.conversation, epoch),
        };
        Psk::External(ExternalPsk::new(id))
    }

    fn context(&self) -> &'static str {
        match self.id {
            KeyId::Friend(_) => FRIEND_CONTEXT,
            KeyId::Join(_) => JOIN_CONTEXT,
        }
    }

    fn label(&self, adder: &IdentityKey, joiner: &IdentityKey) -> Vec<u8> {
        let (label, id) = match self.id {
            KeyId::Friend(id) => (FRIEND_LABEL, id.to_vec()),
            KeyId::Join(epoch) => (JOIN_LABEL, epoch.to_be_bytes().to_vec()),
        };
        let (adder, joiner) = (adder.fingerprint(), joiner.fingerprint());
        [label, &adder.0, &joiner.0, self.conversation.as_bytes(), &id].concat()
    }
}
