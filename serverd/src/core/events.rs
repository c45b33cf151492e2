//! What goes into the core and what comes out: plain data.
//!
//! **Invariant**: an action that asks for something is answered with exactly one event.

use std::collections::BTreeSet;

use fastchat_store::{
    Append, AppendHandshake, Appended, CursorMove, DeviceChange, DeviceRecord, DeviceState, HandshakeAppended, Joining,
    Kind, Membership, Page, PageBounds, StoreError,
};
use fastchat_wire::{AccountName, ConversationId, DeviceId, v1};

/// A connection with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The core's bounds.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Entries sent ahead of the Ack, per conversation.
    pub window_entries: usize,
    /// Bytes sent ahead of the Ack, per conversation.
    pub window_bytes: usize,
    /// Bytes sent ahead of the Ack, over all conversations of a session.
    pub session_bytes: usize,
    /// Bytes in one Deliver.
    pub page_bytes: usize,
    /// Appends of one session whose commit is awaited.
    pub appends: usize,
    /// Joinings sent ahead of their Ack.
    pub joinings: usize,
    /// The longest that a cursor waits to be written.
    pub cursor_wait_ms: u64,
    /// Makes the pauses that a drain asks for differ from run to run.
    pub seed: u64,
}

/// What happens to the core.
#[derive(Debug)]
pub enum Event {
    /// A device has a session.
    Opened {
        /// Its connection.
        session: SessionId,
        /// Whose.
        account: AccountName,
        /// Which.
        device: DeviceId,
    },
    /// The answer to [`Action::ReadState`]; `Ok(None)`: the device is gone.
    StateRead {
        /// For which session.
        session: SessionId,
        /// Its conversations.
        state: Result<Option<DeviceState>, StoreError>,
    },
    /// The device wants entries appended.
    Submit {
        /// Who.
        session: SessionId,
        /// To be answered under.
        request: u64,
        /// What.
        append: Append,
    },
    /// The answer to [`Action::Append`]: the commit is done, or failed.
    Appended {
        /// Who asked.
        session: SessionId,
        /// To be answered under.
        request: u64,
        /// Where.
        conversation: ConversationId,
        /// How it ended.
        outcome: Result<Appended, StoreError>,
    },
    /// The device wants a handshake appended, which was checked.
    Handshake {
        /// Who.
        session: SessionId,
        /// To be answered under.
        request: u64,
        /// What.
        append: Box<AppendHandshake>,
    },
    /// The answer to [`Action::AppendHandshake`]: the commit is done, or failed.
    HandshakeAppended {
        /// Who asked.
        session: SessionId,
        /// To be answered under.
        request: u64,
        /// Where.
        conversation: ConversationId,
        /// What kind of handshake.
        kind: Kind,
        /// How it ended.
        outcome: Result<HandshakeAppended, StoreError>,
    },
    /// The answer to [`Action::ReadPage`].
    PageRead {
        /// For which session.
        session: SessionId,
        /// Of which log.
        conversation: ConversationId,
        /// What.
        page: Result<Page, StoreError>,
    },
    /// The device has everything up to `seq`.
    Ack {
        /// Who.
        session: SessionId,
        /// Where.
        conversation: ConversationId,
        /// How far.
        seq: u64,
    },
    /// The account shares its presence with these.
    SharePresence {
        /// Who.
        session: SessionId,
        /// With whom.
        accounts: BTreeSet<AccountName>,
    },
    /// A conversation was made.
    Created {
        /// By which account.
        account: AccountName,
        /// With which device.
        device: DeviceId,
        /// Its place in it.
        membership: Membership,
        /// Those who join.
        joinings: Vec<(DeviceId, Joining)>,
        /// The conversation that it replaces.
        closed: Option<ConversationId>,
        /// A group, which the account's other devices join by themselves.
        group: bool,
    },
    /// An account's devices are others than before.
    DevicesChanged {
        /// How.
        change: DeviceChange,
        /// The device that did it and knows.
        by: Option<DeviceId>,
    },
    /// The device asks for the account's devices.
    ListDevices {
        /// Who.
        session: SessionId,
        /// To be answered under.
        request: u64,
        /// As the store has them.
        devices: Vec<DeviceRecord>,
    },
    /// An answer that took its time is there.
    Answered {
        /// For whom.
        session: SessionId,
        /// The answer.
        frame: Box<v1::ServerFrame>,
    },
    /// The answer to [`Action::SaveCursors`].
    CursorsSaved {
        /// Whether it worked.
        saved: bool,
    },
    /// The connection is gone.
    Closed(SessionId),
    /// The server is about to stop.
    Drain,
    /// Time has passed (see [`Core::due_ms`](super::Core::due_ms)).
    Timer,
}

/// What the shell does for the core, in this order.
#[derive(Debug)]
pub enum Action {
    /// Send a frame.
    Send(SessionId, Box<v1::ServerFrame>),
    /// Send a last frame and end the connection.
    Close(SessionId, Box<v1::ServerFrame>),
    /// Read what a session begins with.
    ReadState {
        /// For which session.
        session: SessionId,
        /// Of which device.
        device: DeviceId,
        /// At most so many joinings.
        joinings: u32,
    },
    /// Append to a log.
    Append {
        /// Who asked.
        session: SessionId,
        /// To be answered under.
        request: u64,
        /// What.
        append: Append,
    },
    /// Append a handshake to a log.
    AppendHandshake {
        /// Who asked.
        session: SessionId,
        /// To be answered under.
        request: u64,
        /// What.
        append: Box<AppendHandshake>,
    },
    /// Read from a log.
    ReadPage {
        /// For which session.
        session: SessionId,
        /// Which log.
        conversation: ConversationId,
        /// For which device.
        device: DeviceId,
        /// After which seq.
        after: u64,
        /// How much.
        bounds: PageBounds,
    },
    /// Write cursors.
    SaveCursors(Vec<CursorMove>),
}
