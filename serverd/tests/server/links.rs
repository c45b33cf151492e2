//! Linking a new device, and what strangers can do with link mailboxes.

use bytes::Bytes;
use fastchat_wire::{
    Code,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};

use crate::{
    client::{Client, Device, login},
    server::Server,
};

async fn open(client: &mut Client) -> Bytes {
    match client.ask(Ask::OpenLink(v1::OpenLink { message: "hello".into() })).await {
        Body::LinkMessages(link) => link.link,
        other => panic!("no link: {other:?}"),
    }
}

fn post(link: &Bytes, from_new_device: bool, message: &str) -> Ask {
    Ask::PostLink(v1::PostLink { link: link.clone(), from_new_device, message: message.to_owned().into() })
}

fn fetch(link: &Bytes, to_new_device: bool, after: u32) -> Ask {
    Ask::FetchLink(v1::FetchLink { link: link.clone(), to_new_device, after })
}

fn messages(body: Body) -> Vec<Bytes> {
    match body {
        Body::LinkMessages(link) => link.messages,
        other => panic!("no messages: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_is_linked_and_let_in_without_the_password() {
    let server = Server::start().await;
    let (mut old, _) = Client::register(server.address, "alice").await;
    let mut new = Client::greet(server.address).await;
    let link = open(&mut new).await;
    assert_eq!(messages(old.ask(fetch(&link, false, 0)).await), ["hello"]);
    // The new device waits; what it waits for comes while it does.
    let waiting = new.send(fetch(&link, true, 0)).await;
    assert!(matches!(old.ask(post(&link, false, "who are you")).await, Body::Done(_)));
    let frame = new.read().await.unwrap();
    assert_eq!((frame.request, messages(frame.body.unwrap())), (waiting, vec![Bytes::from("who are you")]));
    // So does the old one, whose session goes on meanwhile.
    let waiting = old.send(fetch(&link, false, 1)).await;
    old.ping_beside(waiting).await;
    assert!(matches!(new.ask(post(&link, true, "your laptop")).await, Body::Done(_)));
    let frame = old.read().await.unwrap();
    assert_eq!((frame.request, messages(frame.body.unwrap())), (waiting, vec![Bytes::from("your laptop")]));
    let Body::LinkGrant(grant) = old.ask(Ask::GrantLink(v1::GrantLink {})).await else { panic!("no grant") };
    let mut device = Device::new("alice");
    let with_grant = |device: &Device, grant: &Bytes| {
        let login = v1::Login { auth_secret: String::new(), grant: grant.clone(), ..login("", device) };
        Ask::Login(login)
    };
    let wrong = Bytes::from_static(&[9; 32]);
    assert_eq!(new.refused(with_grant(&device, &wrong)).await.code(), Code::WrongCredentials);
    // Whether there is such an account shows in nothing.
    let of_bob = Device::new("bob");
    assert_eq!(new.refused(with_grant(&of_bob, &grant.grant)).await.code(), Code::WrongCredentials);
    for name in ["alice", "nobody"] {
        let Ask::Login(mut bad) = with_grant(&Device::new(name), &wrong) else { unreachable!() };
        bad.device.as_mut().unwrap().certificate = "garbage".into();
        assert_eq!(new.refused(Ask::Login(bad)).await.code(), Code::Invalid);
    }
    let Body::Session(session) = new.ask(with_grant(&device, &grant.grant)).await else { panic!("not let in") };
    assert_eq!(session.identity_key, device.identity());
    device.token = session.token;
    assert!(matches!(old.hear().await, Body::DevicesChanged(_)));
    let mut third = Client::greet(server.address).await;
    let used = third.refused(with_grant(&Device::new("alice"), &grant.grant)).await;
    assert_eq!(used.code(), Code::WrongCredentials, "a grant is good once");
    drop(new);
    Client::resume(server.address, &device).await.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_holds_little_and_there_are_not_many() {
    let config = "[limits]\nlinks = 3\nlink_requests_per_ip_per_hour = 30";
    let server = Server::start_with(config).await;
    let mut stranger = Client::greet(server.address).await;
    let link = open(&mut stranger).await;
    let large = "x".repeat(8 * 1024 + 1);
    assert_eq!(stranger.refused(post(&link, true, &large)).await.code(), Code::Invalid);
    assert_eq!(stranger.refused(post(&link, true, "")).await.code(), Code::Invalid);
    for _ in 1..8 {
        assert!(matches!(stranger.ask(post(&link, true, "more")).await, Body::Done(_)));
    }
    assert_eq!(stranger.refused(post(&link, true, "too much")).await.code(), Code::Invalid);
    let nowhere = Bytes::from_static(&[7; 16]);
    assert_eq!(stranger.refused(post(&nowhere, true, "x")).await.code(), Code::NotFound);
    let mut other = Client::greet(server.address).await;
    assert_eq!(other.refused(fetch(&nowhere, true, 0)).await.code(), Code::NotFound);
    for _ in 0..2 {
        open(&mut other).await;
    }
    let full = other.refused(Ask::OpenLink(v1::OpenLink { message: "x".into() })).await;
    assert_eq!((full.code(), full.retry_after_ms > 0), (Code::Overloaded, true));
    // And whoever goes on asking is told to wait.
    let (mut alice, _) = Client::register(server.address, "alice").await;
    let mut code = None;
    for _ in 0..30 {
        if let Body::Failure(failure) = alice.ask(fetch(&link, false, 0)).await {
            code = Some(failure.code());
        }
    }
    assert_eq!(code, Some(Code::RateLimited));
    alice.ping().await;
}
