//! Tests of the link against a server on loopback.
//!
//! **Invariant**: no test waits for time to pass; what is waited for is a frame, a report or the end of a connection.

pub(crate) mod server;

use fastchat_wire::{
    Code, FRAME_LIMIT, RESUME_CONTEXT,
    v1::{client_frame, server_frame},
};
use server::{FakeServer, Peer, ready, session, soon};
use server_frame::Body;
use tokio::net::TcpListener;

use super::*;

struct Reported(FromLink);

impl From<(AccountKey, FromLink)> for Reported {
    fn from((key, news): (AccountKey, FromLink)) -> Self {
        assert_eq!(key, AccountKey(7));
        Self(news)
    }
}

struct Engine {
    commands: mpsc::Sender<ToLink>,
    events: mpsc::Receiver<Reported>,
    task: JoinHandle<()>,
}

impl Engine {
    fn start(server: &ServerAddress, pin: Option<Pin>) -> Self {
        Self::start_with_room(server, pin, 64)
    }

    fn start_with_room(server: &ServerAddress, pin: Option<Pin>, room: usize) -> Self {
        let (commands, received) = mpsc::channel(64);
        let (reports, events) = mpsc::channel(room);
        let settings = LinkSettings {
            account: "alice".parse().unwrap(),
            server: server.clone(),
            pin,
            token: Token::from_bytes(&[1; 32]).unwrap(),
            signer: Arc::new(|message: &[u8]| message.iter().rev().copied().collect()),
        };
        let task = spawn::<Reported>(AccountKey(7), settings, received, reports);
        Self { commands, events, task }
    }

    async fn next(&mut self) -> FromLink {
        soon(self.events.recv()).await.expect("the link should live").0
    }

    async fn up(&mut self) -> u64 {
        loop {
            match self.next().await {
                FromLink::Up(up) => return up.number,
                FromLink::Connecting | FromLink::Down(_) => {}
                FromLink::Frame(frame) => panic!("{frame:?}"),
            }
        }
    }

    async fn down(&mut self) -> Down {
        loop {
            if let FromLink::Down(down) = self.next().await {
                return down;
            }
        }
    }

    async fn frame(&mut self) -> ServerFrame {
        match self.next().await {
            FromLink::Frame(frame) => *frame,
            other => panic!("{other:?}"),
        }
    }

    async fn tell(&self, command: ToLink) {
        soon(self.commands.send(command)).await.unwrap();
    }

    async fn submit(&self, up: u64, request: u64, payload: usize) {
        let entry = v1::NewEntry { payload: vec![0; payload].into(), ..v1::NewEntry::default() };
        let submit = v1::Submit { entries: vec![entry], ..v1::Submit::default() };
        let frame = ClientFrame { request, body: Some(client_frame::Body::Submit(submit)) };
        self.tell(ToLink::Frame { up, frame }).await;
    }
}

async fn standing() -> (FakeServer, Engine, Peer, u64) {
    let server = FakeServer::start().await;
    let mut engine = Engine::start(&server.address, Some(server.pin));
    let peer = server.session().await;
    let up = engine.up().await;
    (server, engine, peer, up)
}

fn failure(code: Code) -> Body {
    Body::Failure(v1::Failure::new(code, "said the test"))
}

#[tokio::test]
async fn a_session_stands_and_carries_frames_both_ways() {
    let server = FakeServer::start().await;
    let mut engine = Engine::start(&server.address, Some(server.pin));
    let (mut peer, frame, resume) = server.resume().await;
    assert_eq!(resume.token, vec![1; 32]);
    let signed: Vec<u8> = [RESUME_CONTEXT, &peer.exporter()].concat().into_iter().rev().collect();
    assert_eq!(resume.signature, signed, "the signature covers context and channel binding");
    peer.answer(&frame, Body::Session(session())).await;

    assert_eq!(engine.next().await, FromLink::Connecting);
    let FromLink::Up(up) = engine.next().await else { panic!() };
    assert_eq!((up.session, up.ready), (session(), ready()));
    engine.submit(up.number, 5, 10).await;
    let asked = peer.receive().await;
    assert_eq!(asked.request, 5);
    peer.answer(&asked, Body::Done(v1::Done {})).await;
    assert_eq!(engine.frame().await, ServerFrame { request: 5, body: Some(Body::Done(v1::Done {})) });
}

