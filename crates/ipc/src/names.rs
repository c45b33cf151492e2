//! The fixed names of the API: bus, object paths, socket.
//!
//! **Invariant**: an object path names the same account, chat or contact for as long as it exists.

use std::path::PathBuf;

/// The well-known name on the session bus.
pub const BUS_NAME: &str = "org.fastchat.FastChat1";
/// The root object; ObjectManager is here.
pub const ROOT_PATH: &str = "/org/fastchat/FastChat1";
/// What D-Bus error names begin with.
pub const ERROR_PREFIX: &str = "org.fastchat.FastChat1.Error";
/// Environment variable that names another socket than the default.
pub const SOCKET_VARIABLE: &str = "FASTCHAT_SOCKET";

/// Where the daemon listens: `$FASTCHAT_SOCKET`, else `$XDG_RUNTIME_DIR/fastchat/fastchatd.sock`; without a runtime
/// directory `/tmp/fastchat-UID/fastchatd.sock`.
#[must_use]
pub fn socket_path() -> PathBuf {
    if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
        return path.into();
    }
    let directory = match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(runtime) => PathBuf::from(runtime).join("fastchat"),
        None => std::env::temp_dir().join(format!("fastchat-{}", rustix::process::geteuid().as_raw())),
    };
    directory.join("fastchatd.sock")
}

/// One element of an object path: letters and digits stay, every other byte becomes `_xx` (its hex value).
#[must_use]
pub fn path_element(text: &str) -> String {
    let mut element = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            element.push(char::from(byte));
        } else {
            element.push_str(&format!("_{byte:02x}"));
        }
    }
    element
}

/// The object of an account (`alice@host:8887`).
#[must_use]
pub fn account_path(account: &str) -> String {
    format!("{ROOT_PATH}/accounts/{}", path_element(account))
}

/// The object of a chat of an account.
#[must_use]
pub fn conversation_path(account: &str, chat: &str) -> String {
    format!("{}/conversations/{}", account_path(account), path_element(chat))
}

/// The object of a contact of an account.
#[must_use]
pub fn contact_path(account: &str, contact: &str) -> String {
    format!("{}/contacts/{}", account_path(account), path_element(contact))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_elements_are_distinct_and_legal() {
        assert_eq!(path_element("alice@h:1"), "alice_40h_3a1");
        assert_ne!(path_element("a_b"), path_element("a.b"));
        assert!(path_element("a-b.c_d@[::1]").bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_'));
    }
}
