//! The root object: the daemon itself, signing in, and events.
//!
//! **Invariant**: the `Event` signal carries ids and states only; texts are read by `ReadEvents`, by the caller alone.

use fastchat_ipc::{Subscribed, method};
use serde_json::json;
use tokio::sync::watch;
use zbus::{
    Connection, interface,
    message::Header,
    object_server::SignalEmitter,
    zvariant::{OwnedObjectPath, Value},
};

use super::{
    call::{Dict, Failure, Front},
    convert,
    tree::Properties,
};

/// What the properties show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DaemonView {
    pub(super) version: String,
    pub(super) locked: bool,
    pub(super) accounts: Vec<OwnedObjectPath>,
}

impl DaemonView {
    pub(super) fn properties(&self) -> Properties {
        [
            ("Version", self.version.clone().into()),
            ("Locked", self.locked.into()),
            ("Accounts", Value::from(self.accounts.clone())),
        ]
        .into()
    }
}

/// The object.
pub(super) struct DaemonObject {
    front: Front,
    view: watch::Receiver<DaemonView>,
}

impl DaemonObject {
    pub(super) fn new(front: Front, view: watch::Receiver<DaemonView>) -> Self {
        Self { front, view }
    }
}

/// The daemon.
#[interface(name = "org.fastchat.FastChat1.Daemon")]
impl DaemonObject {
    /// Lists all methods with their names on both transports.
    async fn discover(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::Discover>((bus, call), json!({}), options).await
    }

    /// Tells the daemon's version, its accounts and their states.
    async fn status(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::DaemonStatus>((bus, call), json!({}), options).await
    }

    /// Checks store, key protection, bus, notifications and servers, and says how to mend what is wrong.
    async fn doctor(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::DaemonDoctor>((bus, call), json!({}), options).await
    }

    /// Unlocks the store (option `passphrase`), or tries the Secret Service again.
    async fn unlock(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let answer = self.front.call::<method::DaemonUnlock>((bus, call), json!({}), options).await;
        self.front.unlocked.notify_one();
        answer
    }

    /// Makes an account on a server, and the device for it here.
    async fn register(
        &self,
        address: String,
        password: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"address": address, "password": password});
        let answer = self.front.call::<method::Register>((bus, call), given, options).await;
        self.front.unlocked.notify_one();
        answer
    }

    /// Brings an account that exists to this device, with its password.
    async fn login(
        &self,
        address: String,
        password: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"address": address, "password": password});
        let answer = self.front.call::<method::Login>((bus, call), given, options).await;
        self.front.unlocked.notify_one();
        answer
    }

    /// Begins to bring an account to this device without its password: gives the code for a device that has it.
    async fn begin_link(
        &self,
        address: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"address": address});
        let answer = self.front.call::<method::BeginLink>((bus, call), given, options).await;
        self.front.unlocked.notify_one();
        answer
    }

    /// Waits until a device of the account has taken the code; gives what to compare.
    async fn await_link(
        &self,
        link: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"link": link});
        self.front.call::<method::AwaitLink>((bus, call), given, options).await
    }

    /// Brings the account here after the strings were compared, or ends the link.
    async fn finish_link(
        &self,
        link: String,
        accept: bool,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"link": link, "accept": accept});
        let answer = self.front.call::<method::FinishLink>((bus, call), given, options).await;
        self.front.unlocked.notify_one();
        answer
    }

    /// Reads a backup through and tells what it holds.
    async fn verify_backup(
        &self,
        path: String,
        passphrase: String,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let given = json!({"path": path, "passphrase": passphrase});
        self.front.call::<method::VerifyBackup>((bus, call), given, options).await
    }

    /// Lists the accounts, the default one first.
    async fn list_accounts(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::ListAccounts>((bus, call), json!({}), options).await
    }

    /// Reads events after a cursor (option `since`), and waits for the first one if asked to.
    async fn read_events(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        self.front.call::<method::ReadEventLog>((bus, call), json!({}), options).await
    }

    /// Tells the cursor after which every event comes as an `Event` signal; what was before is read by `ReadEvents`.
    async fn subscribe(
        &self,
        options: Dict,
        #[zbus(connection)] bus: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<Dict, Failure> {
        let mut begun = self.front.call::<method::SubscribeEvents>((bus, call), json!({}), options).await?;
        let position = self.front.position.borrow().clone();
        if !position.is_empty() {
            begun.extend(convert::to_dict(json!(Subscribed { cursor: position }))?);
        }
        Ok(begun)
    }

    /// Version of the daemon.
    #[zbus(property)]
    fn version(&self) -> String {
        self.view.borrow().version.clone()
    }

    /// Whether the store is locked.
    #[zbus(property)]
    fn locked(&self) -> bool {
        self.view.borrow().locked
    }

    /// The accounts' objects, the default one first.
    #[zbus(property)]
    fn accounts(&self) -> Vec<OwnedObjectPath> {
        self.view.borrow().accounts.clone()
    }

    /// Something happened. `kind` is the event's name in `ReadEvents`, `ids` its fields without texts.
    #[zbus(signal)]
    pub(super) async fn event(
        emitter: &SignalEmitter<'_>,
        cursor: &str,
        account: &str,
        kind: &str,
        ids: Dict,
    ) -> zbus::Result<()>;
}
