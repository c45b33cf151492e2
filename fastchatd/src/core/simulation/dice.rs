//! What can happen, and how often.
//!
//! **Invariant**: a throw looks at nothing but the seed's numbers and what earlier throws have led to.

use std::ops::RangeInclusive;

use fastchat_ipc::{GroupName, MarkRead, NewGroup, OfDevice, OfGroup, OfMembers, Request};
use fastchat_wire::ConversationId;
use rand::RngExt;

use super::world::{ACCOUNT, Chat, NAMES, World};
use crate::{core::Input, store::rows::Peer as Side};

/// A little more than a week: all leaves are due for new keys.
pub(super) const WEEK_MS: u64 = 8 * 24 * 3600 * 1000;
const GROUPS: usize = 3;

/// A kind of sequence.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) users: (usize, usize),
    pub(super) steps: RangeInclusiveSteps,
    /// Users get second devices, and lose devices.
    pub(super) devices: bool,
    /// There are groups.
    pub(super) groups: bool,
    /// Conversations' states are wiped, and retention takes what nobody has.
    pub(super) losses: bool,
    /// Stores are set back to older copies.
    pub(super) set_back: bool,
}

/// From, to.
pub(super) type RangeInclusiveSteps = (usize, usize);

fn range((low, high): (usize, usize)) -> RangeInclusive<usize> {
    low..=high
}

