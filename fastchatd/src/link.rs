//! The connection of one account to its server: TLS, Hello, Resume, frames both ways, and coming back after a loss.
//!
//! One task owns the connection. It takes [`ToLink`] and reports [`FromLink`]; what a frame means is not its business.
//! The decisions (when to try again, when to ping, when a connection is dead) are in `pace`, without I/O.
//!
//! **Invariant**: a frame is written only to the session it was meant for, and never before the server has proved its
//! key and has taken the session up.

mod connection;
mod dial;
mod failure;
mod pace;
mod run;
mod serve;
#[cfg(test)]
pub(crate) mod tests;
mod trust;
mod wake;

use std::{fmt, sync::Arc, time::Duration};

use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{
    AccountName, Pin, ServerAddress,
    v1::{self, ClientFrame, ServerFrame},
};
use tokio::{sync::mpsc, task::JoinHandle};
use zeroize::Zeroizing;

pub(crate) use connection::{Connection, unexpected};
pub(crate) use dial::{Dialled, dial};
pub use failure::api_error;
pub(crate) use trust::Trust;

/// The request number of the link's own pings. The engine's requests must not use it.
pub const PING_REQUEST: u64 = u64::MAX;

/// The engine's number for an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey(pub u32);

/// What takes a session up again, beside the device's signature. Wiped on drop; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<Vec<u8>>);

impl Token {
    /// The bytes of a token.
    pub const LENGTH: usize = 32;

    /// From its bytes; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::LENGTH).then(|| Self(Zeroizing::new(bytes.to_vec())))
    }

    /// The bytes, for the store and the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Ed25519 by the device's key over exactly the bytes given (`RESUME_CONTEXT` and the TLS exporter's 32 bytes).
pub type Signer = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// What a link needs to know of its account.
#[derive(Clone)]
pub struct LinkSettings {
    /// The account's name on its server.
    pub account: AccountName,
    /// The entry address: a server or a balancer.
    pub server: ServerAddress,
    /// The server's key, when it is not vouched for by a public authority.
    pub pin: Option<Pin>,
    /// The session's token.
    pub token: Token,
    /// The device's signature.
    pub signer: Signer,
}

/// What the engine says to a link. Dropping the sender stops the link, after what is already queued was written.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "nearly every command is a frame")]
pub enum ToLink {
    /// A frame for the session that [`Up`] announced under this number; dropped when that session is over.
    Frame {
        /// [`Up::number`].
        up: u64,
        /// The frame.
        frame: ClientFrame,
    },
    /// Connect now instead of at the end of the back-off; on a standing connection, find out at once whether it lives.
    Reconnect,
}

/// What a link says to the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum FromLink {
    /// It tries to connect.
    Connecting,
    /// The session stands: frames may be sent.
    Up(Box<Up>),
    /// A frame of the server, in the order of arrival.
    Frame(Box<ServerFrame>),
    /// There is no connection. Frames that were not answered may or may not have arrived.
    Down(Down),
}

/// A session that stands. `Debug` leaves out what the session holds: a token may be in it.
#[derive(Clone, PartialEq)]
pub struct Up {
    /// Different for each session of this link; see [`ToLink::Frame`].
    pub number: u64,
    /// The server's answer to Resume. A token in it replaces the stored one (the link uses it already).
    pub session: v1::Session,
    /// What the server said of itself.
    pub ready: v1::Ready,
}

impl fmt::Debug for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Up").field("number", &self.number).field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Down {
    /// What happened.
    pub error: ApiError,
    /// When it is tried again; `None`: not before [`ToLink::Reconnect`] (logged out, or the server's key has changed).
    pub retry_in: Option<Duration>,
}

/// A failed attempt or a lost connection, with the server's advice on when to come again.
#[derive(Debug)]
pub(crate) struct Outage {
    pub(crate) error: ApiError,
    pub(crate) retry_after: Option<Duration>,
}

impl Outage {
    /// From a failure that the server sent.
    pub(crate) fn refused(failure: &v1::Failure) -> Self {
        let retry_after =
            (failure.retry_after_ms > 0).then(|| Duration::from_millis(u64::from(failure.retry_after_ms)));
        Self { error: api_error(failure), retry_after }
    }

    /// Whether trying again by itself is pointless or dangerous.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.error.code, ErrorCode::LoggedOut | ErrorCode::ServerChanged)
    }
}

impl From<ApiError> for Outage {
    fn from(error: ApiError) -> Self {
        Self { error, retry_after: None }
    }
}

/// Starts the link of an account. It ends when `commands` or `events` is closed.
pub fn spawn<T: From<(AccountKey, FromLink)> + Send + 'static>(
    key: AccountKey,
    settings: LinkSettings,
    commands: mpsc::Receiver<ToLink>,
    events: mpsc::Sender<T>,
) -> JoinHandle<()> {
    tokio::spawn(run::Link::new(key, settings, commands, events).run())
}
