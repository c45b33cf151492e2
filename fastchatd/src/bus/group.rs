//! A group, on the object of its conversation.
//!
//! **Invariant**: its methods concern this group of this account, whatever the options say.

use fastchat_ipc::{Group, method};
use serde_json::json;
use tokio::sync::watch;
use zbus::{Connection, interface, message::Header};

use super::{
    call::{Dict, Failure, Front},
    convert::name_of,
    tree::{Properties, View},
};

/// What the properties show. Unread messages are counted by the conversation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupView {
    group: Group,
}

impl GroupView {
    pub(super) fn new(group: Group) -> Self {
        Self { group: Group { unread: 0, ..group } }
    }

    fn members(&self) -> Vec<String> {
        self.group.members.iter().map(|member| member.name.clone()).collect()
    }

    fn admins(&self) -> Vec<String> {
        self.group.members.iter().filter(|member| member.admin).map(|member| member.name.clone()).collect()
    }
}

impl View for GroupView {
    const INTERFACE: &'static str = "org.fastchat.FastChat1.Group";
    type Object = GroupObject;

    fn properties(&self) -> Properties {
        [
            ("Id", self.group.id.clone().into()),
            ("Name", self.group.name.clone().into()),
            ("Topic", self.group.topic.clone().into()),
            ("Members", self.members().into()),
            ("Admins", self.admins().into()),
            ("Admin", self.group.admin.into()),
            ("State", name_of(&self.group.state).into()),
            ("Pending", self.group.pending.clone().into()),
            ("Epoch", self.group.epoch.into()),
            ("Authenticator", self.group.authenticator.clone().into()),
            ("Created", self.group.created_at_ms.into()),
        ]
        .into()
    }
}

/// The object.
pub(super) struct GroupObject {
    front: Front,
    account: String,
    group: String,
    view: watch::Receiver<GroupView>,
}

impl GroupObject {
    pub(super) fn new(front: Front, account: String, view: watch::Receiver<GroupView>) -> Self {
        let group = view.borrow().group.id.clone();
        Self { front, account, group, view }
    }
}

/// A group of an account.
#[interface(name = "org.fastchat.FastChat1.Group")]
impl GroupObject {
    /// Shows the group: members, roles, state, epoch, changes under way.
    async fn show(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group});
        self.front.call::<method::ShowGroup>((bus, call), given, options).await
    }

    /// Sets the group's name.
    async fn rename(
        &self,
        name: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group, "name": name});
        self.front.call::<method::RenameGroup>((bus, call), given, options).await
    }

    /// Sets what the group is about.
    async fn set_topic(
        &self,
        topic: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group, "topic": topic});
        self.front.call::<method::SetGroupTopic>((bus, call), given, options).await
    }

    /// Adds people to the group; they see nothing from before.
    async fn add(
        &self,
        members: Vec<String>,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group, "members": members});
        self.front.call::<method::AddGroupMembers>((bus, call), given, options).await
    }

    /// Removes people from the group; they open nothing that comes later.
    async fn remove(
        &self,
        members: Vec<String>,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group, "members": members});
        self.front.call::<method::RemoveGroupMembers>((bus, call), given, options).await
    }

    /// Makes members admins of the group.
    async fn promote(
        &self,
        members: Vec<String>,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group, "members": members});
        self.front.call::<method::PromoteGroupMembers>((bus, call), given, options).await
    }

    /// Makes admins of the group plain members.
    async fn demote(
        &self,
        members: Vec<String>,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group, "members": members});
        self.front.call::<method::DemoteGroupMembers>((bus, call), given, options).await
    }

    /// Leaves the group; the history stays.
    async fn leave(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group});
        self.front.call::<method::LeaveGroup>((bus, call), given, options).await
    }

    /// Ends the group for everybody; the history stays.
    async fn delete(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "group": self.group});
        self.front.call::<method::DeleteGroup>((bus, call), given, options).await
    }

    /// The group's id.
    #[zbus(property)]
    fn id(&self) -> String {
        self.view.borrow().group.id.clone()
    }

    /// What it is called.
    #[zbus(property)]
    fn name(&self) -> String {
        self.view.borrow().group.name.clone()
    }

    /// What it is about; may be empty.
    #[zbus(property)]
    fn topic(&self) -> String {
        self.view.borrow().group.topic.clone()
    }

    /// Who is in, by their names on the server.
    #[zbus(property)]
    fn members(&self) -> Vec<String> {
        self.view.borrow().members()
    }

    /// Those of them who may change the group.
    #[zbus(property)]
    fn admins(&self) -> Vec<String> {
        self.view.borrow().admins()
    }

    /// Whether we may.
    #[zbus(property)]
    fn admin(&self) -> bool {
        self.view.borrow().group.admin
    }

    /// `active`, `joining`, `leaving`, `left` or `deleted`.
    #[zbus(property)]
    fn state(&self) -> String {
        name_of(&self.view.borrow().group.state)
    }

    /// Changes that were asked for here and are under way, for people.
    #[zbus(property)]
    fn pending(&self) -> Vec<String> {
        self.view.borrow().group.pending.clone()
    }

    /// The epoch of its keys; grows by one with each change.
    #[zbus(property)]
    fn epoch(&self) -> u64 {
        self.view.borrow().group.epoch
    }

    /// The epoch's authenticator, in hex: equal on all devices that agree about the group.
    #[zbus(property)]
    fn authenticator(&self) -> String {
        self.view.borrow().group.authenticator.clone()
    }

    /// When it was made, milliseconds of Unix time.
    #[zbus(property)]
    fn created(&self) -> u64 {
        self.view.borrow().group.created_at_ms
    }
}
