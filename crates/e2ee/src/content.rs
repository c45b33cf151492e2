//! What is inside a sealed message.
//!
//! **Invariant**: content that was sealed or opened here is within its bounds; a body that this version does not know
//! opens as `None`, so that a newer version's messages show as such and lose nothing.

use std::fmt;

use prost::Message;
use zeroize::Zeroizing;

/// The most bytes of a text, in UTF-8.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

/// The most bytes of a name in a [`Sync`]: an account's or an alias.
pub const MAX_SYNC_NAME_BYTES: usize = 300;
/// A SubjectPublicKeyInfo of 4096 bits has 550 bytes.
const MAX_SYNC_IDENTITY_BYTES: usize = 600;
const ID_BYTES: usize = 16;

/// Why content is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Not protobuf of this shape.
    #[error("the message content is malformed")]
    Malformed,
    /// The text is over the bound.
    #[error("the text has {0} bytes; the most is {MAX_TEXT_BYTES}: send it in parts")]
    TextTooLong(usize),
    /// Counters begin at 1.
    #[error("the message has no counter")]
    NoCounter,
    /// There is nothing to send.
    #[error("the message has no body")]
    NoBody,
    /// A name is too long, an id has not 16 bytes, or nothing is said.
    #[error("the note to one's own devices is out of its bounds")]
    Sync,
}

/// A message as its sender wrote it. `Debug` shows no text.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Content {
    /// The sender's clock, milliseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub sent_at_ms: u64,
    /// Numbers the messages of one device in one conversation from 1 on; a gap shows that something was withheld.
    #[prost(uint64, tag = "2")]
    pub counter: u64,
    /// What it says; `None` after opening: a kind of message that a newer version made.
    #[prost(oneof = "Body", tags = "3, 4")]
    pub body: Option<Body>,
}

/// The kinds of messages.
#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub enum Body {
    /// Text to read.
    #[prost(message, tag = "3")]
    Text(Text),
    /// What one device of an account tells the others; only in the account's conversation with itself.
    #[prost(message, tag = "4")]
    Sync(Sync),
}

/// A text message.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Text {
    /// At most [`MAX_TEXT_BYTES`].
    #[prost(string, tag = "1")]
    pub text: String,
}

/// What one device of an account tells the others.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Sync {
    /// `None` after opening: something that a newer version tells.
    #[prost(oneof = "Note", tags = "1, 2")]
    pub note: Option<Note>,
}

/// The kinds of notes to one's own devices.
#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub enum Note {
    /// Messages were read.
    #[prost(message, tag = "1")]
    ReadUpTo(ReadUpTo),
    /// A contact changed.
    #[prost(message, tag = "2")]
    ContactState(ContactState),
}

/// Everything up to and including a message was read.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct ReadUpTo {
    /// In which chat.
    #[prost(oneof = "Chat", tags = "1, 2")]
    pub chat: Option<Chat>,
    /// The last message that was read: 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub message_id: Vec<u8>,
}

/// A chat, named so that all devices know which: direct conversations are made anew at times.
#[derive(Clone, PartialEq, prost::Oneof)]
#[prost(skip_debug)]
pub enum Chat {
    /// The one with this account.
    #[prost(string, tag = "1")]
    Direct(String),
    /// The group with this id: 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    Group(Vec<u8>),
}

/// What is held of a contact, whole.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct ContactState {
    /// The account's name on the server.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What the person calls it; empty: nothing else.
    #[prost(string, tag = "2")]
    pub alias: String,
    /// What it is to the person: the daemon's word (`friend`, `blocked`, …).
    #[prost(string, tag = "3")]
    pub state: String,
    /// The identity that is known for it: a SubjectPublicKeyInfo in DER.
    #[prost(bytes = "vec", tag = "4")]
    pub identity: Vec<u8>,
    /// Whether that identity was compared by the safety number.
    #[prost(bool, tag = "5")]
    pub verified: bool,
    /// It is a contact no more.
    #[prost(bool, tag = "6")]
    pub removed: bool,
}

impl Sync {
    fn validate(&self) -> Result<(), ContentError> {
        let good = match &self.note {
            None => true,
            Some(Note::ReadUpTo(ReadUpTo { chat, message_id })) => {
                let chat = match chat {
                    None => false,
                    Some(Chat::Direct(account)) => (1..=MAX_SYNC_NAME_BYTES).contains(&account.len()),
                    Some(Chat::Group(id)) => id.len() == ID_BYTES,
                };
                chat && message_id.len() == ID_BYTES
            }
            Some(Note::ContactState(ContactState { name, alias, state, identity, .. })) => {
                let short = [name, alias, state].iter().all(|text| text.len() <= MAX_SYNC_NAME_BYTES);
                short && !name.is_empty() && identity.len() <= MAX_SYNC_IDENTITY_BYTES
            }
        };
        if good { Ok(()) } else { Err(ContentError::Sync) }
    }
}

impl Content {
    /// A text message.
    #[must_use]
    pub fn text(sent_at_ms: u64, counter: u64, text: impl Into<String>) -> Self {
        Self { sent_at_ms, counter, body: Some(Body::Text(Text { text: text.into() })) }
    }

    /// A note to one's own devices.
    #[must_use]
    pub fn sync(sent_at_ms: u64, counter: u64, note: Note) -> Self {
        Self { sent_at_ms, counter, body: Some(Body::Sync(Sync { note: Some(note) })) }
    }

    /// Whether it is within its bounds.
    ///
    /// # Errors
    /// No counter, a text that is too long, or a note out of its bounds.
    pub fn validate(&self) -> Result<(), ContentError> {
        if self.counter == 0 {
            return Err(ContentError::NoCounter);
        }
        match &self.body {
            Some(Body::Text(Text { text })) if text.len() > MAX_TEXT_BYTES => {
                Err(ContentError::TextTooLong(text.len()))
            }
            Some(Body::Sync(sync)) => sync.validate(),
            _ => Ok(()),
        }
    }

    /// For sealing: valid and with a body.
    pub(crate) fn to_plaintext(&self) -> Result<Zeroizing<Vec<u8>>, ContentError> {
        self.validate()?;
        match self.body {
            Some(Body::Sync(Sync { note: None })) => Err(ContentError::NoBody),
            Some(_) => Ok(Zeroizing::new(self.encode_to_vec())),
            None => Err(ContentError::NoBody),
        }
    }

    pub(crate) fn from_plaintext(plaintext: &[u8]) -> Result<Self, ContentError> {
        let content = Self::decode(plaintext).map_err(|_| ContentError::Malformed)?;
        content.validate()?;
        Ok(content)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("counter", &self.counter).field("body", &self.body).finish_non_exhaustive()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Sync(sync) => sync.fmt(f),
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes)", self.text.len())
    }
}

impl fmt::Debug for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = match &self.note {
            None => "nothing known",
            Some(Note::ReadUpTo(_)) => "read up to",
            Some(Note::ContactState(_)) => "contact",
        };
        write!(f, "Sync({note})")
    }
}

/// Says nothing of what is inside.
macro_rules! hidden {
    ($($kind:ident)*) => {
        $(impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($kind), "(hidden)"))
            }
        })*
    };
}

hidden!(Note ReadUpTo Chat ContactState);
