//! Ids as types, so that one cannot be passed for another.
//!
//! **Invariant**: a value of these types is well formed; bytes and text from outside pass through a checked constructor.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The bytes on the wire are not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be 16 bytes, not {length}")]
pub struct IdError {
    field: &'static str,
    length: usize,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id (UUIDv7: sorts by the time it was made).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// From its 16 bytes on the wire.
            ///
            /// # Errors
            /// Another number of bytes.
            pub fn from_wire(bytes: &[u8]) -> Result<Self, IdError> {
                Uuid::from_slice(bytes).map(Self).map_err(|_| IdError { field: $field, length: bytes.len() })
            }

            /// From an optional wire field: empty is `None`.
            ///
            /// # Errors
            /// Neither empty nor 16 bytes.
            pub fn from_wire_optional(bytes: &[u8]) -> Result<Option<Self>, IdError> {
                if bytes.is_empty() { Ok(None) } else { Self::from_wire(bytes).map(Some) }
            }

            /// The 16 bytes for the wire.
            #[must_use]
            pub fn to_wire(self) -> Bytes {
                Bytes::copy_from_slice(self.0.as_bytes())
            }

            /// The 16 bytes, for keys of a store.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// A conversation: one ordered log on the server, one MLS group between the devices.
    ConversationId,
    "conversation"
);
uuid_id!(
    /// A device of an account: one leaf in each of its conversations.
    DeviceId,
    "device"
);
uuid_id!(
    /// A message, chosen by the sending device; sending the same id again is the same message.
    MessageId,
    "message_id"
);

/// Why a text is not an account name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 32 characters of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit")]
pub struct NameError;

/// The name of an account on its server, as in `alice`@chat.example.org.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);

impl AccountName {
    /// The longest name, in bytes.
    pub const MAX: usize = 32;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
        let starts_well = text.as_bytes().first().is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if starts_well && text.len() <= Self::MAX && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError)
        }
    }
}

impl TryFrom<String> for AccountName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["alice", "a", "0x", "a.b-c_d", &"a".repeat(32)] {
            assert!(good.parse::<AccountName>().is_ok(), "{good}");
        }
        for bad in ["", "Alice", ".a", "-a", "a b", "a@b", "ä", "a\0", &"a".repeat(33)] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_id_of_another_length_is_refused() {
        assert!(ConversationId::from_wire(&[0; 15]).is_err());
        assert!(ConversationId::from_wire(&[]).is_err());
        assert_eq!(ConversationId::from_wire_optional(&[]), Ok(None));
        let id = MessageId::generate();
        assert_eq!(MessageId::from_wire(&id.to_wire()), Ok(id));
    }
}
