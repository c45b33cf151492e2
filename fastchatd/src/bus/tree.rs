//! The tree of accounts, chats and contacts, kept in step with the engine by the one task that reads the events.
//!
//! The objects themselves hold no state: each reads its properties from a `watch` channel whose sender is here, so a
//! method that takes its time never holds up a change.
//!
//! **Invariant**: a property that changed is announced once, after the objects have it; a signal that names an object
//! comes after the object.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fastchat_ipc::{
    Account, ApiError, Chat, ChatKind, Contact, Empty, ErrorCode, Event, EventKind, MessageState, OfAccount, ROOT_PATH,
    Unread, account_path, contact_path, conversation_path, method,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, warn};
use zbus::{
    Connection, fdo,
    names::InterfaceName,
    object_server::{Interface, SignalEmitter},
    zvariant::{ObjectPath, OwnedObjectPath, Value},
};

use super::{
    account::{AccountObject, AccountView},
    call::Front,
    contact::ContactObject,
    conversation::{ChatView, ConversationObject},
    daemon::DaemonView,
    group::{GroupObject, GroupView},
    signals,
};

/// Events that come within this time are followed by one look at the engine, not one each.
const GATHER: Duration = Duration::from_millis(100);
/// How long to wait before the events are tried again, while the store is locked.
const RETRY: Duration = Duration::from_secs(2);

/// Properties by their D-Bus names.
pub(super) type Properties = BTreeMap<&'static str, Value<'static>>;

/// What an object's properties show.
pub(super) trait View: Clone + PartialEq + Send + Sync + 'static {
    /// The object's interface.
    const INTERFACE: &'static str;
    /// The object.
    type Object: Interface;
    /// All properties.
    fn properties(&self) -> Properties;
}

/// An object in the tree.
struct Leaf<V> {
    path: OwnedObjectPath,
    view: watch::Sender<V>,
}

/// An account with what hangs on it.
struct Branch {
    leaf: Leaf<AccountView>,
    chats: BTreeMap<String, Leaf<ChatView>>,
    /// By the ids of their chats.
    groups: BTreeMap<String, Leaf<GroupView>>,
    contacts: BTreeMap<String, Leaf<Contact>>,
}

/// What has to be looked at again.
#[derive(Default)]
struct Stale {
    accounts: bool,
    chats: BTreeSet<String>,
    groups: BTreeSet<String>,
    contacts: BTreeSet<String>,
}

/// The tree.
pub(super) struct Tree {
    connection: Connection,
    front: Front,
    daemon: watch::Sender<DaemonView>,
    accounts: BTreeMap<String, Branch>,
    stale: Stale,
}

impl Tree {
    /// The tree as the engine sees it now; only the daemon's own view where the store is locked.
    pub(super) async fn plant(connection: &Connection, front: Front) -> zbus::Result<Self> {
        let daemon = watch::Sender::default();
        let (connection, accounts) = (connection.clone(), BTreeMap::new());
        let mut tree = Self { connection, front, daemon, accounts, stale: Stale::default() };
        tree.stale.accounts = true;
        tree.refresh().await?;
        Ok(tree)
    }

    /// The view of the daemon's object.
    pub(super) fn daemon(&self) -> watch::Receiver<DaemonView> {
        self.daemon.subscribe()
    }

    /// Follows the events; returns when the daemon stops or the bus fails.
    pub(super) async fn follow(&mut self) -> zbus::Result<()> {
        loop {
            let error = match self.read_events().await? {
                Some(error) if error.code == ErrorCode::ShuttingDown => return Ok(()),
                Some(error) => error,
                None => continue,
            };
            debug!(%error, "events cannot be read; trying again shortly");
            self.front.position.send_replace(String::new());
            tokio::select! { () = self.front.unlocked.notified() => {}, () = sleep(RETRY) => {} }
            self.mark_everything();
            self.refresh().await?;
        }
    }