#[tokio::test]
async fn what_follows_the_session_in_the_same_breath_is_not_lost() {
    let server = FakeServer::start().await;
    let mut engine = Engine::start(&server.address, Some(server.pin));
    let (mut peer, frame, _) = server.resume().await;
    let mut bytes = bytes::BytesMut::new();
    fastchat_wire::encode(&ServerFrame { request: frame.request, body: Some(Body::Session(session())) }, &mut bytes);
    fastchat_wire::encode(&ServerFrame { request: 0, body: Some(Body::Deliver(v1::Deliver::default())) }, &mut bytes);
    peer.send_bytes(&bytes).await;
    engine.up().await;
    assert!(matches!(engine.frame().await.body, Some(Body::Deliver(_))));
}

#[tokio::test]
async fn a_lost_session_comes_back_with_the_new_token_and_stale_frames_are_dropped() {
    let server = FakeServer::start().await;
    let mut engine = Engine::start(&server.address, Some(server.pin));
    let (mut peer, frame, _) = server.resume().await;
    let renewed = v1::Session { token: vec![2; 32].into(), ..session() };
    peer.answer(&frame, Body::Session(renewed)).await;
    let first = engine.up().await;
    drop(peer);
    let down = engine.down().await;
    assert_eq!(down.error.code, ErrorCode::Unreachable);
    assert!(down.retry_in.is_some());

    let (mut peer, frame, resume) = server.resume().await;
    assert_eq!(resume.token, vec![2; 32]);
    peer.answer(&frame, Body::Session(session())).await;
    let second = engine.up().await;
    assert_ne!(first, second);
    engine.submit(first, 1, 1).await;
    engine.submit(second, 2, 1).await;
    assert_eq!(peer.receive().await.request, 2);
}

#[tokio::test]
async fn another_key_is_refused_loudly_and_is_sent_nothing() {
    let server = FakeServer::start().await;
    let known = server.pin;
    let server = server.with_another_key();
    let mut engine = Engine::start(&server.address, Some(known));
    assert!(server.try_accept().await.is_err(), "the handshake must fail");
    let down = engine.down().await;
    assert_eq!((down.error.code, down.retry_in), (ErrorCode::ServerChanged, None));
    assert!(down.error.message.contains(&known.to_string()) && down.error.message.contains(&server.pin.to_string()));
    assert!(down.error.hint.unwrap().contains("--pin"));

    engine.tell(ToLink::Reconnect).await;
    assert_eq!(engine.next().await, FromLink::Connecting);
    assert!(server.try_accept().await.is_err(), "asking again does not make it trusted");
}

#[tokio::test]
async fn without_a_pin_only_public_authorities_count() {
    let server = FakeServer::start().await;
    let mut engine = Engine::start(&server.address, None);
    assert!(server.try_accept().await.is_err());
    let down = engine.down().await;
    assert_eq!(down.error.code, ErrorCode::UntrustedServer);
    assert_eq!(down.error.data["pin"], server.pin.to_string());
}

#[tokio::test]
async fn a_session_that_the_server_has_ended_is_not_tried_again() {
    let server = FakeServer::start().await;
    let mut engine = Engine::start(&server.address, Some(server.pin));
    let (mut peer, frame, _) = server.resume().await;
    peer.answer(&frame, failure(Code::Unauthenticated)).await;
    let down = engine.down().await;
    assert_eq!((down.error.code, down.retry_in), (ErrorCode::LoggedOut, None));
}

#[tokio::test]
async fn a_device_that_another_login_replaces_is_logged_out() {
    let (_server, mut engine, mut peer, _) = standing().await;
    peer.send(&ServerFrame { request: 0, body: Some(failure(Code::Unauthenticated)) }).await;
    drop(peer);
    let down = engine.down().await;
    assert_eq!((down.error.code, down.retry_in), (ErrorCode::LoggedOut, None));
}

