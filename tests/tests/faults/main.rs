//! Faults: processes that are killed, frames that are none, a disk that is full.
//!
//! **Invariant**: what was accepted is there afterwards, once, in order; whatever cannot be done says so.

mod hostile;
mod small_disk;

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use fastchat_ipc::{
    ClientError, EventKind, Message, MessageKind, MessageState, OfAccount, OfMessage, Send, Wait, method,
};
use fastchat_tests::{Person, Server};
use fastchat_wire::{FRAME_LIMIT, encode, v1};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use small_disk::small_disk;

async fn two(server: &Server) -> Result<(Person, Person)> {
    tokio::try_join!(Person::registered("alice", server), Person::registered("bob", server))
}

/// Kills that the issue asks for.
const KILLS: usize = 50;
/// Texts between two kills.
const BURST: usize = 4;

/// Sends a burst; gives the texts that were accepted. A call whose answer did not come is made again with its key.
async fn burst(person: &mut Person, to: &str, round: usize) -> Result<Vec<String>> {
    let mut accepted = Vec::new();
    for number in 0..BURST {
        let text = format!("{} {round}.{number}", person.name);
        let params = Send {
            to: vec![to.to_owned()],
            text: text.clone(),
            wait: Wait::Queued,
            idempotency_key: text.clone(),
            ..Send::default()
        };
        match person.try_call::<method::SendMessage>(&params).await {
            Ok(_) => {}
            // The daemon was killed under the call: it is tried again once there is a daemon.
            Err(ClientError::Broken(_) | ClientError::Unreachable { .. }) => {
                person.daemon.start().await?;
                person.call::<method::SendMessage>(&params).await?;
            }
            Err(error) => return Err(error.into()),
        }
        accepted.push(text);
    }
    Ok(accepted)
}

/// Everything that was said is there once, and each side's own texts are in the order in which they were accepted.
fn check(whose: &str, history: &[Message], said: &BTreeMap<&str, Vec<String>>) -> Result<()> {
    for message in history {
        ensure!(message.kind == MessageKind::Text, "{whose} sees {message:?}");
    }
    for (name, texts) in said {
        let seen: Vec<&String> = history.iter().filter(|m| m.from == *name).map(|message| &message.text).collect();
        ensure!(seen == texts.iter().collect::<Vec<_>>(), "{whose} sees of {name} {seen:#?} instead of {texts:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn killing_anything_fifty_times_under_traffic_loses_repeats_and_reorders_nothing() -> Result<()> {
    let seed = std::env::var("FASTCHAT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    eprintln!("seed {seed}: FASTCHAT_SEED={seed} repeats the same kills");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "alice begins").await?;
    bob.deliver("alice", "bob begins").await?;
    let mut said = BTreeMap::from([("alice", vec!["alice begins".to_owned()]), ("bob", vec!["bob begins".to_owned()])]);
    let begun = Instant::now();
    for round in 0..KILLS {
        let (from_alice, from_bob) = tokio::join!(burst(&mut alice, "bob", round), burst(&mut bob, "alice", round));
        said.entry("alice").or_default().extend(from_alice?);
        said.entry("bob").or_default().extend(from_bob?);
        // At any stage of its way: kills come between any two of the events that tell of it.
        let stage = random.random_range(0..3 * BURST);
        let (one, other) = if random.random() { (&mut alice, "bob") } else { (&mut bob, "alice") };
        let reached = async |person: &mut Person| {
            let mine = person.history(other).await?.into_iter().rev().filter(|message| message.mine).take(BURST);
            let ways = mine.map(|message| match message.state {
                MessageState::Delivered => 2,
                MessageState::Sent => 1,
                _ => 0,
            });
            Ok((ways.sum::<usize>() >= stage.min(2 * BURST)).then_some(()))
        };
        one.until("the messages are on their way", reached).await?;
        match random.random_range(0..3) {
            0 => alice.daemon.kill().await?,
            1 => bob.daemon.kill().await?,
            _ => server.kill().await?,
        }
        tokio::try_join!(server.restart(), alice.daemon.start(), bob.daemon.start())?;
        for person in [&mut alice, &mut bob] {
            // Not after a back-off that grows with each kill.
            person.call::<method::RetryOutbox>(&OfMessage::default()).await?;
        }
    }
    for person in [&mut alice, &mut bob] {
        person.online().await?;
        person.call::<method::RetryOutbox>(&OfMessage::default()).await?;
    }
    let total = 2 * (KILLS * BURST + 1);
    for (person, other) in [(&mut alice, "bob"), (&mut bob, "alice")] {
        let what = format!("all {total} messages are there");
        let all = async |person: &mut Person| {
            Ok((person.history(other).await?.iter().filter(|m| m.state != MessageState::Queued).count() >= total)
                .then_some(()))
        };
        person.until(&what, all).await?;
    }
    let (of_alice, of_bob) = (alice.history("bob").await?, bob.history("alice").await?);
    check("alice", &of_alice, &said)?;
    check("bob", &of_bob, &said)?;
    let texts = |history: &[Message]| history.iter().map(|message| message.text.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&of_alice), texts(&of_bob), "both see one order");
    let told = bob.events("0").await?.0.into_iter();
    let told = told.filter(|event| matches!(event.kind, EventKind::MessageReceived { .. })).count();
    assert_eq!(told, KILLS * BURST + 1, "each message was told of once");
    eprintln!("{KILLS} kills in {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

fn failures(frames: &[v1::ServerFrame]) -> Vec<v1::Code> {
    let failure = |frame: &v1::ServerFrame| match &frame.body {
        Some(v1::server_frame::Body::Failure(failure)) => Some(failure.code()),
        _ => None,
    };
    frames.iter().filter_map(failure).collect()
}

/// A frame as the wire has it.
fn framed(frame: &v1::ClientFrame) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode(frame, &mut bytes);
    bytes.to_vec()
}

#[tokio::test]
async fn a_frame_that_is_none_ends_its_connection_alone_with_a_failure() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "before").await?;
    let hello = v1::Hello { version_min: 1, version_max: 1, agent: "made-up".into() };
    let hello = framed(&v1::ClientFrame { request: 1, body: Some(v1::client_frame::Body::Hello(hello)) });
    let oversized = u32::try_from(FRAME_LIMIT + 1)?.to_be_bytes();
    let garbage = [&8_u32.to_be_bytes()[..], &[0xff; 8]].concat();
    let malformed: [(&str, Vec<u8>, v1::Code); 5] = [
        ("garbage", garbage.clone(), v1::Code::BadFrame),
        ("an oversized length", oversized.to_vec(), v1::Code::TooLarge),
        ("the largest length", vec![0xff; 4], v1::Code::TooLarge),
        ("garbage after Hello", [hello.clone(), garbage].concat(), v1::Code::BadFrame),
        ("oversized after Hello", [hello.clone(), oversized.to_vec()].concat(), v1::Code::TooLarge),
    ];
    for (what, bytes, code) in malformed {
        let frames = hostile::say(&server, &bytes).await.context(what)?;
        assert_eq!(failures(&frames), [code], "{what}: {frames:?}");
        alice.deliver("bob", what).await?;
    }
    // Truncated frames, and connections that end in the middle of everything.
    for cut in [1, 3, 4, hello.len() - 1] {
        let mut stream = hostile::connect(&server).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, &hello[..cut]).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
    }
    // Not even TLS.
    let mut tcp = tokio::net::TcpStream::connect(server.address()).await?;
    tokio::io::AsyncWriteExt::write_all(&mut tcp, b"GET / HTTP/1.1\r\n\r\n").await?;
    bob.deliver("alice", "after").await?;
    assert_eq!(bob.texts("alice").await?, alice.texts("bob").await?);
    assert_eq!(alice.online().await?.state, fastchat_ipc::AccountState::Online);
    Ok(())
}

