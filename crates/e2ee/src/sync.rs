//! What an account's devices tell each other, in a conversation that only they are in.
//!
//! **Invariant**: a kind that this version does not know reads as nothing at all.

use prost::Message;

/// The most bytes of an account's name, an alias or a state.
pub const MAX_NAME_BYTES: usize = 300;
/// A SubjectPublicKeyInfo of 4096 bits has 550 bytes.
const MAX_IDENTITY_BYTES: usize = 600;
const ID_BYTES: usize = 16;

/// Something that another device of the account shall know. `Debug` shows only its kind.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Sync {
    /// What; `None`: a newer version's.
    #[prost(oneof = "Kind", tags = "1, 2")]
    pub kind: Option<Kind>,
}

/// The kinds of news.
#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub enum Kind {
    /// A chat was read.
    #[prost(message, tag = "1")]
    ReadUpTo(ReadUpTo),
    /// A contact is as follows.
    #[prost(message, tag = "2")]
    Contact(Contact),
}

/// A chat was read up to a message, that one included.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct ReadUpTo {
    /// Which chat.
    #[prost(oneof = "Chat", tags = "1, 2")]
    pub chat: Option<Chat>,
    /// The message's id, 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub message: Vec<u8>,
}

/// A chat, as all devices know it.
#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub enum Chat {
    /// With this account.
    #[prost(string, tag = "1")]
    Direct(String),
    /// The group with this conversation id, 16 bytes.
    #[prost(bytes, tag = "2")]
    Group(Vec<u8>),
}

/// What a contact is to the account.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Contact {
    /// Its name on the server.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it is called; may be empty.
    #[prost(string, tag = "2")]
    pub alias: String,
    /// `accepted`, `request`, `declined` or `blocked`.
    #[prost(string, tag = "3")]
    pub state: String,
    /// The identity key that is gone by (SubjectPublicKeyInfo); empty: none yet.
    #[prost(bytes = "vec", tag = "4")]
    pub identity: Vec<u8>,
    /// Whether a person has compared the safety number.
    #[prost(bool, tag = "5")]
    pub verified: bool,
    /// Whether it was taken off the list.
    #[prost(bool, tag = "6")]
    pub removed: bool,
}

impl Sync {
    /// A chat was read up to a message.
    #[must_use]
    pub fn read_up_to(chat: Chat, message: uuid::Uuid) -> Self {
        let message = message.as_bytes().to_vec();
        Self { kind: Some(Kind::ReadUpTo(ReadUpTo { chat: Some(chat), message })) }
    }

    /// A contact is as follows.
    #[must_use]
    pub fn contact(contact: Contact) -> Self {
        Self { kind: Some(Kind::Contact(contact)) }
    }

    /// Whether every field is within its bounds.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        match &self.kind {
            None => true,
            Some(Kind::ReadUpTo(ReadUpTo { chat, message })) => {
                let chat = match chat {
                    None => false,
                    Some(Chat::Direct(account)) => (1..=MAX_NAME_BYTES).contains(&account.len()),
                    Some(Chat::Group(id)) => id.len() == ID_BYTES,
                };
                chat && message.len() == ID_BYTES
            }
            Some(Kind::Contact(Contact { name, alias, state, identity, .. })) => {
                let short = [name, alias, state].iter().all(|text| text.len() <= MAX_NAME_BYTES);
                short && !name.is_empty() && identity.len() <= MAX_IDENTITY_BYTES
            }
        }
    }

    /// For keeping until it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// What [`Sync::to_bytes`] gave; `None`: it does not decode.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).ok()
    }
}

macro_rules! quiet {
    ($($name:ident),+) => {
        $(impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(hidden)"))
            }
        })+
    };
}
quiet!(Sync, Kind, ReadUpTo, Chat, Contact);
