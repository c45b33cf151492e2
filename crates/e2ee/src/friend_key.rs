//! The friend key: a secret that goes from one identity to another beside a Welcome and into the MLS key schedule.
//!
//! 32 random bytes, wrapped by RSA-OAEP to the peer's identity and PSS-signed by the creator's. It becomes an external
//! pre-shared key (RFC 9420, section 8.4) of the commit that makes a direct conversation, so a server that hands out
//! key packages of its own learns nothing without the peer's RSA key.
//!
//! **Invariant**: the signature is verified before the private key is used, and everything is bound to both
//! fingerprints, the conversation and the key's id.

use openmls::schedule::{ExternalPsk, Psk};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Fingerprint, Identity, IdentityError, IdentityKey, encoding};

const VERSION: u8 = 1;
const CONTEXT: &str = "friend key v1";
const LABEL: &[u8] = b"FastChat friend key v1\0";
const KEY_BYTES: usize = 32;
/// Two blocks of a 4096-bit key and some ids.
const MAX_BYTES: usize = 1280;

/// Why a friend key is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum FriendKeyError {
    /// Not a friend key of a version that is known here.
    #[error("the friend key is malformed")]
    Malformed,
    /// The creator's identity did not sign it for this person and conversation.
    #[error("the friend key was not signed by the creator's identity for this conversation")]
    Signature,
    /// It is signed, but not wrapped to this identity.
    #[error("the friend key does not unwrap with this account's identity")]
    Unwrap,
    /// It could not be made.
    #[error("the friend key could not be made: {0}")]
    Make(#[from] IdentityError),
}

/// A friend key in the clear, wiped on drop, with the id under which MLS knows it.
pub(crate) struct FriendKey {
    pub(crate) secret: Zeroizing<Vec<u8>>,
    id: [u8; 16],
    conversation: Uuid,
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    version: u8,
    id: [u8; 16],
    ciphertext: Vec<u8>,
    signature: Vec<u8>,
}

impl FriendKey {
    /// Makes a fresh key and wraps it to `peer`: the key, and the bytes that travel beside the Welcome.
    pub(crate) fn make(
        creator: &Identity,
        peer: &IdentityKey,
        conversation: Uuid,
    ) -> Result<(Self, Vec<u8>), FriendKeyError> {
        let secret = Zeroizing::new(rand::random::<[u8; KEY_BYTES]>());
        let key = Self { secret: Zeroizing::new(secret.to_vec()), id: rand::random(), conversation };
        let label = key.label(creator.public().fingerprint(), peer.fingerprint());
        let ciphertext = peer.wrap(&label, &key.secret)?;
        let signature = creator.sign(CONTEXT, &[label, ciphertext.clone()].concat())?;
        let wrapped = Wrapped { version: VERSION, id: key.id, ciphertext, signature };
        let bytes = encoding::encode(&wrapped).map_err(|_| FriendKeyError::Malformed)?.to_vec();
        Ok((key, bytes))
    }

    /// Verifies that `creator` signed the wrapped key for us and this conversation, then unwraps it.
    pub(crate) fn accept(
        me: &Identity,
        creator: &IdentityKey,
        conversation: Uuid,
        bytes: &[u8],
    ) -> Result<Self, FriendKeyError> {
        if bytes.len() > MAX_BYTES {
            return Err(FriendKeyError::Malformed);
        }
        let wrapped: Wrapped = encoding::decode(bytes).map_err(|_| FriendKeyError::Malformed)?;
        if wrapped.version != VERSION {
            return Err(FriendKeyError::Malformed);
        }
        let mut key = Self { secret: Zeroizing::default(), id: wrapped.id, conversation };
        let label = key.label(creator.fingerprint(), me.public().fingerprint());
        creator
            .verify(CONTEXT, &[label.as_slice(), &wrapped.ciphertext].concat(), &wrapped.signature)
            .map_err(|_| FriendKeyError::Signature)?;
        key.secret = me.unwrap(&label, &wrapped.ciphertext).map_err(|_| FriendKeyError::Unwrap)?;
        if key.secret.len() == KEY_BYTES { Ok(key) } else { Err(FriendKeyError::Unwrap) }
    }

    /// The id of the external pre-shared key.
    pub(crate) fn psk(&self) -> Psk {
        Psk::External(ExternalPsk::new([LABEL, self.conversation.as_bytes(), &self.id].concat()))
    }

    fn label(&self, creator: Fingerprint, peer: Fingerprint) -> Vec<u8> {
        [LABEL, &creator.0, &peer.0, self.conversation.as_bytes(), &self.id].concat()
    }
}
