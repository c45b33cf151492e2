//! Tasks: what somebody wants of a conversation, and the next commit towards it.
//!
//! **Invariant**: a task goes when its goal holds, or with an error that says why it never will.

use std::collections::BTreeSet;

use fastchat_e2ee::{Change, CommitError, GroupProfile, IdentityKey, PeerPackages, Refusal, Transaction};
use fastchat_ipc::{ApiError, ErrorCode, EventKind};
use fastchat_wire::{AccountName, ConversationId, DeviceId, MessageId, v1};
use prost::Message as _;
use uuid::Uuid;

use crate::{
    fault,
    store::{
        StoreError, Write,
        rows::{GroupRow, HandshakeKind, HandshakeRow, Standing, TaskRow},
    },
};

use super::super::{
    Broken, Core,
    establish::{devices_and_packages, wire_welcome},
    live::Claims,
};

/// Accounts whose key packages are claimed for one commit at most.
const ADDED_AT_ONCE: usize = 100;
/// How long a claim that brought nothing waits before the next.
const EMPTY_CLAIM_MS: u64 = 5_000;
/// Leaves that one commit adds at most.
const LEAVES_AT_ONCE: usize = 250;

/// The next step towards a task's goal.
enum Next {
    /// The goal holds.
    Done,
    /// These people's key packages are needed.
    Claim(BTreeSet<AccountName>),
    /// A commit.
    Commit(Wanted),
    /// We say that we leave.
    Leave,
    /// It is up to others now.
    Wait,
    /// It cannot be reached.
    Never(ApiError),
}

/// What a commit changes, owned.
#[derive(Default)]
struct Wanted {
    remove_accounts: Vec<String>,
    remove_devices: Vec<(String, Uuid)>,
    profile: Option<GroupProfile>,
    reidentify: bool,
}

impl Core {
    /// Puts something onto a chat's list of tasks; gives its number.
    pub(in crate::core) fn add_task(&mut self, account: u32, chat: u32, task: &TaskRow) -> Result<u64, Broken> {
        let Some(mut row) = self.chat_row(account, chat) else { return Ok(0) };
        if let Some((number, _)) = self.store.tasks(account, chat)?.into_iter().find(|(_, known)| known == task) {
            return Ok(number);
        }
        let number = row.next_task;
        row.next_task += 1;
        let mut write = Write::default();
        write.task(account, chat, number, Some(task))?;
        write.chat(account, chat, Some(row));
        self.commit(write, account, Vec::new())?;
        Ok(number)
    }

    /// Goes on with the first of a chat's tasks. `true`: something is under way.
    pub(in crate::core) fn next_task(&mut self, account: u32, chat: u32, id: ConversationId) -> Result<bool, Broken> {
        let tasks = self.store.tasks(account, chat)?;
        let claimed = self.work(account, chat).claims.as_ref().map(|claims| claims.task);
        if claimed.is_some_and(|task| task > 0 && tasks.iter().all(|(number, _)| *number != task)) {
            self.work(account, chat).claims = None;
        }
        let mut asked = false;
        for (number, task) in tasks {
            match self.towards(account, chat, id, &task) {
                Next::Done => self.end_task(account, chat, number)?,
                Next::Never(error) => self.fail_task(account, chat, number, &error)?,
                // What else is to be done need not wait for key packages. What there is to say waits while they are on
                // their way: whoever is being added shall read it too.
                Next::Claim(names) => {
                    if let Some(claims) = self.claims_for(account, chat, number, names) {
                        fault::point("add-claimed");
                        let wanted = Wanted::default();
                        return self.make_commit(account, chat, id, number, &wanted, &claims);
                    }
                    asked |= self.work(account, chat).claims.is_some();
                }
                Next::Wait => {}
                Next::Commit(wanted) => {
                    return self.make_commit(account, chat, id, number, &wanted, &Claims::default());
                }
                Next::Leave => return self.say_leaving(account, chat, id, number),
            }
        }
        Ok(asked)
    }

