//! Hello, register, log in, resume, log out.

use bytes::Bytes;
use fastchat_wire::{
    Code,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};

use crate::{
    client::{Client, Device, login, registration},
    server::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_negotiated_or_refused() {
    let server = Server::start().await;
    Client::greet(server.address).await.ping().await;
    let mut future = Client::connect(server.address).await.unwrap();
    let hello = v1::Hello { version_min: 99, version_max: 100, agent: String::new() };
    assert_eq!(future.refused(Ask::Hello(hello)).await.code(), Code::UnsupportedVersion);
    assert_eq!(future.ends_with().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_made_once_and_taken_up_again_from_its_device_alone() {
    let server = Server::start().await;
    let (mut alice, device) = Client::register(server.address, "alice").await;
    alice.ping().await;
    let mut other = Client::greet(server.address).await;
    let taken = other.refused(Ask::Register(registration(&Device::new("alice")))).await;
    assert_eq!(taken.code(), Code::NameTaken);
    let stolen = other.try_resume(&device.token, &Device::new("alice").key).await;
    assert!(matches!(stolen, Body::Failure(failure) if failure.code() == Code::Unauthenticated));
    let mut alice = Client::resume(server.address, &device).await;
    alice.ping().await;
    assert!(matches!(alice.ask(Ask::Logout(v1::Logout {})).await, Body::Done(_)));
    assert_eq!(alice.ends_with().await, None);
    let gone = other.try_resume(&device.token, &device.key).await;
    assert!(matches!(gone, Body::Failure(failure) if failure.code() == Code::Unauthenticated));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_of_another_connection_is_refused() {
    let server = Server::start().await;
    let (_alice, device) = Client::register(server.address, "alice").await;
    // Signs another connection's exporter: what an attacker in the middle would pass on.
    let mut one = Client::greet(server.address).await;
    let signature = Bytes::copy_from_slice(device.key.sign(b"fastchat resume v1\0and something else").as_ref());
    let resume = v1::Resume { token: device.token.clone(), signature };
    assert_eq!(one.refused(Ask::Resume(resume)).await.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_account_look_the_same() {
    let server = Server::start().await;
    let (_alice, _) = Client::register(server.address, "alice").await;
    let mut client = Client::greet(server.address).await;
    let mut refused = async |account| client.refused(Ask::Login(login("0b", &Device::new(account)))).await;
    let wrong = refused("alice").await;
    assert_eq!(wrong.code(), Code::WrongCredentials);
    assert_eq!(wrong, refused("nobody").await);
    let mut params = async |account: &str| {
        let ask = Ask::PasswordParams(v1::PasswordParams { account: account.into() });
        match client.ask(ask).await {
            Body::PasswordKdf(kdf) => kdf,
            other => panic!("{other:?}"),
        }
    };
    let (known, unknown) = (params("alice").await, params("nobody").await);
    assert_eq!(unknown, params("nobody").await);
    let cost = |kdf: &v1::PasswordKdf| (kdf.salt.len(), kdf.memory_kib, kdf.iterations, kdf.parallelism);
    assert_eq!(cost(&known), cost(&unknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_brings_the_backup_and_leaves_the_other_device_be() {
    let server = Server::start().await;
    let (mut old, device) = Client::register(server.address, "alice").await;
    let mut client = Client::greet(server.address).await;
    let mut fetch = login("0a", &Device::new("alice"));
    fetch.fetch_backup_only = true;
    let Body::Session(backup) = client.ask(Ask::Login(fetch)).await else { panic!("no backup") };
    assert_eq!((&backup.identity_backup[..], backup.token.len()), (&b"backup of alice"[..], 0));
    let new = Device::new("alice");
    let Body::Session(session) = client.ask(Ask::Login(login("0a", &new))).await else { panic!("no session") };
    assert_eq!((session.identity_key, session.token.len()), (new.identity(), 32));
    old.ping().await;
    assert!(matches!(old.hear().await, Body::DevicesChanged(_)));
    drop(old);
    Client::resume(server.address, &device).await.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_are_needed_where_configured_and_are_used_up() {
    let server = Server::start_with("registration = \"invite\"").await;
    let mut client = Client::greet(server.address).await;
    let mut register = registration(&Device::new("alice"));
    assert_eq!(client.refused(Ask::Register(register.clone())).await.code(), Code::InviteRequired);
    let output = server.command(&["invite", "create", "--note", "for alice"]);
    assert!(output.status.success(), "{output:?}");
    register.invite = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let listed = String::from_utf8(server.command(&["invite", "list"]).stdout).unwrap();
    assert!(listed.contains("for alice") && !listed.contains(&register.invite), "{listed}");
    assert!(matches!(client.ask(Ask::Register(register.clone())).await, Body::Session(_)));
    let mut second = Client::greet(server.address).await;
    let bob = v1::Register { invite: register.invite, ..registration(&Device::new("bob")) };
    assert_eq!(second.refused(Ask::Register(bob)).await.code(), Code::InviteRequired);
    assert!(!server.command(&["invite", "revoke", "00000000"]).status.success());
}
