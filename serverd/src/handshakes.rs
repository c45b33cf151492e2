//! The server's part in MLS (the Delivery Service of RFC 9750): handshakes are checked against a conversation's public
//! state before they enter its log.
//!
//! **Invariant**: nothing here holds a secret or does I/O; a state that comes out is one in which everything was
//! checked but what only the store can know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fastchat_mls::{GroupProfile, HandshakeError, Leaf, PublicConversation, Roster};
use fastchat_store::{Kind, NewCommit, NewEntry, NewLeaf, NewWelcome};
use fastchat_wire::{AccountName, Code, ConversationId, DeviceId, v1};
use tokio::sync::Semaphore;

use crate::core::frames;

/// Checks that wait for a core before the server says that it has too much to do.
const WAITING_PER_CORE: usize = 16;
/// How long somebody waits who finds too many waiting.
const PAUSE: Duration = Duration::from_secs(1);
/// The most bytes of a tree and a GroupInfo, which a joiner must get in one frame.
const STATE: usize = 15 << 20;

/// Runs checks on as many threads as there are cores.
#[derive(Clone)]
pub struct Checks {
    cores: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Default for Checks {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { cores: Arc::new(Semaphore::new(cores)), places: Arc::new(Semaphore::new(cores * WAITING_PER_CORE)) }
    }
}

impl Checks {
    /// Runs a check.
    ///
    /// # Errors
    /// The check's, or too many wait, or the process is ending.
    pub async fn run<T: Send + 'static>(
        &self,
        check: impl FnOnce() -> Result<T, v1::Failure> + Send + 'static,
    ) -> Result<T, v1::Failure> {
        let overloaded = || frames::failure_after(Code::Overloaded, "too many handshakes at once", PAUSE);
        let failed = || frames::failure_after(Code::Internal, "the handshake could not be checked", PAUSE);
        let _place = self.places.try_acquire().map_err(|_| overloaded())?;
        let _core = self.cores.acquire().await.map_err(|_| failed())?;
        tokio::task::spawn_blocking(check).await.map_err(|_| failed())?
    }
}

/// A conversation that somebody wants to make.
pub struct Opened {
    /// Its epoch.
    pub epoch: u64,
    /// A group's profile.
    pub profile: Option<GroupProfile>,
    /// Its devices.
    pub leaves: Vec<NewLeaf>,
    /// To check handshakes with.
    pub state: Bytes,
    /// For those who join.
    pub ratchet_tree: Bytes,
}

/// Takes a new conversation's GroupInfo.
///
/// # Errors
/// It is not one, or not of this conversation.
pub fn open(conversation: ConversationId, group_info: &[u8]) -> Result<Opened, v1::Failure> {
    let refused = |error| failure(conversation, &error);
    let public = PublicConversation::open(conversation.0, group_info).map_err(refused)?;
    let roster = public.roster().map_err(refused)?;
    let leaves = roster.leaves.iter().map(|leaf| new_leaf(conversation, leaf)).collect::<Result<_, _>>()?;
    Ok(Opened {
        epoch: public.epoch(),
        profile: roster.profile.clone(),
        leaves,
        state: public.to_bytes().map_err(refused)?.into(),
        ratchet_tree: public.ratchet_tree().map_err(refused)?.into(),
    })
}

/// What a joiner by external commit needs beside the GroupInfo.
pub struct Joinable {
    /// RFC 9420, section 12.4.3.3.
    pub ratchet_tree: Bytes,
    /// Leave proposals of this epoch.
    pub proposals: Vec<Bytes>,
}

/// Takes it from the public state.
///
/// # Errors
/// The state that was stored cannot be read.
pub fn joinable(conversation: ConversationId, state: &[u8]) -> Result<Joinable, v1::Failure> {
    let public = restore(conversation, state)?;
    let proposals = public.proposals().into_iter().map(Bytes::from).collect();
    let ratchet_tree = public.ratchet_tree().map_err(|error| failure(conversation, &error))?.into();
    Ok(Joinable { ratchet_tree, proposals })
}

/// A handshake to check, and by whom it comes.
pub struct Proposed {
    /// Where.
    pub conversation: ConversationId,
    /// The session's account.
    pub account: AccountName,
    /// The session's device.
    pub device: DeviceId,
    /// The message.
    pub entry: NewEntry,
    /// A commit's.
    pub group_info: Bytes,
    /// A commit's.
    pub welcomes: Vec<NewWelcome>,
}

/// What holds after it.
pub struct Checked {
    /// The public state.
    pub state: Bytes,
    /// What a commit changes.
    pub commit: Option<NewCommit>,
}