    /// Reads events until that fails, with what the engine said.
    async fn read_events(&mut self) -> zbus::Result<Option<ApiError>> {
        let mut feed = match self.front.api.feed("").await {
            Ok(feed) => feed,
            Err(error) => return Ok(Some(error)),
        };
        // What happened between the last look and the feed's beginning.
        self.mark_everything();
        self.refresh().await?;
        self.front.position.send_replace(feed.cursor().to_owned());
        loop {
            let mut next = feed.next().await;
            let gathered = Instant::now() + GATHER;
            loop {
                match next {
                    Ok(event) => self.take(&event).await?,
                    Err(error) => return Ok(Some(error)),
                }
                self.front.position.send_replace(feed.cursor().to_owned());
                match timeout_at(gathered, feed.next()).await {
                    Ok(event) => next = event,
                    Err(_) => break,
                }
            }
            self.refresh().await?;
        }
    }

    /// Notes what an event makes stale and tells the bus of it.
    async fn take(&mut self, event: &Event) -> zbus::Result<()> {
        let account = &event.account;
        match &event.kind {
            EventKind::MessageReceived { request, .. } => {
                self.stale.chats.insert(account.clone());
                if *request {
                    self.stale.contacts.insert(account.clone());
                }
            }
            EventKind::MessageState { state, .. } => {
                self.stale.accounts = true;
                if *state == MessageState::Held {
                    self.stale.chats.insert(account.clone());
                }
            }
            EventKind::ChatRead { .. } | EventKind::ChatChanged { .. } => {
                self.stale.chats.insert(account.clone());
            }
            EventKind::GroupChanged { .. } => {
                self.stale.chats.insert(account.clone());
                self.stale.groups.insert(account.clone());
            }
            EventKind::ContactChanged { .. } | EventKind::IdentityChanged { .. } => {
                self.stale.chats.insert(account.clone());
                self.stale.contacts.insert(account.clone());
            }
            EventKind::Presence { contact, active, since_ms } => {
                self.set_presence(account, contact, *active, *since_ms).await?;
            }
            EventKind::DevicesChanged {} | EventKind::NewDevice { .. } => {}
            EventKind::AccountState { .. } | EventKind::AccountChanged {} => self.stale.accounts = true,
            EventKind::EventsLost {} => self.mark_everything(),
        }
        if !self.knows(event) {
            self.refresh().await?;
        }
        signals::emit(&self.connection, event).await
    }

    /// Whether the objects that the event's signals name are there.
    fn knows(&self, event: &Event) -> bool {
        let branch = self.accounts.get(&event.account);
        match &event.kind {
            EventKind::MessageReceived { chat, .. } | EventKind::MessageState { chat, .. } => {
                branch.is_some_and(|branch| branch.chats.contains_key(chat))
            }
            EventKind::GroupChanged { chat, .. } => branch.is_some_and(|branch| branch.groups.contains_key(chat)),
            _ => true,
        }
    }

    async fn set_presence(&mut self, account: &str, name: &str, active: bool, since_ms: u64) -> zbus::Result<()> {
        let leaf = self.accounts.get(account).and_then(|branch| branch.contacts.get(name));
        let Some(leaf) = leaf else {
            self.stale.contacts.insert(account.to_owned());
            return Ok(());
        };
        let contact = Contact { active, active_since_ms: since_ms, ..leaf.view.borrow().clone() };
        leaf.show(&self.connection, contact).await
    }

    fn mark_everything(&mut self) {
        self.stale.accounts = true;
        self.stale.chats.extend(self.accounts.keys().cloned());
        self.stale.groups.extend(self.accounts.keys().cloned());
        self.stale.contacts.extend(self.accounts.keys().cloned());
    }

    /// Looks at what is stale. What the engine does not tell (the store is locked) stays as it was.
    async fn refresh(&mut self) -> zbus::Result<()> {
        if std::mem::take(&mut self.stale.accounts) {
            self.refresh_accounts().await?;
        }
        for account in std::mem::take(&mut self.stale.contacts) {
            self.refresh_contacts(&account).await?;
        }
        for account in std::mem::take(&mut self.stale.chats) {
            self.refresh_chats(&account).await?;
        }
        for account in std::mem::take(&mut self.stale.groups) {
            self.refresh_groups(&account).await?;
        }
        Ok(())
    }

