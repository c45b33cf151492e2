//! Groups: who is in them, who may change them, and the changes under way.
//!
//! **Invariant**: what a group shows is what its members agree on at its epoch; a change that was asked for and does not
//! stand in the group's log yet is in `pending`, and nowhere else.

use serde::{Deserialize, Serialize};

/// The longest name of a group, in characters; no control characters.
pub const GROUP_NAME_LIMIT: usize = 64;
/// The longest topic of a group, in characters.
pub const GROUP_TOPIC_LIMIT: usize = 256;
/// Most names that one call takes in `members`.
pub const GROUP_MEMBERS_PER_CALL: usize = 1000;

/// Where a group stands for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// We are a member, and this device is in.
    Active,
    /// We are a member, and this device is on its way in.
    Joining,
    /// We asked to leave; another member's device has to take us out.
    Leaving,
    /// We left, or were removed. The history stays.
    Left,
    /// An admin ended the group for all. The history stays.
    Deleted,
}

/// An account in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    /// Its name on the server.
    pub name: String,
    /// Whether it may change the group.
    pub admin: bool,
    /// How many of its devices are in the group.
    pub devices: u32,
    /// Whether its safety number was compared. Always true for ourselves.
    pub verified: bool,
    /// Whether its identity key changed and nobody has trusted the new one yet: sending to the group is held.
    pub key_changed: bool,
    /// Whether it asked to leave and is still to be taken out.
    pub leaving: bool,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The group's id; stays for as long as the group exists.
    pub id: String,
    /// The account it belongs to.
    pub account: String,
    /// What it is called. Another group may be called the same: then only the id names it.
    pub name: String,
    /// What it is about; may be empty.
    pub topic: String,
    /// Its chat's id.
    pub chat: String,
    /// Who is in, by name. Those who are being added are in `pending`.
    pub members: Vec<GroupMember>,
    /// Whether we may change the group.
    pub admin: bool,
    /// Where it stands for us.
    pub state: GroupState,
    /// The epoch of its keys; grows by one with each change.
    pub epoch: u64,
    /// The epoch's authenticator, in hex: equal on all devices that agree about the group.
    pub authenticator: String,
    /// Changes that were asked for here and are under way, for people: `adding carol`, `leaving`, …
    pub pending: Vec<String>,
    /// Messages not read yet.
    pub unread: u64,
    /// When it was made.
    pub created_at_ms: u64,
}

/// All groups, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// The groups.
    pub groups: Vec<Group>,
}

/// Parameters of `group.create`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// What to call it, 1 to [`GROUP_NAME_LIMIT`] characters.
    pub name: String,
    /// What it is about, [`GROUP_TOPIC_LIMIT`] characters at most.
    #[serde(default)]
    pub topic: String,
    /// Who is to be in from the beginning, names or aliases, at most [`GROUP_MEMBERS_PER_CALL`]. We are.
    #[serde(default)]
    pub members: Vec<String>,
}

/// Parameters of methods that concern a group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfGroup {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The group: its id, its chat's id, or its name where no other group has it.
    pub group: String,
}

/// Parameters of `group.rename`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupName {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The group.
    pub group: String,
    /// What to call it, 1 to [`GROUP_NAME_LIMIT`] characters.
    pub name: String,
}

/// Parameters of `group.topic`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTopic {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The group.
    pub group: String,
    /// What it is about, [`GROUP_TOPIC_LIMIT`] characters at most; empty for nothing.
    pub topic: String,
}

/// Parameters of `group.add`, `group.remove`, `group.promote` and `group.demote`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfMembers {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The group.
    pub group: String,
    /// Whom it concerns: names or aliases, 1 to [`GROUP_MEMBERS_PER_CALL`].
    pub members: Vec<String>,
}
