//! An account's object.
//!
//! **Invariant**: its methods concern this account, whatever the options say.

use fastchat_ipc::{Account, Unread, method};
use serde_json::json;
use tokio::sync::watch;
use zbus::{Connection, interface, message::Header, object_server::SignalEmitter, zvariant::ObjectPath};

use super::{
    call::{Dict, Failure, Front},
    convert::name_of,
    tree::{Properties, View},
};

/// What the properties show.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AccountView {
    pub(super) account: Account,
    pub(super) unread: Unread,
}

impl View for AccountView {
    const INTERFACE: &'static str = "org.fastchat.FastChat1.Account";
    type Object = AccountObject;

    fn properties(&self) -> Properties {
        [
            ("Address", self.account.account.clone().into()),
            ("State", name_of(&self.account.state).into()),
            ("Reason", self.account.reason.clone().into()),
            ("Outbox", self.account.outbox.into()),
            ("UnreadDirect", self.unread.direct.into()),
            ("UnreadGroup", self.unread.group.into()),
            ("Requests", self.unread.requests.into()),
        ]
        .into()
    }
}

/// The object.
pub(super) struct AccountObject {
    front: Front,
    account: String,
    view: watch::Receiver<AccountView>,
}

impl AccountObject {
    pub(super) fn new(front: Front, account: String, view: watch::Receiver<AccountView>) -> Self {
        Self { front, account, view }
    }
}

/// An account on this daemon.
#[interface(name = "org.fastchat.FastChat1.Account")]
impl AccountObject {
    /// Ends the device's session on the server and removes the account's keys and history from here.
    async fn logout(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::LogoutAccount>((bus, call), json!({"account": self.account}), options).await
    }

