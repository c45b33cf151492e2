//! What the core knows of an account besides what is stored: its keys in memory, its connection, what was asked.
//!
//! **Invariant**: everything here can be lost at any time and comes back from the store and the server.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_e2ee::{Device, Fingerprint, Identity};
use fastchat_ipc::AccountState;
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId, v1};

use super::CallId;

/// Welcomes of one person that are held at most; the server sends the others again.
const HELD: usize = 8;
/// Bytes that are held of one conversation at most: more than any server's window.
const HELD_BYTES: usize = 16 << 20;

/// An account at work.
pub(super) struct Live {
    pub(super) identity: Identity,
    pub(super) fingerprint: Fingerprint,
    pub(super) device: Device,
    pub(super) state: AccountState,
    /// Why it is not online.
    pub(super) reason: String,
    /// What the server allows; `Some` while a session is up.
    pub(super) limits: Option<v1::Limits>,
    /// The session's number, for its link.
    pub(super) up: u64,
    pub(super) next_request: u64,
    /// Requests that the server has not answered.
    pub(super) asked: BTreeMap<u64, Waiting>,
    /// Identity keys that the server named for accounts we asked about on this connection.
    pub(super) directory: BTreeMap<AccountName, Vec<u8>>,
    /// Welcomes of people whose identity changed, until somebody trusts them. The server sends them again.
    pub(super) held: BTreeMap<AccountName, Vec<HeldJoining>>,
    /// Who is connected, since when.
    pub(super) presence: BTreeMap<AccountName, (bool, u64)>,
    /// Key packages are on their way to the server.
    pub(super) publishing: bool,
    /// One-time key packages that the server holds for us, as far as we know.
    pub(super) packages_left: u32,
    /// The account's devices, as the server last listed them.
    pub(super) devices: Option<Vec<v1::DeviceInfo>>,
    /// Devices of ours that are in groups and were not on that list.
    pub(super) ghosts: BTreeSet<DeviceId>,
    /// Groups that the server says the account is in, which wait for their turn.
    pub(super) unjoined: BTreeSet<ConversationId>,
    /// The list may be out of date.
    pub(super) devices_stale: bool,
}

/// A conversation that waits for its maker's new identity to be trusted.
pub(super) struct HeldJoining {
    pub(super) joining: v1::Joining,
    /// The identity that has to be trusted first.
    pub(super) identity: Vec<u8>,
    /// What came through it since; the server sends no more than its window without our acknowledgement.
    pub(super) delivers: Vec<v1::Deliver>,
}

/// What is going on with a chat's conversation.
#[derive(Default)]
pub(super) struct ChatWork {
    /// A batch is with the server: the next one waits for its answer, so that order holds.
    pub(super) submitting: bool,
    /// A batch was refused as a whole: the next messages go alone, to find out which it is.
    pub(super) alone: bool,
    /// Messages (by their numbers in the outbox) that the server has and that have not come back in the log.
    pub(super) accepted: BTreeSet<u64>,
    /// A conversation is being made: the server was asked to.
    pub(super) establishing: bool,
    /// Key packages that were asked for.
    pub(super) claims: Option<Claims>,
    /// A handshake message, or a group's creation, is with the server.
    pub(super) handshaking: bool,
    /// What an external commit needs was asked for.
    pub(super) fetching: bool,
    /// Key packages are not asked for before this time.
    pub(super) claim_at: u64,
    /// When the leaving of others is committed, unless somebody else does before; 0: nobody leaves.
    pub(super) take_in_at: u64,
    /// Attempts to make one on this connection.
    pub(super) attempts: u32,
    /// Nothing is tried before this time; 0: now.
    pub(super) retry_at: u64,
    /// Commits of ours that lost their epoch, in a row.
    pub(super) losses: u32,
    /// How often in a row the server was at another epoch while this device stood at this epoch and cursor.
    pub(super) behind: Option<(u64, u64, u32)>,
    /// Pauses made in a row.
    pub(super) pauses: u32,
}

