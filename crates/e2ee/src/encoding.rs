//! Postcard records: what certificates, friend keys, devices and stored MLS values are written in.
//!
//! **Invariant**: a record read from outside is consumed to its last byte, and a written secret leaves no copy behind
//! in a buffer that grew.

use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Encodes into a buffer of exactly the right size, wiped on drop.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Zeroizing<Vec<u8>>, postcard::Error> {
    let size = postcard::serialize_with_flavor(value, postcard::ser_flavors::Size::default())?;
    postcard::to_extend(value, Vec::with_capacity(size)).map(Zeroizing::new)
}

/// Decodes a record that fills `bytes` completely.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}
