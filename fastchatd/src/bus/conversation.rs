//! A chat's object.
//!
//! **Invariant**: its methods concern this chat of this account, whatever the options say.

use fastchat_ipc::{Chat, method};
use serde_json::json;
use tokio::sync::watch;
use zbus::{Connection, interface, message::Header, zvariant::OwnedObjectPath};

use super::{
    call::{Dict, Failure, Front},
    convert::name_of,
    tree::{Properties, View},
};

/// What the properties show. The newest message is not in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ChatView {
    pub(super) chat: Chat,
    /// The contact's object; `/` for a group.
    pub(super) contact: OwnedObjectPath,
}

impl View for ChatView {
    const INTERFACE: &'static str = "org.fastchat.FastChat1.Conversation";
    type Object = ConversationObject;

    fn properties(&self) -> Properties {
        [
            ("Id", self.chat.id.clone().into()),
            ("Kind", name_of(&self.chat.kind).into()),
            ("Title", self.chat.title.clone().into()),
            ("Contact", self.contact.clone().into()),
            ("Unread", self.chat.unread.into()),
            ("Muted", self.chat.muted.into()),
            ("Request", self.chat.request.into()),
            ("Held", self.chat.held.into()),
            ("Verified", self.chat.verified.into()),
        ]
        .into()
    }
}

/// The object.
pub(super) struct ConversationObject {
    front: Front,
    account: String,
    chat: String,
    view: watch::Receiver<ChatView>,
}

impl ConversationObject {
    pub(super) fn new(front: Front, account: String, chat: String, view: watch::Receiver<ChatView>) -> Self {
        Self { front, account, chat, view }
    }
}

/// A chat of an account.
#[interface(name = "org.fastchat.FastChat1.Conversation")]
impl ConversationObject {
    /// Reads the chat's messages, newest last (options `limit`, `before`).
    async fn history(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::ReadHistory>((bus, call), json!({"account": self.account, "chat": self.chat}), options)
            .await
    }

    /// Marks the chat's messages as read (option `up_to`) and withdraws its notification.
    async fn mark_read(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::MarkChatRead>((bus, call), json!({"account": self.account, "chat": self.chat}), options)
            .await
    }

    /// Turns the chat's notifications off.
    async fn mute(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::MuteChat>((bus, call), json!({"account": self.account, "chat": self.chat}), options)
            .await
    }

    /// Turns the chat's notifications on again.
    async fn unmute(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front
            .call::<method::UnmuteChat>((bus, call), json!({"account": self.account, "chat": self.chat}), options)
            .await
    }

    /// The chat's id.
    #[zbus(property)]
    fn id(&self) -> String {
        self.view.borrow().chat.id.clone()
    }

    /// `direct` or `group`.
    #[zbus(property)]
    fn kind(&self) -> String {
        name_of(&self.view.borrow().chat.kind)
    }

    /// The contact's alias or name, the group's name.
    #[zbus(property)]
    fn title(&self) -> String {
        self.view.borrow().chat.title.clone()
    }

    /// The contact of a direct chat; `/` when there is none.
    #[zbus(property)]
    fn contact(&self) -> OwnedObjectPath {
        self.view.borrow().contact.clone()
    }

    /// Messages not read yet.
    #[zbus(property)]
    fn unread(&self) -> u64 {
        self.view.borrow().chat.unread
    }

    /// Whether its notifications are off.
    #[zbus(property)]
    fn muted(&self) -> bool {
        self.view.borrow().chat.muted
    }

    /// Whether it is a request of somebody who is not a contact yet.
    #[zbus(property)]
    fn request(&self) -> bool {
        self.view.borrow().chat.request
    }

    /// Whether sending is held because the contact's key, or that of somebody in the group, changed.
    #[zbus(property)]
    fn held(&self) -> bool {
        self.view.borrow().chat.held
    }

    /// Whether the safety numbers of all others in it were compared.
    #[zbus(property)]
    fn verified(&self) -> bool {
        self.view.borrow().chat.verified
    }
}
