//! The desktop's notification service, `org.freedesktop.Notifications`, on one long-lived connection.
//!
//! **Invariant**: the signals are subscribed to before the first notification is shown, and only those of the service's
//! present owner count.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use tokio::time::timeout;
use zbus::{
    Connection, MatchRule, Message, MessageStream,
    message::Type,
    zvariant::{DynamicType, Value},
};

use super::content::Content;
use crate::bus::SessionBus;

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
const BUS: &str = "org.freedesktop.DBus";
/// How long the service may take to answer; starting it by activation counts.
const DEADLINE: Duration = Duration::from_secs(10);
/// Signals that may wait while the service is being called.
const SIGNALS: usize = 256;
/// The desktop file and icon that belong to the notifications.
const DESKTOP_ENTRY: &str = "org.fastchat.FastChat";

/// What the service is and can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Its name and version.
    pub(super) server: String,
    pub(super) capabilities: Vec<String>,
}

impl Features {
    pub(super) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }
}

/// What the service tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// A button was pressed, or the notification itself (`default`).
    Action { id: u32, key: String },
    /// A text was typed into the notification.
    Replied { id: u32, text: String },
    /// What a program started for the coming action may raise its window with.
    Token { id: u32, token: String },
    /// It shows no more.
    Closed { id: u32, expired: bool },
    /// Another program serves the notifications from now on, or none does.
    Owner(Option<String>),
    /// Something of no concern.
    Other,
}

/// How a notification is shown.
#[derive(Default)]
pub(super) struct Look<'a> {
    /// Key and label by turns.
    pub(super) actions: Vec<&'a str>,
    pub(super) hints: HashMap<&'a str, Value<'a>>,
    /// Milliseconds; -1 as the service likes, 0 never.
    pub(super) expires: i32,
}

/// The connection.
pub(super) struct Service {
    pub(super) connection: Connection,
    signals: MessageStream,
    owners: MessageStream,
    /// The unique name of the program that serves now.
    pub(super) owner: Option<String>,
    /// Known once it was asked.
    pub(super) features: Option<Features>,
}

impl Service {
    /// Connects to the bus and asks the service, if it runs already, what it can do.
    pub(super) async fn connect(bus: &SessionBus) -> zbus::Result<Self> {
        let connection = bus.connect().await?;
        let rule = MatchRule::builder().msg_type(Type::Signal).path(PATH)?.interface(NAME)?.build();
        let signals = MessageStream::for_match_rule(rule, &connection, Some(SIGNALS)).await?;
        let rule = MatchRule::builder().msg_type(Type::Signal).sender(BUS)?.interface(BUS)?;
        let rule = rule.member("NameOwnerChanged")?.arg(0, NAME)?.build();
        let owners = MessageStream::for_match_rule(rule, &connection, Some(SIGNALS)).await?;
        let mut service = Self { connection, signals, owners, owner: None, features: None };
        service.owner = service.ask_owner().await;
        if service.owner.is_some() {
            service.ready().await?;
        }
        Ok(service)
    }

    /// What the service can do; starts it where the bus knows how.
    pub(super) async fn ready(&mut self) -> zbus::Result<&Features> {
        if self.features.is_none() {
            let info = self.call("GetServerInformation", &()).await?;
            let (name, vendor, version, _): (String, String, String, String) = info.body().deserialize()?;
            let capabilities = self.call("GetCapabilities", &()).await?.body().deserialize()?;
            let server = if vendor.is_empty() { name } else { format!("{name} ({vendor})") };
            self.owner = self.ask_owner().await;
            self.features = Some(Features { server: format!("{server} {version}").trim().to_owned(), capabilities });
        }
        self.features.as_ref().ok_or(zbus::Error::InvalidReply)
    }

    async fn ask_owner(&self) -> Option<String> {
        let asked = self.connection.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "GetNameOwner", &NAME);
        timeout(DEADLINE, asked).await.ok()?.ok()?.body().deserialize().ok()
    }

    /// The next signal; `None` when the bus is gone. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Signal> {
        tokio::select! {
            message = self.owners.next() => match message? {
                Ok(message) => Some(new_owner(&message).map_or(Signal::Other, Signal::Owner)),
                Err(_) => None,
            },
            message = self.signals.next() => match message? {
                Ok(message) if self.is_from_owner(&message) => Some(read(&message).unwrap_or(Signal::Other)),
                Ok(_) => Some(Signal::Other),
                Err(_) => None,
            },
        }
    }

    /// Anybody on the bus can send a signal that looks like the service's.
    fn is_from_owner(&self, message: &Message) -> bool {
        let header = message.header();
        header.sender().map(|sender| sender.as_str()) == self.owner.as_deref()
    }

    /// Shows a notification in the place of `replaces` (0: a new one) and returns its id.
    pub(super) async fn show(&mut self, replaces: u32, content: &Content, look: Look<'_>) -> zbus::Result<u32> {
        let features = self.ready().await?;
        // Whoever reads links or images in the body reads markup: dunst without a configuration says the one alone.
        let markup = ["body-markup", "body-hyperlinks", "body-images"].iter().any(|mark| features.can(mark));
        let body = content.body(markup);
        let actions = if features.can("actions") { look.actions } else { Vec::new() };
        let mut hints = look.hints;
        hints.insert("desktop-entry", DESKTOP_ENTRY.into());
        let arguments =
            ("FastChat", replaces, DESKTOP_ENTRY, content.summary.as_str(), body, actions, hints, look.expires);
        self.call("Notify", &arguments).await?.body().deserialize()
    }

    /// Withdraws a notification. One that is gone already is as well.
    pub(super) async fn close(&self, id: u32) {
        if let Err(error) = self.call("CloseNotification", &id).await {
            tracing::debug!(%error, "the notification could not be withdrawn");
        }
    }

    async fn call<B: serde::Serialize + DynamicType>(&self, method: &str, body: &B) -> zbus::Result<Message> {
        let called = self.connection.call_method(Some(NAME), PATH, Some(NAME), method, body);
        let late = |_| zbus::Error::Failure("the notification service did not answer in time".to_owned());
        timeout(DEADLINE, called).await.map_err(late)?
    }
}

fn new_owner(message: &Message) -> Option<Option<String>> {
    let (_, _, new): (String, String, String) = message.body().deserialize().ok()?;
    Some(Some(new).filter(|name| !name.is_empty()))
}

fn read(message: &Message) -> Option<Signal> {
    let (header, body) = (message.header(), message.body());
    Some(match header.member()?.as_str() {
        "ActionInvoked" => {
            let (id, key) = body.deserialize().ok()?;
            Signal::Action { id, key }
        }
        "NotificationReplied" => {
            let (id, text) = body.deserialize().ok()?;
            Signal::Replied { id, text }
        }
        "ActivationToken" => {
            let (id, token) = body.deserialize().ok()?;
            Signal::Token { id, token }
        }
        "NotificationClosed" => {
            let (id, reason): (u32, u32) = body.deserialize().ok()?;
            Signal::Closed { id, expired: reason == 1 }
        }
        _ => Signal::Other,
    })
}
