//! Peers that misbehave hurt themselves alone.

use std::time::{Duration, Instant};

use fastchat_wire::{
    Code,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{
    client::{Client, Device, login},
    server::{Server, run},
};

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_end_their_connection_alone() {
    let server = Server::start().await;
    let (mut alice, device) = Client::register(server.address, "alice").await;
    let garbage: &[u8] = b"\x00\x00\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff";
    let oversized: &[u8] = b"\x7f\xff\xff\xff";
    for (bytes, code) in [(garbage, Code::BadFrame), (oversized, Code::TooLarge)] {
        let mut before = Client::connect(server.address).await.unwrap();
        before.write(bytes).await;
        assert_eq!(before.ends_with().await, Some(code));
        let mut greeted = Client::greet(server.address).await;
        greeted.write(bytes).await;
        assert_eq!(greeted.ends_with().await, Some(code));
        let mut session = Client::resume(server.address, &device).await;
        // The older connection of the same device goes.
        while !matches!(alice.read().await.and_then(|frame| frame.body), Some(Body::Goaway(_)) | None) {}
        alice = Client::resume(server.address, &device).await;
        while !matches!(session.read().await.and_then(|frame| frame.body), Some(Body::Goaway(_)) | None) {}
        let (mut bob, _) = Client::register(server.address, if code == Code::BadFrame { "bob" } else { "carol" }).await;
        bob.write(bytes).await;
        assert_eq!(bob.ends_with().await, Some(code));
        alice.ping().await;
    }
    // Cut off within a frame.
    let mut cut = Client::greet(server.address).await;
    cut.write(b"\x00\x00\x00\x08\x01").await;
    drop(cut);
    // Before Hello, and requests out of place.
    let mut rude = Client::connect(server.address).await.unwrap();
    assert_eq!(rude.refused(Ask::Ping(v1::Ping {})).await.code(), Code::BadFrame);
    let mut early = Client::greet(server.address).await;
    let get = Ask::GetAccount(v1::GetAccount { account: "alice".into() });
    assert_eq!(early.refused(get).await.code(), Code::Unauthenticated);
    alice.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_session_frames_and_bytes_are_few() {
    let server = Server::start_with("[limits]\npre_session_bytes = 40000").await;
    let mut large = Client::greet(server.address).await;
    large.write(&(65_u32 << 10).to_be_bytes()).await;
    assert_eq!(large.ends_with().await, Some(Code::TooLarge));
    let mut many = Client::greet(server.address).await;
    for _ in 0..3 {
        let account = "x".repeat(20_000);
        many.send(Ask::PasswordParams(v1::PasswordParams { account })).await;
    }
    assert_eq!(many.ends_with().await, Some(Code::TooLarge));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_let_go_at_the_deadline() {
    let server = Server::start_with("[limits]\nhandshake_seconds = 1\nauth_seconds = 1").await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), silent.read_to_end(&mut bytes)).await.unwrap().unwrap();
    assert!(bytes.is_empty() && began.elapsed() >= Duration::from_millis(900));
    let mut greeted = Client::greet(server.address).await;
    assert_eq!(greeted.ends_with().await, Some(Code::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections() {
    let server = Server::start_with("[limits]\nconnections_per_ip = 2").await;
    let (mut one, two) = (Client::greet(server.address).await, Client::greet(server.address).await);
    assert!(Client::connect(server.address).await.is_none());
    one.ping().await;
    drop(two);
    // The place is free as soon as the server has seen the end of it.
    let free = async {
        while Client::connect(server.address).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_passwords_is_slow() {
    let server = Server::start_with("[limits]\nlogins_per_account_per_minute = 3").await;
    let mut client = Client::greet(server.address).await;
    for _ in 0..3 {
        let guess = Ask::Login(login("0b", &Device::new("alice")));
        assert_eq!(client.refused(guess).await.code(), Code::WrongCredentials);
    }
    let refused = client.refused(Ask::Login(login("0b", &Device::new("alice")))).await;
    assert_eq!(refused.code(), Code::RateLimited);
    assert!((1..=60_000).contains(&refused.retry_after_ms), "{}", refused.retry_after_ms);
    // Somebody else's login is not hindered.
    let other = client.refused(Ask::Login(login("0b", &Device::new("bob")))).await;
    assert_eq!(other.code(), Code::WrongCredentials);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_names_its_place_and_exits_78() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("s.toml");
    std::fs::write(&config, "registration = \"open\"\nlisten_on = 1\n").unwrap();
    let output = run(&["run", "--config", config.to_str().unwrap()], dir.path());
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("s.toml:2:1: unknown field `listen_on`"), "{text}");
}
