//! Groups, as the API has them: each change becomes a task, and the call waits until its goal holds.
//!
//! **Invariant**: a call that is answered without an error and without anything `pending` has happened for all members.

use std::collections::BTreeSet;

use fastchat_e2ee::{CreateError, GroupProfile, Transaction};
use fastchat_ipc::{
    ApiError, ErrorCode, EventKind, GROUP_MEMBERS_PER_CALL, GROUP_NAME_LIMIT, GROUP_TOPIC_LIMIT, Group, Groups,
    NewGroup, OfAccount, OfGroup, OfMembers, Request,
};
use fastchat_wire::{AccountName, ConversationId, v1};
use prost::Message as _;

use crate::{
    fault,
    store::{
        StoreError,
        rows::{GroupRow, MemberRow, Standing, TaskRow},
    },
};

use super::super::{Broken, CallId, Core, group::authenticator, step::Step, waits::WaitingGroup};
use super::{Outcome, checked};

/// How long a call waits for its change to stand in the log.
const WAIT_MS: u64 = 30_000;

impl Core {
    pub(in crate::core) fn create_group(&mut self, call: CallId, params: NewGroup) -> Result<(), Broken> {
        let prepared = self.new_group(&params);
        let (account, names) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        let unknown = self.unknown_people(account, &names);
        if !unknown.is_empty() {
            return self.look_up_people(call, account, Request::CreateGroup(params), unknown);
        }
        let (chat, task) = match self.make_group(account, &params, names)? {
            Ok(made) => made,
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        self.pump(account, chat)?;
        self.wait_for_group(call, account, chat, task);
        Ok(())
    }

    fn new_group(&self, params: &NewGroup) -> Result<(u32, Vec<AccountName>), ApiError> {
        let account = self.account_number(&params.account)?;
        check_text("name", &params.name, 1, GROUP_NAME_LIMIT)?;
        check_text("topic", &params.topic, 0, GROUP_TOPIC_LIMIT)?;
        let names = self.people(account, &params.members, 0)?;
        Ok((account, names.into_iter().filter(|name| !self.is_own_name(account, name)).collect()))
    }

    fn make_group(&mut self, account: u32, params: &NewGroup, names: Vec<AccountName>) -> Outcome<(u32, Option<u64>)> {
        if !self.store.has_room() {
            return Ok(Err(ApiError::new(ErrorCode::StorageFull, "the disk is full: no group was made")));
        }
        let id = ConversationId::generate();
        let own = self.own_name(account);
        let profile = GroupProfile {
            name: params.name.trim().to_owned(),
            topic: params.topic.trim().to_owned(),
            admins: vec![own.clone()],
            deleted: false,
        };
        let gone = || ApiError::new(ErrorCode::NoAccount, "the account is gone");
        let live = checked!(self.live.get(&account).ok_or_else(gone));
        let own_name: AccountName = checked!(own.parse().map_err(|_| gone()));
        let state = self.store.state(account);
        let mut transaction = Transaction::new(&state);
        let created = match transaction.create_group(&live.device, id.0, &profile) {
            Ok(created) => created,
            Err(CreateError::Store(error)) => {
                tracing::error!(%error, "the encryption state cannot be read");
                return Err(StoreError::Damaged);
            }
            Err(error) => return Ok(Err(ApiError::new(ErrorCode::Internal, error.to_string()))),
        };
        let authenticator = authenticator(&transaction, id)?;
        let (number, chat) = self.group_chat(account, id);
        let group = GroupRow {
            name: profile.name,
            topic: profile.topic,
            standing: Standing::Active,
            members: vec![MemberRow {
                name: own_name,
                admin: true,
                devices: vec![fastchat_wire::DeviceId(live.device.id())],
                fingerprint: live.fingerprint.0,
                leaving: false,
            }],
            created_at_ms: self.now,
            epoch: created.epoch,
            authenticator,
            refused: false,
        };
        let frame = v1::CreateGroup { conversation: id.to_wire(), group_info: created.group_info.into() };
        let mut step = Step::new(account, id, self.begun(account, number, id, 0), chat, None);
        step.conversation.epoch = created.epoch;
        step.chat.conversation = Some(id);
        step.write.state(account, transaction.into_changes());
        step.write.creation(account, number, Some(&frame.encode_to_vec()))?;
        let task = (!names.is_empty()).then_some(step.chat.next_task);
        if let Some(task) = task {
            step.write.task(account, number, task, Some(&TaskRow::Add(names)))?;
            step.chat.next_task += 1;
        }
        step.remark(self.now, format!("you made the group {}", group.name))?;
        step.group = Some(group);
        let changed = step.chat.id.clone();
        step.events.push(EventKind::ChatChanged { chat: changed.clone() });
        step.events.push(EventKind::GroupChanged { group: changed.clone(), chat: changed });
        self.commit_joining(step)?;
        fault::point("create-stored");
        // Other devices of ours come in as members do.
        if self.live.get(&account).is_some_and(super::super::live::Live::has_siblings) {
            self.add_own_devices(account, number)?;
        }
        Ok(Ok((number, task)))
    }

    /// Names of people, each once, aliases resolved.
    fn people(&self, account: u32, given: &[String], least: usize) -> Result<Vec<AccountName>, ApiError> {
        let invalid = |text: String| ApiError::new(ErrorCode::InvalidParams, text);
        if given.len() < least || given.len() > GROUP_MEMBERS_PER_CALL {
            return Err(invalid(format!(
                "`members` names {least} to {GROUP_MEMBERS_PER_CALL} people, not {}",
                given.len()
            )));
        }
        let mut names = BTreeSet::new();
        for text in given {
            let known = self.contact_number(account, text).ok();
            let known = known.and_then(|number| self.store.tables().contacts.get(&(account, number)));
            let name = match known {
                Some(contact) => contact.name.clone(),
                None => self.local_part(account, text)?.parse().map_err(|error| {
                    ApiError::new(ErrorCode::NotFound, format!("`{}` is nobody's name: {error}", text.escape_default()))
                })?,
            };
            names.insert(name);
        }
        Ok(names.into_iter().collect())
    }

    /// Those whose identity nobody has told us yet, if the server can be asked.
    fn unknown_people(&self, account: u32, names: &[AccountName]) -> BTreeSet<AccountName> {
        let Some(live) = self.live.get(&account).filter(|live| live.is_up()) else { return BTreeSet::new() };
        let known =
            |name: &AccountName| self.known_fingerprint(account, name).is_some() || live.directory.contains_key(name);
        names.iter().filter(|name| !known(name)).cloned().collect()
    }

    fn look_up_people(
        &mut self,
        call: CallId,
        account: u32,
        request: Request,
        names: BTreeSet<AccountName>,
    ) -> Result<(), Broken> {
        self.look_up(call, account, request, names);
        Ok(())
    }

    /// Changes a group: checks, puts the task on its list, and waits for it.
    pub(in crate::core) fn change_group(
        &mut self,
        call: CallId,
        request: Request,
        account: &str,
        group: &str,
        change: GroupChange<'_>,
    ) -> Result<(), Broken> {
        let checked = self.check_change(account, group, &change);
        let (account, chat, task, names) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                self.answer::<()>(call, Err(error));
                return Ok(());
            }
        };
        let unknown = self.unknown_people(account, &names);
        if !unknown.is_empty() {
            return self.look_up_people(call, account, request, unknown);
        }
        if !self.store.has_room() {
            let error = ApiError::new(ErrorCode::StorageFull, "the disk is full: nothing was changed");
            self.answer::<()>(call, Err(error.hint("free some space and try again")));
            return Ok(());
        }
        let number = self.add_task(account, chat, &task)?;
        self.pump(account, chat)?;
        self.wait_for_group(call, account, chat, Some(number));
        Ok(())
    }

    fn check_change(
        &self,
        account: &str,
        group: &str,
        change: &GroupChange<'_>,
    ) -> Result<(u32, u32, TaskRow, Vec<AccountName>), ApiError> {
        let account = self.account_number(account)?;
        let chat = self.group_number(account, group)?;
        let row =
            self.group_row(account, chat).ok_or_else(|| ApiError::new(ErrorCode::NotFound, "the group is gone"))?;
        if !row.is_current() {
            return Err(ApiError::new(ErrorCode::Refused, "you are no member of this group any more"));
        }
        let own = self.own_name(account);
        let admin = row.admins().any(|name| name.as_str() == own);
        if !admin && !matches!(change, GroupChange::Leave) {
            let admins: Vec<String> = row.admins().map(ToString::to_string).collect();
            return Err(ApiError::new(ErrorCode::NotAllowed, "only admins of the group may do that")
                .hint(format!("ask one of them: {}", admins.join(", "))));
        }
        let alone = row.members.len() == 1;
        let mut unknown = Vec::new();
        let task = match change {
            GroupChange::Add(members) => {
                let names = self.people(account, members, 1)?;
                unknown.clone_from(&names);
                TaskRow::Add(names)
            }
            GroupChange::Remove(members) => {
                let names = self.people(account, members, 1)?;
                if names.iter().any(|name| name.as_str() == own) {
                    return Err(ApiError::new(ErrorCode::InvalidParams, "that is you")
                        .hint("`fastchatctl group leave` leaves a group"));
                }
                if let Some(stranger) = names.iter().find(|name| !row.has(name)) {
                    return Err(ApiError::new(ErrorCode::NotFound, format!("{stranger} is not in the group")));
                }
                TaskRow::Remove(names)
            }
            GroupChange::Promote(members) | GroupChange::Demote(members) => {
                let names = self.people(account, members, 1)?;
                if let Some(stranger) = names.iter().find(|name| !row.has(name)) {
                    return Err(ApiError::new(ErrorCode::NotFound, format!("{stranger} is not in the group")));
                }
                if matches!(change, GroupChange::Promote(_)) {
                    TaskRow::Promote(names)
                } else {
                    if row.admins().all(|name| names.contains(name)) {
                        return Err(last_admin());
                    }
                    TaskRow::Demote(names)
                }
            }
            GroupChange::Rename(name) => {
                check_text("name", name, 1, GROUP_NAME_LIMIT)?;
                TaskRow::Rename(name.trim().to_owned())
            }
            GroupChange::Topic(topic) => {
                check_text("topic", topic, 0, GROUP_TOPIC_LIMIT)?;
                TaskRow::Topic(topic.trim().to_owned())
            }
            // Nobody is left who could take us out: the group ends.
            GroupChange::Leave if alone => TaskRow::Delete,
            GroupChange::Leave if admin && row.admins().count() == 1 => return Err(last_admin()),
            GroupChange::Leave => TaskRow::Leave,
            GroupChange::Delete => TaskRow::Delete,
        };
        Ok((account, chat, task, unknown))
    }

    fn wait_for_group(&mut self, call: CallId, account: u32, chat: u32, task: Option<u64>) {
        let wait = WaitingGroup { account, chat, task, deadline: self.now + WAIT_MS };
        self.waits.groups.insert(call, wait);
        self.waits.check = true;
    }

    pub(in crate::core) fn list_groups(&self, params: &OfAccount) -> Outcome<Groups> {
        let account = checked!(self.account_number(&params.account));
        let mut groups = Vec::new();
        let chats = self.store.tables().groups.range((account, 0)..=(account, u32::MAX)).map(|((_, chat), _)| *chat);
        for chat in chats {
            groups.push(checked!(self.view_group(account, chat)?));
        }
        groups.sort_by(|a: &Group, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(Ok(Groups { groups }))
    }

    pub(in crate::core) fn show_group(&self, params: &OfGroup) -> Outcome<Group> {
        let account = checked!(self.account_number(&params.account));
        let chat = checked!(self.group_number(account, &params.group));
        self.view_group(account, chat)
    }

    /// Calls about groups.
    pub(in crate::core) fn take_group_call(&mut self, call: CallId, request: Request) -> Result<(), Broken> {
        let again = request.clone();
        match request {
            Request::CreateGroup(params) => self.create_group(call, params),
            Request::ListGroups(params) => {
                let groups = self.list_groups(&params)?;
                self.answer(call, groups);
                Ok(())
            }
            Request::ShowGroup(params) => {
                let group = self.show_group(&params)?;
                self.answer(call, group);
                Ok(())
            }
            Request::RenameGroup(p) => {
                self.change_group(call, again, &p.account, &p.group, GroupChange::Rename(&p.name))
            }
            Request::SetGroupTopic(p) => {
                self.change_group(call, again, &p.account, &p.group, GroupChange::Topic(&p.topic))
            }
            Request::AddGroupMembers(p) => self.change_members(call, again, &p, GroupChange::Add),
            Request::RemoveGroupMembers(p) => self.change_members(call, again, &p, GroupChange::Remove),
            Request::PromoteGroupMembers(p) => self.change_members(call, again, &p, GroupChange::Promote),
            Request::DemoteGroupMembers(p) => self.change_members(call, again, &p, GroupChange::Demote),
            Request::LeaveGroup(p) => self.change_group(call, again, &p.account, &p.group, GroupChange::Leave),
            Request::DeleteGroup(p) => self.change_group(call, again, &p.account, &p.group, GroupChange::Delete),
            other => self.take_device_call(call, other),
        }
    }

    fn change_members<'a>(
        &mut self,
        call: CallId,
        again: Request,
        params: &'a OfMembers,
        change: impl FnOnce(&'a [String]) -> GroupChange<'a>,
    ) -> Result<(), Broken> {
        self.change_group(call, again, &params.account, &params.group, change(&params.members))
    }

    /// Puts the account's other devices into a group that this one has made.
    fn add_own_devices(&mut self, account: u32, chat: u32) -> Result<(), Broken> {
        self.add_task(account, chat, &TaskRow::AddDevices).map(drop)
    }
}

/// What a call wants of a group.
pub(in crate::core) enum GroupChange<'a> {
    Add(&'a [String]),
    Remove(&'a [String]),
    Promote(&'a [String]),
    Demote(&'a [String]),
    Rename(&'a str),
    Topic(&'a str),
    Leave,
    Delete,
}

fn last_admin() -> ApiError {
    ApiError::new(ErrorCode::NotAllowed, "the last admin cannot go while others are in the group")
        .hint("`fastchatctl group promote GROUP NAME` first makes somebody else an admin; or `group delete`")
}

fn check_text(what: &str, text: &str, least: usize, most: usize) -> Result<(), ApiError> {
    let length = text.trim().chars().count();
    if length < least || length > most || text.chars().any(char::is_control) {
        let text = format!("a group's {what} has {least} to {most} characters, none of them a control character");
        return Err(ApiError::new(ErrorCode::InvalidParams, text));
    }
    Ok(())
}
