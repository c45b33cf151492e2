//! The code that a new device shows and a device of the account reads.
//!
//! `fastchat-link:1:HOST:PORT:PIN:LINK:HASH`: where the mailbox is, the server's key as the new device saw it (64 hex
//! digits, or nothing), the mailbox (32 hex digits), and what the new device is committed to (43 characters of base64url).
//!
//! **Invariant**: `Display` is what `FromStr` reads, and nothing in a code is secret.

use std::{fmt, str::FromStr};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use fastchat_ipc::{ApiError, ErrorCode};
use fastchat_wire::{Pin, ServerAddress};

const SCHEME: &str = "fastchat-link:";
const VERSION: &str = "1";
/// A longer text is no code.
const LONGEST: usize = 512;

/// A code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkCode {
    pub(crate) server: ServerAddress,
    pub(crate) pin: Option<Pin>,
    pub(crate) link: [u8; 16],
    pub(crate) commitment: [u8; 32],
}

impl fmt::Display for LinkCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pin = self.pin.map(|pin| HEXLOWER.encode(&pin.0)).unwrap_or_default();
        let (link, hash) = (HEXLOWER.encode(&self.link), BASE64URL_NOPAD.encode(&self.commitment));
        write!(f, "{SCHEME}{VERSION}:{}:{pin}:{link}:{hash}", self.server)
    }
}

impl FromStr for LinkCode {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        let text = text.trim();
        let rest = text.strip_prefix(SCHEME).filter(|_| text.len() <= LONGEST).ok_or_else(no_code)?;
        let (version, rest) = rest.split_once(':').ok_or_else(no_code)?;
        if version != VERSION {
            return Err(ApiError::new(ErrorCode::InvalidParams, "the code is of a version that is not known here")
                .hint("update whichever of the two devices is older"));
        }
        // From the end: an IPv6 address has colons of its own.
        let mut fields = rest.rsplitn(4, ':');
        let mut field = || fields.next().ok_or_else(no_code);
        let (hash, link, pin, server) = (field()?, field()?, field()?, field()?);
        let pin = if pin.is_empty() { None } else { Some(Pin(bytes(HEXLOWER.decode(pin.as_bytes()))?)) };
        Ok(Self {
            server: server.parse().map_err(|_| no_code())?,
            pin,
            link: bytes(HEXLOWER.decode(link.as_bytes()))?,
            commitment: bytes(BASE64URL_NOPAD.decode(hash.as_bytes()))?,
        })
    }
}

fn bytes<const N: usize>(decoded: Result<Vec<u8>, data_encoding::DecodeError>) -> Result<[u8; N], ApiError> {
    decoded.ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(no_code)
}

fn no_code() -> ApiError {
    ApiError::new(ErrorCode::InvalidParams, "this is not the code of a new device").hint(
        "on the new device `fastchatctl link HOST` shows one, as text and as a QR code: \
         paste all of it, `fastchat-link:` included",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(server: &str, pin: Option<Pin>) -> LinkCode {
        LinkCode { server: server.parse().unwrap(), pin, link: [0xab; 16], commitment: [0xfb; 32] }
    }

    #[test]
    fn what_is_shown_is_what_is_read() {
        for server in ["chat.example.org:8887", "127.0.0.1:1", "[::1]:8887"] {
            for pin in [None, Some(Pin([7; 32]))] {
                let code = code(server, pin);
                assert_eq!(format!(" {code}\n").parse::<LinkCode>().unwrap(), code);
                assert!(code.to_string().len() < 200);
            }
        }
    }

    #[test]
    fn a_text_that_is_no_code_is_refused_with_what_to_do() {
        let good = code("h:1", Some(Pin([7; 32]))).to_string();
        let hash = BASE64URL_NOPAD.encode(&[0xfb; 32]);
        for bad in [
            "".to_owned(),
            "fastchat-link:".to_owned(),
            "fastchat-link:1:".to_owned(),
            good.replace("fastchat-link", "fastchat-key"),
            good[..good.len() - 1].to_owned(),
            format!("{good}A"),
            good.replace("abab", "abA"),
            good.replace("0707", "07"),
            good.replace("h:1", "h h:1"),
            good.replace("h:1", "h:99999"),
            good.replace(&hash, &"=".repeat(43)),
            format!("{}{}", good, "x".repeat(600)),
        ] {
            let error = bad.parse::<LinkCode>().unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidParams, "{bad}");
            assert!(error.hint.is_some());
        }
    }

    #[test]
    fn a_code_of_another_version_says_so() {
        let newer = code("h:1", None).to_string().replace(":1:h", ":2:h");
        assert!(newer.parse::<LinkCode>().unwrap_err().message.contains("version"));
    }
}
