//! The safety number: 60 digits that two people compare to know that no one stands between them.
//!
//! In the manner of Signal's numeric fingerprints: 30 digits for each side from an iterated SHA-512 over version, key
//! fingerprint and name, the two halves in ascending order.
//!
//! **Invariant**: both sides get the same text, and it changes when either name or either key does.

use sha2::{Digest, Sha512};

use crate::Fingerprint;

const VERSION: &[u8] = b"FastChat safety number v1\0";
/// Makes a search for a key with a look-alike number dearer by this factor.
const ROUNDS: usize = 5200;

/// The safety number of two people: 12 groups of 5 digits with spaces between. Names are those on the server: the
/// same however it is reached.
#[must_use]
pub fn safety_number(one: (&str, &Fingerprint), other: (&str, &Fingerprint)) -> String {
    let mut halves = [half(one.0, one.1), half(other.0, other.1)];
    halves.sort_unstable();
    let groups: Vec<String> = halves.iter().flatten().map(|group| format!("{group:05}")).collect();
    groups.join(" ")
}

/// One side: six groups, each five bytes of the hash modulo 100,000.
fn half(name: &str, fingerprint: &Fingerprint) -> [u64; 6] {
    let start = Sha512::new().chain_update(VERSION).chain_update(fingerprint.0).chain_update(name).finalize();
    let digest =
        (0..ROUNDS).fold(start, |digest, _| Sha512::new().chain_update(digest).chain_update(fingerprint.0).finalize());
    let mut groups = [0; 6];
    for (group, bytes) in groups.iter_mut().zip(digest.chunks_exact(5)) {
        *group = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)) % 100_000;
    }
    groups
}
