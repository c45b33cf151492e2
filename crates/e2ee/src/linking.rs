//! Device linking: how a device of an account hands the account over to a new one, through a mailbox that anybody may
//! read and write.
//!
//! ```text
//!  new device                                                   device of the account
//!  code: commitment = H(public key, nonce, H(consent), device)  ──person──>
//!  1 Key      HPKE public key                                 ──────>   picks its nonce
//!             <──────  2 Offer   nonce, account, fingerprint of the account's identity
//!  3 Reveal   nonce, H(consent), device                       ──────>   compares with the commitment
//!  both show the same six digits of H(commitment, both nonces, account, fingerprint); the person compares
//!  4 Consent  consent                                         ──────>   compares with H(consent)
//!             <──────  5 Package HPKE: account, identity, grant
//!  6 Done                                                     ──────>
//! ```
//! Whoever sits between the two must fix all that is his before he learns the nonce that would tell him what the digits
//! become, so he has one guess in a million. Nothing else in the digits is his to choose: every field of the new device
//! is under the commitment. The package is for the key under that commitment, and the new device takes it only with the
//! private key of the very identity whose fingerprint is in the digits: a server that seals a package of its own, with an
//! identity of its own, is refused. HPKE is RFC 9180, base mode, with the KEM, KDF and AEAD of the MLS suite (X-Wing).
//!
//! Each step takes the state and gives the next one, so a message out of its turn is refused and a replayed one finds
//! nobody.
//!
//! **Invariant**: nothing secret is sealed before this device's person and the new device's have both agreed to the same
//! digits.

use std::fmt;

use openmls_rust_crypto::RustCrypto;
use openmls_traits::{
    crypto::OpenMlsCrypto,
    types::{HpkeCiphertext, HpkeKeyPair},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Fingerprint, Identity, IdentityError, encoding, mls::SUITE};

/// The longest message of a link; the longest there is, a package, has some 3,200 bytes.
pub const MAX_LINK_MESSAGE_BYTES: usize = 8192;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 32;
/// An encoded X-Wing public key.
const PUBLIC_KEY_BYTES: usize = 1216;
/// An X-Wing encapsulation.
const KEM_OUTPUT_BYTES: usize = 1120;
const MAX_NAME_BYTES: usize = 64;
/// What the digits are counted in.
const SAS_RANGE: u64 = 1_000_000;

const COMMITMENT_DOMAIN: &[u8] = b"FastChat device link commitment v1\0";
const CONSENT_DOMAIN: &[u8] = b"FastChat device link consent v1\0";
const TRANSCRIPT_DOMAIN: &[u8] = b"FastChat device link transcript v1\0";
const SAS_DOMAIN: &[u8] = b"FastChat device link digits v1\0";
const PACKAGE_INFO: &[u8] = b"FastChat device link package v1\0";

