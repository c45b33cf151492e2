//! Tests of what is changed about an account: its password, its identity, its devices.
//!
//! **Invariant**: see [`super`].

use fastchat_e2ee::LinkPackage;
use fastchat_ipc::PasswordChange;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::*;

const NEW_PASSWORD: &str = "battery staple";

fn access(server: &FakeServer) -> Access {
    let identity = Identity::from_bytes(&identity().to_bytes().unwrap()).unwrap();
    let device = Device::issue(&identity, NAME, Uuid::from_u128(5)).unwrap();
    let address = format!("{NAME}@{}", server.address).parse().unwrap();
    Access { address, pin: Some(server.pin), identity, device, prepared: None }
}

fn another_identity() -> Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    let other = IDENTITY.get_or_init(|| Identity::generate().unwrap());
    Identity::from_bytes(&other.to_bytes().unwrap()).unwrap()
}

fn change() -> PasswordChange {
    PasswordChange { old: PASSWORD.into(), new: NEW_PASSWORD.into(), ..PasswordChange::default() }
}

fn session_under(key: &[u8]) -> Body {
    let identity_key = key.to_vec().into();
    Body::Session(v1::Session { account: NAME.into(), identity_key, ..v1::Session::default() })
}

async fn connects(server: &FakeServer) -> Peer {
    server.greet(Body::Ready(ready())).await
}

/// Answers everything up to the check of the password.
async fn checks(peer: &mut Peer, kdf: &KdfParams, key: &[u8]) -> v1::Login {
    let (frame, login) = asks_to_log_in(peer, kdf).await;
    assert!(login.fetch_backup_only && login.device.is_none());
    peer.answer(&frame, session_under(key)).await;
    login
}

async fn changes(peer: &mut Peer) -> (ClientFrame, v1::ChangePassword) {
    let frame = peer.receive().await;
    let Some(client_frame::Body::ChangePassword(change)) = frame.body.clone() else { panic!("{frame:?}") };
    (frame, change)
}

async fn rotates(peer: &mut Peer) -> (ClientFrame, v1::RotateIdentity) {
    let frame = peer.receive().await;
    let Some(client_frame::Body::RotateIdentity(rotation)) = frame.body.clone() else { panic!("{frame:?}") };
    (frame, rotation)
}

fn own_key() -> &'static [u8] {
    identity().public().to_der()
}

#[tokio::test]
async fn a_new_password_seals_the_backup_anew_and_ends_other_devices_only_when_asked() {
    for end_other_devices in [false, true] {
        let server = FakeServer::start().await;
        let (access, kept) = (access(&server), kept(PASSWORD));
        let asked = PasswordChange { end_other_devices, ..change() };
        let serve = async {
            let mut peer = connects(&server).await;
            let login = checks(&mut peer, &kept.kdf, own_key()).await;
            assert_eq!(login.auth_secret, kept.auth);
            let (frame, sent) = changes(&mut peer).await;
            peer.answer(&frame, Body::Done(v1::Done {})).await;
            sent
        };
        let (outcome, sent) = tokio::join!(change_password(&access, &asked), serve);
        outcome.unwrap();
        assert_eq!((sent.account.as_str(), sent.auth_secret.as_str()), (NAME, kept.auth.as_str()));
        let own = Uuid::from_u128(5);
        let only_device: &[u8] = if end_other_devices { own.as_bytes() } else { &[] };
        assert_eq!(sent.only_device, only_device);
        let kdf = sent.kdf.unwrap();
        assert_ne!(kdf.salt, kept.kdf.salt);
        let kdf = KdfParams {
            salt: kdf.salt.to_vec(),
            memory_kib: kdf.memory_kib,
            iterations: kdf.iterations,
            parallelism: kdf.parallelism,
        };
        let keys = PasswordKeys::derive(NEW_PASSWORD, NAME, &kdf).unwrap();
        assert_eq!(*keys.auth, sent.new_auth_secret);
        let backup = keys.backup.open_identity(&sent.identity_backup, NAME).unwrap();
        assert_eq!(backup.public(), identity().public());
    }
}

