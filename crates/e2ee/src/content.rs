//! What is inside a sealed message.
//!
//! **Invariant**: content that was sealed or opened here is within its bounds; a body that this version does not know
//! opens as `None`, so that a newer version's messages show as such and lose nothing.

use std::fmt;

use prost::Message;
use zeroize::Zeroizing;

use crate::Sync;

/// The most bytes of a text, in UTF-8.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

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
    #[error("the news for one's own devices are out of their bounds")]
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
    /// News for the account's own devices.
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

impl Content {
    /// A text message.
    #[must_use]
    pub fn text(sent_at_ms: u64, counter: u64, text: impl Into<String>) -> Self {
        Self { sent_at_ms, counter, body: Some(Body::Text(Text { text: text.into() })) }
    }

    /// News for the account's own devices.
    #[must_use]
    pub fn sync(sent_at_ms: u64, counter: u64, sync: Sync) -> Self {
        Self { sent_at_ms, counter, body: Some(Body::Sync(sync)) }
    }

    /// Whether it is within its bounds.
    ///
    /// # Errors
    /// No counter, a text that is too long, or news out of their bounds.
    pub fn validate(&self) -> Result<(), ContentError> {
        if self.counter == 0 {
            return Err(ContentError::NoCounter);
        }
        match &self.body {
            Some(Body::Text(Text { text })) if text.len() > MAX_TEXT_BYTES => {
                Err(ContentError::TextTooLong(text.len()))
            }
            Some(Body::Sync(sync)) if !sync.is_bounded() => Err(ContentError::Sync),
            _ => Ok(()),
        }
    }

    /// For sealing: valid and with a body.
    pub(crate) fn to_plaintext(&self) -> Result<Zeroizing<Vec<u8>>, ContentError> {
        self.validate()?;
        match self.body {
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
