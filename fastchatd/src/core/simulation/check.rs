//! What must hold when everything has come to rest.
//!
//! A device that lost its state (it was taken from it, or retention was faster) may miss what came until it was in
//! again, and says so in the chat. A device whose store was set back to an older copy may in addition have used up keys
//! that it does not know of: what it wrote since may be unreadable elsewhere, visibly, and it may not know what became
//! of its own messages. Nobody else may lose anything by either.
//!
//! **Invariant**: a finding names the device, the chat and what is wrong there.

use std::collections::{BTreeMap, BTreeSet};

use fastchat_ipc::{MessageKind, MessageState};
use fastchat_wire::{MessageId, v1};

use super::{
    look::{ChatSeen, Seen},
    server::{Conversation, Span},
    world::{Chat, World},
};
use crate::store::rows::Standing;

/// Parts of notices that a device shows only when something is missing.
const ALARMS: [&str; 6] = ["missing", "left out", "lost its place", "refused", "removed by the server", "as ours"];

/// How much a device's history of a chat has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// All of it.
    Whole,
    /// Gaps, with a notice.
    Gaps,
    /// Gaps: it was logged out, or its store was set back.
    Anything,
}

impl World {
    /// Everything that must hold in the end.
    pub(super) fn check(&self) -> Result<(), String> {
        self.judge(&self.look())?;
        let stolen = self.steal();
        if stolen.is_empty() { Ok(()) } else { Err(stolen.join("\n")) }
    }

    /// Whether what the devices show is what the log says.
    pub(super) fn judge(&self, seen: &[Seen]) -> Result<(), String> {
        let mut findings = Vec::new();
        for who in self.alive() {
            findings.extend(seen[who].work.iter().map(|work| format!("{} has not done: {work}", self.label(who))));
        }
        if self.unanswered() > 0 {
            findings.push(format!("{} calls were not answered", self.unanswered()));
        }
        for at in 0..self.server.conversations.len() {
            if self.server.conversations[at].group {
                self.judge_group(at, seen, &mut findings);
            }
        }
        for (who, seen) in seen.iter().enumerate() {
            for (chat, shown) in &seen.chats {
                self.judge_chat(who, *chat, shown, &mut findings);
            }
            for chat in self.chats_with_log(who) {
                if !seen.chats.contains_key(&chat) {
                    self.judge_chat(who, chat, &ChatSeen::default(), &mut findings);
                }
            }
        }
        self.judge_written(seen, &mut findings);
        self.judge_read(seen, &mut findings);
        findings.truncate(12);
        if findings.is_empty() { Ok(()) } else { Err(findings.join("\n")) }
    }

    // ------------------------------------------------------------ groups

    fn judge_group(&self, at: usize, seen: &[Seen], findings: &mut Vec<String>) {
        let found = &self.server.conversations[at];
        let roster = self.server.public(at).roster().unwrap();
        let profile = roster.profile.clone().unwrap();
        let mut leaves: BTreeMap<String, Vec<uuid::Uuid>> = BTreeMap::new();
        for leaf in &roster.leaves {
            leaves.entry(leaf.account.clone()).or_default().push(leaf.device);
        }
        leaves.values_mut().for_each(|devices| devices.sort_unstable());
        let mut authenticators = BTreeSet::new();
        for who in self.alive() {
            let mut say = |what: String| findings.push(format!("{} in group {at}: {what}", self.label(who)));
            let group = seen[who].groups.get(&found.id);
            let user = self.peers[who].user;
            if !found.roster.contains(&user) || found.abandoned {
                match group.map(|group| group.standing) {
                    None | Some(Standing::Left) => {}
                    Some(Standing::Deleted) if found.abandoned => {}
                    Some(standing) => say(format!("is no member, and shows {standing:?}")),
                }
                continue;
            }
            let Some(group) = group else {
                say("is a member, and does not know it".into());
                continue;
            };
            if group.standing != Standing::Active || group.closed {
                say(format!("is a member, and shows {:?}, closed: {}", group.standing, group.closed));
                continue;
            }
            if group.epoch != found.epoch {
                say(format!("is at epoch {}, the server at {}", group.epoch, found.epoch));
            }
            if group.members != leaves {
                say(format!("shows {:?}, the server has {leaves:?}", group.members));
            }
            if group.profile != profile {
                say(format!("shows {:?}, the server has {profile:?}", group.profile));
            }
            authenticators.insert(group.authenticator.clone());
            if !roster.leaves.iter().any(|leaf| leaf.device == self.server.devices[who].id.0) {
                say("has no leaf".into());
            }
        }
        if authenticators.len() > 1 {
            findings.push(format!("group {at}: {} epoch authenticators", authenticators.len()));
        }
        if found.roster.is_empty() || found.abandoned {
            return;
        }
        for leaf in &roster.leaves {
            let gone = self.server.devices.iter().any(|device| device.id.0 == leaf.device && device.gone);
            if gone {
                findings.push(format!("group {at}: a device of {} is gone and has its leaf still", leaf.account));
            }
        }
    }

