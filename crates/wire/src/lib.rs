//! FastChat's wire protocol: the frames between a device and a server, their codec, ids and error codes.
//!
//! No I/O, no clock, no tokio: both sides bring their own. The schema is `proto/fastchat/v1/wire.proto`, the order of
//! things `docs/protocol.md`.
//!
//! **Invariant**: no length that came from the network is used before it was checked against a bound.

mod address;
mod codec;
mod failure;
mod ids;

pub use address::{Address, AddressError, Link, Pin, ServerAddress};
pub use codec::{FRAME_LIMIT, FrameError, LENGTH_BYTES, PRE_SESSION_FRAME_LIMIT, decode, encode};
pub use failure::Code;
pub use ids::{AccountName, ConversationId, DeviceId, IdError, MessageId, NameError};

/// The generated protobuf types.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code; the schema carries the documentation")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/fastchat.v1.rs"));
}

/// The newest protocol version this build speaks.
pub const VERSION: u32 = 1;
/// The oldest protocol version this build speaks.
pub const VERSION_MIN: u32 = 1;

/// TLS exporter label (RFC 8446, section 7.5) of the channel binding that a resumed session signs.
pub const RESUME_EXPORTER_LABEL: &[u8] = b"EXPORTER-fastchat-resume";
/// What comes before the exported 32 bytes in the message that a resumed session signs.
pub const RESUME_CONTEXT: &[u8] = b"fastchat resume v1\0";

/// The port of a FastChat server when none is named.
pub const DEFAULT_PORT: u16 = 8887;
