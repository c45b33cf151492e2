//! Several devices of one account.

use bytes::Bytes;
use fastchat_wire::{
    Code, DeviceId,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};

use crate::{
    client::{Client, Device, login, registration},
    mls::Change,
    server::Server,
};

async fn list(client: &mut Client) -> Vec<v1::DeviceInfo> {
    match client.ask(Ask::ListDevices(v1::ListDevices {})).await {
        Body::Devices(devices) => devices.devices,
        other => panic!("no list: {other:?}"),
    }
}

fn kdf(first: u8) -> Option<v1::PasswordKdf> {
    let salt = Bytes::copy_from_slice(&[first; 16]);
    Some(v1::PasswordKdf { salt, memory_kib: 8, iterations: 1, parallelism: 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_listed_renamed_and_revoked() {
    let server = Server::start().await;
    let (mut one, one_device) = Client::register(server.address, "alice").await;
    let (mut two, two_device) = Client::log_in(server.address, "alice").await;
    assert!(matches!(one.hear().await, Body::DevicesChanged(_)));
    let (third, third_device) = Client::log_in(server.address, "alice").await;
    drop(third);
    let listed = loop {
        // The server has seen the end of the third one's connection soon.
        let listed = list(&mut one).await;
        if !listed[2].connected {
            break listed;
        }
    };
    let shown: Vec<_> = listed.iter().map(|info| (info.device.clone(), info.connected)).collect();
    let ids = [&one_device, &two_device, &third_device].map(|device| device.id.to_wire());
    assert_eq!(shown, [(ids[0].clone(), true), (ids[1].clone(), true), (ids[2].clone(), false)]);
    assert!(listed.iter().all(|info| info.added_ms > 0 && info.name == "test"));
    assert_eq!(listed[1].certificate, two_device.certificate());
    let rename =
        |device: &Bytes, name: &str| Ask::RenameDevice(v1::RenameDevice { device: device.clone(), name: name.into() });
    assert!(matches!(one.ask(rename(&ids[1], "kitchen")).await, Body::Done(_)));
    assert_eq!(list(&mut two).await[1].name, "kitchen");
    assert_eq!(one.refused(rename(&ids[1], "")).await.code(), Code::Invalid);
    assert_eq!(one.refused(rename(&DeviceId::generate().to_wire(), "x")).await.code(), Code::NotFound);
    let revoke = |device: &Bytes| Ask::RevokeDevice(v1::RevokeDevice { device: device.clone() });
    assert_eq!(one.refused(revoke(&ids[0])).await.code(), Code::Invalid);
    let (mut bob, _) = Client::register(server.address, "bob").await;
    assert_eq!(bob.refused(revoke(&ids[1])).await.code(), Code::NotFound);
    assert!(matches!(one.ask(revoke(&ids[1])).await, Body::Done(_)));
    assert_eq!(two.ends_with().await, Some(Code::Unauthenticated));
    let mut again = Client::greet(server.address).await;
    let answer = again.try_resume(&two_device.token, &two_device.key).await;
    assert!(matches!(answer, Body::Failure(failure) if failure.code() == Code::Unauthenticated));
    assert_eq!(list(&mut one).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_so_many_devices() {
    let server =
        Server::start_with("[limits]\nlogins_per_account_per_minute = 100\nlogins_per_ip_per_minute = 100").await;
    let (mut one, _) = Client::register(server.address, "alice").await;
    for _ in 1..16 {
        Client::log_in(server.address, "alice").await;
    }
    let mut client = Client::greet(server.address).await;
    let refused = client.refused(Ask::Login(login("0a", &Device::new("alice")))).await;
    assert_eq!(refused.code(), Code::Refused);
    assert!(refused.text.contains("revoke"), "{}", refused.text);
    assert_eq!(list(&mut one).await.len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_for_its_device_or_the_device_does_not_come_in() {
    let server = Server::start().await;
    let (_alice, _) = Client::register(server.address, "alice").await;
    let mut client = Client::greet(server.address).await;
    let other = Device::new("alice");
    let mut wrong = login("0a", &Device::new("alice"));
    wrong.device.as_mut().unwrap().certificate = other.certificate();
    assert_eq!(client.refused(Ask::Login(wrong)).await.code(), Code::Invalid);
    let of_another = Device::new("alice").certified_as("mallory's");
    assert_eq!(client.refused(Ask::Login(login("0a", &of_another))).await.code(), Code::Invalid);
    let unsigned = Device::new("alice").forged();
    let refused = client.refused(Ask::Login(login("0a", &unsigned))).await;
    assert_eq!(refused.code(), Code::Invalid);
    assert!(refused.text.contains("not signed"), "{}", refused.text);
    let refused = client.refused(Ask::Register(registration(&Device::new("bob").forged()))).await;
    assert_eq!(refused.code(), Code::Invalid);
    assert!(refused.text.contains("not signed"), "{}", refused.text);
    let mut no_key = registration(&Device::new("bob"));
    no_key.identity_key = "an identity".into();
    let refused = client.refused(Ask::Register(no_key)).await;
    assert_eq!(refused.code(), Code::Invalid);
    assert!(refused.text.contains("RSA"), "{}", refused.text);
    assert!(matches!(client.ask(Ask::Login(login("0a", &other))).await, Body::Session(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_takes_the_old_ones_place_and_ends_other_devices_if_asked() {
    let server = Server::start().await;
    let (mut one, one_device) = Client::register(server.address, "alice").await;
    let (mut two, _) = Client::log_in(server.address, "alice").await;
    let change = |old: &str, new: &str, only_device| v1::ChangePassword {
        account: "alice".into(),
        auth_secret: old.repeat(32),
        kdf: kdf(7),
        new_auth_secret: new.repeat(32),
        identity_backup: "sealed anew".into(),
        only_device,
    };
    let mut client = Client::greet(server.address).await;
    let wrong = change("0b", "0c", Bytes::new());
    assert_eq!(client.refused(Ask::ChangePassword(wrong)).await.code(), Code::WrongCredentials);
    let strange = change("0a", "0c", DeviceId::generate().to_wire());
    assert_eq!(client.refused(Ask::ChangePassword(strange)).await.code(), Code::NotFound);
    // Within a session as well as without one.
    assert!(matches!(one.ask(Ask::ChangePassword(change("0a", "0c", Bytes::new()))).await, Body::Done(_)));
    two.ping().await;
    let changed = change("0c", "0d", one_device.id.to_wire());
    assert!(matches!(client.ask(Ask::ChangePassword(changed)).await, Body::Done(_)));
    assert_eq!(two.ends_with().await, Some(Code::Unauthenticated));
    one.ping().await;
    let mut fetch = login("0c", &one_device);
    fetch.fetch_backup_only = true;
    assert_eq!(client.refused(Ask::Login(fetch.clone())).await.code(), Code::WrongCredentials);
    fetch.auth_secret = "0d".repeat(32);
    let Body::Session(session) = client.ask(Ask::Login(fetch)).await else { panic!("refused") };
    assert_eq!(session.identity_backup, "sealed anew");
    let params = Ask::PasswordParams(v1::PasswordParams { account: "alice".into() });
    assert_eq!(client.ask(params).await, Body::PasswordKdf(kdf(7).unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_identity_is_replaced_and_the_other_devices_go() {
    let server = Server::start().await;
    let (mut one, one_device) = Client::register(server.address, "alice").await;
    let (mut two, _) = Client::log_in(server.address, "alice").await;
    let mut group = one.create_group(&one_device, "friends").await;
    let fresh = one_device.certified_as("fresh identity");
    let rotate = v1::RotateIdentity {
        account: "alice".into(),
        auth_secret: "0a".repeat(32),
        identity_key: fresh.identity(),
        identity_backup: "fresh backup".into(),
        device: fresh.id.to_wire(),
        certificate: fresh.certificate(),
    };
    let unsigned = one_device.certified_as("fresh identity").forged().certificate();
    let another = one_device.certified_as("another").identity();
    for wrong in [
        v1::RotateIdentity { identity_key: another, ..rotate.clone() },
        v1::RotateIdentity { certificate: unsigned, ..rotate.clone() },
    ] {
        assert_eq!(one.refused(Ask::RotateIdentity(wrong)).await.code(), Code::Invalid);
    }
    assert!(matches!(one.ask(Ask::RotateIdentity(rotate)).await, Body::Done(_)));
    assert_eq!(two.ends_with().await, Some(Code::Unauthenticated));
    let get = Ask::GetAccount(v1::GetAccount { account: "alice".into() });
    let Body::AccountInfo(info) = one.ask(get).await else { panic!("no account") };
    assert_eq!(info.identity_key, fresh.identity());
    // In the group it comes under the new identity by a commit of its own.
    let change = Change { certified_as: Some(&fresh), ..Change::default() };
    let commit = group.commit(&one_device, &change);
    assert_eq!(one.commit(commit).await, 1);
}