    // ------------------------------------------------------------ histories

    /// The conversations that carried a chat of a user, the first one first.
    fn carriers(&self, user: usize, chat: Chat) -> Vec<&Conversation> {
        match chat {
            Chat::Direct(other) => self.server.directs(user, other).map(|at| &self.server.conversations[at]).collect(),
            Chat::Group(id) => self.server.conversations.iter().filter(|found| found.id == id).collect(),
        }
    }

    /// The chats in whose log a device has a place.
    fn chats_with_log(&self, who: usize) -> Vec<Chat> {
        let user = self.peers[who].user;
        let others = (0..self.server.accounts.len()).filter(|other| *other != user).map(Chat::Direct);
        let groups = self.server.conversations.iter().filter(|found| found.group).map(|found| Chat::Group(found.id));
        others.chain(groups).filter(|chat| !self.due(who, *chat).is_empty()).collect()
    }

    /// The messages that a device has to show, in the order of the log: id and sender.
    fn due(&self, who: usize, chat: Chat) -> Vec<(String, usize)> {
        let mut known = BTreeSet::new();
        let mut due = Vec::new();
        for found in self.carriers(self.peers[who].user, chat) {
            for record in &found.log {
                let seq = record.entry.seq;
                let within = |span: &Span| {
                    span.device == who && span.after < seq && span.through.is_none_or(|through| seq <= through)
                };
                if record.entry.kind() != v1::EntryKind::Application || !found.spans.iter().any(within) {
                    continue;
                }
                let id = MessageId::from_wire(&record.entry.message_id).unwrap().to_string();
                if known.insert(id.clone()) {
                    due.push((id, record.by));
                }
            }
        }
        due
    }

    fn strictness(&self, who: usize, chat: Chat) -> Strictness {
        if self.server.devices[who].gone || self.peers[who].restored {
            return Strictness::Anything;
        }
        let carriers = self.carriers(self.peers[who].user, chat);
        let disturbed =
            |found: &&Conversation| found.missed.contains(&who) || self.peers[who].wiped.contains(&found.id);
        if carriers.iter().any(disturbed) { Strictness::Gaps } else { Strictness::Whole }
    }

    fn judge_chat(&self, who: usize, chat: Chat, shown: &ChatSeen, findings: &mut Vec<String>) {
        let mut say = |what: String| findings.push(format!("{}, {}: {what}", self.label(who), self.chat_label(chat)));
        let due = self.due(who, chat);
        let strictness = self.strictness(who, chat);
        let set_back = |by: usize| self.peers[by].restored;
        let lines = shown.lines.iter().filter(|line| line.kind == MessageKind::Text);
        let texts: Vec<&str> = lines.clone().map(|line| line.id.as_str()).collect();
        let once: BTreeSet<&str> = texts.iter().copied().collect();
        if once.len() < texts.len() {
            say("a message shows twice".into());
        }
        let by: BTreeMap<&str, usize> = due.iter().map(|(id, by)| (id.as_str(), *by)).collect();
        for line in lines.clone().filter(|line| !by.contains_key(line.id.as_str())) {
            say(format!("`{}` shows, and is not of its time", line.text));
        }
        let missing = due.iter().filter(|(id, by)| !once.contains(id.as_str()) && !set_back(*by));
        let missing: Vec<String> = missing.map(|(id, _)| self.text_of(id)).collect();
        match strictness {
            Strictness::Whole if !missing.is_empty() => say(format!("does not show {missing:?}")),
            Strictness::Gaps
                if !missing.is_empty() && shown.lines.iter().all(|line| line.kind == MessageKind::Text) =>
            {
                say(format!("does not show {missing:?}, and says nothing of it"));
            }
            _ => {}
        }
        let nothing_lost = self.peers.iter().all(|peer| !peer.restored && peer.wiped.is_empty());
        let sent = lines.clone().filter(|line| line.state == MessageState::Sent).count();
        if matches!(chat, Chat::Direct(_)) && nothing_lost && strictness == Strictness::Whole && sent > 0 {
            say(format!("{sent} messages are not known to be delivered"));
        }
        // What it found in the log without having followed it there stands where it was found.
        let followed = |id: &&str| strictness == Strictness::Whole || by.get(*id) != Some(&who);
        let texts: Vec<&str> = texts.iter().copied().filter(followed).collect();
        self.judge_order(chat, &texts, &due, &mut say);
        let anybody_set_back = self.peers.iter().any(|peer| peer.restored);
        for line in shown.lines.iter().filter(|_| strictness == Strictness::Whole && !anybody_set_back) {
            let alarm = line.kind == MessageKind::Unreadable || ALARMS.iter().any(|alarm| line.text.contains(alarm));
            if line.kind != MessageKind::Text && alarm {
                say(format!("shows `{}`", line.text));
            }
        }
    }