impl World {
    /// A whole sequence, up to where everything has come to rest.
    pub(super) fn run(seed: u64, kind: Kind) -> Self {
        let mut dice = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed.wrapping_mul(31));
        let (users, steps) = (dice.random_range(range(kind.users)), dice.random_range(range(kind.steps)));
        let mut world = Self::new(seed, users);
        for _ in 0..steps {
            world.something_happens(kind);
        }
        world.heal();
        world.everybody_writes();
        world
    }

    fn something_happens(&mut self, kind: Kind) {
        self.now += self.random.random_range(0..150);
        let alive = self.alive();
        let who = alive[self.random.random_range(0..alive.len())];
        match self.random.random_range(0..1000) {
            0..60 => self.write_direct(who),
            60..180 if kind.groups => self.write_group(who),
            180..260 if kind.groups => self.change_group(who),
            260..280 => self.mark_read(who),
            280..560 => {
                for _ in 0..self.peers[who].pace {
                    self.server_takes(who);
                }
            }
            560..880 => {
                for _ in 0..self.peers[who].pace {
                    self.client_takes(who);
                }
            }
            880..900 => {
                self.decide(|| format!("{who} loses its connection"));
                self.disconnect(who);
            }
            900..950 => {
                if self.peers[who].up.is_none() {
                    self.decide(|| format!("{who} connects"));
                    self.connect(who);
                }
            }
            950..955 => {
                self.decide(|| format!("{who} is killed"));
                self.crash(who);
            }
            955..965 => self.jump(),
            965..975 if kind.devices => self.change_devices(who),
            975..985 if kind.losses => self.lose(who),
            985..992 if kind.set_back => self.set_back(who),
            992..994 => self.server.trim(),
            994..997 if kind.groups => self.keep_copy(who),
            _ => self.step(who, Input::Tick),
        }
    }

    fn jump(&mut self) {
        self.now += match self.random.random_range(0..10) {
            0 => WEEK_MS,
            1..4 => 600_000,
            _ => 20_000,
        };
        self.decide(|| "time has passed".into());
        for who in self.alive() {
            self.step(who, Input::Tick);
        }
    }

    // ------------------------------------------------------------ writing and reading

    fn write_direct(&mut self, who: usize) {
        let user = self.peers[who].user;
        let other = self.random.random_range(0..self.server.accounts.len());
        if other != user {
            self.write(who, Chat::Direct(other));
        }
    }

    fn write_group(&mut self, who: usize) {
        if let Some(group) = self.some_group(who) {
            self.write(who, Chat::Group(group));
        }
    }

    fn mark_read(&mut self, who: usize) {
        let chats = self.chat_names(who);
        if chats.is_empty() {
            return;
        }
        let chat = chats[self.random.random_range(0..chats.len())].clone();
        self.decide(|| format!("{who} reads a chat"));
        self.ask(who, Request::MarkChatRead(MarkRead { chat, ..MarkRead::default() }));
    }

    /// The chats that a device shows, by their ids.
    pub(super) fn chat_names(&self, who: usize) -> Vec<String> {
        self.core(who).chats_of(ACCOUNT).map(|(_, row)| row.id.clone()).collect()
    }

    /// The groups that a device knows, in the order in which it came to know them.
    pub(super) fn groups_of(&self, who: usize) -> Vec<ConversationId> {
        let chats = self.core(who).chats_of(ACCOUNT).filter(|(_, row)| row.peer == Side::Group);
        chats.map(|(_, row)| row.id.parse().unwrap()).collect()
    }

    fn some_group(&mut self, who: usize) -> Option<ConversationId> {
        let groups = self.groups_of(who);
        if groups.is_empty() { None } else { Some(groups[self.random.random_range(0..groups.len())]) }
    }

    // ------------------------------------------------------------ groups

    fn some_names(&mut self, most: usize) -> Vec<String> {
        let count = self.random.random_range(1..=most);
        let mut names: Vec<String> = Vec::new();
        for _ in 0..count {
            let name = NAMES[self.random.random_range(0..self.server.accounts.len())].to_owned();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn change_group(&mut self, who: usize) {
        let throw = self.random.random_range(0..100);
        let known = self.groups_of(who).len();
        if known == 0 || (throw < 6 && known < GROUPS) {
            if self.server.conversations.iter().filter(|found| found.group).count() >= GROUPS {
                return;
            }
            let members = self.some_names(4);
            self.decide(|| format!("{who} makes a group with {members:?}"));
            let name = format!("group of {who}");
            return self.ask(who, Request::CreateGroup(NewGroup { name, members, ..NewGroup::default() }));
        }
        let Some(group) = self.some_group(who) else { return };
        let (account, group) = (String::new(), group.to_string());
        let members = self.some_names(3);
        let of = OfMembers { account: account.clone(), group: group.clone(), members };
        let request = match throw {
            0..45 => Request::AddGroupMembers(of),
            45..65 => Request::RemoveGroupMembers(of),
            65..78 => Request::PromoteGroupMembers(of),
            78..83 => Request::DemoteGroupMembers(of),
            83..90 => {
                let name = format!("name {}", self.random.random_range(0..1000));
                Request::RenameGroup(GroupName { account, group, name })
            }
            90..99 => Request::LeaveGroup(OfGroup { account, group }),
            _ => Request::DeleteGroup(OfGroup { account, group }),
        };
        self.decide(|| match &request {
            Request::AddGroupMembers(of) | Request::RemoveGroupMembers(of) => {
                format!("{who}: {} {:?}", request.name(), of.members)
            }
            Request::PromoteGroupMembers(of) | Request::DemoteGroupMembers(of) => {
                format!("{who}: {} {:?}", request.name(), of.members)
            }
            other => format!("{who}: {}", other.name()),
        });
        self.ask(who, request);
    }

    // ------------------------------------------------------------ devices and losses

    fn change_devices(&mut self, who: usize) {
        let user = self.peers[who].user;
        let devices = self.server.devices_of(user);
        if devices.len() < 2 && self.peers.len() < 16 {
            self.decide(|| format!("{} gets another device", NAMES[user]));
            self.sign_in(user);
        } else if let Some(other) = devices.into_iter().find(|other| *other != who) {
            self.decide(|| format!("{who} revokes {other}"));
            let device = self.server.devices[other].id.to_string();
            self.ask(who, Request::RevokeDevice(OfDevice { device, ..OfDevice::default() }));
        }
    }

    fn lose(&mut self, who: usize) {
        if self.random.random_range(0..3) == 0 {
            if !self.server.conversations.is_empty() {
                let at = self.random.random_range(0..self.server.conversations.len());
                self.decide(|| format!("retention takes half of conversation {at}"));
                self.server.expire(at);
            }
            return;
        }
        let known: Vec<ConversationId> = self
            .server
            .conversations
            .iter()
            .filter(|found| found.members.contains_key(&who))
            .map(|found| found.id)
            .collect();
        if !known.is_empty() {
            let at = self.random.random_range(0..known.len());
            self.decide(|| format!("{who} loses the state of its conversation {at}"));
            self.wipe(who, known[at]);
        }
    }

    fn keep_copy(&mut self, who: usize) {
        const COPIES: usize = 2;
        self.decide(|| format!("{who}'s store is copied"));
        let copy = self.copy_store(who);
        self.peers[who].copies.push(copy);
        if self.peers[who].copies.len() > COPIES {
            self.peers[who].copies.remove(0);
        }
    }

    fn set_back(&mut self, who: usize) {
        if self.peers[who].copies.is_empty() || self.random.random_range(0..3) > 0 {
            return self.keep_copy(who);
        }
        self.decide(|| format!("{who}'s store is set back"));
        let copy = self.peers[who].copies.remove(0);
        self.peers[who].copies.clear();
        self.peers[who].restored = true;
        self.crash_into(who, Some(copy));
    }

    // ------------------------------------------------------------ the end

    /// What everybody writes now arrives, whatever was before; and everybody reads everything, on one device.
    pub(super) fn everybody_writes(&mut self) {
        for who in self.alive() {
            for group in self.groups_of(who) {
                self.write(who, Chat::Group(group));
                self.exchange();
            }
            let user = self.peers[who].user;
            for other in 0..self.server.accounts.len() {
                let known = self.server.directs(user, other).next().is_some();
                if other != user && known {
                    self.write(who, Chat::Direct(other));
                    self.exchange();
                }
            }
        }
        self.heal();
        let mut readers: Vec<usize> = Vec::new();
        for who in self.alive() {
            if !readers.iter().any(|reader| self.peers[*reader].user == self.peers[who].user) {
                readers.push(who);
            }
        }
        for who in readers {
            for chat in self.chat_names(who) {
                self.ask(who, Request::MarkChatRead(MarkRead { chat, ..MarkRead::default() }));
            }
        }
        self.heal();
    }
}