/// Why a link ends without a device.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Not a message of this step, or out of its bounds.
    #[error("the other device's {0} cannot be read; start again, with both devices up to date")]
    Malformed(&'static str),
    /// The other side does not want to go on.
    #[error("the other device has ended the link")]
    Aborted,
    /// What the new device revealed is not what its code says.
    #[error("the new device is not the one whose code was read: somebody may be between the two; start again")]
    Commitment,
    /// The consent is not the new device's.
    #[error("the consent is not that of the new device: somebody may be between the two; start again")]
    Consent,
    /// The package was not made for this link, or was altered.
    #[error("what the other device sent does not open: somebody may be between the two; start again")]
    Package,
    /// The package holds another account or identity than the one the digits stand for.
    #[error("the other device sent another identity than it had offered: somebody may be between the two; start again")]
    OtherIdentity,
    /// A key could not be made or used.
    #[error("the keys of the link could not be made")]
    Key,
    /// The identity does not encode or decode.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

#[derive(Serialize, Deserialize)]
enum Message {
    Key { public: Vec<u8> },
    Offer { nonce: [u8; NONCE_BYTES], account: String, identity: [u8; 32] },
    Reveal { nonce: [u8; NONCE_BYTES], consent: [u8; 32], device: [u8; 16], name: String },
    Consent { consent: [u8; NONCE_BYTES] },
    Package { kem_output: Vec<u8>, ciphertext: Vec<u8> },
    Done,
    Abort,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    account: String,
    identity: Vec<u8>,
    grant: [u8; 32],
}

/// Tells the other side, at any time, that the link is over.
///
/// # Errors
/// It does not encode (it always does).
pub fn link_abort() -> Result<Vec<u8>, LinkError> {
    write(&Message::Abort)
}

/// Message 6: the new device is in. Nothing depends on it but what the other device shows.
///
/// # Errors
/// It does not encode (it always does).
pub fn link_done() -> Result<Vec<u8>, LinkError> {
    write(&Message::Done)
}

/// Reads message 6.
///
/// # Errors
/// It is something else, or the end.
pub fn is_link_done(message: &[u8]) -> Result<(), LinkError> {
    if matches!(read(message, "report")?, Message::Done) { Ok(()) } else { Err(LinkError::Malformed("report")) }
}

/// The new device, waiting for an offer.
pub struct NewDevice {
    pub(crate) keys: HpkeKeyPair,
    nonce: [u8; NONCE_BYTES],
    consent: Zeroizing<[u8; NONCE_BYTES]>,
    device: Uuid,
    name: String,
}

impl NewDevice {
    /// Makes the keys of a link. `device` is the id that this device will have, `name` what it calls itself.
    ///
    /// # Errors
    /// The key generator failed, or the name is longer than 64 bytes or has control characters.
    pub fn begin(device: Uuid, name: &str) -> Result<Self, LinkError> {
        check_name(name)?;
        let seed = Zeroizing::new(rand::random::<[u8; 32]>());
        let keys = RustCrypto::default().derive_hpke_keypair(SUITE.hpke_config(), seed.as_slice());
        Ok(Self {
            keys: keys.map_err(|_| LinkError::Key)?,
            nonce: rand::random(),
            consent: Zeroizing::new(rand::random()),
            device,
            name: name.to_owned(),
        })
    }

    /// What goes into the code that the other device reads.
    #[must_use]
    pub fn commitment(&self) -> [u8; 32] {
        commitment(&self.keys.public, &self.nonce, &consent_hash(&self.consent), self.device.as_bytes(), &self.name)
    }

    /// Message 1.
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn first_message(&self) -> Result<Vec<u8>, LinkError> {
        write(&Message::Key { public: self.keys.public.clone() })
    }

    /// Takes message 2; gives message 3.
    ///
    /// # Errors
    /// Not an offer, or the end.
    pub fn take_offer(self, message: &[u8]) -> Result<(Offered, Vec<u8>), LinkError> {
        let Message::Offer { nonce, account, identity } = read(message, "offer")? else {
            return Err(LinkError::Malformed("offer"));
        };
        check_name(&account)?;
        let transcript = transcript(&self.commitment(), &self.nonce, &nonce, &account, &identity);
        let consent = consent_hash(&self.consent);
        let device = self.device.into_bytes();
        let reveal = write(&Message::Reveal { nonce: self.nonce, consent, device, name: self.name })?;
        let identity = Fingerprint(identity);
        Ok((Offered { keys: self.keys, consent: self.consent, account, identity, transcript }, reveal))
    }
}

/// The new device, while its person compares.
pub struct Offered {
    keys: HpkeKeyPair,
    consent: Zeroizing<[u8; NONCE_BYTES]>,
    account: String,
    identity: Fingerprint,
    transcript: [u8; 32],
}

impl Offered {
    /// The account that this device would come to.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The six digits, `123 456`.
    #[must_use]
    pub fn sas(&self) -> String {
        sas(&self.transcript)
    }

    /// The person has found the digits equal; gives message 4.
    ///
    /// # Errors
    /// It does not encode (it always does).
    pub fn agree(self) -> Result<(Agreed, Vec<u8>), LinkError> {
        let consent = write(&Message::Consent { consent: *self.consent })?;
        let Self { keys, account, identity, transcript, .. } = self;
        Ok((Agreed { keys, account, identity, transcript }, consent))
    }
}

/// The new device, waiting for the package.
pub struct Agreed {
    keys: HpkeKeyPair,
    account: String,
    identity: Fingerprint,
    transcript: [u8; 32],
}

/// What a device comes to an account with.
pub struct LinkPackage {
    /// The account's name on its server.
    pub account: String,
    /// Its identity.
    pub identity: Identity,
    /// What logs the device in, once.
    pub grant: Zeroizing<[u8; 32]>,
}

impl Agreed {
    /// Takes message 5.
    ///
    /// # Errors
    /// Not a package for this link, or one with another account or identity than was offered; or the end.
    pub fn open(self, message: &[u8]) -> Result<LinkPackage, LinkError> {
        let Message::Package { kem_output, ciphertext } = read(message, "package")? else {
            return Err(LinkError::Malformed("package"));
        };
        if kem_output.len() != KEM_OUTPUT_BYTES {
            return Err(LinkError::Malformed("package"));
        }
        let sealed = HpkeCiphertext { kem_output: kem_output.into(), ciphertext: ciphertext.into() };
        let opened = RustCrypto::default()
            .hpke_open(SUITE.hpke_config(), &sealed, &self.keys.private, PACKAGE_INFO, &self.transcript)
            .map(Zeroizing::new)
            .map_err(|_| LinkError::Package)?;
        let contents: Contents = encoding::decode(&opened).map_err(|_| LinkError::Malformed("package"))?;
        let (pkcs8, grant) = (Zeroizing::new(contents.identity), Zeroizing::new(contents.grant));
        let identity = Identity::from_bytes(&pkcs8)?;
        if contents.account != self.account || identity.public().fingerprint() != self.identity {
            return Err(LinkError::OtherIdentity);
        }
        Ok(LinkPackage { account: contents.account, identity, grant })
    }
}

/// The account's device, waiting for the new one to reveal what its code commits it to.
pub struct KnownDevice {
    commitment: [u8; 32],
    public: Vec<u8>,
    nonce: [u8; NONCE_BYTES],
    account: String,
    identity: Fingerprint,
}

impl KnownDevice {
    /// Takes the commitment of the code and message 1; gives message 2.
    ///
    /// # Errors
    /// Not the first message of a link, or the end.
    pub fn begin(
        commitment: [u8; 32],
        message: &[u8],
        account: &str,
        identity: Fingerprint,
    ) -> Result<(Self, Vec<u8>), LinkError> {
        let Message::Key { public } = read(message, "key")? else { return Err(LinkError::Malformed("key")) };
        if public.len() != PUBLIC_KEY_BYTES {
            return Err(LinkError::Malformed("key"));
        }
        let nonce = rand::random();
        let offer = write(&Message::Offer { nonce, account: account.to_owned(), identity: identity.0 })?;
        Ok((Self { commitment, public, nonce, account: account.to_owned(), identity }, offer))
    }

    /// Takes message 3.
    ///
    /// # Errors
    /// It does not fit the commitment; or the end.
    pub fn take_reveal(self, message: &[u8]) -> Result<Revealed, LinkError> {
        let Message::Reveal { nonce, consent, device, name } = read(message, "answer")? else {
            return Err(LinkError::Malformed("answer"));
        };
        if commitment(&self.public, &nonce, &consent, &device, &name) != self.commitment {
            return Err(LinkError::Commitment);
        }
        check_name(&name)?;
        let transcript = transcript(&self.commitment, &nonce, &self.nonce, &self.account, &self.identity.0);
        let Self { public, account, identity, .. } = self;
        let device = Uuid::from_bytes(device);
        Ok(Revealed { public, account, identity, consent, device, name, transcript })
    }
}

/// The account's device, while its person compares.
pub struct Revealed {
    public: Vec<u8>,
    pub(crate) account: String,
    pub(crate) identity: Fingerprint,
    consent: [u8; 32],
    device: Uuid,
    name: String,
    transcript: [u8; 32],
}

impl Revealed {
    /// The id that the new device will have.
    #[must_use]
    pub fn device(&self) -> Uuid {
        self.device
    }

    /// What the new device calls itself.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.name
    }

    /// The six digits, `123 456`.
    #[must_use]
    pub fn sas(&self) -> String {
        sas(&self.transcript)
    }

    /// The person has found the digits equal.
    #[must_use]
    pub fn agree(self) -> HalfAgreed {
        HalfAgreed(self)
    }
}

