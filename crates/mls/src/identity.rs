//! What an account's identity signs, and which RSA keys are identities: servers and devices must agree on both.
//!
//! Devices have the private key and an RSA implementation of their own; a server only verifies, once, what it stores.
//!
//! **Invariant**: no two pairs of context and message have the same signed bytes.

/// Bits of the keys that devices make, and the least that is accepted from others.
pub const MIN_BITS: usize = 3072;
/// The most bits accepted: verifying must stay cheap.
pub const MAX_BITS: usize = 4096;
/// The one public exponent.
pub const PUBLIC_EXPONENT: u64 = 65537;

/// Tells our signatures from any other that an RSA key could be asked for.
const DOMAIN: &[u8] = b"FastChat identity signature v1\0";

/// What an identity signs (PSS; SHA-256 for these bytes and for the mask; 32 bytes of salt) when it signs `message` for
/// the purpose named by `context`: domain, length of the context, context, message.
#[must_use]
pub fn signed_bytes(context: &str, message: &[u8]) -> Vec<u8> {
    [DOMAIN, &(context.len() as u64).to_be_bytes(), context.as_bytes(), message].concat()
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
/// rsaEncryption (1.2.840.113549.1.1.1) with its NULL: RFC 8017, appendix A.1.
const RSA_ENCRYPTION: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// [`PUBLIC_EXPONENT`] as an INTEGER's content.
const EXPONENT: &[u8] = &[0x01, 0x00, 0x01];

/// The RSAPublicKey (PKCS#1, DER) in a SubjectPublicKeyInfo. `None`: it is not RSA of [`MIN_BITS`] to [`MAX_BITS`] with
/// [`PUBLIC_EXPONENT`], or not in its one DER form.
#[must_use]
pub fn rsa_public_key(identity_key: &[u8]) -> Option<&[u8]> {
    let (algorithm, key) = pair(SEQUENCE, only(element(SEQUENCE, identity_key)?)?, BIT_STRING)?;
    let (unused_bits, key) = key.split_first()?;
    let (modulus, exponent) = pair(INTEGER, only(element(SEQUENCE, key)?)?, INTEGER)?;
    let is_identity = algorithm == RSA_ENCRYPTION
        && *unused_bits == 0
        && exponent == EXPONENT
        && (MIN_BITS..=MAX_BITS).contains(&bits(modulus)?);
    is_identity.then_some(key)
}

/// How many bits a positive INTEGER has; `None` when it is negative, zero or has a byte too many.
fn bits(integer: &[u8]) -> Option<usize> {
    let number = match integer {
        [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => rest,
        [1..=0x7f, ..] => integer,
        _ => return None,
    };
    Some(number.len() * 8 - number.first()?.leading_zeros() as usize)
}

/// Two elements with nothing after them.
fn pair(first: u8, der: &[u8], second: u8) -> Option<(&[u8], &[u8])> {
    let (one, rest) = element(first, der)?;
    Some((one, only(element(second, rest)?)?))
}

/// An element's content, if nothing follows.
fn only<'a>((content, rest): (&'a [u8], &'a [u8])) -> Option<&'a [u8]> {
    rest.is_empty().then_some(content)
}

/// The content of a DER element of this tag, and what follows. Its length is given in the shortest form.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [found, rest @ ..] = der else { return None };
    let (length, rest) = match rest {
        [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x81, length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
        [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    if *found == tag { rest.split_at_checked(length) } else { None }
}