#[tokio::test]
async fn a_wrong_old_password_changes_nothing() {
    let server = FakeServer::start().await;
    let (access, kept) = (access(&server), kept(PASSWORD));
    let serve = async {
        let mut peer = connects(&server).await;
        let (frame, _) = asks_to_log_in(&mut peer, &kept.kdf).await;
        peer.answer(&frame, Body::Failure(v1::Failure::new(Code::WrongCredentials, ""))).await;
        assert!(peer.try_receive().await.is_none());
    };
    let asked = change();
    let (outcome, ()) = tokio::join!(change_password(&access, &asked), serve);
    assert_eq!(outcome.unwrap_err().code, ErrorCode::WrongPassword);
}

#[tokio::test]
async fn a_new_password_that_is_short_or_the_old_one_is_refused_before_anything_is_sent() {
    let server = FakeServer::start().await;
    let access = access(&server);
    for new in ["seven77", PASSWORD, ""] {
        let error = change_password(&access, &PasswordChange { new: new.into(), ..change() }).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidParams);
        assert!(new.is_empty() || !error.message.contains(new));
    }
}

#[tokio::test]
async fn an_account_that_another_device_has_rotated_is_not_sealed_under_the_old_identity() {
    let server = FakeServer::start().await;
    let (access, kept) = (access(&server), kept(PASSWORD));
    let serve = async {
        let mut peer = connects(&server).await;
        checks(&mut peer, &kept.kdf, another_identity().public().to_der()).await;
        assert!(peer.try_receive().await.is_none(), "the backup must not be replaced");
    };
    let asked = change();
    let (outcome, ()) = tokio::join!(change_password(&access, &asked), serve);
    let error = outcome.unwrap_err();
    assert_eq!(error.code, ErrorCode::LoggedOut);
    assert!(error.hint.unwrap().contains("fastchatctl login"));
}

#[tokio::test]
async fn a_lost_answer_to_a_new_password_is_found_out_by_using_it() {
    for taken in [true, false] {
        let server = FakeServer::start().await;
        let (access, kept) = (access(&server), kept(PASSWORD));
        let serve = async {
            let mut peer = connects(&server).await;
            checks(&mut peer, &kept.kdf, own_key()).await;
            let (_, sent) = changes(&mut peer).await;
            drop(peer);
            let mut peer = connects(&server).await;
            let (frame, login) = logs_in(&mut peer).await;
            assert!(login.fetch_backup_only);
            assert_eq!(login.auth_secret, sent.new_auth_secret);
            let refused = Body::Failure(v1::Failure::new(Code::WrongCredentials, ""));
            peer.answer(&frame, if taken { session_under(own_key()) } else { refused }).await;
        };
        let asked = change();
        let (outcome, ()) = tokio::join!(change_password(&access, &asked), serve);
        match outcome {
            Ok(()) => assert!(taken),
            Err(error) => {
                assert!(!taken && error.message.contains("was not changed"), "{error}");
                assert!(error.hint.unwrap().contains("old password still counts"));
            }
        }
    }
}

/// A rotation up to where the server is to be told.
async fn planned(server: &FakeServer, access: Access, key: &[u8]) -> Result<Planned, ApiError> {
    let kept = kept(PASSWORD);
    let serve = async {
        let mut peer = connects(server).await;
        checks(&mut peer, &kept.kdf, key).await;
        assert!(peer.try_receive().await.is_none(), "planning must change nothing");
    };
    tokio::join!(plan_rotation(access, PASSWORD), serve).0
}

async fn new_plan(server: &FakeServer) -> RotationPlan {
    match planned(server, access(server), own_key()).await.unwrap() {
        Planned::New(plan) => *plan,
        Planned::Done(_) => panic!("nothing was rotated"),
    }
}

