//! The daemon's API on the session bus: `org.fastchat.FastChat1`.
//!
//! Accounts, chats and contacts are objects under an ObjectManager, with properties that tell when they change; every
//! method of the API is a method of the object that it concerns. Signals carry ids, never the text of a message.
//!
//! **Invariant**: a method does here what it does on the socket: both build the same [`fastchat_ipc::Request`].

mod account;
mod call;
mod contact;
mod conversation;
mod convert;
mod daemon;
mod group;
mod notifications;
mod signals;
mod tree;

use std::time::Duration;

use fastchat_ipc::{BUS_NAME, ROOT_PATH};
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zbus::{
    Connection,
    connection::Builder,
    fdo::{DBusProxy, ObjectManager, RequestNameFlags},
};

use self::{call::Front, daemon::DaemonObject, notifications::NotificationsObject, tree::Tree};
use crate::api::Api;

/// How long connecting may take, and how long the bus may take to answer a call of ours.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Pauses between tries: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Which session bus to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SessionBus {
    /// What the environment names, else `$XDG_RUNTIME_DIR/bus`.
    #[default]
    FromEnvironment,
    /// This D-Bus address.
    At(String),
}

impl SessionBus {
    /// Connects within [`CONNECT_DEADLINE`]. What is then called has a deadline too.
    pub(crate) async fn connect(&self) -> zbus::Result<Connection> {
        Self::build(self.builder()?).await
    }

    fn builder(&self) -> zbus::Result<Builder<'_>> {
        match self {
            Self::FromEnvironment => Builder::session(),
            Self::At(address) => Builder::address(address.as_str()),
        }
    }

    async fn build(builder: Builder<'_>) -> zbus::Result<Connection> {
        let connected = timeout(CONNECT_DEADLINE, builder.method_timeout(CALL_DEADLINE).build()).await;
        connected.map_err(|_| zbus::Error::Failure("the bus did not answer in time".to_owned()))?
    }
}

/// Serves the API on the session bus until `stop`. Without a bus it tries again now and then: the daemon needs none.
pub async fn run(api: Api, bus: SessionBus, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    let mut first = true;
    loop {
        let served = tokio::select! {
            () = stop.cancelled() => return api.tell(|found| found.bus = false),
            ended = serve(&api, &bus, &mut pause) => ended,
        };
        api.tell(|found| found.bus = false);
        match served {
            Ok(()) => info!("the session bus is gone, or our name on it; trying again"),
            Err(zbus::Error::NameTaken) => warn!(name = BUS_NAME, "another program has our name on the session bus"),
            Err(error) if first => info!(%error, "no session bus; the socket serves alone until there is one"),
            Err(_) => {}
        }
        first = false;
        tokio::select! { () = stop.cancelled() => return, () = sleep(pause) => {} }
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Serves on one connection until it, or our name on it, is lost.
async fn serve(api: &Api, bus: &SessionBus, pause: &mut Duration) -> zbus::Result<()> {
    // With an object from the beginning, the server of objects is known to listen. One that is still starting when the
    // name is ours would miss the call that started this daemon, which the bus hands over in the same moment.
    let connection = SessionBus::build(bus.builder()?.serve_at(ROOT_PATH, ObjectManager)?).await?;
    let front = Front::new(api.clone());
    let mut tree = Tree::plant(&connection, front.clone()).await?;
    let server = connection.object_server();
    server.at(ROOT_PATH, DaemonObject::new(front.clone(), tree.daemon())).await?;
    server.at(ROOT_PATH, NotificationsObject::new(front)).await?;
    let mut lost = DBusProxy::new(&connection).await?.receive_name_lost().await?;
    connection.request_name_with_flags(BUS_NAME, RequestNameFlags::DoNotQueue.into()).await?;
    info!(name = BUS_NAME, "serving on the session bus");
    api.tell(|found| found.bus = true);
    *pause = FIRST_PAUSE;
    tokio::select! {
        _ = lost.next() => {}
        followed = tree.follow() => followed?,
    }
    // The objects hold on to the connection's server; closing ends what still runs on it.
    connection.close().await
}
