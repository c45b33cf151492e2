//! Key packages: what a device publishes so that others can add it to a conversation while it is away.
//!
//! **Invariant**: a key package is used only for the account and device that were asked for, certified by the identity
//! known for that account; whatever else a server hands out is refused. The private keys that are kept are bounded.

use std::time::Duration;

use fastchat_mls::suite;
use openmls::prelude::{
    KeyPackage, KeyPackageRef, Lifetime, MlsMessageBodyIn, MlsMessageOut, OpenMlsProvider as _, ProtocolVersion,
    tls_codec::Serialize as _,
};
use openmls_traits::storage::StorageProvider as _;
use uuid::Uuid;

use crate::{
    CertificateError, Device, IdentityKey, PeerPackages, StoreError, certificate,
    mls::{self, Provider, SUITE},
    storage::Record,
    welcome::Joiner,
};

/// How long after it was made a key package can be used to start a conversation.
pub const KEY_PACKAGE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// A lifetime begins so long before now: whoever follows the commit that uses the package judges it by a clock of its own.
const LIFETIME_MARGIN_SECONDS: u64 = 24 * 60 * 60;
/// How many key packages' private keys are kept: enough for all that are published and those claimed of late. The
/// oldest go first. By count and not by date, so that a clock that jumps destroys nothing.
const KEPT: usize = 1000;
/// The current key package of last resort and those that Welcomes on their way may still use.
const KEPT_LAST_RESORT: usize = 4;
/// A key package of this suite has some 4.5 KB with our certificate.
const MAX_BYTES: usize = 16 * 1024;

/// Why a key package could not be made or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum KeyPackageError {
    /// The caller's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not an MLS key package of this suite.
    #[error("the key package is malformed or of another cipher suite")]
    Malformed,
    /// Its signatures or lifetime are not valid.
    #[error("the key package is not valid: {0}")]
    Invalid(String),
    /// It wants to live longer than [`KEY_PACKAGE_LIFETIME`].
    #[error("the key package claims too long a lifetime")]
    Lifetime,
    /// It does not belong to the device and account that were asked for.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It could not be made.
    #[error("the key package could not be made: {0}")]
    Make(String),
}

/// Makes key packages and keeps their private keys; those of the oldest beyond the bound are deleted.
pub(crate) fn make(
    provider: &Provider<'_>,
    device: &Device,
    count: usize,
    last_resort: bool,
) -> Result<Vec<Vec<u8>>, KeyPackageError> {
    let mut kept = kept(provider, last_resort)?;
    let mut published = Vec::new();
    for _ in 0..count.min(KEPT) {
        let (bytes, reference) = make_one(provider, device, last_resort)?;
        published.push(bytes);
        kept.push(reference);
    }
    let limit = if last_resort { KEPT_LAST_RESORT } else { KEPT };
    for oldest in kept.drain(..kept.len().saturating_sub(limit)) {
        provider.storage().delete_key_package(&oldest).map_err(StoreError::from)?;
    }
    keep(provider, last_resort, &kept)?;
    Ok(published)
}

/// A lifetime from now on, as a leaf carries it.
pub(crate) fn lifetime() -> Lifetime {
    let fresh = Lifetime::new(KEY_PACKAGE_LIFETIME.as_secs());
    Lifetime::init(fresh.not_before().saturating_sub(LIFETIME_MARGIN_SECONDS), fresh.not_after())
}

fn make_one(
    provider: &Provider<'_>,
    device: &Device,
    last_resort: bool,
) -> Result<(Vec<u8>, KeyPackageRef), KeyPackageError> {
    let builder = KeyPackage::builder().leaf_node_capabilities(suite::capabilities()).key_package_lifetime(lifetime());
    let builder = if last_resort { builder.mark_as_last_resort() } else { builder };
    let key_package = builder
        .build(SUITE, provider, device.signer(), device.credential())
        .map_err(|error| KeyPackageError::Make(error.to_string()))?
        .into_key_package();
    let reference =
        key_package.hash_ref(provider.crypto()).map_err(|error| KeyPackageError::Make(error.to_string()))?;
    let bytes = MlsMessageOut::from(key_package)
        .tls_serialize_detached()
        .map_err(|error| KeyPackageError::Make(error.to_string()))?;
    Ok((bytes, reference))
}

/// Notes that OpenMLS used a key package up (it has deleted the private keys; one of last resort stays).
pub(crate) fn used(provider: &Provider<'_>, key_package: &KeyPackage) -> Result<(), StoreError> {
    if key_package.last_resort() {
        return Ok(());
    }
    let reference = key_package.hash_ref(provider.crypto()).map_err(StoreError::new)?;
    let mut kept = kept(provider, false)?;
    kept.retain(|other| *other != reference);
    keep(provider, false, &kept)
}

/// The key packages whose private keys are kept, the oldest first.
fn kept(provider: &Provider<'_>, last_resort: bool) -> Result<Vec<KeyPackageRef>, StoreError> {
    Ok(provider.trial.get(Record::KeyPackageRefs, &last_resort)?.unwrap_or_default())
}

fn keep(provider: &Provider<'_>, last_resort: bool, kept: &[KeyPackageRef]) -> Result<(), StoreError> {
    match kept {
        [] => Ok(provider.trial.delete(Record::KeyPackageRefs, &last_resort)?),
        kept => Ok(provider.trial.put(Record::KeyPackageRefs, &last_resort, kept)?),
    }
}

/// Verifies that these bytes are a key package of exactly this device of this account.
pub(crate) fn verify(
    provider: &Provider<'_>,
    bytes: &[u8],
    account: &str,
    device: Uuid,
    identity: &IdentityKey,
) -> Result<KeyPackage, KeyPackageError> {
    if bytes.len() > MAX_BYTES {
        return Err(KeyPackageError::Malformed);
    }
    let Some(MlsMessageBodyIn::KeyPackage(unverified)) = mls::parse(bytes) else {
        return Err(KeyPackageError::Malformed);
    };
    let key_package = unverified
        .validate(provider.crypto(), ProtocolVersion::Mls10)
        .map_err(|error| KeyPackageError::Invalid(error.to_string()))?;
    if key_package.ciphersuite() != SUITE {
        return Err(KeyPackageError::Malformed);
    }
    let lifetime = key_package.life_time();
    let seconds = lifetime.not_after().saturating_sub(lifetime.not_before());
    // OpenMLS adds an hour at the beginning; another one for good measure.
    if seconds > KEY_PACKAGE_LIFETIME.as_secs() + LIFETIME_MARGIN_SECONDS + 2 * 3600 {
        return Err(KeyPackageError::Lifetime);
    }
    if *key_package.leaf_node().capabilities() != suite::capabilities() {
        return Err(KeyPackageError::Malformed);
    }
    let certified = certificate::verify_leaf(key_package.leaf_node(), identity)?;
    if certified.account != account || certified.device != device {
        return Err(CertificateError::OtherDevice.into());
    }
    Ok(key_package)
}

/// Verifies an account's key packages; names the device whose package is refused.
pub(crate) fn verify_all(
    provider: &Provider<'_>,
    of: &PeerPackages<'_>,
) -> Result<Vec<Joiner>, (Uuid, KeyPackageError)> {
    let verify = |(device, bytes): &(Uuid, &[u8])| {
        let key_package =
            verify(provider, bytes, of.account, *device, of.identity).map_err(|cause| (*device, cause))?;
        Ok(Joiner { account: of.account.to_owned(), device: *device, key_package })
    };
    of.packages.iter().map(verify).collect()
}