/// Checks a handshake against the public state.
///
/// # Errors
/// A failure whose code says which check it did not pass.
pub fn check(proposed: &Proposed, state: &[u8]) -> Result<Checked, v1::Failure> {
    let mut public = restore(proposed.conversation, state)?;
    let refused = |error| failure(proposed.conversation, &error);
    let (message_id, message) = (proposed.entry.message_id.0, &proposed.entry.payload);
    if proposed.entry.kind != Kind::Commit {
        if !proposed.welcomes.is_empty() {
            return Err(mismatch(proposed, "a proposal has no Welcomes"));
        }
        let leaving = public.proposal(message_id, message).map_err(refused)?;
        is_own(proposed, &leaving.account, leaving.device)?;
        return Ok(Checked { state: public.to_bytes().map_err(refused)?.into(), commit: None });
    }
    let before = public.roster().map_err(refused)?;
    let effect = public.commit(message_id, message, &proposed.group_info).map_err(refused)?;
    is_own(proposed, &effect.by.account, effect.by.device)?;
    let committer = new_leaf(proposed.conversation, &effect.committer)?;
    let mut commit = changes(proposed, &before, &public.roster().map_err(refused)?)?;
    commit.external = effect.external;
    if commit.external && !commit.added.iter().any(|leaf| leaf.device == proposed.device) {
        // It had a leaf, which this commit replaces.
        commit.added.push(committer);
    } else if effect.reidentified.is_some() {
        commit.reidentified = Some(committer);
    }
    are_welcome(proposed, &commit)?;
    commit.group_info = proposed.group_info.clone();
    let state = Bytes::from(public.to_bytes().map_err(refused)?);
    // A state is larger than its tree.
    if !proposed.welcomes.is_empty() || state.len() > STATE {
        commit.ratchet_tree = public.ratchet_tree().map_err(refused)?.into();
        if commit.ratchet_tree.len() + commit.group_info.len() > STATE {
            return Err(failure(proposed.conversation, &HandshakeError::Full));
        }
    }
    commit.welcomes.clone_from(&proposed.welcomes);
    Ok(Checked { state, commit: Some(commit) })
}

fn restore(conversation: ConversationId, state: &[u8]) -> Result<PublicConversation, v1::Failure> {
    PublicConversation::from_bytes(state).map_err(|error| failure(conversation, &error))
}

/// The difference that a commit makes.
fn changes(proposed: &Proposed, before: &Roster, after: &Roster) -> Result<NewCommit, v1::Failure> {
    let devices = |roster: &Roster| roster.leaves.iter().map(|leaf| leaf.device).collect::<BTreeSet<_>>();
    let (old, new) = (devices(before), devices(after));
    let added = after.leaves.iter().filter(|leaf| !old.contains(&leaf.device));
    let added = added.map(|leaf| new_leaf(proposed.conversation, leaf)).collect::<Result<_, _>>()?;
    let accounts = |roster: &Roster| roster.accounts().into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    let (old_accounts, new_accounts) = (accounts(before), accounts(after));
    let names = |names: BTreeSet<String>| -> Result<Vec<AccountName>, v1::Failure> {
        names.into_iter().map(|name| account_name(proposed.conversation, &name)).collect()
    };
    Ok(NewCommit {
        added,
        removed: old.difference(&new).map(|device| DeviceId(*device)).collect(),
        joined: names(&new_accounts - &old_accounts)?,
        left: names(&old_accounts - &new_accounts)?,
        deleted: after.profile.as_ref().is_some_and(|profile| profile.deleted),
        ..NewCommit::default()
    })
}

/// There must be one Welcome for each device that does not join by itself.
fn are_welcome(proposed: &Proposed, commit: &NewCommit) -> Result<(), v1::Failure> {
    let mut expected: BTreeMap<DeviceId, usize> = BTreeMap::new();
    for leaf in &commit.added {
        if !(commit.external && leaf.device == proposed.device) {
            *expected.entry(leaf.device).or_default() += 1;
        }
    }
    let mut given: BTreeMap<DeviceId, usize> = BTreeMap::new();
    for welcome in &proposed.welcomes {
        *given.entry(welcome.device).or_default() += 1;
    }
    if expected == given {
        Ok(())
    } else {
        Err(mismatch(proposed, "the Welcomes are not exactly one for each added device"))
    }
}

fn is_own(proposed: &Proposed, account: &str, device: uuid::Uuid) -> Result<(), v1::Failure> {
    if account == proposed.account.as_str() && device == proposed.device.0 {
        return Ok(());
    }
    let text = "the handshake is another device's than this session's: send what this device made";
    Err(v1::Failure { conversation: proposed.conversation.to_wire(), ..v1::Failure::new(Code::RosterMismatch, text) })
}

fn new_leaf(conversation: ConversationId, leaf: &Leaf) -> Result<NewLeaf, v1::Failure> {
    Ok(NewLeaf {
        account: account_name(conversation, &leaf.account)?,
        device: DeviceId(leaf.device),
        signature_key: leaf.signature_key.clone().into(),
        identity_key: leaf.identity.clone().into(),
        certificate: leaf.certificate.clone().into(),
    })
}

fn account_name(conversation: ConversationId, name: &str) -> Result<AccountName, v1::Failure> {
    name.parse().map_err(|_| v1::Failure {
        conversation: conversation.to_wire(),
        ..v1::Failure::new(Code::RosterMismatch, "a leaf is certified for something that is no account name")
    })
}

fn mismatch(proposed: &Proposed, text: &str) -> v1::Failure {
    v1::Failure { conversation: proposed.conversation.to_wire(), ..v1::Failure::new(Code::RosterMismatch, text) }
}

/// One code per check.
fn failure(conversation: ConversationId, error: &HandshakeError) -> v1::Failure {
    let (code, epoch) = match error {
        HandshakeError::Malformed(_) => (Code::HandshakeMalformed, 0),
        HandshakeError::Invalid(_) => (Code::HandshakeInvalid, 0),
        HandshakeError::StaleEpoch { current } => (Code::StaleEpoch, *current),
        HandshakeError::NotAllowed(_) => (Code::NotAllowed, 0),
        HandshakeError::GroupInfo(_) => (Code::GroupInfoMismatch, 0),
        HandshakeError::ProposalsPending => (Code::ProposalsPending, 0),
        HandshakeError::Full => (Code::GroupFull, 0),
        HandshakeError::Damaged => {
            tracing::error!(%conversation, "a conversation's public state is damaged: its members must make it anew");
            (Code::Internal, 0)
        }
    };
    v1::Failure { epoch, conversation: conversation.to_wire(), ..v1::Failure::new(code, error.to_string()) }
}
