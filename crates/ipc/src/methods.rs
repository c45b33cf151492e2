//! The list of methods: each once, with its name on both transports, its parameters and its result.
//!
//! **Invariant**: what is callable is in [`METHODS`], and everything in it is callable on both transports.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::types::*;
use crate::{ApiError, ErrorCode};

/// A method of the API, as a type.
pub trait Method {
    /// Its JSON-RPC name.
    const NAME: &'static str;
    /// What it takes.
    type Params: Serialize + DeserializeOwned;
    /// What it gives.
    type Result: Serialize + DeserializeOwned;
}

/// A line of [`METHODS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// JSON-RPC name.
    pub name: &'static str,
    /// D-Bus interface (after `org.fastchat.FastChat1.`) and member.
    pub dbus: &'static str,
    /// What it does.
    pub summary: &'static str,
}

macro_rules! methods {
    ($($(#[doc = $doc:literal])+ $variant:ident($params:ty) -> $result:ty = $name:literal, $dbus:literal;)+) => {
        /// The methods as types, for typed calls.
        pub mod method {
            use super::*;
            $(
                $(#[doc = $doc])+
                #[derive(Debug, Clone, Copy)]
                pub struct $variant;
                impl Method for $variant {
                    const NAME: &'static str = $name;
                    type Params = $params;
                    type Result = $result;
                }
            )+
        }

        /// A call with its parameters read and checked for shape.
        #[derive(Clone, PartialEq, Eq)]
        pub enum Request {
            $($(#[doc = $doc])+ $variant($params),)+
        }

        impl Request {
            /// Reads the parameters of the method `name`. Absent parameters are an empty object.
            ///
            /// # Errors
            /// `UnknownMethod`, or `InvalidParams` with the field that is wrong.
            pub fn parse(name: &str, params: Value) -> Result<Self, ApiError> {
                let params = if params.is_null() { Value::Object(serde_json::Map::new()) } else { params };
                match name {
                    $($name => serde_json::from_value(params).map(Self::$variant).map_err(|error| {
                        ApiError::new(ErrorCode::InvalidParams, format!("{name}: {error}"))
                    }),)+
                    _ => Err(ApiError::new(ErrorCode::UnknownMethod, format!("there is no method `{}`", name.escape_default()))
                        .hint("`fastchatctl rpc rpc.discover` lists all methods")),
                }
            }

            /// The JSON-RPC name.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name,)+ }
            }
        }

        /// Every method.
        pub const METHODS: &[Listed] = &[
            $(Listed { name: $name, dbus: $dbus, summary: trimmed(concat!($($doc),+)) },)+
        ];
    };
}

const fn trimmed(doc: &'static str) -> &'static str {
    doc.trim_ascii()
}

methods! {
    /// Lists all methods with their names on both transports.
    Discover(Empty) -> Discovery = "rpc.discover", "Daemon.Discover";
    /// Tells the daemon's version, its accounts and their states.
    DaemonStatus(Empty) -> Status = "daemon.status", "Daemon.Status";
    /// Checks store, key protection, bus, notifications and servers, and says how to mend what is wrong.
    DaemonDoctor(Empty) -> Doctor = "daemon.doctor", "Daemon.Doctor";
    /// Unlocks the store with its passphrase, or tries the Secret Service again.
    DaemonUnlock(Unlock) -> Status = "daemon.unlock", "Daemon.Unlock";
    /// Makes an account on a server, and the device for it here.
    Register(SignIn) -> Account = "account.register", "Daemon.Register";
    /// Brings an account that exists to this device, with its password.
    Login(SignIn) -> Account = "account.login", "Daemon.Login";
    /// Lists the accounts, the default one first.
    ListAccounts(Empty) -> AccountList = "account.list", "Daemon.ListAccounts";
    /// Ends the device's session on the server and removes the account's keys and history from here.
    LogoutAccount(Logout) -> Empty = "account.logout", "Account.Logout";
    /// Changes the account's password, and encrypts the identity backup on the server anew under it.
    ChangePassword(PasswordChange) -> Empty = "account.password", "Account.ChangePassword";
    /// Begins to bring an account to this device without its password: gives the code for a device that has it.
    BeginLink(LinkRequest) -> LinkBegun = "account.link_begin", "Daemon.BeginLink";
    /// Waits until a device of the account has taken the code; gives what to compare.
    AwaitLink(OfLink) -> LinkSas = "account.link_wait", "Daemon.AwaitLink";
    /// Brings the account here after the strings were compared, or ends the link.
    FinishLink(LinkFinish) -> Account = "account.link_finish", "Daemon.FinishLink";
    /// Lists the account's devices.
    ListDevices(OfAccount) -> Devices = "device.list", "Account.ListDevices";
    /// Sets what a device of the account is called.
    RenameDevice(DeviceName) -> Device = "device.rename", "Account.RenameDevice";
    /// Takes a device from the account: its session ends, and it opens nothing that comes later.
    RevokeDevice(OfDevice) -> Empty = "device.revoke", "Account.RevokeDevice";
    /// Takes the code of a new device; gives what to compare.
    LinkDevice(LinkCode) -> LinkOffer = "device.link", "Account.LinkDevice";
    /// Lets the new device in after the strings were compared, or ends the link.
    ConfirmDeviceLink(LinkConsent) -> Device = "device.link_confirm", "Account.ConfirmDeviceLink";
    /// Sends a text to one or more people or groups; on disk when it returns, and out as soon as there is a connection.
    SendMessage(Send) -> SendResult = "send", "Account.Send";
    /// Lists the chats, the one with the newest message first.
    ListChats(OfAccount) -> Chats = "chats", "Account.ListChats";
    /// Counts unread messages, direct and group apart, and requests.
    CountUnread(OfAccount) -> Unread = "unread", "Account.CountUnread";
    /// Reads a chat's messages, newest last.
    ReadHistory(History) -> HistoryResult = "history", "Conversation.History";
    /// Marks a chat's messages as read and withdraws its notification.
    MarkChatRead(MarkRead) -> Unread = "mark_read", "Conversation.MarkRead";
    /// Makes somebody a contact.
    AddContact(OfContact) -> Contact = "contact.add", "Account.AddContact";
    /// Lists contacts and requests, with who is active.
    ListContacts(OfAccount) -> Contacts = "contact.list", "Account.ListContacts";
    /// Accepts a request.
    AcceptContact(OfContact) -> Contact = "contact.accept", "Contact.Accept";
    /// Declines a request: it shows nowhere any more.
    DeclineContact(OfContact) -> Contact = "contact.decline", "Contact.Decline";
    /// Blocks somebody: their messages are refused by the server.
    BlockContact(OfContact) -> Contact = "contact.block", "Contact.Block";
    /// Lifts a block.
    UnblockContact(OfContact) -> Contact = "contact.unblock", "Contact.Unblock";
    /// Removes somebody from the contacts; the chat's history stays.
    RemoveContact(OfContact) -> Empty = "contact.remove", "Contact.Remove";
    /// Sets what we call a contact.
    SetContactAlias(SetAlias) -> Contact = "contact.alias", "Contact.SetAlias";
    /// Shows the own key's fingerprint or the safety number with a contact.
    ShowKeys(ShowKey) -> Keys = "key.show", "Account.ShowKey";
    /// Marks a contact's key as verified after the safety numbers were compared.
    VerifyContactKey(VerifyKey) -> Keys = "key.verify", "Contact.VerifyKey";
    /// Trusts a contact's changed key; what was held goes out.
    TrustContactKey(TrustKey) -> Keys = "key.trust", "Contact.TrustKey";
    /// Gives the account a new identity and takes it to all contacts and groups. Every contact is warned.
    RotateKey(Rotation) -> Keys = "key.rotate", "Account.RotateKey";
    /// Makes a group with us as its admin.
    CreateGroup(NewGroup) -> Group = "group.create", "Account.CreateGroup";
    /// Lists the groups, with their members and the changes under way.
    ListGroups(OfAccount) -> Groups = "group.list", "Account.ListGroups";
    /// Shows a group: members, roles, state, epoch, changes under way.
    ShowGroup(OfGroup) -> Group = "group.show", "Group.Show";
    /// Sets a group's name.
    RenameGroup(GroupName) -> Group = "group.rename", "Group.Rename";
    /// Sets what a group is about.
    SetGroupTopic(GroupTopic) -> Group = "group.topic", "Group.SetTopic";
    /// Adds people to a group; they see nothing from before.
    AddGroupMembers(OfMembers) -> Group = "group.add", "Group.Add";
    /// Removes people from a group; they open nothing that comes later.
    RemoveGroupMembers(OfMembers) -> Group = "group.remove", "Group.Remove";
    /// Makes members admins of a group.
    PromoteGroupMembers(OfMembers) -> Group = "group.promote", "Group.Promote";
    /// Makes admins of a group plain members.
    DemoteGroupMembers(OfMembers) -> Group = "group.demote", "Group.Demote";
    /// Leaves a group; the history stays.
    LeaveGroup(OfGroup) -> Group = "group.leave", "Group.Leave";
    /// Ends a group for everybody; the history stays.
    DeleteGroup(OfGroup) -> Group = "group.delete", "Group.Delete";
    /// Writes an encrypted file with the account's identity, contacts and history.
    CreateBackup(Backup) -> BackupInfo = "backup.create", "Account.CreateBackup";
    /// Reads a backup through and tells what it holds.
    VerifyBackup(BackupFile) -> BackupInfo = "backup.verify", "Daemon.VerifyBackup";
    /// Brings contacts and history from a backup of this account here; what is here already stays.
    RestoreBackup(Backup) -> Restored = "backup.restore", "Account.RestoreBackup";
    /// Lists the messages that wait, are held or failed.
    ListOutbox(OfAccount) -> Outbox = "outbox.list", "Account.ListOutbox";
    /// Tries held and failed messages again now.
    RetryOutbox(OfMessage) -> Changed = "outbox.retry", "Account.RetryOutbox";
    /// Takes messages back that were not sent yet.
    CancelOutbox(OfMessage) -> Changed = "outbox.cancel", "Account.CancelOutbox";
    /// Tells how notifications are shown here.
    NotificationStatus(Empty) -> NotifyStatus = "notify.status", "Notifications.Status";
    /// Shows a test notification.
    TestNotification(Empty) -> NotifyStatus = "notify.test", "Notifications.Test";
    /// Turns do-not-disturb on or off.
    SetDoNotDisturb(DoNotDisturb) -> NotifyStatus = "notify.dnd", "Notifications.SetDoNotDisturb";
    /// Sets how much notifications show.
    SetNotificationPreview(SetPreview) -> NotifyStatus = "notify.preview", "Notifications.SetPreview";
    /// Turns a chat's notifications off.
    MuteChat(OfChat) -> Chat = "notify.mute", "Conversation.Mute";
    /// Turns a chat's notifications on again.
    UnmuteChat(OfChat) -> Chat = "notify.unmute", "Conversation.Unmute";
    /// Reads events after a cursor, and waits for the first one if asked to.
    ReadEventLog(ReadEvents) -> Events = "events.read", "Daemon.ReadEvents";
    /// Sends events as they happen, from a cursor on.
    SubscribeEvents(Subscribe) -> Subscribed = "events.subscribe", "Daemon.Subscribe";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn every_method_has_its_own_name_on_each_transport() {
        let names: BTreeSet<_> = METHODS.iter().map(|method| method.name).collect();
        let members: BTreeSet<_> = METHODS.iter().map(|method| method.dbus).collect();
        assert_eq!((names.len(), members.len()), (METHODS.len(), METHODS.len()));
        assert!(METHODS.iter().all(|method| method.summary.ends_with('.') && method.dbus.contains('.')));
    }

    #[test]
    fn an_unknown_parameter_is_refused_and_named() {
        let Err(error) = Request::parse("history", json!({"chat": "bob", "lmit": 3})) else { panic!("it was taken") };
        assert_eq!(error.code, ErrorCode::InvalidParams);
        assert!(error.message.contains("lmit"), "{error}");
    }

    #[test]
    fn absent_parameters_are_an_empty_object() {
        assert!(matches!(Request::parse("daemon.status", Value::Null), Ok(Request::DaemonStatus(Empty {}))));
        assert_eq!(Request::parse("nonsense", Value::Null).err().map(|e| e.code), Some(ErrorCode::UnknownMethod));
    }
}