    /// The key packages for a task, if all of them are here. Else they are asked for, unless they are already, or the
    /// server has asked for a pause.
    fn claims_for(&mut self, account: u32, chat: u32, task: u64, names: BTreeSet<AccountName>) -> Option<Claims> {
        let now = self.now;
        let work = self.work(account, chat);
        match &work.claims {
            Some(claims) if claims.task == task && claims.is_complete() => work.claims.take(),
            Some(_) => None,
            None if work.claim_at > now => None,
            None => {
                self.claim(account, chat, task, names);
                None
            }
        }
    }

    fn towards(&self, account: u32, chat: u32, id: ConversationId, task: &TaskRow) -> Next {
        if *task == TaskRow::Update {
            let row = self.store.tables().conversations.get(&(account, id));
            return match row {
                Some(row) if row.update_at_ms <= self.now => Next::Commit(Wanted::default()),
                _ => Next::Done,
            };
        }
        let Some(group) = self.group_row(account, chat) else { return Next::Done };
        if group.standing != Standing::Active {
            return match task {
                // The commit that takes us out ends this task; one that lets our leaving lapse has it said again.
                TaskRow::Leave if group.standing == Standing::Leaving => Next::Wait,
                TaskRow::Leave
                | TaskRow::Delete
                | TaskRow::Update
                | TaskRow::AddDevices
                | TaskRow::DropDevices(_)
                | TaskRow::Reidentify => Next::Done,
                _ => Next::Never(ApiError::new(ErrorCode::Refused, "you are no member of this group")),
            };
        }
        match task {
            TaskRow::Add(names) => {
                let missing = names.iter().filter(|name| !group.has(name)).take(ADDED_AT_ONCE).cloned();
                let missing: BTreeSet<AccountName> = missing.collect();
                if missing.is_empty() { Next::Done } else { Next::Claim(missing) }
            }
            TaskRow::AddDevices => {
                let mine = group.members.iter().find(|member| self.is_own_name(account, &member.name));
                let listed = self.live.get(&account).and_then(|live| live.devices.as_ref()).into_iter().flatten();
                let mut listed = listed.filter_map(|info| DeviceId::from_wire(&info.device).ok());
                let missing = listed.any(|device| mine.is_some_and(|mine| !mine.devices.contains(&device)));
                match self.own_account_name(account).filter(|_| missing) {
                    Some(own) => Next::Claim(BTreeSet::from([own])),
                    None => Next::Done,
                }
            }
            TaskRow::Remove(names) => {
                let present: Vec<String> =
                    names.iter().filter(|name| group.has(name)).map(ToString::to_string).collect();
                match present.is_empty() {
                    true => Next::Done,
                    false => Next::Commit(Wanted { remove_accounts: present, ..Wanted::default() }),
                }
            }
            TaskRow::Promote(names) => self.towards_roles(group, names, true),
            TaskRow::Demote(names) => self.towards_roles(group, names, false),
            TaskRow::Rename(name) if group.name == *name => Next::Done,
            TaskRow::Rename(name) => profile_only(GroupProfile { name: name.clone(), ..group.same_profile() }),
            TaskRow::Topic(topic) if group.topic == *topic => Next::Done,
            TaskRow::Topic(topic) => profile_only(GroupProfile { topic: topic.clone(), ..group.same_profile() }),
            TaskRow::Leave => Next::Leave,
            TaskRow::Delete => profile_only(GroupProfile { deleted: true, ..group.same_profile() }),
            TaskRow::Update => Next::Done,
            TaskRow::DropDevices(devices) => {
                let own = self.own_name(account);
                let here = self.live.get(&account).map(|live| live.device.id());
                let mine = group.members.iter().filter(|member| member.name.as_str() == own);
                let gone = mine.flat_map(|member| &member.devices).filter(|device| devices.contains(device));
                let gone: Vec<(String, Uuid)> =
                    gone.filter(|device| Some(device.0) != here).map(|device| (own.clone(), device.0)).collect();
                match gone.is_empty() {
                    true => Next::Done,
                    false => Next::Commit(Wanted { remove_devices: gone, ..Wanted::default() }),
                }
            }
            TaskRow::Reidentify => {
                let own = self.live.get(&account).map(|live| live.fingerprint.0);
                let mine = group.members.iter().find(|member| self.is_own_name(account, &member.name));
                match mine {
                    Some(mine) if Some(mine.fingerprint) != own => {
                        Next::Commit(Wanted { reidentify: true, ..Wanted::default() })
                    }
                    _ => Next::Done,
                }
            }
        }
    }

