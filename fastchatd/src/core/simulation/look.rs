//! What the daemons show in the end, as plain data: the check reads this and the server's log, and nothing else.
//!
//! **Invariant**: looking changes nothing.

use std::collections::BTreeMap;

use fastchat_ipc::{MessageKind, MessageState};
use fastchat_mls::GroupProfile;
use fastchat_wire::ConversationId;

use super::world::{ACCOUNT, Chat, NAMES, World};
use crate::{
    core::Core,
    store::rows::{Peer as Side, Standing},
};

/// A line of a chat's history.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) position: u64,
    pub(super) id: String,
    pub(super) kind: MessageKind,
    pub(super) state: MessageState,
    pub(super) text: String,
}

/// A message that has not gone out.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) id: String,
    pub(super) state: MessageState,
    pub(super) error: String,
}

#[derive(Debug, Clone, Default)]
pub(super) struct ChatSeen {
    pub(super) lines: Vec<Line>,
    pub(super) outbox: Vec<Waiting>,
    pub(super) read_position: u64,
}

#[derive(Debug, Clone)]
pub(super) struct GroupSeen {
    pub(super) standing: Standing,
    pub(super) epoch: u64,
    pub(super) authenticator: Vec<u8>,
    pub(super) profile: GroupProfile,
    /// Accounts with their devices, both sorted.
    pub(super) members: BTreeMap<String, Vec<uuid::Uuid>>,
    /// Nothing goes in.
    pub(super) closed: bool,
}

/// What one device shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) chats: BTreeMap<Chat, ChatSeen>,
    pub(super) groups: BTreeMap<ConversationId, GroupSeen>,
    /// What it still has to do.
    pub(super) work: Vec<String>,
}

impl World {
    /// What every device shows, by its number.
    pub(super) fn look(&self) -> Vec<Seen> {
        (0..self.peers.len()).map(|who| self.core(who).seen()).collect()
    }
}

impl Core {
    fn seen(&self) -> Seen {
        let mut seen = Seen { work: self.simulated_work(), ..Seen::default() };
        let tables = self.store.tables();
        for (number, row) in self.all_chats_of(ACCOUNT) {
            let chat = match row.peer {
                Side::Contact(contact) => {
                    let name = tables.contacts[&(ACCOUNT, contact)].name.as_str();
                    Chat::Direct(NAMES.iter().position(|known| *known == name).unwrap())
                }
                Side::Group => Chat::Group(row.id.parse().unwrap()),
                Side::Own => continue,
            };
            let mut lines: Vec<Line> = self
                .store
                .history(ACCOUNT, number, u64::MAX, 100_000)
                .unwrap()
                .into_iter()
                .map(|(position, row)| Line {
                    position,
                    id: row.id.to_string(),
                    kind: row.kind,
                    state: row.state,
                    text: row.text,
                })
                .collect();
            lines.reverse();
            let outbox = self.store.outbox(ACCOUNT, number).map(|row| {
                let (_, row) = row.unwrap();
                Waiting { id: row.id.to_string(), state: row.state, error: row.error }
            });
            let outbox = outbox.collect();
            seen.chats.insert(chat, ChatSeen { lines, outbox, read_position: row.read_position });
            if let (Chat::Group(id), Some(group)) = (chat, tables.groups.get(&(ACCOUNT, number))) {
                let devices = |member: &crate::store::rows::MemberRow| {
                    let mut devices: Vec<uuid::Uuid> = member.devices.iter().map(|device| device.0).collect();
                    devices.sort_unstable();
                    (member.name.to_string(), devices)
                };
                let admins = group.admins().map(ToString::to_string).collect();
                let profile = GroupProfile {
                    name: group.name.clone(),
                    topic: group.topic.clone(),
                    admins,
                    deleted: group.standing == Standing::Deleted,
                };
                let closed = tables.conversations.get(&(ACCOUNT, id)).is_none_or(|row| row.closed);
                let group = GroupSeen {
                    standing: group.standing,
                    epoch: group.epoch,
                    authenticator: group.authenticator.clone(),
                    profile,
                    members: group.members.iter().map(devices).collect(),
                    closed,
                };
                seen.groups.insert(id, group);
            }
        }
        seen
    }

    /// What is on its way and has not got there.
    pub(super) fn simulated_work(&self) -> Vec<String> {
        let mut work = Vec::new();
        for (number, row) in self.all_chats_of(ACCOUNT) {
            let what = match row.peer {
                Side::Contact(_) => "direct",
                Side::Group => "group",
                Side::Own => "own",
            };
            for (_, task) in self.store.tasks(ACCOUNT, number).unwrap() {
                work.push(format!("{what} chat {number}: task {task:?}"));
            }
            if self.store.handshake(ACCOUNT, number).unwrap().is_some() {
                work.push(format!("{what} chat {number}: a handshake"));
            }
            if self.store.creation(ACCOUNT, number).unwrap().is_some() {
                work.push(format!("{what} chat {number}: its creation"));
            }
            if let Some(group) = self.group_row(ACCOUNT, number)
                && matches!(group.standing, Standing::Joining | Standing::Leaving)
            {
                work.push(format!("{what} chat {number}: {:?}", group.standing));
            }
            if let Some(group) = self.group_row(ACCOUNT, number)
                && group.standing == Standing::Active
                && group.members.iter().any(|member| member.leaving)
            {
                work.push(format!("{what} chat {number}: somebody leaves"));
            }
            let queued = |row: &crate::store::rows::OutboxRow| row.state == MessageState::Queued;
            let waiting =
                self.store.outbox(ACCOUNT, number).filter(|row| row.as_ref().is_ok_and(|(_, row)| queued(row)));
            let waiting = waiting.count();
            if waiting > 0 {
                work.push(format!("{what} chat {number}: {waiting} messages wait"));
            }
        }
        work
    }
}