    /// In a group all devices show the log's order; in a direct chat what one device wrote keeps its order, also over
    /// the conversations that follow each other.
    fn judge_order(&self, chat: Chat, texts: &[&str], due: &[(String, usize)], say: &mut impl FnMut(String)) {
        if let Chat::Group(_) = chat {
            let order: BTreeMap<&str, usize> = due.iter().enumerate().map(|(at, (id, _))| (id.as_str(), at)).collect();
            let places: Vec<usize> = texts.iter().filter_map(|id| order.get(id)).copied().collect();
            if !places.is_sorted() {
                say(format!("shows the log in another order: {places:?}"));
            }
            return;
        }
        for sender in 0..self.peers.len() {
            // Another device of the sender may have sent it for it when the conversation ended.
            let numbers = texts.iter().filter_map(|id| self.number_of(id));
            let numbers: Vec<usize> = numbers.filter(|number| self.written[*number].peer == sender).collect();
            if !numbers.is_sorted() && !self.peers[sender].restored {
                say(format!("shows what {} wrote in another order: {numbers:?}", self.label(sender)));
            }
        }
    }

    fn number_of(&self, id: &str) -> Option<usize> {
        self.written.iter().position(|written| written.confirmed.as_deref() == Some(id))
    }

    fn text_of(&self, id: &str) -> String {
        self.number_of(id).map_or_else(|| format!("unconfirmed {id}"), |number| self.written[number].text.clone())
    }

    fn chat_label(&self, chat: Chat) -> String {
        match chat {
            Chat::Direct(user) => format!("chat with {}", super::world::NAMES[user]),
            Chat::Group(id) => {
                let at = self.server.conversations.iter().position(|found| found.id == id);
                at.map_or_else(|| "a group that is not made".into(), |at| format!("group {at}"))
            }
        }
    }

    // ------------------------------------------------------------ what was read

    /// What one device of a user has read, the others have, as far as it is there.
    fn judge_read(&self, seen: &[Seen], findings: &mut Vec<String>) {
        let alive = self.alive();
        let usable = |who: &&usize| !self.peers[**who].restored && self.peers[**who].wiped.is_empty();
        for reader in alive.iter().filter(usable) {
            for other in alive.iter().filter(usable).filter(|other| *other != reader) {
                if self.peers[*other].user != self.peers[*reader].user {
                    continue;
                }
                for (chat, shown) in &seen[*reader].chats {
                    let mut texts = shown.lines.iter().filter(|line| line.kind == MessageKind::Text);
                    let last = texts.rfind(|line| line.position < shown.read_position);
                    let there = seen[*other].chats.get(chat);
                    let same = last.zip(there).and_then(|(last, there)| {
                        there.lines.iter().find(|line| line.id == last.id).map(|line| (line, there.read_position))
                    });
                    if let Some((line, read)) = same.filter(|(line, read)| line.position >= *read) {
                        findings.push(format!(
                            "{}, {}: has not read `{}` (at {}, read before {read}), which {} has",
                            self.label(*other),
                            self.chat_label(*chat),
                            line.text,
                            line.position,
                            self.label(*reader)
                        ));
                    }
                }
            }
        }
    }

    // ------------------------------------------------------------ what was written

    /// What a daemon has confirmed is in the log, or in the outbox with a reason; what it refused is nowhere.
    fn judge_written(&self, seen: &[Seen], findings: &mut Vec<String>) {
        for written in &self.written {
            let shows =
                |seen: &Seen| seen.chats.values().flat_map(|chat| &chat.lines).any(|line| line.text == written.text);
            if written.refused && seen.iter().any(shows) {
                findings.push(format!("`{}` was refused, and shows", written.text));
            }
            let Some(id) = &written.confirmed else { continue };
            if self.server.devices[written.peer].gone || self.peers[written.peer].restored {
                continue;
            }
            let user = self.peers[written.peer].user;
            let stands = self.carriers(user, written.chat).iter().flat_map(|found| &found.log).any(|record| {
                MessageId::from_wire(&record.entry.message_id).is_ok_and(|entry| entry.to_string() == *id)
            });
            let outbox = seen[written.peer].chats.get(&written.chat).map(|chat| chat.outbox.as_slice());
            let kept = outbox.unwrap_or_default().iter().find(|waiting| waiting.id == *id);
            let explained = kept.is_some_and(|kept| {
                matches!(kept.state, MessageState::Held | MessageState::Failed) && !kept.error.is_empty()
            });
            if !stands && !explained {
                findings.push(format!("`{}` was confirmed, and is gone: {kept:?}", written.text));
            }
        }
    }
}
