//! Tests of signing in, against a server that says what the test wants.
//!
//! **Invariant**: an account's keys are made once for all tests that need none of their own: making them is slow.

mod changes;

use std::sync::OnceLock;

use fastchat_wire::{
    Code,
    v1::{ClientFrame, client_frame, server_frame::Body},
};

use super::*;
use crate::link::tests::server::{FakeServer, Peer, ready};
use fastchat_ipc::LinkRequest;

const PASSWORD: &str = "correct horse";
/// What keys and certificates are bound to: the same by whatever address the server is reached.
const NAME: &str = "alice";

fn asked(server: &FakeServer) -> SignIn {
    SignIn {
        address: format!("alice@{}", server.address),
        password: PASSWORD.into(),
        accept_new: true,
        device_name: "laptop".into(),
        ..SignIn::default()
    }
}

fn pinned(server: &FakeServer) -> SignIn {
    SignIn { accept_new: false, pin: server.pin.to_string(), ..asked(server) }
}

/// The probe that each way of signing in begins with, then the connection that counts.
async fn arrives(server: &FakeServer) -> Peer {
    server.greet(Body::Ready(ready())).await;
    server.greet(Body::Ready(ready())).await
}

fn granted(device: &[u8]) -> v1::Session {
    v1::Session {
        account: "alice".into(),
        device: device.to_vec().into(),
        token: vec![9; 32].into(),
        ..v1::Session::default()
    }
}

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::generate().unwrap())
}

/// An account as the server keeps it.
struct Kept {
    kdf: KdfParams,
    auth: String,
    backup: Vec<u8>,
}

fn kept(password: &str) -> Kept {
    let kdf = KdfParams { salt: vec![7; 16], memory_kib: 19 * 1024, iterations: 2, parallelism: 1 };
    let keys = PasswordKeys::derive(password, NAME, &kdf).unwrap();
    let backup = keys.backup.seal_identity(identity(), NAME).unwrap();
    Kept { kdf, auth: keys.auth.to_string(), backup }
}

/// Answers PasswordParams and gives the Login that follows.
async fn asks_to_log_in(peer: &mut Peer, kdf: &KdfParams) -> (ClientFrame, v1::Login) {
    let asked = peer.receive().await;
    assert!(matches!(asked.body, Some(client_frame::Body::PasswordParams(_))), "{asked:?}");
    peer.answer(&asked, Body::PasswordKdf(exchange::wire_kdf(kdf))).await;
    logs_in(peer).await
}

async fn logs_in(peer: &mut Peer) -> (ClientFrame, v1::Login) {
    let frame = peer.receive().await;
    let Some(client_frame::Body::Login(login)) = frame.body.clone() else { panic!("{frame:?}") };
    (frame, login)
}

#[tokio::test]
async fn registering_gives_a_certified_device_and_remembers_the_key_that_was_accepted() {
    let server = FakeServer::start().await;
    let request = asked(&server);
    let serve = async {
        let mut peer = arrives(&server).await;
        let frame = peer.receive().await;
        let Some(client_frame::Body::Register(register)) = frame.body.clone() else { panic!("{frame:?}") };
        let device = register.device.clone().unwrap();
        peer.answer(&frame, Body::Session(granted(&device.device))).await;
        register
    };
    let (signed, sent) = tokio::join!(register(&request), serve);
    let signed = signed.unwrap();
    assert_eq!(signed.pin, Some(server.pin));
    assert_eq!((signed.token.as_bytes(), signed.new_identity), (&[9; 32][..], false));
    assert_eq!(signed.device.account(), NAME);
    signed.device.verify(signed.identity.public()).unwrap();
    assert_eq!(sent.device.unwrap().name, "laptop");
    // What the server keeps is enough to log in with the password again, and only with it.
    let kdf = sent.kdf.unwrap();
    let kdf = KdfParams {
        salt: kdf.salt.to_vec(),
        memory_kib: kdf.memory_kib,
        iterations: kdf.iterations,
        parallelism: kdf.parallelism,
    };
    let keys = PasswordKeys::derive(PASSWORD, NAME, &kdf).unwrap();
    assert_eq!(*keys.auth, sent.auth_secret);
    let restored = keys.backup.open_identity(&sent.identity_backup, NAME).unwrap();
    assert_eq!(restored.public(), signed.identity.public());
}

