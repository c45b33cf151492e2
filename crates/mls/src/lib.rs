//! What servers and devices must agree on about MLS: suite, leaf certificates, group profiles, and which commit is allowed.
//!
//! No I/O and no private keys: the delivery service is linked with this, and with nothing that opens a message.
//! [`PublicConversation`] is the server's view of a conversation; members ask [`rules`] the same questions about the
//! same public state.
//!
//! **Invariant**: a commit that a server's check here lets through is one that every member's check lets through.

pub mod certificate;
mod encoding;
mod group_info;
pub mod identity;
mod profile;
mod public;
mod roster;
pub mod rules;
mod storage;
pub mod suite;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, MalformedCertificate};
pub use profile::{GroupProfile, MAX_ADMINS, MAX_NAME_CHARS, MAX_TOPIC_CHARS, ProfileError};
pub use public::{HandshakeError, PublicConversation};
pub use roster::{Leaf, Roster};
pub use rules::{Actor, Effect, Leaving, Refusal};
