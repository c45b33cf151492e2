//! Where people and servers are: `alice@host:port`, `host:port`, `fastchat://host:port?pin=sha256:…`.
//!
//! **Invariant**: `Display` of each type is what its `FromStr` reads.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{AccountName, DEFAULT_PORT, NameError};

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@`.
    #[error("write it as USER@HOST or USER@HOST:PORT")]
    NoAt,
    /// The part before the `@`.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The host is empty or has characters that no host name or IP address has.
    #[error("{0:?} is not a host name or IP address")]
    Host(String),
    /// The port is not a number from 1 to 65535.
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    /// A pin is `sha256:` and 64 hex digits.
    #[error("a pin is \"sha256:\" and 64 hex digits")]
    Pin,
    /// A link does not begin with `fastchat://`.
    #[error("a link begins with fastchat://")]
    Link,
}

/// A server's entry address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    host: String,
    port: u16,
}

impl ServerAddress {
    /// From a host (name, IPv4, or IPv6 without brackets) and a port.
    ///
    /// # Errors
    /// The host is empty or has characters that no host has.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let host = host.to_ascii_lowercase();
        let is_ip = host.parse::<std::net::IpAddr>().is_ok();
        let is_name = host.len() <= 253
            && host.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
            });
        if is_ip || is_name { Ok(Self { host, port }) } else { Err(AddressError::Host(host)) }
    }

    /// The host: a name or an IP address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let port_of = |port: &str| match port.parse::<u16>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(AddressError::Port(port.to_owned())),
        };
        if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or_else(|| AddressError::Host(text.to_owned()))?;
            return match after.strip_prefix(':') {
                Some(port) => Self::new(host, port_of(port)?),
                None if after.is_empty() => Self::new(host, DEFAULT_PORT),
                None => Err(AddressError::Host(text.to_owned())),
            };
        }
        match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => Self::new(host, port_of(port)?),
            _ => Self::new(text, DEFAULT_PORT),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

/// An account with its server: `alice@chat.example.org:8887`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The account's name on that server.
    pub account: AccountName,
    /// The server (or balancer) it is reached through.
    pub server: ServerAddress,
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (account, server) = text.split_once('@').ok_or(AddressError::NoAt)?;
        Ok(Self { account: account.parse()?, server: server.parse()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.account, self.server)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// SHA-256 of a server certificate's SubjectPublicKeyInfo: what a device remembers of a self-signed server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let hex = text.strip_prefix("sha256:").ok_or(AddressError::Pin)?;
        if hex.len() != 64 || !hex.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(AddressError::Pin);
        }
        let mut pin = [0; 32];
        for (byte, pair) in pin.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| AddressError::Pin)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| AddressError::Pin)?;
        }
        Ok(Self(pin))
    }
}

impl TryFrom<String> for Pin {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

/// What a server prints for people to pass on: `fastchat://host:port?pin=sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where the server is.
    pub server: ServerAddress,
    /// Its key, when it is self-signed.
    pub pin: Option<Pin>,
}

impl FromStr for Link {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("fastchat://").ok_or(AddressError::Link)?;
        let (server, query) = rest.split_once('?').unwrap_or((rest, ""));
        let pin = query.split('&').find_map(|pair| pair.strip_prefix("pin=")).map(str::parse).transpose()?;
        Ok(Self { server: server.trim_end_matches('/').parse()?, pin })
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fastchat://{}", self.server)?;
        match &self.pin {
            Some(pin) => write!(f, "?pin={pin}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_is_read() {
        for text in ["alice@localhost:8887", "bob@[::1]:1", "c.d@chat.example.org:443"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let link = format!("fastchat://127.0.0.1:8887?pin=sha256:{}", "0a".repeat(32));
        assert_eq!(link.parse::<Link>().unwrap().to_string(), link);
    }

    #[test]
    fn the_port_has_a_default() {
        assert_eq!("alice@host".parse::<Address>().unwrap().server.port(), DEFAULT_PORT);
        assert_eq!("::1".parse::<ServerAddress>().unwrap().to_string(), "[::1]:8887");
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        assert_eq!("alice".parse::<Address>(), Err(AddressError::NoAt));
        assert!(matches!("alice@".parse::<Address>(), Err(AddressError::Host(_))));
        assert!(matches!("alice@h:0".parse::<Address>(), Err(AddressError::Port(_))));
        assert!(matches!("alice@h:99999".parse::<Address>(), Err(AddressError::Port(_))));
        assert!(matches!("alice@h/x".parse::<Address>(), Err(AddressError::Host(_))));
        assert_eq!("sha256:00".parse::<Pin>(), Err(AddressError::Pin));
        assert_eq!(format!("sha256:{}", "+f".repeat(32)).parse::<Pin>(), Err(AddressError::Pin));
    }
}
