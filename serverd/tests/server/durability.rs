//! What was accepted stays, whatever happens to the process.

use std::collections::BTreeSet;

use fastchat_wire::v1::{self, client_frame::Body as Ask, server_frame::Body};
use rustix::process::Signal;

use crate::{
    client::{Client, entry, submit},
    conversations::{Pair, pair},
    server::{Server, run},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_sends_devices_away_and_a_restart_keeps_everything() {
    let server = Server::start().await;
    let Pair { mut alice, mut bob, conversation, alice_device, bob_device } = pair(&server).await;
    assert!(matches!(alice.ask(submit(&conversation, vec![entry("kept")])).await, Body::Accepted(_)));
    assert_eq!(bob.entries().await.len(), 1);
    bob.ping().await;
    let link = server.link.clone();
    server.signal(Signal::TERM);
    loop {
        if let Body::Goaway(goaway) = alice.hear().await {
            assert!(goaway.retry_after_ms >= 250);
            break;
        }
    }
    let server = server.restart_when_stopped().await;
    let pin = |link: &str| link.split("?pin=").nth(1).unwrap().to_owned();
    assert_eq!(pin(&link), pin(&server.link));
    let mut alice = Client::resume(server.address, &alice_device).await;
    // Bob's cursor was written, hers was not moved.
    let mut heard = [alice.hear().await, alice.hear().await];
    heard.sort_by_key(|body| matches!(body, Body::Deliver(_)));
    assert!(matches!(&heard[0], Body::Delivered(delivered) if delivered.seq == 1), "{heard:?}");
    assert!(matches!(&heard[1], Body::Deliver(deliver) if deliver.entries[0].seq == 1), "{heard:?}");
    let mut bob = Client::resume(server.address, &bob_device).await;
    assert!(matches!(alice.ask(submit(&conversation, vec![entry("more")])).await, Body::Accepted(_)));
    assert_eq!(bob.entries().await[0].seq, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_accepted() {
    let mut server = Server::start().await;
    let Pair { alice_device, bob_device, conversation, .. } = pair(&server).await;
    let (mut accepted, mut got) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..3 {
        let mut alice = Client::resume(server.address, &alice_device).await;
        for number in 0..10 {
            let answer = alice.ask(submit(&conversation, vec![entry(&format!("{round} {number}"))])).await;
            let Body::Accepted(v1::Accepted { seqs, .. }) = answer else { panic!("{answer:?}") };
            accepted.extend(seqs);
        }
        // Some are under way when the process dies.
        for number in 0..5 {
            alice.send(submit(&conversation, vec![entry(&format!("{round} late {number}"))])).await;
        }
        server = server.kill_and_restart().await;
        let mut bob = Client::resume(server.address, &bob_device).await;
        while !accepted.is_subset(&got) {
            for entry in bob.entries().await {
                got.insert(entry.seq);
            }
        }
    }
    assert_eq!(got, (1..=got.len() as u64).collect(), "seqs are dense");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start().await;
    let output = run(&["run", "--port", "0", "--config", "/dev/null"], &server.dir.path().join("data"));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("in use by another server"));
    let mut client = Client::greet(server.address).await;
    assert!(matches!(client.ask(Ask::Ping(v1::Ping {})).await, Body::Pong(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_applies_what_is_valid_and_keeps_the_old_otherwise() {
    let server = Server::start().await;
    let path = server.dir.path().join("server.toml");
    std::fs::write(&path, "registration = \"closed\"\n").unwrap();
    server.signal(Signal::HUP);
    let registration = async || {
        let mut client = Client::connect(server.address).await.unwrap();
        let hello = v1::Hello { version_min: 1, version_max: 1, agent: String::new() };
        match client.ask(Ask::Hello(hello)).await {
            Body::Ready(ready) => ready.registration(),
            other => panic!("{other:?}"),
        }
    };
    let closed = async { while registration().await != v1::Registration::Closed {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), closed).await.unwrap();
    std::fs::write(&path, "registration = \"what\"\n").unwrap();
    server.signal(Signal::HUP);
    assert_eq!(registration().await, v1::Registration::Closed);
}