#[tokio::test]
async fn an_unknown_server_is_named_and_sent_nothing() {
    let server = FakeServer::start().await;
    let request = SignIn { accept_new: false, ..asked(&server) };
    for attempt in 0..2 {
        let signing = async { if attempt == 0 { register(&request).await } else { login(&request).await } };
        let (outcome, peer) = tokio::join!(signing, server.try_accept());
        let error = outcome.unwrap_err();
        assert_eq!(error.code, ErrorCode::UntrustedServer);
        assert_eq!(error.data["pin"], server.pin.to_string());
        assert!(error.hint.unwrap().contains("--accept-new"));
        assert!(peer.is_err(), "the handshake must fail");
    }
}

#[tokio::test]
async fn a_pin_that_does_not_match_is_not_overruled_by_accept_new() {
    let server = FakeServer::start().await;
    let request = SignIn { pin: format!("sha256:{}", "00".repeat(32)), ..asked(&server) };
    let (outcome, peer) = tokio::join!(login(&request), server.try_accept());
    assert_eq!(outcome.unwrap_err().code, ErrorCode::ServerChanged);
    assert!(peer.is_err());
}

#[tokio::test]
async fn a_server_that_registers_nobody_is_told_nothing_and_says_what_to_do() {
    for (registration, next) in
        [(v1::Registration::Closed, "fastchatctl login"), (v1::Registration::Invite, "--invite")]
    {
        let server = FakeServer::start().await;
        let greeting = v1::Ready { registration: registration.into(), ..ready() };
        let request = asked(&server);
        let (outcome, mut peer) = tokio::join!(register(&request), server.greet(Body::Ready(greeting)));
        let error = outcome.unwrap_err();
        assert_eq!(error.code, ErrorCode::RegistrationClosed);
        assert!(error.hint.unwrap().contains(next));
        assert!(peer.try_receive().await.is_none());
    }
}

#[tokio::test]
async fn a_taken_name_and_a_refused_invitation_have_their_own_errors() {
    for (code, expected) in
        [(Code::NameTaken, ErrorCode::NameTaken), (Code::InviteRequired, ErrorCode::RegistrationClosed)]
    {
        let server = FakeServer::start().await;
        let request = asked(&server);
        let serve = async {
            let mut peer = arrives(&server).await;
            let frame = peer.receive().await;
            peer.answer(&frame, Body::Failure(v1::Failure::new(code, ""))).await;
        };
        assert_eq!(tokio::join!(register(&request), serve).0.unwrap_err().code, expected);
    }
}

#[tokio::test]
async fn logging_in_restores_the_identity_and_certifies_a_new_device() {
    let server = FakeServer::start().await;
    let (request, kept) = (pinned(&server), kept(PASSWORD));
    let serve = async {
        let mut peer = arrives(&server).await;
        let (frame, fetch) = asks_to_log_in(&mut peer, &kept.kdf).await;
        assert!(fetch.fetch_backup_only && fetch.device.is_none());
        assert_eq!(fetch.auth_secret, kept.auth);
        let session = v1::Session {
            account: "alice".into(),
            identity_backup: kept.backup.clone().into(),
            identity_key: identity().public().to_der().to_vec().into(),
            ..v1::Session::default()
        };
        peer.answer(&frame, Body::Session(session.clone())).await;
        let (frame, login) = logs_in(&mut peer).await;
        assert!(!login.fetch_backup_only && login.new_identity_key.is_empty());
        let device = login.device.unwrap().device;
        peer.answer(&frame, Body::Session(v1::Session { device, token: vec![9; 32].into(), ..session })).await;
    };
    let signed = tokio::join!(login(&request), serve).0.unwrap();
    assert_eq!(signed.identity.public(), identity().public());
    signed.device.verify(identity().public()).unwrap();
    assert!(!signed.new_identity);
}

/// Logs in up to the backup, with this backup and this identity key. Gives the error, after which nothing may be sent.
async fn refused_backup(backup_password: &str, identity_key: &[u8]) -> ApiError {
    let server = FakeServer::start().await;
    let (request, good) = (pinned(&server), kept(PASSWORD));
    let backup = kept(backup_password).backup;
    let serve = async {
        let mut peer = arrives(&server).await;
        let (frame, _) = asks_to_log_in(&mut peer, &good.kdf).await;
        let session = v1::Session {
            account: "alice".into(),
            identity_backup: backup.into(),
            identity_key: identity_key.to_vec().into(),
            ..v1::Session::default()
        };
        peer.answer(&frame, Body::Session(session)).await;
        assert!(peer.try_receive().await.is_none(), "no device may be made");
    };
    tokio::join!(login(&request), serve).0.unwrap_err()
}

