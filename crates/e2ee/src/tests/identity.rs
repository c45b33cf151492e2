//! Identities, certificates, safety numbers, friend keys: known answers and refusals.
//!
//! **Invariant**: see [`super`].

use rsa::{RsaPrivateKey, pkcs8::EncodePublicKey};
use uuid::Uuid;

use super::people::{ALICE, BOB, CONVERSATION, MALLORY, Person, identity_of};
use crate::{
    CertificateError, Device, Fingerprint, Identity, IdentityError, IdentityKey, SharedKeyError, certificate,
    safety_number, shared_key::SharedKey,
};

const PRIVATE: &[u8] = include_bytes!("data/identity.pkcs8.der");
const SIGNATURE: &[u8] = include_bytes!("data/identity.signature");
const WRAPPED: &[u8] = include_bytes!("data/identity.wrapped");

#[test]
fn a_known_identity_has_its_known_fingerprint() {
    let identity = Identity::from_bytes(PRIVATE).unwrap();
    let fingerprint = identity.public().fingerprint().to_string();
    assert_eq!(fingerprint, "0b1bb45b51d99aaf160da4f87ed1479776952b0b444aeb990b686a601bd951c1");
    assert_eq!(*identity.to_bytes().unwrap(), PRIVATE);
    assert_eq!(IdentityKey::from_der(identity.public().to_der()).unwrap(), *identity.public());
}

#[test]
fn signatures_and_wraps_of_another_implementation_are_understood() {
    let identity = Identity::from_bytes(PRIVATE).unwrap();
    identity.public().verify("known answer", b"message", SIGNATURE).unwrap();
    assert_eq!(*identity.unwrap(b"known label", WRAPPED).unwrap(), b"thirty-two bytes of a secret key");
}

#[test]
fn a_signature_is_for_one_context_one_message_and_one_key() {
    let identity = Identity::from_bytes(PRIVATE).unwrap();
    let signature = identity.sign("context", b"message").unwrap();
    let key = identity.public();
    key.verify("context", b"message", &signature).unwrap();
    assert!(key.verify("contex", b"tmessage", &signature).is_err());
    assert!(key.verify("context", b"other", &signature).is_err());
    assert!(identity_of(ALICE).public().verify("context", b"message", &signature).is_err());
    assert!(key.verify("context", b"message", &signature[1..]).is_err());
}

#[test]
fn a_wrapped_secret_needs_the_same_label() {
    let identity = Identity::from_bytes(PRIVATE).unwrap();
    let wrapped = identity.public().wrap(b"one", b"secret").unwrap();
    assert!(identity.unwrap(b"two", &wrapped).is_err());
}

#[test]
fn weak_huge_and_malformed_identity_keys_are_refused() {
    let weak = RsaPrivateKey::new(&mut rand::rng(), 2048).unwrap().to_public_key().to_public_key_der().unwrap();
    assert!(matches!(IdentityKey::from_der(weak.as_bytes()), Err(IdentityError::Unacceptable(2048))));
    let odd = RsaPrivateKey::new_with_exp(&mut rand::rng(), 3072, rsa::BoxedUint::from(3u64)).unwrap();
    let odd = odd.to_public_key().to_public_key_der().unwrap();
    assert!(matches!(IdentityKey::from_der(odd.as_bytes()), Err(IdentityError::Unacceptable(3072))));
    let der = identity_of(ALICE).public().to_der();
    assert!(IdentityKey::from_der(&der[..der.len() - 1]).is_err());
    assert!(IdentityKey::from_der(&[der, &[0]].concat()).is_err());
    assert!(IdentityKey::from_der(&[0x30; 5000]).is_err());
    assert!(IdentityKey::from_der(&[]).is_err());
}

#[test]
fn an_identity_key_in_another_encoding_is_refused_because_it_would_have_another_fingerprint() {
    let der = identity_of(ALICE).public().to_der();
    // SEQUENCE { SEQUENCE { OID rsaEncryption, NULL }, BIT STRING }: leave out the NULL.
    let (outer, algorithm, key) = (&der[..4], &der[4..19], &der[19..]);
    assert_eq!((outer[1], &algorithm[..2], &algorithm[13..]), (0x82, [0x30, 13].as_slice(), [5, 0].as_slice()));
    let length = u16::try_from(der.len() - 4 - 2).unwrap().to_be_bytes();
    let without = [&[0x30, 0x82], length.as_slice(), &[0x30, 11], &algorithm[2..13], key].concat();
    assert!(IdentityKey::from_der(&without).is_err());
}

#[test]
fn a_known_safety_number_is_the_same_on_both_sides() {
    let (alice, bob) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let known = "90726 66040 48959 95345 04404 86307 97685 11076 81538 15854 10628 16005";
    assert_eq!(safety_number((ALICE, &alice), (BOB, &bob)), known);
    assert_eq!(safety_number((BOB, &bob), (ALICE, &alice)), known);
}