    async fn refresh_accounts(&mut self) -> zbus::Result<()> {
        let Some(status) = told(self.front.api.call::<method::DaemonStatus>(&Empty {}).await) else { return Ok(()) };
        let gone: Vec<String> = self.accounts.keys().filter(|name| !names(&status.accounts, name)).cloned().collect();
        for account in gone {
            self.fell(&account).await?;
        }
        let mut paths = Vec::with_capacity(status.accounts.len());
        for account in status.accounts {
            paths.push(self.put_account(account).await?);
        }
        let view = DaemonView { version: status.version, locked: status.locked, accounts: paths };
        let before = self.daemon.send_replace(view.clone());
        let (name, path) = ("org.fastchat.FastChat1.Daemon", ObjectPath::try_from(ROOT_PATH)?);
        announce(&self.connection, path, name, &before.properties(), view.properties()).await
    }

    async fn put_account(&mut self, account: Account) -> zbus::Result<OwnedObjectPath> {
        let name = account.account.clone();
        if let Some(branch) = self.accounts.get(&name) {
            let view = AccountView { account, unread: branch.leaf.view.borrow().unread };
            branch.leaf.show(&self.connection, view).await?;
            return Ok(branch.leaf.path.clone());
        }
        let view = AccountView { account, unread: Unread { direct: 0, group: 0, requests: 0 } };
        let make = |view| AccountObject::new(self.front.clone(), name.clone(), view);
        let leaf = Leaf::grow(&self.connection, &account_path(&name), view, make).await?;
        let path = leaf.path.clone();
        let branch = Branch { leaf, chats: BTreeMap::new(), groups: BTreeMap::new(), contacts: BTreeMap::new() };
        self.accounts.insert(name.clone(), branch);
        self.stale.chats.insert(name.clone());
        self.stale.groups.insert(name.clone());
        self.stale.contacts.insert(name);
        Ok(path)
    }

    async fn fell(&mut self, account: &str) -> zbus::Result<()> {
        let Some(branch) = self.accounts.remove(account) else { return Ok(()) };
        for leaf in branch.groups.into_values() {
            leaf.fall(&self.connection).await?;
        }
        for leaf in branch.chats.into_values() {
            leaf.fall(&self.connection).await?;
        }
        for leaf in branch.contacts.into_values() {
            leaf.fall(&self.connection).await?;
        }
        branch.leaf.fall(&self.connection).await
    }

    async fn refresh_contacts(&mut self, account: &str) -> zbus::Result<()> {
        let Some(branch) = self.accounts.get_mut(account) else { return Ok(()) };
        let of = OfAccount { account: account.to_owned() };
        let Some(found) = told(self.front.api.call::<method::ListContacts>(&of).await) else { return Ok(()) };
        let found = found.contacts.into_iter().map(|contact| (contact.name.clone(), contact)).collect();
        let (front, make_path) = (&self.front, |name: &str| contact_path(account, name));
        step(&self.connection, &mut branch.contacts, found, make_path, |name, view| {
            ContactObject::new(front.clone(), account.to_owned(), name, view)
        })
        .await
    }

    async fn refresh_chats(&mut self, account: &str) -> zbus::Result<()> {
        let Some(branch) = self.accounts.get_mut(account) else { return Ok(()) };
        let of = OfAccount { account: account.to_owned() };
        let Some(found) = told(self.front.api.call::<method::ListChats>(&of).await) else { return Ok(()) };
        let found = found.chats.into_iter().map(|chat| Ok((chat.id.clone(), chat_view(account, chat)?)));
        let found = found.collect::<zbus::Result<BTreeMap<_, _>>>()?;
        let (front, make_path) = (&self.front, |id: &str| conversation_path(account, id));
        step(&self.connection, &mut branch.chats, found, make_path, |id, view| {
            ConversationObject::new(front.clone(), account.to_owned(), id, view)
        })
        .await?;
        let Some(unread) = told(self.front.api.call::<method::CountUnread>(&of).await) else { return Ok(()) };
        let view = AccountView { unread, ..branch.leaf.view.borrow().clone() };
        branch.leaf.show(&self.connection, view).await
    }