/// Key packages that were asked for, one request for each account.
#[derive(Default)]
pub(super) struct Claims {
    /// What they are for: a task by its number; 0: a direct conversation.
    pub(super) task: u64,
    pub(super) wanted: BTreeSet<AccountName>,
    pub(super) got: BTreeMap<AccountName, v1::KeyPackages>,
}

/// A request that the server has not answered.
pub(super) struct Waiting {
    pub(super) asked: Asked,
    /// When the connection is given up for want of the answer.
    pub(super) deadline: u64,
}

/// What a request to the server was for.
pub(super) enum Asked {
    /// Key packages were published.
    Publish { last_resort: bool },
    /// An account's identity key, for a call that waits.
    Lookup(AccountName),
    /// Key packages of an account, for a chat.
    Claim { chat: u32, name: AccountName },
    /// A chat's new conversation.
    Create { chat: u32, conversation: ConversationId },
    /// Messages of a chat's outbox.
    Submit { chat: u32, conversation: ConversationId, messages: Vec<(u64, MessageId)> },
    /// A group.
    CreateGroup { chat: u32 },
    /// A handshake message.
    Handshake { chat: u32, id: MessageId },
    /// What an external commit to a chat's group needs.
    FetchGroup { chat: u32 },
    /// The account's devices; for a call that waits, if there is one.
    Devices(Option<CallId>),
    /// A device gets another name, for a call that waits.
    RenameDevice(CallId, DeviceId),
    /// A device of ours ends, for a call that waits.
    RevokeDevice(CallId, DeviceId),
    /// A grant for a device that is being linked.
    Grant(CallId),
    /// A block, or the end of one.
    Block { contact: u32, blocked: bool },
    /// Whom presence is shared with.
    Share,
    /// The end of the session, for a call that waits.
    Logout(CallId),
}

impl Claims {
    pub(super) fn is_complete(&self) -> bool {
        self.got.len() >= self.wanted.len()
    }
}

impl Live {
    pub(super) fn new(identity: Identity, device: Device) -> Self {
        Self {
            fingerprint: identity.public().fingerprint(),
            identity,
            device,
            state: AccountState::Offline,
            reason: String::new(),
            limits: None,
            up: 0,
            next_request: 1,
            asked: BTreeMap::new(),
            directory: BTreeMap::new(),
            held: BTreeMap::new(),
            presence: BTreeMap::new(),
            publishing: false,
            packages_left: 0,
            devices: None,
            ghosts: BTreeSet::new(),
            unjoined: BTreeSet::new(),
            devices_stale: false,
        }
    }

    /// Keeps a Welcome until its creator's identity is trusted; in the order in which they came.
    pub(super) fn hold(&mut self, name: AccountName, new: HeldJoining) {
        let held = self.held.entry(name).or_default();
        held.retain(|known| known.joining.conversation != new.joining.conversation);
        if held.len() < HELD {
            held.push(new);
        }
    }

    /// Keeps what comes through such a conversation. The server sends no more than its window without our Ack.
    pub(super) fn hold_deliver(&mut self, deliver: v1::Deliver) {
        let Some(held) =
            self.held.values_mut().flatten().find(|held| held.joining.conversation == deliver.conversation)
        else {
            return;
        };
        let size = |deliver: &v1::Deliver| deliver.entries.iter().map(|entry| entry.payload.len() + 256).sum::<usize>();
        if held.delivers.iter().map(size).sum::<usize>() + size(&deliver) <= HELD_BYTES {
            held.delivers.push(deliver);
        }
    }

    /// Forgets what only the connection knew.
    pub(super) fn disconnect(&mut self) -> BTreeMap<u64, Waiting> {
        self.limits = None;
        self.directory.clear();
        self.presence.clear();
        self.publishing = false;
        self.unjoined.clear();
        std::mem::take(&mut self.asked)
    }

    /// When the oldest request has to be answered. Numbers grow with time, so it is the first.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.asked.values().next().map(|waiting| waiting.deadline)
    }

    /// Whether the account has devices beside this one, as far as we know.
    pub(super) fn has_siblings(&self) -> bool {
        let own = self.device.id();
        self.devices.iter().flatten().any(|info| info.device != own.as_bytes().as_slice())
    }

    pub(super) fn is_up(&self) -> bool {
        self.limits.is_some()
    }
}