    fn towards_roles(&self, group: &GroupRow, names: &[AccountName], admin: bool) -> Next {
        if let Some(stranger) = names.iter().find(|name| !group.has(name)) {
            return match admin {
                true => Next::Never(ApiError::new(ErrorCode::NotFound, format!("{stranger} is not in the group"))),
                false => Next::Done,
            };
        }
        let mut admins: BTreeSet<String> = group.admins().map(ToString::to_string).collect();
        let before = admins.clone();
        for name in names {
            if admin {
                admins.insert(name.to_string())
            } else {
                admins.remove(name.as_str())
            };
        }
        if admins == before { Next::Done } else { profile_only(group.profile(admins.into_iter().collect())) }
    }

    /// Makes a commit, stores it, and sends it. `true`: it is under way.
    fn make_commit(
        &mut self,
        account: u32,
        chat: u32,
        id: ConversationId,
        task: u64,
        wanted: &Wanted,
        claims: &Claims,
    ) -> Result<bool, Broken> {
        let message = MessageId::generate();
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let identities = match self.identities_of(account, claims) {
            Ok(identities) => identities,
            Err(error) => {
                self.fail_task(account, chat, task, &error)?;
                return Ok(true);
            }
        };
        let new = |name: &AccountName| {
            let mut packages = claims.got.get(name).map(devices_and_packages)?;
            let member = self.group_row(account, chat)?.members.iter().find(|member| member.name == *name);
            // Somebody else was faster; what is missing of others' devices comes in by itself.
            if member.is_some() && !self.is_own_name(account, name) {
                return None;
            }
            let revoked = self.store.tables().accounts.get(&account).map(|row| row.revoked.as_slice());
            let here = member.map(|member| member.devices.as_slice());
            packages.retain(|(device, _)| {
                let is_in = |devices: Option<&[DeviceId]>| devices.is_some_and(|d| d.contains(&DeviceId(*device)));
                !is_in(here) && !is_in(revoked)
            });
            Some(packages)
        };
        let packages: Vec<_> = identities.iter().map(|(name, _)| new(name)).collect();
        let mut leaves = 0;
        let add = identities.iter().zip(&packages).filter_map(|((name, identity), packages)| {
            let packages = packages.as_deref()?;
            leaves += packages.len();
            (leaves <= LEAVES_AT_ONCE && !packages.is_empty()).then_some(PeerPackages {
                account: name.as_str(),
                identity,
                packages,
            })
        });
        let add: Vec<PeerPackages<'_>> = add.collect();
        if add.is_empty() && !claims.got.is_empty() {
            // They came for nothing: whose devices are asked for is others than a moment ago.
            self.work(account, chat).claim_at = self.now + EMPTY_CLAIM_MS;
            self.list_devices(account);
            return Ok(false);
        }
        let Some(live) = self.live.get(&account) else { return Ok(false) };
        let change = Change {
            add,
            remove_accounts: wanted.remove_accounts.clone(),
            remove_devices: wanted.remove_devices.clone(),
            profile: wanted.profile.clone(),
            new_device: wanted.reidentify.then_some(&live.device),
        };
        let prepared = match transaction.commit(&live.identity, &live.device, id.0, message.0, &change) {
            Ok(prepared) => prepared,
            Err(CommitError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                return Err(StoreError::Damaged);
            }
            Err(CommitError::NotAMember(_)) => return Ok(false),
            Err(CommitError::UnknownConversation) => {
                self.state_lost(account, chat, id)?;
                return Ok(true);
            }
            Err(error) => {
                self.fail_task(account, chat, task, &commit_error(&error))?;
                return Ok(true);
            }
        };
        let frame = v1::Handshake {
            conversation: id.to_wire(),
            message_id: message.to_wire(),
            epoch: prepared.epoch,
            kind: v1::EntryKind::Commit.into(),
            message: prepared.message.into(),
            group_info: prepared.group_info.into(),
            welcomes: prepared.welcomes.into_iter().map(wire_welcome).collect(),
        };
        let row = HandshakeRow {
            id: message,
            conversation: id,
            frame: frame.encode_to_vec(),
            task,
            kind: HandshakeKind::Commit,
        };
        let mut write = Write::default();
        write.state(account, transaction.into_changes());
        write.handshake(account, chat, Some(&row))?;
        self.commit(write, account, Vec::new())?;
        fault::point("commit-stored");
        self.send_handshake(account, chat, &row)?;
        Ok(true)
    }

