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
    /// Brings an account that exists to this device; it takes the place of the account's former device.
    Login(SignIn) -> Account = "account.login", "Daemon.Login";
    /// Lists the accounts, the default one first.
    ListAccounts(Empty) -> AccountList = "account.list", "Daemon.ListAccounts";
    /// Ends the device's session on the server and removes the account's keys and history from here.
    LogoutAccount(Logout) -> Empty = "account.logout", "Account.Logout";
    /// Sends a text to one or more people; on disk when it returns, and out as soon as there is a connection.
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
    TrustContactKey(OfContact) -> Keys = "key.trust", "Contact.TrustKey";
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
