//! Tests of the core's part in rotations and links, without a server: frames in, frames out.
//!
//! **Invariant**: keys are made once for all tests.

use std::sync::OnceLock;

use fastchat_ipc::{KeyStore, Preview};
use fastchat_wire::DeviceId;
use serde_json::Value;
use tempfile::TempDir;
use v1::{client_frame, server_frame::Body as Said};

use super::*;
use crate::{
    core::{Action, AlertDefaults, Input, Process},
    link::{AccountKey, FromLink, ToLink, Token, Up},
    sign_in::{Rotated, SignedIn},
    store::Store,
};

const ROOT: [u8; 32] = [3; 32];

pub(in crate::core) fn old_identity() -> Identity {
    static KEY: OnceLock<Identity> = OnceLock::new();
    again(KEY.get_or_init(|| Identity::generate().unwrap()))
}

fn new_identity() -> Identity {
    static KEY: OnceLock<Identity> = OnceLock::new();
    again(KEY.get_or_init(|| Identity::generate().unwrap()))
}

fn again(identity: &Identity) -> Identity {
    Identity::from_bytes(&identity.to_bytes().unwrap()).unwrap()
}

fn open(directory: &TempDir) -> Core {
    let store = Store::open(&directory.path().join("store"), &ROOT, KeyStore::File).unwrap();
    let alerts = AlertDefaults { enabled: false, preview: Preview::default() };
    Core::new(store, Process { started_at_ms: 1, key_store: KeyStore::File, alerts }, 1).unwrap()
}

/// A core with the account `alice@h:1`.
pub(in crate::core) fn alices(directory: &TempDir) -> Core {
    let mut core = open(directory);
    let identity = old_identity();
    let device = Device::issue(&identity, "alice", DeviceId::generate().0).unwrap();
    let signed = SignedIn {
        account: "alice".parse().unwrap(),
        server: "h:1".parse().unwrap(),
        pin: Some(Pin([4; 32])),
        identity,
        device,
        device_name: "laptop".into(),
        token: Token::from_bytes(&[5; 32]).unwrap(),
        new_identity: false,
    };
    core.step(2, Input::SignedIn(CallId(1), Box::new(signed))).unwrap();
    core.sync().unwrap();
    core
}

/// What the core answered a call.
pub(in crate::core) fn answer_of(actions: Vec<Action>, wanted: CallId) -> Option<Result<Value, ApiError>> {
    actions.into_iter().find_map(|action| match action {
        Action::Answer(call, outcome) if call == wanted => Some(outcome),
        _ => None,
    })
}

/// The session stands; gives the requests of ours that follow.
fn up(core: &mut Core) -> Vec<v1::ClientFrame> {
    let session = v1::Session { account: "alice".into(), key_packages_left: 1000, ..v1::Session::default() };
    let up = Up { number: 1, session, ready: v1::Ready::default() };
    core.step(10, Input::Link(AccountKey(1), FromLink::Up(Box::new(up)))).unwrap();
    frames(core.sync().unwrap())
}

fn frames(actions: Vec<Action>) -> Vec<v1::ClientFrame> {
    let frame = |action| match action {
        Action::Link(_, ToLink::Frame { frame, .. }) => Some(frame),
        _ => None,
    };
    actions.into_iter().filter_map(frame).collect()
}

/// The request for our own key, if there is one.
fn asks_for_own_key(frames: &[v1::ClientFrame]) -> Option<u64> {
    frames.iter().find_map(|frame| match &frame.body {
        Some(client_frame::Body::GetAccount(who)) if who.account == "alice" => Some(frame.request),
        _ => None,
    })
}

fn says(core: &mut Core, request: u64, body: Said) {
    let frame = v1::ServerFrame { request, body: Some(body) };
    core.step(11, Input::Link(AccountKey(1), FromLink::Frame(Box::new(frame)))).unwrap();
}

fn prepared(core: &Core) -> PreparedRotation {
    let (identity, device) = (new_identity(), core.access("").unwrap().device.recertify(&new_identity()).unwrap());
    PreparedRotation {
        account: "alice@h:1".parse().unwrap(),
        identity: identity.to_bytes().unwrap(),
        device: device.to_bytes().unwrap(),
    }
}

/// A rotation that was prepared, after which the daemon was killed.
fn cut_short(directory: &TempDir) -> Core {
    let mut core = alices(directory);
    let prepared = prepared(&core);
    core.step(3, Input::RotationPrepared(CallId(2), Box::new(prepared))).unwrap();
    assert!(answer_of(core.sync().unwrap(), CallId(2)).unwrap().is_ok());
    drop(core);
    open(directory)
}

