//! What people do with groups, and how they are seen to agree.
//!
//! **Invariant**: people agree on a group only when all of them have it at one epoch with one authenticator, the same
//! members and nothing under way.

use anyhow::{Context, Result, bail, ensure};
use fastchat_ipc::{
    ErrorCode, Group, GroupName, GroupState, GroupTopic, MessageKind, MessageState, Method, NewGroup, OfGroup,
    OfMembers, Sent, Wait, method,
};
use futures_util::future::try_join_all;

use crate::{Person, Server, within};

impl Person {
    /// Several people with accounts on `server`, online; registered at the same time.
    ///
    /// # Errors
    /// Any step fails for anybody.
    pub async fn several(server: &Server, names: &[&str]) -> Result<Vec<Self>> {
        try_join_all(names.iter().map(|name| Self::registered(name, server))).await
    }

    /// Makes a group; answered when all members are in it.
    ///
    /// # Errors
    /// It is refused, or not whole in time.
    pub async fn make_group(&mut self, name: &str, members: &[&str]) -> Result<Group> {
        let params = NewGroup { name: name.to_owned(), members: owned(members), ..NewGroup::default() };
        self.call::<method::CreateGroup>(&params).await
    }

    /// A group as this person's daemon has it.
    ///
    /// # Errors
    /// It knows none of that name or id, or several.
    pub async fn group(&mut self, group: &str) -> Result<Group> {
        self.call::<method::ShowGroup>(&of(group)).await
    }

    /// Changes who is in a group, or who is its admin.
    ///
    /// # Errors
    /// It is refused.
    pub async fn change<M>(&mut self, group: &str, members: &[&str]) -> Result<Group>
    where
        M: Method<Params = OfMembers, Result = Group>,
    {
        self.call::<M>(&members_of(group, members)).await
    }

    /// Adds people to a group.
    ///
    /// # Errors
    /// It is refused.
    pub async fn add(&mut self, group: &str, members: &[&str]) -> Result<Group> {
        self.change::<method::AddGroupMembers>(group, members).await
    }

    /// Removes people from a group.
    ///
    /// # Errors
    /// It is refused.
    pub async fn remove(&mut self, group: &str, members: &[&str]) -> Result<Group> {
        self.change::<method::RemoveGroupMembers>(group, members).await
    }

    /// Makes members admins.
    ///
    /// # Errors
    /// It is refused.
    pub async fn promote(&mut self, group: &str, members: &[&str]) -> Result<Group> {
        self.change::<method::PromoteGroupMembers>(group, members).await
    }

    /// Makes admins plain members.
    ///
    /// # Errors
    /// It is refused.
    pub async fn demote(&mut self, group: &str, members: &[&str]) -> Result<Group> {
        self.change::<method::DemoteGroupMembers>(group, members).await
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// It is refused.
    pub async fn leave(&mut self, group: &str) -> Result<Group> {
        self.call::<method::LeaveGroup>(&of(group)).await
    }

    /// Gives a group another name.
    ///
    /// # Errors
    /// It is refused.
    pub async fn rename(&mut self, group: &str, name: &str) -> Result<Group> {
        let params = GroupName { group: group.to_owned(), name: name.to_owned(), ..GroupName::default() };
        self.call::<method::RenameGroup>(&params).await
    }

    /// Sets what a group is about.
    ///
    /// # Errors
    /// It is refused.
    pub async fn set_topic(&mut self, group: &str, topic: &str) -> Result<Group> {
        let params = GroupTopic { group: group.to_owned(), topic: topic.to_owned(), ..GroupTopic::default() };
        self.call::<method::SetGroupTopic>(&params).await
    }

    /// Waits until a group is in a state.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn group_is(&mut self, group: &str, state: GroupState) -> Result<Group> {
        let what = format!("the group {group} is {state:?}");
        self.until(&what, async |person| Ok(person.seen_group(group).await?.filter(|seen| seen.state == state))).await
    }