    /// The identities that the server named with key packages, compared with those that we know.
    fn identities_of(&self, account: u32, claims: &Claims) -> Result<Vec<(AccountName, IdentityKey)>, ApiError> {
        let mut identities = Vec::with_capacity(claims.got.len());
        for (name, packages) in &claims.got {
            let identity = IdentityKey::from_der(&packages.identity_key).map_err(|_| {
                ApiError::new(ErrorCode::Server, format!("the server named an identity key for {name} that is none"))
            })?;
            if self.known_fingerprint(account, name).is_some_and(|known| known != identity.fingerprint()) {
                let text = format!("the identity key of {name} is another one than is known here");
                let hint =
                    format!("compare the number of `fastchatctl key show {name}`, then `fastchatctl key trust {name}`");
                return Err(ApiError::new(ErrorCode::IdentityChanged, text)
                    .hint(hint)
                    .with("contact", name.to_string()));
            }
            identities.push((name.clone(), identity));
        }
        Ok(identities)
    }

    /// Takes the leaving of others into a commit of ours, with nothing else in it.
    pub(in crate::core) fn take_in(&mut self, account: u32, chat: u32, id: ConversationId) -> Result<bool, Broken> {
        self.make_commit(account, chat, id, 0, &Wanted::default(), &Claims::default())
    }

    fn say_leaving(&mut self, account: u32, chat: u32, id: ConversationId, task: u64) -> Result<bool, Broken> {
        let message = MessageId::generate();
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let Some(live) = self.live.get(&account) else { return Ok(false) };
        let (epoch, proposal) = match transaction.propose_leave(&live.device, id.0, message.0) {
            Ok(proposed) => proposed,
            Err(CommitError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                return Err(StoreError::Damaged);
            }
            Err(error) => {
                self.fail_task(account, chat, task, &commit_error(&error))?;
                return Ok(true);
            }
        };
        let frame = v1::Handshake {
            conversation: id.to_wire(),
            message_id: message.to_wire(),
            epoch,
            kind: v1::EntryKind::Proposal.into(),
            message: proposal.into(),
            ..v1::Handshake::default()
        };
        let frame = frame.encode_to_vec();
        let row = HandshakeRow { id: message, conversation: id, frame, task, kind: HandshakeKind::Leave };
        let mut write = Write::default();
        write.state(account, transaction.into_changes());
        write.handshake(account, chat, Some(&row))?;
        self.commit(write, account, Vec::new())?;
        fault::point("proposal-stored");
        self.send_handshake(account, chat, &row)?;
        Ok(true)
    }