    async fn refresh_groups(&mut self, account: &str) -> zbus::Result<()> {
        let Some(branch) = self.accounts.get_mut(account) else { return Ok(()) };
        let of = OfAccount { account: account.to_owned() };
        let Some(found) = told(self.front.api.call::<method::ListGroups>(&of).await) else { return Ok(()) };
        let found = found.groups.into_iter().filter(|group| !group.chat.is_empty());
        let found = found.map(|group| (group.chat.clone(), GroupView::new(group))).collect();
        let (front, make_path) = (&self.front, |chat: &str| conversation_path(account, chat));
        step(&self.connection, &mut branch.groups, found, make_path, |_, view| {
            GroupObject::new(front.clone(), account.to_owned(), view)
        })
        .await
    }
}

fn names(accounts: &[Account], name: &str) -> bool {
    accounts.iter().any(|account| account.account == name)
}

/// The newest message stays with the engine: a new one alone is no change of the properties.
fn chat_view(account: &str, chat: Chat) -> zbus::Result<ChatView> {
    let contact = match chat.kind {
        ChatKind::Direct if !chat.contact.is_empty() => contact_path(account, &chat.contact),
        ChatKind::Direct | ChatKind::Group => "/".to_owned(),
    };
    Ok(ChatView { chat: Chat { last: None, ..chat }, contact: OwnedObjectPath::try_from(contact)? })
}

fn told<T>(answer: Result<T, ApiError>) -> Option<T> {
    answer
        .inspect_err(|error| match error.code {
            ErrorCode::Locked | ErrorCode::ShuttingDown | ErrorCode::NotFound => {}
            _ => warn!(%error, "the object tree could not be brought up to date"),
        })
        .ok()
}

/// Makes the leaves what was found: those that are gone fall, new ones grow, the others show what changed.
async fn step<V: View>(
    connection: &Connection,
    leaves: &mut BTreeMap<String, Leaf<V>>,
    found: BTreeMap<String, V>,
    path: impl Fn(&str) -> String,
    object: impl Fn(String, watch::Receiver<V>) -> V::Object,
) -> zbus::Result<()> {
    let gone: Vec<String> = leaves.keys().filter(|key| !found.contains_key(*key)).cloned().collect();
    for key in gone {
        if let Some(leaf) = leaves.remove(&key) {
            leaf.fall(connection).await?;
        }
    }
    for (key, view) in found {
        match leaves.get(&key) {
            Some(leaf) => leaf.show(connection, view).await?,
            None => {
                let leaf = Leaf::grow(connection, &path(&key), view, |view| object(key.clone(), view)).await?;
                leaves.insert(key, leaf);
            }
        }
    }
    Ok(())
}

impl<V: View> Leaf<V> {
    async fn grow(
        connection: &Connection,
        path: &str,
        view: V,
        object: impl FnOnce(watch::Receiver<V>) -> V::Object,
    ) -> zbus::Result<Self> {
        let path = OwnedObjectPath::try_from(path)?;
        let (view, seen) = watch::channel(view);
        connection.object_server().at(&path, object(seen)).await?;
        Ok(Self { path, view })
    }

    async fn show(&self, connection: &Connection, view: V) -> zbus::Result<()> {
        if *self.view.borrow() == view {
            return Ok(());
        }
        let before = self.view.send_replace(view.clone());
        announce(connection, self.path.as_ref(), V::INTERFACE, &before.properties(), view.properties()).await
    }

    async fn fall(self, connection: &Connection) -> zbus::Result<()> {
        connection.object_server().remove::<V::Object, _>(&self.path).await.map(|_| ())
    }
}

/// Tells which properties are not what they were.
async fn announce(
    connection: &Connection,
    path: ObjectPath<'_>,
    interface: &'static str,
    before: &Properties,
    now: Properties,
) -> zbus::Result<()> {
    let changed: std::collections::HashMap<_, _> =
        now.into_iter().filter(|(name, value)| before.get(name) != Some(value)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let emitter = SignalEmitter::new(connection, path)?;
    let interface = InterfaceName::from_static_str(interface)?;
    fdo::Properties::properties_changed(&emitter, interface, changed, (&[][..]).into()).await
}
