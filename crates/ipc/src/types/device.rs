//! The devices of an account, and how another one comes to it without the password.
//!
//! Linking takes two devices and a person who sees both: the new one shows a code, the one that is in reads it, both show
//! the same short authentication string, and the person says on each that the two are equal.
//!
//! **Invariant**: a link gives nothing away before both sides have accepted the string.

use serde::{Deserialize, Serialize};

use super::KeyStore;

/// A device of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id; stays for as long as it is the account's.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// When it came to the account.
    pub added_at_ms: u64,
    /// When the server last saw it; 0 when it never did.
    pub seen_at_ms: u64,
    /// Whether it is connected now.
    pub connected: bool,
    /// Whether it is this one.
    pub current: bool,
}

/// All devices of an account, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// The devices.
    pub devices: Vec<Device>,
}

/// Parameters of `device.revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfDevice {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The device: its id, or its name where no other device has it.
    pub device: String,
}

/// Parameters of `device.rename`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceName {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The device: its id, or its name where no other device has it.
    pub device: String,
    /// What to call it, 1 to 64 bytes without control characters.
    pub name: String,
}

/// Parameters of `device.link`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkCode {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The code that the new device shows (what its QR code holds).
    pub code: String,
}

/// Result of `device.link`: the new device has answered, and the person is to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkOffer {
    /// The link, for `device.link_confirm`.
    pub link: String,
    /// The short authentication string: digits in groups, the same on both devices unless somebody is between them.
    pub sas: String,
    /// What the new device calls itself; empty where it did not say.
    #[serde(default)]
    pub device_name: String,
}

/// Parameters of `device.link_confirm`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConsent {
    /// The account; empty for the default one.
    #[serde(default)]
    pub account: String,
    /// The link.
    pub link: String,
    /// Whether both devices show the same string. False ends the link, and the answer is `Refused`.
    pub accept: bool,
}

/// Parameters of `account.link_begin`, called on the new device.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRequest {
    /// The account's server, `HOST[:PORT]`.
    pub address: String,
    /// What to call this device; the host name when empty.
    #[serde(default)]
    pub device_name: String,
    /// Trust exactly this certificate of the server (`sha256:…`).
    #[serde(default)]
    pub pin: String,
    /// Trust an unknown server's certificate without asking.
    #[serde(default)]
    pub accept_new: bool,
    /// What shall protect the store; counts only for the first account.
    #[serde(default)]
    pub key_store: KeyStore,
    /// The passphrase of the key store `passphrase`.
    #[serde(default)]
    pub passphrase: String,
}

/// Result of `account.link_begin`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkBegun {
    /// The link, for `account.link_wait` and `account.link_finish`.
    pub link: String,
    /// What to paste into `device link` on a device of the account.
    pub code: String,
    /// What to encode in a QR code for that device to scan.
    pub qr: String,
    /// When the link ends by itself.
    pub expires_at_ms: u64,
}

/// Parameters of `account.link_wait`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfLink {
    /// The link.
    pub link: String,
    /// How long to wait at most, milliseconds; 0 for as long as a call may take (5 min). `TimedOut` may be called again.
    #[serde(default)]
    pub timeout_ms: u64,
}

/// Result of `account.link_wait`: a device of an account has taken the code, and the person is to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSas {
    /// The short authentication string, as on the other device.
    pub sas: String,
    /// The account that this device would come to, `alice@host:port`.
    pub account: String,
}

/// Parameters of `account.link_finish`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkFinish {
    /// The link.
    pub link: String,
    /// Whether both devices show the same string. False ends the link, and the answer is `Refused`.
    pub accept: bool,
}