/// The account's device, waiting for the consent of the new one's person.
pub struct HalfAgreed(Revealed);

impl HalfAgreed {
    /// Takes message 4.
    ///
    /// # Errors
    /// It is not the new device's consent; or the end.
    pub fn take_consent(self, message: &[u8]) -> Result<Ready, LinkError> {
        let Message::Consent { consent } = read(message, "consent")? else {
            return Err(LinkError::Malformed("consent"));
        };
        if consent_hash(&consent) == self.0.consent { Ok(Ready(self.0)) } else { Err(LinkError::Consent) }
    }
}

/// The account's device, free to hand the account over.
pub struct Ready(pub(crate) Revealed);

impl Ready {
    /// Gives message 5.
    ///
    /// # Errors
    /// The identity is not the one that was offered, or does not encode; or the new device's key is none.
    pub fn seal(self, identity: &Identity, grant: &[u8; 32]) -> Result<Vec<u8>, LinkError> {
        let link = self.0;
        if identity.public().fingerprint() != link.identity {
            return Err(LinkError::OtherIdentity);
        }
        let pkcs8 = identity.to_bytes()?;
        let contents = encoding::encode(&(&link.account, &*pkcs8, grant)).map_err(|_| LinkError::Key)?;
        let sealed = RustCrypto::default()
            .hpke_seal(SUITE.hpke_config(), &link.public, PACKAGE_INFO, &link.transcript, &contents)
            .map_err(|_| LinkError::Key)?;
        write(&Message::Package {
            kem_output: sealed.kem_output.as_slice().to_vec(),
            ciphertext: sealed.ciphertext.as_slice().to_vec(),
        })
    }
}