    /// A group, if this person's daemon knows it by now.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub async fn seen_group(&mut self, group: &str) -> Result<Option<Group>> {
        match self.try_call::<method::ShowGroup>(&of(group)).await {
            Ok(group) => Ok(Some(group)),
            Err(fastchat_ipc::ClientError::Api(error)) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What stands in a chat beside texts: notices, and marks of what cannot be read.
    ///
    /// # Errors
    /// The history cannot be read.
    pub async fn marks(&mut self, chat: &str) -> Result<Vec<String>> {
        let history = self.history(chat).await?.into_iter();
        Ok(history.filter(|message| message.kind != MessageKind::Text).map(|message| message.text).collect())
    }

    /// Waits until a chat has a mark with `part` in it.
    ///
    /// # Errors
    /// It takes too long; the text shows the marks that are there.
    pub async fn sees_mark(&mut self, chat: &str, part: &str) -> Result<()> {
        let found = self
            .until(&format!("a mark with `{part}`"), async |person| {
                Ok(person.marks(chat).await?.iter().any(|text| text.contains(part)).then_some(()))
            })
            .await;
        match found {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(format!("instead: {:#?}", self.marks(chat).await?))),
        }
    }

    /// Sends a text into a group and sees it in the log.
    ///
    /// # Errors
    /// It is not accepted in time.
    pub async fn say(&mut self, group: &str, text: &str) -> Result<Sent> {
        let sent = self.send_and_wait(group, text, Wait::Sent).await?;
        let accepted = matches!(sent.state, MessageState::Sent | MessageState::Delivered);
        ensure!(accepted, "{}'s message is {sent:?}", self.name);
        Ok(sent)
    }
}

/// Waits until all of these have the group at one epoch, with one authenticator and these members (in the order of
/// their names).
///
/// # Errors
/// It takes too long, or they have forked; the text shows what each of them has.
pub async fn agree(people: &mut [&mut Person], group: &str, members: &[&str]) -> Result<Group> {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    match within(&format!("all agree on {group}"), agreeing(people, group, &sorted)).await {
        Ok(group) => Ok(group),
        Err(error) => {
            let mut seen = Vec::new();
            for person in people {
                let has = person.seen_group(group).await;
                seen.push(format!("{}: {has:#?}", person.name));
            }
            Err(error.context(format!("they have: {}", seen.join("\n"))))
        }
    }
}

async fn agreeing(people: &mut [&mut Person], name: &str, members: &[&str]) -> Result<Group> {
    loop {
        let mut newest = 0;
        for person in people.iter_mut() {
            let seen = person
                .until("the group is as wanted", async |person| {
                    let seen = person.seen_group(name).await?;
                    Ok(seen.filter(|group| group.epoch >= newest && is_settled(group, members)))
                })
                .await?;
            newest = seen.epoch;
        }
        let mut seen = Vec::new();
        for person in people.iter_mut() {
            seen.push(person.group(name).await?);
        }
        let first = seen.first().cloned().context("nobody was asked")?;
        if seen.iter().any(|group| group.epoch == first.epoch && group.authenticator != first.authenticator) {
            bail!("they are at one epoch, and not in one group");
        }
        if seen.iter().all(|group| group.epoch == first.epoch && is_settled(group, members)) {
            return Ok(first);
        }
    }
}

fn is_settled(group: &Group, members: &[&str]) -> bool {
    let names: Vec<&str> = group.members.iter().map(|member| member.name.as_str()).collect();
    names == members && group.state == GroupState::Active && group.pending.is_empty()
}

/// A group, as a parameter.
#[must_use]
pub fn of(group: &str) -> OfGroup {
    OfGroup { group: group.to_owned(), ..OfGroup::default() }
}

/// Members of a group, as a parameter.
#[must_use]
pub fn members_of(group: &str, members: &[&str]) -> OfMembers {
    OfMembers { group: group.to_owned(), members: owned(members), ..OfMembers::default() }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