fn own_key(core: &Core) -> Vec<u8> {
    core.access("alice").unwrap().identity.public().to_der().to_vec()
}

fn server_has(key: &IdentityKey) -> Said {
    Said::AccountInfo(v1::AccountInfo { account: "alice".into(), identity_key: key.to_der().to_vec().into() })
}

#[test]
fn an_account_gives_its_keys_and_the_key_of_its_server() {
    let directory = TempDir::new().unwrap();
    let core = alices(&directory);
    let access = core.access("").unwrap();
    assert_eq!((access.address.to_string().as_str(), access.pin), ("alice@h:1", Some(Pin([4; 32]))));
    access.device.verify(access.identity.public()).unwrap();
    assert!(access.prepared.is_none());
    assert_eq!(core.pin_of(&"h:1".parse().unwrap()), Some(Pin([4; 32])));
    assert_eq!(core.pin_of(&"h:2".parse().unwrap()), None);
    assert_eq!(core.access("bob").unwrap_err().code, ErrorCode::NoAccount);
}

#[test]
fn a_rotation_that_the_server_had_taken_is_completed_after_a_crash() {
    let directory = TempDir::new().unwrap();
    let mut core = cut_short(&directory);
    assert_eq!(own_key(&core), old_identity().public().to_der(), "nothing counts before the server says so");
    assert!(core.access("").unwrap().prepared.is_some());
    let frames = up(&mut core);
    let request = asks_for_own_key(&frames).expect("it should ask what the server has");
    says(&mut core, request, server_has(new_identity().public()));
    core.sync().unwrap();
    drop(core);
    let mut core = open(&directory);
    assert_eq!(own_key(&core), new_identity().public().to_der());
    let access = core.access("").unwrap();
    access.device.verify(new_identity().public()).unwrap();
    assert!(access.prepared.is_none(), "what is done is not looked for again");
    assert_eq!(asks_for_own_key(&up(&mut core)), None);
}

#[test]
fn a_rotation_that_the_server_had_not_taken_changes_nothing() {
    let directory = TempDir::new().unwrap();
    let mut core = cut_short(&directory);
    let request = asks_for_own_key(&up(&mut core)).unwrap();
    says(&mut core, request, server_has(old_identity().public()));
    core.sync().unwrap();
    assert_eq!(own_key(&core), old_identity().public().to_der());
}

#[test]
fn a_server_cannot_give_an_account_an_identity_that_was_not_made_here() {
    let directory = TempDir::new().unwrap();
    let mut core = cut_short(&directory);
    let request = asks_for_own_key(&up(&mut core)).unwrap();
    says(&mut core, request, server_has(Identity::generate().unwrap().public()));
    core.sync().unwrap();
    assert_eq!(own_key(&core), old_identity().public().to_der());
}

#[test]
fn a_rotation_that_is_told_takes_the_place_of_what_was_prepared() {
    let directory = TempDir::new().unwrap();
    let mut core = cut_short(&directory);
    let (identity, device) = core.access("").unwrap().prepared.unwrap();
    let rotated = Rotated { account: "alice@h:1".parse().unwrap(), identity, device };
    core.step(4, Input::Rotated(CallId(3), Box::new(rotated))).unwrap();
    assert!(answer_of(core.sync().unwrap(), CallId(3)).unwrap().is_ok());
    assert_eq!(own_key(&core), new_identity().public().to_der());
    assert!(core.access("").unwrap().prepared.is_none());
}

#[test]
fn a_grant_comes_over_the_session_and_not_without_one() {
    let directory = TempDir::new().unwrap();
    let mut core = alices(&directory);
    core.step(3, Input::Grant(CallId(2), "alice@h:1".into())).unwrap();
    let offline = answer_of(core.sync().unwrap(), CallId(2)).unwrap().unwrap_err();
    assert_eq!(offline.code, ErrorCode::Unreachable);
    up(&mut core);
    core.step(12, Input::Grant(CallId(3), "alice@h:1".into())).unwrap();
    let asked = frames(core.sync().unwrap());
    let asked = asked.iter().find(|frame| matches!(frame.body, Some(client_frame::Body::GrantLink(_)))).unwrap();
    says(&mut core, asked.request, Said::LinkGrant(v1::LinkGrant { grant: vec![9; 32].into() }));
    let granted = answer_of(core.sync().unwrap(), CallId(3)).unwrap().unwrap();
    assert_eq!(granted["grant"].as_array().unwrap().len(), 32);
}