    /// Sends a text to one or more people or groups; on disk when it returns, and out as soon as there is a connection.
    async fn send(
        &self,
        to: Vec<String>,
        text: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "to": to, "text": text});
        self.front.call::<method::SendMessage>((bus, call), given, options).await
    }

    /// Lists the chats, the one with the newest message first.
    async fn list_chats(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::ListChats>((bus, call), json!({"account": self.account}), options).await
    }

    /// Counts unread messages, direct and group apart, and requests.
    async fn count_unread(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::CountUnread>((bus, call), json!({"account": self.account}), options).await
    }

    /// Makes somebody a contact.
    async fn add_contact(
        &self,
        contact: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "contact": contact});
        self.front.call::<method::AddContact>((bus, call), given, options).await
    }

    /// Lists contacts and requests, with who is active.
    async fn list_contacts(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::ListContacts>((bus, call), json!({"account": self.account}), options).await
    }

    /// Shows the own key's fingerprint, or the safety number with a contact (option `contact`).
    async fn show_key(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::ShowKeys>((bus, call), json!({"account": self.account}), options).await
    }

    /// Lists the messages that wait, are held or failed.
    async fn list_outbox(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::ListOutbox>((bus, call), json!({"account": self.account}), options).await
    }

    /// Tries held and failed messages again now (option `id`: one alone).
    async fn retry_outbox(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::RetryOutbox>((bus, call), json!({"account": self.account}), options).await
    }

    /// Takes messages back that were not sent yet (option `id`: one alone).
    async fn cancel_outbox(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::CancelOutbox>((bus, call), json!({"account": self.account}), options).await
    }

    /// Changes the account's password (option `end_other_devices`).
    async fn change_password(
        &self,
        old: String,
        new: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "old": old, "new": new});
        self.front.call::<method::ChangePassword>((bus, call), given, options).await
    }

    /// Lists the account's devices.
    async fn list_devices(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account});
        self.front.call::<method::ListDevices>((bus, call), given, options).await
    }

    /// Sets what a device of the account is called.
    async fn rename_device(
        &self,
        device: String,
        name: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "device": device, "name": name});
        self.front.call::<method::RenameDevice>((bus, call), given, options).await
    }

    /// Takes a device from the account: its session ends, and it opens nothing that comes later.
    async fn revoke_device(
        &self,
        device: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "device": device});
        self.front.call::<method::RevokeDevice>((bus, call), given, options).await
    }

    /// Takes the code of a new device; gives what to compare.
    async fn link_device(
        &self,
        code: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "code": code});
        self.front.call::<method::LinkDevice>((bus, call), given, options).await
    }

    /// Lets the new device in after the strings were compared, or ends the link.
    async fn confirm_device_link(
        &self,
        link: String,
        accept: bool,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "link": link, "accept": accept});
        self.front.call::<method::ConfirmDeviceLink>((bus, call), given, options).await
    }

    /// Gives the account a new identity. Every contact is warned.
    async fn rotate_key(
        &self,
        password: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "password": password});
        self.front.call::<method::RotateKey>((bus, call), given, options).await
    }

    /// Makes a group with us as its admin (option `topic`).
    async fn create_group(
        &self,
        name: String,
        members: Vec<String>,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "name": name, "members": members});
        self.front.call::<method::CreateGroup>((bus, call), given, options).await
    }

    /// Lists the groups, with their members and the changes under way.
    async fn list_groups(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account});
        self.front.call::<method::ListGroups>((bus, call), given, options).await
    }

    /// Writes an encrypted file with the account's identity, contacts and history.
    async fn create_backup(
        &self,
        path: String,
        passphrase: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "path": path, "passphrase": passphrase});
        self.front.call::<method::CreateBackup>((bus, call), given, options).await
    }

    /// Brings contacts and history from a backup of this account here.
    async fn restore_backup(
        &self,
        path: String,
        passphrase: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"account": self.account, "path": path, "passphrase": passphrase});
        self.front.call::<method::RestoreBackup>((bus, call), given, options).await
    }

    /// `alice@host:port`.
    #[zbus(property)]
    fn address(&self) -> String {
        self.view.borrow().account.account.clone()
    }

    /// `locked`, `offline`, `connecting`, `online`, `logged_out` or `untrusted`.
    #[zbus(property)]
    fn state(&self) -> String {
        name_of(&self.view.borrow().account.state)
    }

    /// Why it is not online, for people; empty when it is.
    #[zbus(property)]
    fn reason(&self) -> String {
        self.view.borrow().account.reason.clone()
    }

    /// Messages waiting in the outbox.
    #[zbus(property)]
    fn outbox(&self) -> u64 {
        self.view.borrow().account.outbox
    }

    /// Unread messages in direct chats.
    #[zbus(property)]
    fn unread_direct(&self) -> u64 {
        self.view.borrow().unread.direct
    }

    /// Unread messages in groups.
    #[zbus(property)]
    fn unread_group(&self) -> u64 {
        self.view.borrow().unread.group
    }

    /// Requests that wait for an answer.
    #[zbus(property)]
    fn requests(&self) -> u64 {
        self.view.borrow().unread.requests
    }

    /// A message has come; `History` of the conversation has it.
    #[zbus(signal)]
    pub(super) async fn message_received(
        emitter: &SignalEmitter<'_>,
        cursor: &str,
        conversation: ObjectPath<'_>,
        message_id: &str,
    ) -> zbus::Result<()>;

    /// A message of ours got into another state.
    #[zbus(signal)]
    pub(super) async fn message_state_changed(
        emitter: &SignalEmitter<'_>,
        cursor: &str,
        conversation: ObjectPath<'_>,
        id: &str,
        state: &str,
    ) -> zbus::Result<()>;

    /// A group is new, or its name, topic, members, roles, state or epoch changed; its object shows how it is now.
    #[zbus(signal)]
    pub(super) async fn group_changed(
        emitter: &SignalEmitter<'_>,
        cursor: &str,
        conversation: ObjectPath<'_>,
    ) -> zbus::Result<()>;

    /// The account's devices changed; `ListDevices` has them.
    #[zbus(signal)]
    pub(super) async fn devices_changed(emitter: &SignalEmitter<'_>, cursor: &str) -> zbus::Result<()>;

    /// A device came to the account that was not this one; `ListDevices` has its name.
    #[zbus(signal)]
    pub(super) async fn new_device(emitter: &SignalEmitter<'_>, cursor: &str, device: &str) -> zbus::Result<()>;
}