#[test]
fn a_safety_number_changes_with_a_name_or_a_key() {
    let (alice, bob) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let number = safety_number((ALICE, &alice), (BOB, &bob));
    assert_ne!(number, safety_number((ALICE, &alice), (MALLORY, &bob)));
    assert_ne!(number, safety_number((ALICE, &alice), (BOB, &Fingerprint([3; 32]))));
    assert_ne!(number, safety_number((ALICE, &bob), (BOB, &alice)));
}

#[test]
fn a_device_survives_storing_and_is_still_certified() {
    let device = Person::new(ALICE).device;
    let restored = Device::from_bytes(&device.to_bytes().unwrap()).unwrap();
    restored.verify(identity_of(ALICE).public()).unwrap();
    assert_eq!((restored.id(), restored.account()), (device.id(), ALICE));
    assert_eq!(restored.signature_key(), device.signature_key());
    assert_eq!(restored.signature_key().len(), 32);
    assert_eq!(restored.sign(b"context\0", b"message").unwrap(), device.sign(b"context\0", b"message").unwrap());
    assert!(Device::from_bytes(&device.to_bytes().unwrap()[1..]).is_err());
}

#[test]
fn a_certificate_of_another_identity_or_for_another_key_is_refused() {
    let (alice, mallory) = (identity_of(ALICE), identity_of(MALLORY));
    let forged = certificate::issue(mallory, ALICE, Uuid::from_u128(1), &[7; 32]).unwrap();
    let refused = certificate::verify(&forged, &[7; 32], alice.public());
    assert!(matches!(refused, Err(CertificateError::OtherIdentity)));
    let good = certificate::issue(alice, ALICE, Uuid::from_u128(1), &[7; 32]).unwrap();
    certificate::verify(&good, &[7; 32], alice.public()).unwrap();
    assert!(matches!(certificate::verify(&good, &[8; 32], alice.public()), Err(CertificateError::OtherKey)));
}

#[test]
fn a_certificate_with_any_byte_altered_is_refused() {
    let alice = identity_of(ALICE);
    let good = certificate::issue(alice, ALICE, Uuid::from_u128(1), &[7; 32]).unwrap();
    for position in 0..good.len() {
        let mut altered = good.clone();
        altered[position] ^= 1;
        assert!(certificate::verify(&altered, &[7; 32], alice.public()).is_err(), "byte {position}");
    }
    assert!(certificate::verify(&[good.as_slice(), &[0]].concat(), &[7; 32], alice.public()).is_err());
}

/// A friend key and a join key, each wrapped by alice to bob.
fn shared_keys() -> [(SharedKey, Vec<u8>); 2] {
    let friend = SharedKey::friend(CONVERSATION);
    let join = SharedKey::join(CONVERSATION, 7, vec![9; 32].into());
    [friend, join].map(|key| {
        let wrapped = key.wrap(identity_of(ALICE), identity_of(BOB).public()).unwrap();
        (key, wrapped)
    })
}

#[test]
fn a_friend_or_join_key_reaches_its_joiner() {
    for (key, wrapped) in shared_keys() {
        let accepted = SharedKey::accept(identity_of(BOB), identity_of(ALICE).public(), CONVERSATION, &wrapped);
        let accepted = accepted.unwrap();
        assert_eq!((&key.secret, key.psk(), key.id), (&accepted.secret, accepted.psk(), accepted.id));
    }
}

fn key_is_refused(me: &str, creator: &str, conversation: Uuid, bytes: &[u8]) {
    let result = SharedKey::accept(identity_of(me), identity_of(creator).public(), conversation, bytes);
    assert!(matches!(result, Err(SharedKeyError::Signature)));
}

#[test]
fn a_join_key_of_one_epoch_does_not_pass_for_another_epochs() {
    let [_, (_, mut wrapped)] = shared_keys();
    assert_eq!(wrapped[2], 7, "version, kind, epoch");
    wrapped[2] = 8;
    key_is_refused(BOB, ALICE, CONVERSATION, &wrapped);
}

#[test]
fn a_friend_or_join_key_is_refused_before_unwrapping_unless_signed_for_us_and_this_conversation() {
    for (_, wrapped) in shared_keys() {
        refused_unless_signed(wrapped);
    }
}

fn refused_unless_signed(wrapped: Vec<u8>) {
    let refused = key_is_refused;
    refused(BOB, MALLORY, CONVERSATION, &wrapped);
    refused(MALLORY, ALICE, CONVERSATION, &wrapped);
    refused(BOB, ALICE, Uuid::from_u128(0xC1), &wrapped);
    let mut altered = wrapped.clone();
    altered[40] ^= 1; // inside the ciphertext
    refused(BOB, ALICE, CONVERSATION, &altered);
    let mut unsigned = wrapped;
    unsigned.truncate(unsigned.len() - 384);
    unsigned.extend([0; 384]);
    refused(BOB, ALICE, CONVERSATION, &unsigned);
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let alice = Person::new(ALICE);
    assert_eq!(format!("{:?}", alice.device), format!("Device({} of {ALICE}, private key hidden)", alice.device.id()));
    let identity = format!("{:?}", alice.identity);
    assert_eq!(identity, format!("Identity({}, private key hidden)", alice.identity.public().fingerprint()));
    assert_eq!(format!("{:?}", crate::Text { text: "secret".into() }), "Text(6 bytes)");
}
