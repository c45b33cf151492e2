//! What somebody asks for when signing in, checked before anything is sent.
//!
//! **Invariant**: a [`Request`] has an address, a password within bounds and a name for the device; the password is
//! wiped when it goes.

use fastchat_ipc::{ApiError, ErrorCode, SignIn};
use fastchat_wire::{Address, ServerAddress};

use super::{Trust, Zeroizing};

/// The shortest password of a new account, in characters.
const SHORTEST: usize = 8;
/// The longest password, in bytes.
const LONGEST: usize = 1024;
/// The longest name of a device, in bytes: what servers take.
const NAME: usize = 64;
/// The longest invitation, in bytes.
const INVITE: usize = 256;

/// A checked request.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) address: Address,
    pub(super) password: Zeroizing<String>,
    pub(super) trust: Trust,
    pub(super) invite: String,
    pub(super) device_name: String,
}

impl Request {
    /// Checks what both ways of signing in need.
    pub(super) fn check(asked: &SignIn) -> Result<Self, ApiError> {
        let address = address(&asked.address)?;
        let password = password(&asked.password)?;
        if asked.invite.len() > INVITE {
            return Err(bad(format!("the invitation is longer than {INVITE} bytes")).hint("paste the token alone"));
        }
        let trust = trust(&asked.pin, asked.accept_new)?;
        Ok(Self {
            address,
            password,
            trust,
            invite: asked.invite.clone(),
            device_name: device_name(&asked.device_name)?,
        })
    }

    /// Checks what a new account needs on top.
    pub(super) fn for_new_account(self) -> Result<Self, ApiError> {
        long_enough(&self.password)?;
        Ok(self)
    }
}

/// A password that may be the account's.
pub(super) fn password(text: &str) -> Result<Zeroizing<String>, ApiError> {
    if text.is_empty() {
        return Err(bad("the password is empty"));
    }
    if text.len() > LONGEST {
        return Err(bad(format!("the password is longer than {LONGEST} bytes")));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// A password that an account is to have from now on.
pub(super) fn new_password(text: &str) -> Result<Zeroizing<String>, ApiError> {
    let password = password(text)?;
    long_enough(&password)?;
    Ok(password)
}

fn long_enough(password: &str) -> Result<(), ApiError> {
    if password.chars().count() >= SHORTEST {
        return Ok(());
    }
    Err(bad(format!("the password has fewer than {SHORTEST} characters"))
        .hint("it protects your identity's backup on the server: take a long one"))
}

/// What the caller trusts a server by, on first contact.
pub(super) fn trust(pin: &str, accept_new: bool) -> Result<Trust, ApiError> {
    match pin {
        "" => Ok(Trust::FirstContact { accept: accept_new }),
        pin => Ok(Trust::Pinned(pin.parse().map_err(|error| bad(format!("the pin cannot be used: {error}")))?)),
    }
}

/// Reads an address.
pub(super) fn address(text: &str) -> Result<Address, ApiError> {
    text.parse().map_err(|error| {
        bad(format!("`{}` is not an address: {error}", text.escape_debug())).hint("for example alice@chat.example.org")
    })
}

/// Reads a server's address.
pub(super) fn server(text: &str) -> Result<ServerAddress, ApiError> {
    text.parse().map_err(|error| {
        bad(format!("`{}` is not a server's address: {error}", text.escape_debug()))
            .hint("write HOST or HOST:PORT, for example chat.example.org")
    })
}

/// What the device is to be called; the host's name when nothing was said.
pub(super) fn device_name(asked: &str) -> Result<String, ApiError> {
    if asked.is_empty() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name: String = host.trim().chars().filter(|c| !c.is_control()).collect();
        let name = &name[..name.floor_char_boundary(NAME)];
        return Ok(if name.is_empty() { "device" } else { name }.to_owned());
    }
    if asked.len() > NAME || asked.chars().any(char::is_control) {
        return Err(bad(format!("a device's name has up to {NAME} bytes and no control characters")));
    }
    Ok(asked.to_owned())
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidParams, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> SignIn {
        SignIn { address: "alice@localhost".into(), password: "long enough".into(), ..SignIn::default() }
    }

    fn message(asked: &SignIn) -> String {
        let Err(error) = Request::check(asked).and_then(Request::for_new_account) else { return String::new() };
        assert_eq!(error.code, ErrorCode::InvalidParams);
        error.message
    }

    #[test]
    fn a_short_password_is_refused_for_a_new_account_only() {
        let short = SignIn { password: "seven77".into(), ..asked() };
        assert!(message(&short).contains("fewer than 8"));
        assert!(Request::check(&short).is_ok());
        assert!(message(&SignIn { password: "ä".repeat(8), ..asked() }).is_empty());
        assert!(message(&SignIn { password: "x".repeat(1025), ..asked() }).contains("longer"));
        assert!(message(&SignIn { password: String::new(), ..asked() }).contains("empty"));
    }

    #[test]
    fn no_error_text_repeats_the_password() {
        for password in ["s3cret", &"s3cret".repeat(300)] {
            assert!(!message(&SignIn { password: password.into(), ..asked() }).contains("s3cret"));
        }
    }

    #[test]
    fn bad_addresses_pins_and_names_are_said_plainly() {
        assert!(message(&SignIn { address: "alice".into(), ..asked() }).contains("USER@HOST"));
        assert!(message(&SignIn { address: "al\x1bice@h".into(), ..asked() }).contains("\\u{1b}"));
        assert!(message(&SignIn { pin: "sha256:0".into(), ..asked() }).contains("pin"));
        assert!(message(&SignIn { device_name: "a\nb".into(), ..asked() }).contains("name"));
    }

    #[test]
    fn without_a_name_the_device_gets_one() {
        assert!(!Request::check(&asked()).unwrap().device_name.is_empty());
    }
}