#[tokio::test]
async fn the_servers_advice_on_when_to_come_again_is_kept() {
    let (server, mut engine, mut peer, _) = standing().await;
    let goaway = v1::Goaway { reason: "moving".into(), retry_after_ms: 3_600_000 };
    peer.send(&ServerFrame { request: 0, body: Some(Body::Goaway(goaway)) }).await;
    // What the server still has to say after Goaway is heard.
    peer.send(&ServerFrame { request: 9, body: Some(Body::Done(v1::Done {})) }).await;
    assert_eq!(engine.frame().await.request, 9);
    drop(peer);
    let down = engine.down().await;
    assert!(down.error.message.contains("moving"), "{}", down.error.message);
    assert!(down.retry_in.unwrap() >= Duration::from_secs(3600));

    engine.tell(ToLink::Reconnect).await;
    let (mut peer, frame, _) = server.resume().await;
    let busy = v1::Failure { retry_after_ms: 90_000, ..v1::Failure::new(Code::Overloaded, "") };
    peer.answer(&frame, Body::Failure(busy)).await;
    assert!(engine.down().await.retry_in.unwrap() >= Duration::from_secs(90));
}

#[tokio::test]
async fn nobody_listening_is_unreachable_and_tried_again() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut engine = Engine::start(&ServerAddress::new("127.0.0.1", port).unwrap(), None);
    let down = engine.down().await;
    assert_eq!(down.error.code, ErrorCode::Unreachable);
    assert!(down.error.message.contains(&port.to_string()), "{}", down.error.message);
    assert!(down.retry_in.unwrap() <= Duration::from_millis(500));
    assert_eq!(engine.next().await, FromLink::Connecting);
}

#[tokio::test]
async fn a_redirect_is_followed_to_the_key_it_names() {
    let (balancer, server) = (FakeServer::start().await, FakeServer::start().await);
    let mut engine = Engine::start(&balancer.address, Some(balancer.pin));
    let to = v1::Redirect { address: server.address.to_string(), pin: server.pin.to_string() };
    let (_, mut peer) = tokio::join!(balancer.greet(Body::Redirect(to)), server.session());
    let up = engine.up().await;
    engine.submit(up, 3, 1).await;
    assert_eq!(peer.receive().await.request, 3);
}

#[tokio::test]
async fn a_redirect_without_a_pin_needs_the_key_of_the_entry_address() {
    let (balancer, server) = (FakeServer::start().await, FakeServer::start().await);
    let mut engine = Engine::start(&balancer.address, Some(balancer.pin));
    let to = v1::Redirect { address: server.address.to_string(), pin: String::new() };
    let (_, peer) = tokio::join!(balancer.greet(Body::Redirect(to)), server.try_accept());
    assert!(peer.is_err());
    assert_eq!(engine.down().await.error.code, ErrorCode::ServerChanged);
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let balancer = FakeServer::start().await;
    let mut engine = Engine::start(&balancer.address, Some(balancer.pin));
    for _ in 0..4 {
        balancer
            .greet(Body::Redirect(v1::Redirect { address: balancer.address.to_string(), pin: String::new() }))
            .await;
    }
    let down = engine.down().await;
    assert!(down.error.message.contains("without end"), "{}", down.error.message);
}

#[tokio::test]
async fn garbage_and_oversized_frames_end_the_connection_with_a_reason() {
    for bytes in [&b"\x00\x00\x00\x03\xff\xff\xff"[..], &u32::try_from(FRAME_LIMIT + 1).unwrap().to_be_bytes()] {
        let (_server, mut engine, mut peer, _) = standing().await;
        peer.send_bytes(bytes).await;
        let down = engine.down().await;
        assert_eq!(down.error.code, ErrorCode::Server);
        assert!(down.retry_in.is_some());
        assert!(peer.try_receive().await.is_none());
    }
}

#[tokio::test]
async fn a_frame_too_large_for_the_server_is_answered_here_and_costs_nothing() {
    let (_server, mut engine, mut peer, up) = standing().await;
    engine.submit(up, 1, 1 << 16).await;
    let answer = engine.frame().await;
    assert_eq!(answer.request, 1);
    let Some(Body::Failure(failure)) = answer.body else { panic!() };
    assert_eq!(failure.code(), Code::TooLarge);
    engine.submit(up, 2, 100).await;
    assert_eq!(peer.receive().await.request, 2);
}

