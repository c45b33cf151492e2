//! Welcomes, one per joiner.
//!
//! OpenMLS makes one Welcome with everybody's secrets in it (RFC 9420, section 12.4.3.1). A joiner needs its own alone,
//! and nothing signs the list, so it is split: what travels to 250 joiners stays small, and none learns of the others.
//!
//! **Invariant**: each part is a complete Welcome for exactly one key package.

use openmls::prelude::{
    EncryptedGroupSecrets, KeyPackage, KeyPackageRef, MlsMessageOut, OpenMlsCrypto,
    tls_codec::{Deserialize as _, Serialize as _},
};
use uuid::Uuid;

use crate::mls::MlsError;

/// Protocol version, wire format, cipher suite.
const HEADER_BYTES: usize = 6;

/// A Welcome for one device, to be sent with its wrapped key and, by the server, the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WelcomeFor {
    /// The account that the device belongs to.
    pub account: String,
    /// The device.
    pub device: Uuid,
    /// An MLSMessage with a Welcome: this device's secrets alone, without the tree.
    pub welcome: Vec<u8>,
    /// The friend key (direct) or join key (group), wrapped to the account's identity.
    pub join_key: Vec<u8>,
}

/// A device that is added, with what was verified about it.
pub(crate) struct Joiner {
    pub(crate) account: String,
    pub(crate) device: Uuid,
    pub(crate) key_package: KeyPackage,
}

/// The Welcomes for these key packages, in their order.
pub(crate) fn split(
    crypto: &impl OpenMlsCrypto,
    welcome: &MlsMessageOut,
    joiners: &[Joiner],
) -> Result<Vec<Vec<u8>>, MlsError> {
    let bytes = welcome.tls_serialize_detached()?;
    let header = bytes.get(..HEADER_BYTES).ok_or("a welcome has a header")?;
    let mut rest = bytes.get(HEADER_BYTES..).ok_or("a welcome has a header")?;
    let secrets = Vec::<EncryptedGroupSecrets>::tls_deserialize(&mut rest)?;
    let by_reference: std::collections::HashMap<KeyPackageRef, EncryptedGroupSecrets> =
        secrets.into_iter().map(|secret| (secret.new_member(), secret)).collect();
    let part = |joiner: &Joiner| {
        let reference = joiner.key_package.hash_ref(crypto)?;
        let secret = by_reference.get(&reference).ok_or("the welcome leaves a joiner out")?;
        let own = vec![secret.clone()].tls_serialize_detached()?;
        Ok([header, &own, rest].concat())
    };
    joiners.iter().map(part).collect()
}
