//! A transaction: calls that belong together, and the changes that they make as a whole.
//!
//! **Invariant**: each call works on a trial state that becomes part of the changes only when the call succeeds.

use openmls::prelude::MlsGroup;
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

use crate::{
    Changes, Content, CreateError, Created, Device, Identity, IdentityKey, JoinError, Joined, KeyPackageError,
    OpenError, Opened, PeerPackages, SealError, Sealed, StateStore, StoreError, direct, key_package, message,
    mls::Provider,
    state::{Layer, Trial},
};

/// Calls on top of the caller's store. Later calls see the changes of earlier ones; the store sees none until the
/// caller applies [`Transaction::into_changes`]. One per inbound entry, or per outbound message. It blocks for
/// milliseconds.
pub struct Transaction<'a> {
    store: &'a dyn StateStore,
    changes: Layer,
    crypto: RustCrypto,
}

impl<'a> Transaction<'a> {
    /// Begins with what the store holds now.
    #[must_use]
    pub fn new(store: &'a dyn StateStore) -> Self {
        Self { store, changes: Layer::new(), crypto: RustCrypto::default() }
    }

    /// What the successful calls changed: apply all of it atomically, or none.
    #[must_use]
    pub fn into_changes(self) -> Changes {
        self.changes.into_iter().collect()
    }

    /// Makes `count` key packages (at most 1000), each good for one conversation, to publish. The private keys of 1000
    /// that were not used are kept, the oldest go.
    ///
    /// # Errors
    /// The store failed, or the device key does.
    pub fn key_packages(&mut self, device: &Device, count: usize) -> Result<Vec<Vec<u8>>, KeyPackageError> {
        self.attempt(|provider| key_package::make(provider, device, count, false))
    }

    /// Makes the key package that serves when the others are used up. Rotate it: it is used more than once.
    ///
    /// # Errors
    /// The store failed, or the device key does.
    pub fn last_resort_key_package(&mut self, device: &Device) -> Result<Vec<u8>, KeyPackageError> {
        let made = self.attempt(|provider| key_package::make(provider, device, 1, true))?;
        made.into_iter().next().ok_or_else(|| KeyPackageError::Make("none was made".into()))
    }

    /// Makes a direct conversation with all of the peer's devices, with a fresh friend key in its key schedule.
    ///
    /// # Errors
    /// A key package that is not certified by the peer's identity for exactly that device, or a conversation that
    /// exists.
    pub fn create_direct(
        &mut self,
        identity: &Identity,
        device: &Device,
        conversation: Uuid,
        peer: &PeerPackages<'_>,
    ) -> Result<Created, CreateError> {
        self.attempt(|provider| direct::create(provider, identity, device, conversation, peer))
    }

    /// Joins a direct conversation that `creator` (its name on the server, identity known for it) made. After an error the key
    /// package is still there.
    ///
    /// # Errors
    /// A friend key that the creator did not sign for us and this conversation, a Welcome that was not made with it or
    /// is of another kind, a member that neither of the two identities certified.
    pub fn join_direct(
        &mut self,
        identity: &Identity,
        device: &Device,
        conversation: Uuid,
        creator: (&str, &IdentityKey),
        welcome: &[u8],
        friend_key: &[u8],
    ) -> Result<Joined, JoinError> {
        self.attempt(|provider| direct::join(provider, identity, device, conversation, creator, welcome, friend_key))
    }

    /// The conversation's epoch; `None` if this device does not have it.
    ///
    /// # Errors
    /// The store failed.
    pub fn epoch(&self, conversation: Uuid) -> Result<Option<u64>, StoreError> {
        Ok(self.group(conversation)?.map(|group| group.epoch().as_u64()))
    }

    /// What members at the same epoch of the same conversation have in common (RFC 9420, section 8.7); `None` if this
    /// device does not have it. Compare it to detect a fork; it tells nothing about the messages.
    ///
    /// # Errors
    /// The store failed.
    pub fn epoch_authenticator(&self, conversation: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.group(conversation)?.map(|group| group.epoch_authenticator().as_slice().to_vec()))
    }

    /// Seals a message. Commit the changes before its first byte is sent, and resend the same bytes: sealing twice from
    /// one state would use a key twice.
    ///
    /// # Errors
    /// No such conversation, another device's, or content out of bounds.
    pub fn seal(
        &mut self,
        device: &Device,
        conversation: Uuid,
        message_id: Uuid,
        content: &Content,
    ) -> Result<Sealed, SealError> {
        self.attempt(|provider| message::seal(provider, device, conversation, message_id, content))
    }

    /// Opens a payload. `identity_of` gives the identity key that is known for an account.
    ///
    /// # Errors
    /// See [`OpenError`]: all but its `Store` are the payload's fault.
    pub fn open(
        &mut self,
        conversation: Uuid,
        message_id: Uuid,
        payload: &[u8],
        identity_of: &dyn Fn(&str) -> Option<IdentityKey>,
    ) -> Result<Opened, OpenError> {
        self.attempt(|provider| message::open(provider, conversation, message_id, payload, identity_of))
    }

    /// Deletes all state of a conversation. Nothing of it opens afterwards. Does nothing if there is none.
    ///
    /// # Errors
    /// The store failed.
    pub fn forget(&mut self, conversation: Uuid) -> Result<(), StoreError> {
        self.attempt(|provider| {
            let Some(mut group) = provider.load(conversation)? else { return Ok(()) };
            Ok(group.delete(&provider.trial)?)
        })
    }

    fn group(&self, conversation: Uuid) -> Result<Option<MlsGroup>, StoreError> {
        let provider = self.provider();
        let group = provider.load(conversation);
        provider.trial.finish()?;
        Ok(group?)
    }

    fn provider(&self) -> Provider<'_> {
        Provider { crypto: &self.crypto, trial: Trial::new(self.store, &self.changes) }
    }

    /// Runs a call on a trial state; keeps the state if it succeeds. A failure of the store comes first, whatever
    /// OpenMLS made of it.
    fn attempt<T, E: From<StoreError>>(&mut self, call: impl FnOnce(&Provider<'_>) -> Result<T, E>) -> Result<T, E> {
        let provider = self.provider();
        let result = call(&provider);
        let changed = provider.trial.finish()?;
        let value = result?;
        self.changes.extend(changed);
        Ok(value)
    }
}
