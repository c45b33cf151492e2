//! Device linking: two devices, and somebody who owns the mailbox between them.
//!
//! **Invariant**: a test of an attack plays it to its end: the digits differ, or a side refuses.

use uuid::Uuid;

use super::people::{ALICE, BOB, identity_of};
use crate::{
    Agreed, KnownDevice, LinkError, LinkPackage, MAX_LINK_MESSAGE_BYTES, NewDevice, Offered, Ready, Revealed,
    is_link_done, link_abort, link_done,
};

const GRANT: [u8; 32] = [7; 32];
const DEVICE: Uuid = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001);

fn new_device(name: &str) -> Result<NewDevice, LinkError> {
    NewDevice::begin(DEVICE, name)
}

/// The account's device, on the first message of a new one whose code it has read.
fn known(code: [u8; 32], first: &[u8], account: &str) -> (KnownDevice, Vec<u8>) {
    KnownDevice::begin(code, first, account, identity_of(account).public().fingerprint()).unwrap()
}

/// Both sides up to where their people compare.
fn compared() -> (Offered, Revealed) {
    let new = new_device("tablet").unwrap();
    let (known, offer) = known(new.commitment(), &new.first_message().unwrap(), ALICE);
    let (new, reveal) = new.take_offer(&offer).unwrap();
    (new, known.take_reveal(&reveal).unwrap())
}

/// Both sides up to the package.
fn agreed() -> (Agreed, Ready) {
    let (new, known) = compared();
    let (new, consent) = new.agree().unwrap();
    (new, known.agree().take_consent(&consent).unwrap())
}

fn code(result: Result<impl Sized, LinkError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(LinkError::Malformed(_)) => "malformed",
        Err(LinkError::Aborted) => "aborted",
        Err(LinkError::Commitment) => "commitment",
        Err(LinkError::Consent) => "consent",
        Err(LinkError::Package) => "package",
        Err(LinkError::OtherIdentity) => "other identity",
        Err(LinkError::Key | LinkError::Identity(_)) => "key",
    }
}

#[test]
fn a_new_device_gets_identity_and_grant_after_both_have_agreed_to_the_same_digits() {
    let (new, known) = compared();
    assert_eq!((new.sas(), new.account()), (known.sas(), ALICE));
    assert_eq!((known.device_name(), known.device()), ("tablet", DEVICE));
    let digits: String = new.sas().chars().filter(char::is_ascii_digit).collect();
    assert_eq!((digits.len(), new.sas().len()), (6, 7));
    let (new, consent) = new.agree().unwrap();
    let known = known.agree().take_consent(&consent).unwrap();
    let package = known.seal(identity_of(ALICE), &GRANT).unwrap();
    assert!(package.len() < MAX_LINK_MESSAGE_BYTES);
    let LinkPackage { account, identity, grant } = new.open(&package).unwrap();
    assert_eq!((account.as_str(), *grant), (ALICE, GRANT));
    assert_eq!(identity.public(), identity_of(ALICE).public());
}

#[test]
fn each_link_has_other_digits() {
    let digits: std::collections::BTreeSet<String> = (0..8).map(|_| compared().0.sas()).collect();
    assert!(digits.len() > 6, "{digits:?}");
}

#[test]
fn a_key_swapped_in_the_mailbox_does_not_fit_the_code() {
    let (new, mallory) = (new_device("tablet").unwrap(), new_device("tablet").unwrap());
    let (known, offer) = known(new.commitment(), &mallory.first_message().unwrap(), ALICE);
    let (_, reveal) = new.take_offer(&offer).unwrap();
    assert_eq!(code(known.take_reveal(&reveal)), "commitment");
}

#[test]
fn an_answer_swapped_in_the_mailbox_does_not_fit_the_code() {
    let new = new_device("tablet").unwrap();
    let (known, offer) = known(new.commitment(), &new.first_message().unwrap(), ALICE);
    let (_, reveal) = new_device("tablet").unwrap().take_offer(&offer).unwrap();
    assert_eq!(code(known.take_reveal(&reveal)), "commitment");
}

#[test]
fn every_changed_byte_of_an_answer_is_refused_or_changes_nothing() {
    let new = new_device("tablet").unwrap();
    let first = new.first_message().unwrap();
    let commitment = new.commitment();
    let identity = identity_of(ALICE).public().fingerprint();
    let (_, offer) = KnownDevice::begin(commitment, &first, ALICE, identity).unwrap();
    let (_, reveal) = new.take_offer(&offer).unwrap();
    for position in 0..reveal.len() {
        let mut altered = reveal.clone();
        altered[position] ^= 1;
        let (known, _) = KnownDevice::begin(commitment, &first, ALICE, identity).unwrap();
        assert!(matches!(code(known.take_reveal(&altered)), "malformed" | "commitment"), "byte {position}");
    }
}

#[test]
fn whoever_answers_both_sides_in_their_place_shows_them_different_digits() {
    // Not even the code came over unharmed: mallory is a new device for alice's, and alice's for the new device.
    let (new, mallory) = (new_device("tablet").unwrap(), new_device("tablet").unwrap());
    let (alices, offer) = known(mallory.commitment(), &mallory.first_message().unwrap(), ALICE);
    let (mallory, answer) = mallory.take_offer(&offer).unwrap();
    let alices = alices.take_reveal(&answer).unwrap();
    let (false_alice, offer) = known(new.commitment(), &new.first_message().unwrap(), ALICE);
    let (new, reveal) = new.take_offer(&offer).unwrap();
    let false_alice = false_alice.take_reveal(&reveal).unwrap();
    assert_eq!((mallory.sas(), new.sas()), (alices.sas(), false_alice.sas()));
    assert_ne!(new.sas(), alices.sas());
}