macro_rules! hidden {
    ($($state:ident)+) => {
        $(impl fmt::Debug for $state {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($state), "(hidden)"))
            }
        })+
    };
}
hidden!(NewDevice Offered Agreed LinkPackage KnownDevice Revealed HalfAgreed Ready);

fn read(bytes: &[u8], what: &'static str) -> Result<Message, LinkError> {
    if bytes.len() > MAX_LINK_MESSAGE_BYTES {
        return Err(LinkError::Malformed(what));
    }
    match encoding::decode(bytes) {
        Ok((VERSION, Message::Abort)) => Err(LinkError::Aborted),
        Ok((VERSION, message)) => Ok(message),
        _ => Err(LinkError::Malformed(what)),
    }
}

fn write(message: &Message) -> Result<Vec<u8>, LinkError> {
    encoding::encode(&(VERSION, message)).map(|bytes| bytes.to_vec()).map_err(|_| LinkError::Key)
}

fn check_name(name: &str) -> Result<(), LinkError> {
    if name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(LinkError::Malformed("name"))
    }
}

fn commitment(public: &[u8], nonce: &[u8; NONCE_BYTES], consent: &[u8; 32], device: &[u8; 16], name: &str) -> [u8; 32] {
    digest(COMMITMENT_DOMAIN, &[public, nonce, consent, device, name.as_bytes()])
}

fn consent_hash(consent: &[u8; NONCE_BYTES]) -> [u8; 32] {
    digest(CONSENT_DOMAIN, &[consent])
}

/// All that the two have said to each other until they compare. The commitment stands for the new device's key, consent,
/// id and name; its nonce is in here once more, because the commitment is known to everybody from the start.
fn transcript(
    commitment: &[u8; 32],
    new: &[u8; NONCE_BYTES],
    known: &[u8; NONCE_BYTES],
    account: &str,
    identity: &[u8; 32],
) -> [u8; 32] {
    digest(TRANSCRIPT_DOMAIN, &[commitment, new, known, account.as_bytes(), identity])
}

fn sas(transcript: &[u8; 32]) -> String {
    let hash = digest(SAS_DOMAIN, &[transcript]);
    let number = hash.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte)) % SAS_RANGE;
    format!("{:03} {:03}", number / 1000, number % 1000)
}

/// SHA-256 over domain and parts, each part after its length.
fn digest(domain: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
