//! Accounts' devices: how they come, go and are found by others.
//!
//! **Invariant**: whatever changes an account's set of devices answers with a [`DeviceChange`], so that nobody who is
//! connected goes on with the old set.

use bytes::Bytes;
use fastchat_wire::{AccountName, ConversationId, DeviceId};

use super::Kdf;

/// SHA-256 of a session token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

/// SHA-256 of a grant, by which an account's device lets another one log in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GrantHash(pub [u8; 32]);

/// How long others can write to a device after it has last offered a key package of last resort. Packages end after 90
/// days; a device that is alive offers anew each week.
pub const OFFER_LIFE_MS: u64 = 80 * 24 * 3_600 * 1_000;

/// How long the account's others wait for a device that has logged in and not offered any key packages, before they go
/// on among themselves without it.
pub const SETTING_UP_MS: u64 = 10 * 60 * 1_000;

/// A device to add, with its first session token.
#[derive(Clone)]
pub struct NewDevice {
    /// Chosen by the device.
    pub device: DeviceId,
    /// Ed25519 public key.
    pub signature_key: [u8; 32],
    /// The content of the device's MLS credential.
    pub certificate: Bytes,
    /// "laptop"
    pub name: String,
    /// Of its session token.
    pub token: TokenHash,
    /// Unix milliseconds.
    pub token_expires_ms: u64,
}

/// A login: the device comes to the account's others.
#[derive(Clone)]
pub struct AddDevice {
    /// Whose.
    pub account: AccountName,
    /// The new device. One of the same id goes first.
    pub device: NewDevice,
    /// A new identity key and its backup: the other devices go.
    pub identity: Option<(Bytes, Bytes)>,
    /// To be used up by this login.
    pub grant: Option<GrantHash>,
    /// The most devices of an account.
    pub most: u32,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// How a login ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceAdded {
    /// The new device is there.
    Done(DeviceChange),
    /// There is no such account (any more).
    NoAccount,
    /// The device id belongs to another account.
    DeviceTaken,
    /// The account has as many devices as it may.
    TooMany,
    /// The grant is unknown, used, too old or another account's.
    GrantRefused,
}

/// An account's devices are others than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceChange {
    /// Whose.
    pub account: AccountName,
    /// Devices that are gone, with all that was their own.
    pub removed: Vec<DeviceId>,
    /// Direct conversations that take no further entries until they are replaced.
    pub closed: Vec<ConversationId>,
}

/// A device as its account sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Which.
    pub device: DeviceId,
    /// "laptop"
    pub name: String,
    /// The content of its MLS credential.
    pub certificate: Bytes,
    /// When it logged in, Unix milliseconds.
    pub added_ms: u64,
    /// When it was last connected, Unix milliseconds; 0: never noted.
    pub seen_ms: u64,
}

/// Whose a session token is.
#[derive(Clone)]
pub struct DeviceSession {
    /// The account.
    pub account: AccountName,
    /// The device.
    pub device: DeviceId,
    /// Ed25519 public key that a resumption must be signed with.
    pub signature_key: [u8; 32],
    /// When the token ends, Unix milliseconds.
    pub token_expires_ms: u64,
    /// One-time key packages left.
    pub key_packages: u32,
    /// As last noted.
    pub seen_ms: u64,
}

/// A new password for an account.
#[derive(Clone)]
pub struct ChangePassword {
    /// Whose.
    pub account: AccountName,
    /// How to turn it into the auth secret.
    pub kdf: Kdf,
    /// bcrypt of the auth secret.
    pub auth_hash: String,
    /// The identity, sealed anew.
    pub identity_backup: Bytes,
    /// All other devices go.
    pub only_device: Option<DeviceId>,
}

/// A new identity for an account: one device stays, the others go, direct conversations are closed.
#[derive(Clone)]
pub struct RotateIdentity {
    /// Whose.
    pub account: AccountName,
    /// RSA public key (DER).
    pub identity_key: Bytes,
    /// The identity, sealed by the device.
    pub identity_backup: Bytes,
    /// The device that stays.
    pub device: DeviceId,
    /// Its certificate of the new identity.
    pub certificate: Bytes,
}

/// Somebody wants to write to an account.
#[derive(Debug, Clone)]
pub struct Claim {
    /// To whom.
    pub account: AccountName,
    /// With which device; left out when it is the account's own.
    pub by: DeviceId,
    /// One-time packages that are not given away, per device: who asks gets the one of last resort instead.
    pub reserve: u32,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// What became of a device's key packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// One-time packages that there are now.
    pub one_time: u32,
    /// Others can write to the device from now on, and could not before.
    pub change: Option<DeviceChange>,
}

/// Key packages taken for somebody who wants to write to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The account's identity key.
    pub identity_key: Bytes,
    /// One for each device that can be written to: see [`OFFER_LIFE_MS`].
    pub packages: Vec<(DeviceId, Bytes)>,
    /// Nothing was taken: the asker's own account has a device that is being set up, see [`SETTING_UP_MS`].
    pub is_setting_up: bool,
}

/// What is in a link's mailbox for one of its sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkMailbox {
    /// In order, after as many as the asker has.
    pub messages: Vec<Bytes>,
    /// When the mailbox goes, Unix milliseconds.
    pub expires_ms: u64,
}

/// How putting a message into a link's mailbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkPosted {
    /// It is there.
    Done,
    /// The mailbox is unknown or its time is over.
    NotFound,
    /// This side has said enough.
    Full,
}