#[tokio::test]
async fn a_rotation_keeps_the_device_and_certifies_it_with_an_identity_that_the_password_restores() {
    let server = FakeServer::start().await;
    let old = access(&server).device;
    let plan = new_plan(&server).await;
    let (prepared, _) = PreparedRotation::keys(&plan.prepared().unwrap().to_bytes().unwrap()).unwrap();
    let serve = async {
        let mut peer = connects(&server).await;
        let (frame, sent) = rotates(&mut peer).await;
        peer.answer(&frame, Body::Done(v1::Done {})).await;
        sent
    };
    let (rotated, sent) = tokio::join!(plan.carry_out(), serve);
    let rotated = rotated.unwrap();
    assert_ne!(rotated.identity.public(), identity().public());
    assert_eq!(prepared.public(), rotated.identity.public(), "what counts must have been durable");
    assert_eq!((rotated.device.id(), rotated.device.account()), (old.id(), old.account()));
    rotated.device.verify(rotated.identity.public()).unwrap();
    assert!(rotated.device.verify(identity().public()).is_err());
    assert_eq!(
        (&sent.identity_key[..], &sent.certificate[..]),
        (rotated.identity.public().to_der(), rotated.device.certificate())
    );
    let kept = kept(PASSWORD);
    assert_eq!((sent.auth_secret.as_str(), &sent.device[..]), (kept.auth.as_str(), &old.id().as_bytes()[..]));
    let keys = PasswordKeys::derive(PASSWORD, NAME, &kept.kdf).unwrap();
    let backup = keys.backup.open_identity(&sent.identity_backup, NAME).unwrap();
    assert_eq!(backup.public(), rotated.identity.public());
}

#[tokio::test]
async fn a_recertified_device_signs_with_the_key_it_had() {
    let server = FakeServer::start().await;
    let device = access(&server).device;
    let again = device.recertify(&another_identity()).unwrap();
    assert_eq!(device.signature_key(), again.signature_key());
    let (one, two) = (device.sign(b"x\0", b"m").unwrap(), again.sign(b"x\0", b"m").unwrap());
    assert_eq!(one, two);
}

#[tokio::test]
async fn a_lost_answer_to_a_rotation_is_found_out_and_what_was_lost_is_sent_again_word_for_word() {
    for taken in [true, false] {
        let server = FakeServer::start().await;
        let plan = new_plan(&server).await;
        let serve = async {
            let mut peer = connects(&server).await;
            let (_, first) = rotates(&mut peer).await;
            drop(peer);
            let mut peer = connects(&server).await;
            let (frame, login) = logs_in(&mut peer).await;
            assert!(login.fetch_backup_only);
            let key = if taken { first.identity_key.to_vec() } else { own_key().to_vec() };
            peer.answer(&frame, session_under(&key)).await;
            if !taken {
                let (frame, again) = rotates(&mut peer).await;
                assert_eq!(again, first);
                peer.answer(&frame, Body::Done(v1::Done {})).await;
            }
            first.identity_key
        };
        let (rotated, key) = tokio::join!(plan.carry_out(), serve);
        assert_eq!(rotated.unwrap().identity.public().to_der(), key);
    }
}

#[tokio::test]
async fn a_rotation_that_the_server_refuses_is_over_at_once() {
    let server = FakeServer::start().await;
    let plan = new_plan(&server).await;
    let serve = async {
        let mut peer = connects(&server).await;
        let (frame, _) = rotates(&mut peer).await;
        peer.answer(&frame, Body::Failure(v1::Failure::new(Code::WrongCredentials, ""))).await;
    };
    assert_eq!(tokio::join!(plan.carry_out(), serve).0.unwrap_err().code, ErrorCode::WrongPassword);
}

#[tokio::test]
async fn a_rotation_that_was_cut_short_is_completed_instead_of_repeated() {
    let server = FakeServer::start().await;
    let prepared = another_identity();
    let mut access = access(&server);
    let device = access.device.recertify(&prepared).unwrap();
    let key = prepared.public().to_der().to_vec();
    access.prepared = Some((prepared, device));
    let Planned::Done(rotated) = planned(&server, access, &key).await.unwrap() else { panic!("it was begun anew") };
    assert_eq!(rotated.identity.public().to_der(), key);
    rotated.device.verify(rotated.identity.public()).unwrap();
}