#[test]
fn an_offer_swapped_in_the_mailbox_shows_other_digits() {
    for account in [ALICE, BOB] {
        let new = new_device("tablet").unwrap();
        let first = new.first_message().unwrap();
        let commitment = new.commitment();
        let (alices, _) = known(commitment, &first, ALICE);
        let (_, swapped) = known(commitment, &first, account);
        let (new, reveal) = new.take_offer(&swapped).unwrap();
        assert_ne!(new.sas(), alices.take_reveal(&reveal).unwrap().sas(), "offered {account}");
    }
}

#[test]
fn a_server_that_seals_a_package_of_its_own_identity_is_refused() {
    // It knows all that was said in the mailbox, and plays the account's device with an identity that it made.
    let (new, known) = agreed();
    let Ready(mut link) = known;
    link.identity = identity_of(BOB).public().fingerprint();
    let package = Ready(link).seal(identity_of(BOB), &GRANT).unwrap();
    assert_eq!(code(new.open(&package)), "other identity");
}

#[test]
fn a_package_for_another_account_is_refused() {
    let (new, known) = agreed();
    let Ready(mut link) = known;
    link.account = BOB.into();
    assert_eq!(code(new.open(&Ready(link).seal(identity_of(ALICE), &GRANT).unwrap())), "other identity");
}

#[test]
fn a_package_of_another_link_does_not_open() {
    let ((new, _), (_, other)) = (agreed(), agreed());
    let package = other.seal(identity_of(ALICE), &GRANT).unwrap();
    assert_eq!(code(new.open(&package)), "package");
}

#[test]
fn an_altered_or_truncated_package_does_not_open() {
    let package = agreed().1.seal(identity_of(ALICE), &GRANT).unwrap();
    for position in [0, 1, 2, 3, 4, 5, 600, 1122, 1124, 1126, 1130, 2000, package.len() - 17, package.len() - 1] {
        let (new, known) = agreed();
        let mut altered = known.seal(identity_of(ALICE), &GRANT).unwrap();
        altered[position] ^= 1;
        assert!(matches!(code(new.open(&altered)), "malformed" | "package"), "byte {position}");
    }
    for length in [0, 1, 100, package.len() - 1] {
        assert_eq!(code(agreed().0.open(&package[..length])), "malformed");
    }
}

#[test]
fn no_consent_but_the_new_devices_own_lets_the_package_out() {
    let (_, known) = compared();
    let (_, foreign) = compared().0.agree().unwrap();
    assert_eq!(code(known.agree().take_consent(&foreign)), "consent");
}

#[test]
fn another_identity_than_the_offered_one_is_not_sealed() {
    assert_eq!(code(agreed().1.seal(identity_of(BOB), &GRANT)), "other identity");
}

#[test]
fn an_end_is_understood_at_every_step() {
    let end = link_abort().unwrap();
    assert_eq!(code(new_device("").unwrap().take_offer(&end)), "aborted");
    let identity = identity_of(ALICE).public().fingerprint();
    assert_eq!(code(KnownDevice::begin([0; 32], &end, ALICE, identity)), "aborted");
    let new = new_device("").unwrap();
    let (known, _) = known(new.commitment(), &new.first_message().unwrap(), ALICE);
    assert_eq!(code(known.take_reveal(&end)), "aborted");
    assert_eq!(code(compared().1.agree().take_consent(&end)), "aborted");
    assert_eq!(code(agreed().0.open(&end)), "aborted");
    assert_eq!((code(is_link_done(&end)), code(is_link_done(&link_done().unwrap()))), ("aborted", "ok"));
}

#[test]
fn a_message_out_of_its_turn_or_replayed_is_refused() {
    let new = new_device("").unwrap();
    let first = new.first_message().unwrap();
    assert_eq!(code(new.take_offer(&first)), "malformed");
    let new = new_device("").unwrap();
    let (known_device, offer) = known(new.commitment(), &first, ALICE);
    assert_eq!(code(known_device.take_reveal(&offer)), "malformed");
    assert_eq!(code(compared().1.agree().take_consent(&offer)), "malformed");
    assert_eq!(code(agreed().0.open(&offer)), "malformed");
    // An answer from an earlier link, word for word.
    let (_, old) = new_device("").unwrap().take_offer(&offer).unwrap();
    let (again, _) = known(new.commitment(), &first, ALICE);
    assert_eq!(code(again.take_reveal(&old)), "commitment");
}

#[test]
fn messages_and_names_out_of_their_bounds_are_refused() {
    let identity = identity_of(ALICE).public().fingerprint();
    let long = vec![1; MAX_LINK_MESSAGE_BYTES + 1];
    assert_eq!(code(KnownDevice::begin([0; 32], &long, ALICE, identity)), "malformed");
    assert_eq!(code(KnownDevice::begin([0; 32], &[], ALICE, identity)), "malformed");
    // A key of another length must not reach the KEM.
    let mut short = new_device("").unwrap();
    short.keys.public.pop();
    assert_eq!(code(KnownDevice::begin([0; 32], &short.first_message().unwrap(), ALICE, identity)), "malformed");
    assert_eq!(code(new_device("a\nb")), "malformed");
    assert_eq!(code(new_device(&"x".repeat(65))), "malformed");
    let new = new_device("").unwrap();
    let (_, offer) =
        KnownDevice::begin(new.commitment(), &new.first_message().unwrap(), "al\x1bice", identity).unwrap();
    assert_eq!(code(new.take_offer(&offer)), "malformed");
}

#[test]
fn no_state_of_a_link_prints_its_secrets() {
    let (new, known) = compared();
    assert_eq!(format!("{new:?} {known:?}"), "Offered(hidden) Revealed(hidden)");
}