    /// The conversation is over: nothing more becomes of it. A direct chat's next one begins with fresh keys.
    pub(in crate::core) fn end_tasks(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        let group = self.group_row(account, chat).is_some();
        for (number, task) in self.store.tasks(account, chat)? {
            match &task {
                TaskRow::Leave | TaskRow::Delete | TaskRow::Update => self.end_task(account, chat, number)?,
                _ if !group => self.end_task(account, chat, number)?,
                _ => {
                    let error = ApiError::new(ErrorCode::Refused, "you are no member of this group");
                    self.fail_task(account, chat, number, &error)?;
                }
            }
        }
        Ok(())
    }

    fn end_task(&mut self, account: u32, chat: u32, number: u64) -> Result<(), Broken> {
        let mut write = Write::default();
        write.task(account, chat, number, None)?;
        self.commit(write, account, vec![self.group_changed(account, chat)])
    }

    /// A task's goal cannot be reached: whoever waits for it hears why.
    pub(in crate::core) fn fail_task(
        &mut self,
        account: u32,
        chat: u32,
        number: u64,
        error: &ApiError,
    ) -> Result<(), Broken> {
        tracing::warn!(error = error.message, "a change of a conversation is given up");
        if number > 0 {
            self.end_task(account, chat, number)?;
            self.fail_waiting_group(account, chat, number, error);
        }
        Ok(())
    }

    /// Somebody's key packages are not to be had: the rest of the task goes on without them.
    pub(in crate::core) fn claim_refused(
        &mut self,
        account: u32,
        chat: u32,
        task: u64,
        name: &AccountName,
        error: &ApiError,
    ) -> Result<(), Broken> {
        let tasks = self.store.tasks(account, chat)?;
        match tasks.into_iter().find(|(number, _)| *number == task).map(|(_, task)| task) {
            Some(TaskRow::Add(names)) if names.len() > 1 => {
                let rest: Vec<AccountName> = names.into_iter().filter(|other| other != name).collect();
                let mut write = Write::default();
                write.task(account, chat, task, Some(&TaskRow::Add(rest)))?;
                self.commit(write, account, vec![self.group_changed(account, chat)])?;
                self.fail_waiting_group(account, chat, task, error);
                Ok(())
            }
            // A device of ours that has no key packages comes in by itself.
            Some(TaskRow::AddDevices) => self.end_task(account, chat, task),
            _ => self.fail_task(account, chat, task, error),
        }
    }

    pub(in crate::core) fn group_changed(&self, account: u32, chat: u32) -> EventKind {
        let id = self.chat_id(account, chat);
        EventKind::GroupChanged { group: id.clone(), chat: id }
    }
}

fn profile_only(profile: GroupProfile) -> Next {
    Next::Commit(Wanted { profile: Some(profile), ..Wanted::default() })
}

fn commit_error(error: &CommitError) -> ApiError {
    match error {
        CommitError::NotAllowed(Refusal::Full) => ApiError::new(ErrorCode::GroupFull, error.to_string()),
        CommitError::NotAllowed(_) => ApiError::new(ErrorCode::NotAllowed, error.to_string())
            .hint("`fastchatctl group show NAME` shows who is an admin"),
        _ => ApiError::new(ErrorCode::Refused, error.to_string()),
    }
}

impl GroupRow {
    pub(in crate::core) fn has(&self, name: &AccountName) -> bool {
        self.members.iter().any(|member| member.name == *name)
    }

    /// The profile with other admins.
    pub(in crate::core) fn profile(&self, admins: Vec<String>) -> GroupProfile {
        let mut admins = admins;
        admins.sort_unstable();
        GroupProfile { name: self.name.clone(), topic: self.topic.clone(), admins, deleted: false }
    }

    fn same_profile(&self) -> GroupProfile {
        self.profile(self.admins().map(ToString::to_string).collect())
    }
}
