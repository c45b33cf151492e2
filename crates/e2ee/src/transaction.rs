//! A transaction: calls that belong together, and the changes that they make as a whole.
//!
//! **Invariant**: each call works on a trial state that becomes part of the changes only when the call succeeds.

use fastchat_mls::{GroupProfile, Roster};
use openmls::prelude::MlsGroup;
use openmls_rust_crypto::RustCrypto;
use uuid::Uuid;

use crate::{
    Applied, Change, Changes, CommitError, Content, CreateError, Created, Device, Identity, Join, JoinError,
    KeyPackageError, MergeError, OpenError, Opened, PeerPackages, Prepared, ProcessError, Processed, SealError, Sealed,
    StateStore, StoreError, commit, create, join, key_package, message,
    mls::{self, Provider},
    process, rejoin,
    state::{Layer, Trial},
    storage::Record,
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

    /// Makes a direct conversation with all of the peer's devices and all `own` others, with a fresh friend key in its
    /// key schedule. With the own account as peer, `own` is empty and the packages are those of the own other devices.
    ///
    /// # Errors
    /// A key package that is not certified by the right identity for exactly that device, or a conversation that exists.
    pub fn create_direct(
        &mut self,
        identity: &Identity,
        device: &Device,
        conversation: Uuid,
        peer: &PeerPackages<'_>,
        own: &[(Uuid, &[u8])],
    ) -> Result<Created, CreateError> {
        self.attempt(|provider| create::direct(provider, identity, device, conversation, peer, own))
    }

    /// Makes a group with this device alone; the profile names its account as the only admin. Others come by commits.
    ///
    /// # Errors
    /// A profile out of its bounds, or a conversation that exists.
    pub fn create_group(
        &mut self,
        device: &Device,
        conversation: Uuid,
        profile: &GroupProfile,
    ) -> Result<Created, CreateError> {
        self.attempt(|provider| create::group(provider, device, conversation, profile))
    }

    /// Joins a conversation by a Welcome. The caller compares the roster's identities with those it knows. After an error
    /// the key package is still there.
    ///
    /// # Errors
    /// A friend or join key that the adder did not sign for us and this conversation, a Welcome that was not made with it
    /// or is of another kind, a member who is not certified, a group that the rules cannot have led to.
    pub fn join(
        &mut self,
        identity: &Identity,
        device: &Device,
        conversation: Uuid,
        join: &Join<'_>,
    ) -> Result<Roster, JoinError> {
        self.attempt(|provider| join::join(provider, identity, device, conversation, join))
    }

    /// Makes an external commit into a group that the device's account is a member of. What this device had of the group
    /// is gone. Finish with [`Transaction::merge_pending`] when it stands in the log, or [`Transaction::forget`] if it
    /// never will. `proposals`: all pending ones, as the server gave them.
    ///
    /// # Errors
    /// A group info, tree or proposals that do not fit together, that hold devices which are not certified, or in which
    /// the account is not (or under another identity).
    pub fn rejoin(
        &mut self,
        device: &Device,
        conversation: Uuid,
        message_id: Uuid,
        group_info: &[u8],
        ratchet_tree: &[u8],
        proposals: &[Vec<u8>],
    ) -> Result<Prepared, JoinError> {
        self.attempt(|provider| {
            rejoin::rejoin(provider, device, conversation, message_id, group_info, ratchet_tree, proposals)
        })
    }

    /// Who is in the conversation; `None` if this device does not have it.
    ///
    /// # Errors
    /// The store failed.
    pub fn roster(&self, conversation: Uuid) -> Result<Option<Roster>, StoreError> {
        self.group(conversation)?.map(|group| mls::roster(&group).map_err(StoreError::new)).transpose()
    }

    /// Makes a commit, which is pending from then on. It takes in who leaves. `identity` signs the join keys of who is
    /// added.
    ///
    /// # Errors
    /// What the rules do not allow, key packages that are not good, or another commit that is pending.
    pub fn commit(
        &mut self,
        identity: &Identity,
        device: &Device,
        conversation: Uuid,
        message_id: Uuid,
        change: &Change<'_>,
    ) -> Result<Prepared, CommitError> {
        self.attempt(|provider| commit::commit(provider, identity, device, conversation, message_id, change))
    }

    /// The own commit stands in the log: it takes effect.
    ///
    /// # Errors
    /// None is pending.
    pub fn merge_pending(&mut self, conversation: Uuid) -> Result<Applied, MergeError> {
        self.attempt(|provider| commit::merge(provider, conversation))
    }

    /// Drops the own pending commit, if there is one: it will never stand in the log. (After [`Transaction::rejoin`] there
    /// is nothing to go back to: use [`Transaction::forget`].)
    ///
    /// # Errors
    /// The store failed.
    pub fn clear_pending(&mut self, conversation: Uuid) -> Result<(), StoreError> {
        self.attempt(|provider| commit::clear(provider, conversation))
    }

    /// Whether an own commit is pending.
    ///
    /// # Errors
    /// The store failed.
    pub fn has_pending(&self, conversation: Uuid) -> Result<bool, StoreError> {
        let provider = self.provider();
        let pending = commit::is_pending(&provider, conversation);
        provider.trial.finish()?;
        pending
    }

    /// Makes the proposal by which the account leaves: the epoch and the MLSMessage. Nothing changes until it stands in
    /// the log and these same bytes are given to [`Transaction::process`].
    ///
    /// # Errors
    /// The last admin, a direct conversation, or a commit that is pending.
    pub fn propose_leave(
        &mut self,
        device: &Device,
        conversation: Uuid,
        message_id: Uuid,
    ) -> Result<(u64, Vec<u8>), CommitError> {
        let provider = self.provider();
        let proposed = commit::propose_leave(&provider, device, conversation, message_id);
        provider.trial.finish()?;
        proposed
    }

    /// Applies a commit or a proposal to leave from the log. A pending commit of our own that lost to it is dropped; one
    /// that is it takes effect.
    ///
    /// # Errors
    /// See [`ProcessError`]: all but its `Store` are the entry's fault.
    pub fn process(&mut self, conversation: Uuid, message_id: Uuid, payload: &[u8]) -> Result<Processed, ProcessError> {
        self.attempt(|provider| process::process(provider, conversation, message_id, payload))
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

    /// Opens a payload. The caller compares the sender's identity with the one that it knows for the account.
    ///
    /// # Errors
    /// See [`OpenError`]: all but its `Store` are the payload's fault.
    pub fn open(&mut self, conversation: Uuid, message_id: Uuid, payload: &[u8]) -> Result<Opened, OpenError> {
        self.attempt(|provider| message::open(provider, conversation, message_id, payload))
    }

    /// Deletes all state of a conversation. Nothing of it opens afterwards. Does nothing if there is none.
    ///
    /// # Errors
    /// The store failed.
    pub fn forget(&mut self, conversation: Uuid) -> Result<(), StoreError> {
        self.attempt(|provider| {
            provider.trial.delete(Record::Rejoining, &conversation.into_bytes())?;
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