#[tokio::test]
async fn a_full_disk_of_the_daemon_is_said_and_loses_nothing() -> Result<()> {
    let server = Server::start().await?;
    let daemon = fastchat_tests::Daemon::prepare("alice")?;
    let Some(disk) = small_disk(&daemon.home().join("data/fastchat"), 96)? else {
        eprintln!("skipped: a small disk cannot be mounted here (needs root)");
        return Ok(());
    };
    let mut alice = Person::with("alice", daemon).await?;
    alice.call::<method::Register>(&Person::sign_in(&server.account("alice"))).await?;
    alice.online().await?;
    let mut bob = Person::registered("bob", &server).await?;
    alice.deliver("bob", "before").await?;
    disk.fill(8 << 20)?;
    let params = Send { to: vec!["bob".into()], text: "too much".into(), ..Send::default() };
    let refused = alice.refusal::<method::SendMessage>(&params).await?;
    assert_eq!(refused.code, fastchat_ipc::ErrorCode::StorageFull, "{refused:?}");
    let ended = alice.daemon.ctl().run(&["send", "bob", "-m", "too much"]).await?.expect(2)?;
    assert!(ended.stderr.contains("full") && ended.stderr.contains("next:"), "{}", ended.stderr);
    // What others send waits on the server meanwhile.
    let waiting = bob.send_and_wait("alice", "for later", Wait::Sent).await?;
    assert_eq!(waiting.state, MessageState::Sent);
    assert!(alice.heard("bob").await?.is_empty());
    disk.free()?;
    alice.deliver("bob", "after").await?;
    alice.hears("bob", "for later").await?;
    bob.sees("alice", &waiting.id, MessageState::Delivered).await?;
    assert_eq!(bob.heard("alice").await?, ["before", "after"]);
    assert!(alice.call::<method::ListOutbox>(&OfAccount::default()).await?.messages.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_full_disk_of_the_server_delays_and_loses_nothing() -> Result<()> {
    let mut server = Server::start().await?;
    server.stop().await?;
    let Some(disk) = small_disk(&server.data(), 48)? else {
        eprintln!("skipped: a small disk cannot be mounted here (needs root)");
        return Ok(());
    };
    server.restart().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "before").await?;
    disk.fill(0)?;
    let mut sent = Vec::new();
    for number in 0..40 {
        sent.push(alice.send("bob", &format!("{number} {}", "x".repeat(8000))).await?.id);
    }
    alice
        .until("the server says that it is full", async |alice| {
            let outbox = alice.call::<method::ListOutbox>(&OfAccount::default()).await?.messages;
            Ok((!outbox.is_empty() && outbox.iter().all(|m| m.state == MessageState::Queued)).then_some(()))
        })
        .await?;
    disk.free()?;
    alice.call::<method::RetryOutbox>(&OfMessage::default()).await?;
    let last = sent.last().context("one was sent")?;
    alice.sees("bob", last, MessageState::Delivered).await?;
    let heard = bob.heard("alice").await?;
    assert_eq!(heard.len(), 41);
    let numbers: Vec<&str> = heard[1..].iter().filter_map(|text| text.split(' ').next()).collect();
    assert_eq!(numbers, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
    Ok(())
}
