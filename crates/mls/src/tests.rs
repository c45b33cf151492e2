//! Known bytes and bounds. What the rules allow is tested where groups can be made: in `fastchat-e2ee`.
//!
//! **Invariant**: the known bytes are stored and signed by devices that are out there: changing one needs a new version.

use openmls::prelude::{Extension, Extensions, GroupContext, UnknownExtension};
use uuid::Uuid;

use crate::{Certificate, GroupProfile, HandshakeError, MalformedCertificate, ProfileError, PublicConversation, suite};

const CONVERSATION: Uuid = Uuid::from_bytes([0xC0; 16]);

fn certificate() -> Certificate {
    Certificate {
        account: "bob".to_owned(),
        device: Uuid::from_bytes([7; 16]),
        leaf_key: vec![1, 2],
        identity_key: vec![3],
        signature: vec![4, 5],
    }
}

#[test]
fn a_certificate_has_its_known_bytes_and_comes_back() {
    let bytes = certificate().to_bytes().unwrap();
    let expected = [&[1, 3, b'b', b'o', b'b'][..], &[7; 16], &[2, 1, 2, 1, 3, 2, 4, 5]].concat();
    assert_eq!(bytes, expected);
    assert_eq!(Certificate::from_bytes(&bytes).unwrap(), certificate());
    assert_eq!(certificate().signed_bytes().unwrap(), expected[..expected.len() - 3]);
}

#[test]
fn a_certificate_of_another_version_length_or_without_an_account_is_malformed() {
    let good = certificate().to_bytes().unwrap();
    let mut newer = good.clone();
    newer[0] = 2;
    let nameless = Certificate { account: String::new(), ..certificate() }.to_bytes().unwrap();
    let long_name = Certificate { account: "x".repeat(301), ..certificate() }.to_bytes().unwrap();
    let long = Certificate { signature: vec![0; 2048], ..certificate() }.to_bytes().unwrap();
    for bytes in [&newer, &nameless, &long_name, &long, &good[..good.len() - 1], &[good.as_slice(), &[0]].concat(), &[]]
    {
        assert_eq!(Certificate::from_bytes(bytes), Err(MalformedCertificate::Malformed));
    }
}

fn profile() -> GroupProfile {
    GroupProfile::new("ops", "what burns", "alice")
}

#[test]
fn a_profile_comes_back_from_the_group_context_and_a_bare_one_is_a_direct_conversation() {
    let extensions = profile().to_extensions().unwrap();
    assert_eq!(GroupProfile::from_extensions(&extensions), Ok(Some(profile())));
    assert_eq!(GroupProfile::from_extensions(&Extensions::default()), Ok(None));
}

#[test]
fn a_profile_has_its_known_bytes() {
    let extensions = profile().to_extensions().unwrap();
    let bytes = &extensions.unknown(suite::PROFILE_EXTENSION).unwrap().0;
    assert_eq!(*bytes, b"\x01\x03ops\x0awhat burns\x01\x05alice\x00");
}

#[test]
fn a_profile_out_of_its_bounds_is_refused() {
    let admins =
        |admins: &[&str]| GroupProfile { admins: admins.iter().map(|a| (*a).to_owned()).collect(), ..profile() };
    let named = |name: String| GroupProfile { name, ..profile() };
    let about = |topic: String| GroupProfile { topic, ..profile() };
    let many: Vec<String> = (0..101).map(|number| format!("{number:03}")).collect();
    for (refused, why) in [
        (named(String::new()), ProfileError::Name),
        (named("  ".into()), ProfileError::Name),
        (named("é".repeat(65)), ProfileError::Name),
        (named("a\nb".into()), ProfileError::Name),
        (about("é".repeat(257)), ProfileError::Topic),
        (about("\u{1b}[2J".into()), ProfileError::Topic),
        (admins(&[]), ProfileError::Admins),
        (admins(&["b", "a"]), ProfileError::Admins),
        (admins(&["a", "a"]), ProfileError::Admins),
        (GroupProfile { admins: many, ..profile() }, ProfileError::Admins),
    ] {
        assert_eq!(refused.validate(), Err(why.clone()));
        assert_eq!(refused.to_extensions(), Err(why));
    }
    named("é".repeat(64)).validate().unwrap();
    about("é".repeat(256)).validate().unwrap();
    admins(&["a", "b"]).validate().unwrap();
}

#[test]
fn other_group_context_extensions_than_a_groups_are_refused() {
    let bytes = profile().to_extensions().unwrap().unknown(suite::PROFILE_EXTENSION).unwrap().clone();
    let required = Extension::RequiredCapabilities(suite::required_capabilities());
    let profile = |bytes: &UnknownExtension| Extension::Unknown(suite::PROFILE_EXTENSION, bytes.clone());
    let trailing = UnknownExtension([bytes.0.as_slice(), &[0]].concat());
    let long = UnknownExtension(vec![0; 64 * 1024]);
    for extensions in [
        vec![required.clone()],
        vec![profile(&bytes)],
        vec![profile(&bytes), required.clone()],
        vec![required.clone(), Extension::Unknown(0xF0FD, bytes.clone())],
        vec![required.clone(), profile(&bytes), Extension::Unknown(0xF0FD, bytes.clone())],
        vec![required.clone(), profile(&trailing)],
        vec![required, profile(&long)],
    ] {
        let extensions: Extensions<GroupContext> = Extensions::from_vec(extensions).unwrap();
        assert_eq!(GroupProfile::from_extensions(&extensions), Err(ProfileError::Malformed));
    }
}

#[test]
fn ids_and_authenticated_data_have_their_known_bytes() {
    let aad = suite::entry_aad(CONVERSATION, Uuid::from_bytes([1; 16]));
    assert_eq!(aad, [&[1][..], &[0xC0; 16], &[1; 16]].concat());
    let id = suite::join_key_id(CONVERSATION, 258);
    assert_eq!(id, [&b"FastChat join key v1\0"[..], &[0xC0; 16], &[0, 0, 0, 0, 0, 0, 1, 2]].concat());
}

#[test]
fn a_damaged_stored_conversation_is_named_as_such() {
    for bytes in [&[][..], &[1], &[2; 64], &[0xFF; 64]] {
        assert!(matches!(PublicConversation::from_bytes(bytes), Err(HandshakeError::Damaged)));
    }
}
