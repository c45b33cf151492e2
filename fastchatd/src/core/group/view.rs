//! How groups look from outside.
//!
//! **Invariant**: nothing here changes anything.

use fastchat_ipc::{ApiError, ErrorCode, Group, GroupMember};
use fastchat_wire::AccountName;

use crate::store::rows::TaskRow;

use super::super::{Broken, Core};

impl Core {
    pub(in crate::core) fn view_group(&self, account: u32, chat: u32) -> Result<Result<Group, ApiError>, Broken> {
        let (Some(group), Some(row)) = (self.group_row(account, chat), self.chat_row(account, chat)) else {
            return Ok(Err(ApiError::new(ErrorCode::NotFound, "the group is gone")));
        };
        let mut pending: Vec<String> = Vec::new();
        if self.store.creation(account, chat)?.is_some() {
            pending.push("being made".into());
        }
        for (_, task) in self.store.tasks(account, chat)? {
            pending.extend(self.pending_text(account, &task));
        }
        let members = group.members.iter().map(|member| {
            let own = self.is_own_name(account, &member.name);
            let contact = self.contact_named(account, &member.name).map(|(_, contact)| contact);
            let changed = contact.is_some_and(|contact| contact.changed_identity.is_some());
            GroupMember {
                name: member.name.to_string(),
                admin: member.admin,
                devices: u32::try_from(member.devices.len()).unwrap_or(u32::MAX),
                verified: own || (!changed && contact.is_some_and(|contact| contact.verified)),
                key_changed: changed,
                leaving: member.leaving,
            }
        });
        Ok(Ok(Group {
            id: row.id.clone(),
            account: self.full_name(account),
            name: group.name.clone(),
            topic: group.topic.clone(),
            chat: row.id.clone(),
            members: members.collect(),
            admin: group.members.iter().any(|member| member.admin && self.is_own_name(account, &member.name)),
            state: group.state(),
            epoch: group.epoch,
            authenticator: group.authenticator.iter().map(|byte| format!("{byte:02x}")).collect(),
            pending,
            unread: row.unread,
            created_at_ms: group.created_at_ms,
        }))
    }

    /// What a task is about, for people; `None` for what needs nobody's attention.
    fn pending_text(&self, account: u32, task: &TaskRow) -> Option<String> {
        let listed = |names: &[AccountName]| {
            let names: Vec<String> = names.iter().map(|name| self.name_of(account, name)).collect();
            super::apply::listed(&names)
        };
        Some(match task {
            TaskRow::Add(names) => format!("adding {}", listed(names)),
            TaskRow::Remove(names) => format!("removing {}", listed(names)),
            TaskRow::Promote(names) => format!("making {} admin", listed(names)),
            TaskRow::Demote(names) => format!("making {} a plain member", listed(names)),
            TaskRow::Rename(name) => format!("renaming to {name}"),
            TaskRow::Topic(_) => "setting the topic".into(),
            TaskRow::Leave => "leaving".into(),
            TaskRow::Delete => "deleting".into(),
            TaskRow::DropDevices(_) => "taking out devices of ours".into(),
            TaskRow::Reidentify => "taking the new identity in".into(),
            TaskRow::Update | TaskRow::AddDevices => return None,
        })
    }
}