#[tokio::test]
async fn an_identity_that_was_not_made_here_is_never_taken_over() {
    let server = FakeServer::start().await;
    let stranger = another_identity().public().to_der().to_vec();
    assert_eq!(planned(&server, access(&server), &stranger).await.unwrap_err().code, ErrorCode::LoggedOut);
    let plan = new_plan(&server).await;
    let serve = async {
        let mut peer = connects(&server).await;
        rotates(&mut peer).await;
        drop(peer);
        let mut peer = connects(&server).await;
        let (frame, _) = logs_in(&mut peer).await;
        peer.answer(&frame, session_under(&stranger)).await;
        assert!(peer.try_receive().await.is_none());
    };
    assert_eq!(tokio::join!(plan.carry_out(), serve).0.unwrap_err().code, ErrorCode::Conflict);
}

#[test]
fn a_prepared_rotation_does_not_print_its_keys_and_a_damaged_record_is_none() {
    assert!(PreparedRotation::keys(&[]).is_none());
    assert!(PreparedRotation::keys(&[1, 2, 3]).is_none());
    let prepared = PreparedRotation {
        account: "alice@h:1".parse().unwrap(),
        identity: Zeroizing::new(vec![0x41; 9]),
        device: Zeroizing::new(vec![0x42; 9]),
    };
    assert_eq!(format!("{prepared:?}"), "PreparedRotation(alice@h:1, keys hidden)");
}

fn invited(server: &FakeServer) -> (Newcomer, LinkPackage) {
    let asked =
        LinkRequest { address: server.address.to_string(), device_name: "tablet".into(), ..LinkRequest::default() };
    let identity = Identity::from_bytes(&identity().to_bytes().unwrap()).unwrap();
    let package = LinkPackage { account: NAME.into(), identity, grant: Zeroizing::new([8; 32]) };
    (Newcomer::check(&asked, Some(server.pin)).unwrap(), package)
}

/// Logs in with a grant; the server publishes `key` for the account.
async fn comes_in(key: &[u8]) -> Result<SignedIn, ApiError> {
    let server = FakeServer::start().await;
    let (newcomer, package) = invited(&server);
    let id = newcomer.device;
    let serve = async {
        let mut peer = connects(&server).await;
        let (frame, login) = logs_in(&mut peer).await;
        assert_eq!((&login.grant[..], login.auth_secret.as_str()), (&[8; 32][..], ""));
        assert!(!login.fetch_backup_only && login.new_identity_key.is_empty());
        let device = login.device.unwrap();
        assert_eq!((&device.device[..], device.name.as_str()), (&id.as_bytes()[..], "tablet"));
        let session = v1::Session { identity_key: key.to_vec().into(), ..granted(&device.device) };
        peer.answer(&frame, Body::Session(session)).await;
    };
    tokio::join!(newcomer.log_in(package), serve).0
}

#[tokio::test]
async fn a_linked_device_logs_in_with_its_grant_and_certifies_itself() {
    let signed = comes_in(own_key()).await.unwrap();
    assert_eq!((signed.account.as_str(), signed.device_name.as_str()), (NAME, "tablet"));
    signed.device.verify(identity().public()).unwrap();
    assert!(signed.pin.is_some() && !signed.new_identity);
}

#[tokio::test]
async fn a_linked_device_refuses_an_account_whose_published_key_is_another() {
    assert_eq!(comes_in(another_identity().public().to_der()).await.unwrap_err().code, ErrorCode::Server);
}

#[tokio::test]
async fn a_grant_that_is_used_up_says_to_link_again() {
    let server = FakeServer::start().await;
    let (newcomer, package) = invited(&server);
    let serve = async {
        let mut peer = connects(&server).await;
        let (frame, _) = logs_in(&mut peer).await;
        peer.answer(&frame, Body::Failure(v1::Failure::new(Code::WrongCredentials, ""))).await;
    };
    let error = tokio::join!(newcomer.log_in(package), serve).0.unwrap_err();
    assert_eq!(error.code, ErrorCode::Refused);
    assert!(error.hint.unwrap().contains("link again"));
}