#[tokio::test]
async fn a_busy_engine_slows_the_server_down_and_loses_nothing() {
    const FRAMES: u64 = 2000;
    let server = FakeServer::start().await;
    let mut engine = Engine::start_with_room(&server.address, Some(server.pin), 1);
    let (mut peer, up) = tokio::join!(server.session(), engine.up());
    let flood = tokio::spawn(async move {
        for seq in 1..=FRAMES {
            let entry = v1::Entry { seq, payload: vec![0; 8192].into(), ..v1::Entry::default() };
            let deliver = v1::Deliver { entries: vec![entry], ..v1::Deliver::default() };
            peer.send(&ServerFrame { request: 0, body: Some(Body::Deliver(deliver)) }).await;
        }
        peer
    });
    // The engine takes nothing yet, and still gets its word out.
    engine.submit(up, 1, 1).await;
    soon(async {
        while engine.commands.capacity() < engine.commands.max_capacity() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!flood.is_finished(), "16 MB fit in no buffer on the way");
    for expected in 1..=FRAMES {
        let Some(Body::Deliver(deliver)) = engine.frame().await.body else { panic!() };
        assert_eq!(deliver.entries[0].seq, expected);
    }
    let mut peer = soon(flood).await.unwrap();
    assert_eq!(peer.receive().await.request, 1);
}

#[tokio::test]
async fn being_asked_to_reconnect_a_standing_session_is_answered_by_a_ping() {
    let (_server, mut engine, mut peer, up) = standing().await;
    engine.tell(ToLink::Reconnect).await;
    let ping = peer.receive().await;
    assert_eq!((ping.request, &ping.body), (PING_REQUEST, &Some(client_frame::Body::Ping(v1::Ping {}))));
    peer.answer(&ping, Body::Pong(v1::Pong::default())).await;
    engine.submit(up, 4, 1).await;
    let asked = peer.receive().await;
    peer.answer(&asked, Body::Done(v1::Done {})).await;
    assert_eq!(engine.frame().await.request, 4, "the pong stays with the link");
}

#[tokio::test]
async fn an_engine_that_goes_is_heard_to_the_end() {
    let (_server, engine, mut peer, up) = standing().await;
    for request in 1..=20 {
        engine.submit(up, request, 1000).await;
    }
    let Engine { commands, events: _events, task } = engine;
    drop(commands);
    for request in 1..=20 {
        assert_eq!(peer.receive().await.request, request);
    }
    assert!(peer.try_receive().await.is_none());
    soon(task).await.unwrap();
}

#[tokio::test]
async fn the_session_of_another_account_is_not_taken() {
    let server = FakeServer::start().await;
    let mut engine = Engine::start(&server.address, Some(server.pin));
    let (mut peer, frame, _) = server.resume().await;
    peer.answer(&frame, Body::Session(v1::Session { account: "mallory".into(), ..session() })).await;
    assert_eq!(engine.down().await.error.code, ErrorCode::Server);
}

#[tokio::test]
async fn an_engine_and_a_link_that_have_much_to_say_do_not_wait_for_each_other_in_a_circle() {
    let server = FakeServer::start().await;
    let mut engine = Engine::start_with_room(&server.address, Some(server.pin), 1);
    let (mut peer, up) = tokio::join!(server.session(), engine.up());
    // Two reports fill the way to the engine; then the session ends, which is a third.
    for request in 1..=2 {
        peer.send(&ServerFrame { request, body: Some(Body::Done(v1::Done {})) }).await;
    }
    drop(peer);
    // More than the channel holds: this ends only if the link takes commands while its own reports wait.
    for request in 1..=500 {
        engine.submit(up, request, 1).await;
    }
    engine.tell(ToLink::Reconnect).await;
    for request in 1..=2 {
        assert_eq!(engine.frame().await.request, request);
    }
    assert!(matches!(engine.next().await, FromLink::Down(_)));
    assert_eq!(engine.next().await, FromLink::Connecting);
}