#[tokio::test]
async fn a_backup_that_does_not_open_makes_no_device_and_says_what_there_is_left_to_do() {
    let error = refused_backup("another one", identity().public().to_der()).await;
    assert_eq!(error.code, ErrorCode::Refused);
    assert!(error.hint.unwrap().contains("--new-identity"));
}

#[tokio::test]
async fn a_server_that_publishes_another_identity_for_the_account_is_refused() {
    for published in [&b""[..], b"not the key in the backup"] {
        assert_eq!(refused_backup(PASSWORD, published).await.code, ErrorCode::Server);
    }
}

#[tokio::test]
async fn a_new_identity_is_sent_with_a_backup_of_its_own() {
    let server = FakeServer::start().await;
    let request = SignIn { new_identity: true, ..pinned(&server) };
    let kept = kept(PASSWORD);
    let serve = async {
        let mut peer = arrives(&server).await;
        let (frame, login) = asks_to_log_in(&mut peer, &kept.kdf).await;
        let answer = v1::Session {
            identity_key: login.new_identity_key.clone(),
            ..granted(&login.device.clone().unwrap().device)
        };
        peer.answer(&frame, Body::Session(answer)).await;
        login
    };
    let (signed, sent) = tokio::join!(login(&request), serve);
    let signed = signed.unwrap();
    assert!(signed.new_identity);
    assert_eq!(sent.new_identity_key, signed.identity.public().to_der());
    let keys = PasswordKeys::derive(PASSWORD, NAME, &kept.kdf).unwrap();
    let backup = keys.backup.open_identity(&sent.new_identity_backup, NAME).unwrap();
    assert_eq!(backup.public(), signed.identity.public());
}

#[tokio::test]
async fn a_wrong_password_is_called_that() {
    let server = FakeServer::start().await;
    let (request, kept) = (pinned(&server), kept(PASSWORD));
    let serve = async {
        let mut peer = arrives(&server).await;
        let (frame, _) = asks_to_log_in(&mut peer, &kept.kdf).await;
        peer.answer(&frame, Body::Failure(v1::Failure::new(Code::WrongCredentials, ""))).await;
    };
    assert_eq!(tokio::join!(login(&request), serve).0.unwrap_err().code, ErrorCode::WrongPassword);
}

#[tokio::test]
async fn a_server_cannot_talk_the_device_into_weak_or_ruinous_stretching() {
    for hostile in [
        KdfParams { memory_kib: 8, ..KdfParams::generate() },
        KdfParams { memory_kib: u32::MAX, ..KdfParams::generate() },
        KdfParams { iterations: u32::MAX, ..KdfParams::generate() },
        KdfParams { salt: Vec::new(), ..KdfParams::generate() },
    ] {
        let server = FakeServer::start().await;
        let request = pinned(&server);
        let serve = async {
            let mut peer = arrives(&server).await;
            let asked = peer.receive().await;
            peer.answer(&asked, Body::PasswordKdf(exchange::wire_kdf(&hostile))).await;
            assert!(peer.try_receive().await.is_none(), "nothing derived from the password may be sent");
        };
        let error = tokio::join!(login(&request), serve).0.unwrap_err();
        assert_eq!(error.code, ErrorCode::Server);
        assert!(error.message.contains("password parameters"), "{}", error.message);
    }
}

#[tokio::test]
async fn a_session_for_another_device_or_account_is_not_taken() {
    for wrong in [
        v1::Session { device: vec![0; 16].into(), ..granted(&[]) },
        v1::Session { account: "mallory".into(), ..granted(&[]) },
        v1::Session { token: vec![9; 31].into(), ..granted(&[]) },
    ] {
        let server = FakeServer::start().await;
        let request = asked(&server);
        let serve = async {
            let mut peer = arrives(&server).await;
            let frame = peer.receive().await;
            let Some(client_frame::Body::Register(register)) = frame.body.clone() else { panic!("{frame:?}") };
            let mut answer = wrong.clone();
            if answer.device.is_empty() {
                answer.device = register.device.unwrap().device;
            }
            peer.answer(&frame, Body::Session(answer)).await;
        };
        assert_eq!(tokio::join!(register(&request), serve).0.unwrap_err().code, ErrorCode::Server);
    }
}
