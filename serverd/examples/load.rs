//! Load on a server over the raw protocol, with opaque payloads: durable messages per second with their latencies,
//! with `--idle N` the server's memory per idle connection, with `--group N` how long commits take in a group of N.
//!
//! Usage: `load ADDRESS [--pairs 50] [--messages 200] [--idle N --pid PID] [--group N]`, against a server whose limits
//! allow it: `bcrypt_cost = 4`, and `connections_per_ip`, `logins_per_ip_per_minute`, `registrations_per_ip_per_hour`,
//! `entries_per_second` and `handshakes_at_once` high.
//!
//! **Invariant**: a message counts when its Accepted has come.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that fails has no result")]

#[path = "../tests/server/client.rs"]
#[expect(dead_code, reason = "made for the tests; not all of it is used here")]
mod client;
#[path = "../tests/server/mls.rs"]
#[expect(dead_code, reason = "made for the tests; not all of it is used here")]
mod mls;

use std::{
    env, fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fastchat_wire::{
    ConversationId,
    v1::{self, server_frame::Body},
};

use crate::{
    client::{Client, entry, submit},
    mls::Change,
};

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(default, |at| arguments[at + 1].parse().unwrap())
    };
    let address: SocketAddr = arguments[0].parse().unwrap();
    let run = std::process::id();
    let idle = option("--idle", 0);
    if idle > 0 {
        return idle_connections(address, run, idle, option("--pid", 0)).await;
    }
    let members = option("--group", 0);
    if members > 0 {
        return commits(address, run, members).await;
    }
    durable_messages(address, run, option("--pairs", 50), option("--messages", 200)).await;
}

async fn durable_messages(address: SocketAddr, run: u32, pairs: usize, messages: usize) {
    let mut ready = Vec::new();
    for pair in 0..pairs {
        let (mut one, one_device) = Client::register(address, &format!("l{run}.{pair}.a")).await;
        let (two, two_device) = Client::register(address, &format!("l{run}.{pair}.b")).await;
        let Body::Direct(direct) = one.create(&one_device, &[&two_device], Bytes::new()).await else {
            panic!("no conversation")
        };
        ready.push((one, two, direct.conversation));
    }
    let payload = "x".repeat(346);
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (mut one, mut two, conversation) in ready {
        let payload = payload.clone();
        tasks.spawn(async move {
            let receive = receive(&mut two, messages);
            let send = send(&mut one, &conversation, &payload, messages);
            tokio::join!(send, receive).0
        });
    }
    let mut latencies: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    let elapsed = began.elapsed();
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() * share / 100).min(latencies.len() - 1)];
    let rate = latencies.len() as f64 / elapsed.as_secs_f64();
    println!("{pairs} pairs, {} messages of 346 B accepted and delivered in {elapsed:.2?}", latencies.len());
    println!("{rate:.0} durable messages/s; submit to Accepted: p50 {:.2?}, p99 {:.2?}", at(50), at(99));
}

/// One message under way at a time, as a person's daemon has; acknowledges its own.
async fn send(client: &mut Client, conversation: &Bytes, payload: &str, messages: usize) -> Vec<Duration> {
    let mut latencies = Vec::with_capacity(messages);
    for number in 1..=messages {
        let began = Instant::now();
        let Body::Accepted(_) = client.ask(submit(conversation, vec![entry(payload)])).await else {
            panic!("not accepted")
        };
        latencies.push(began.elapsed());
        if number % 16 == 0 {
            client.ack(conversation, number as u64).await;
        }
    }
    latencies
}

async fn receive(client: &mut Client, messages: usize) {
    let mut last = 0;
    while last < messages as u64 {
        match client.hear().await {
            Body::Deliver(v1::Deliver { conversation, entries, .. }) => {
                last = entries.last().unwrap().seq;
                ConversationId::from_wire(&conversation).unwrap();
                client.ack(&conversation, last).await;
            }
            Body::Joining(joining) => client.ack(&joining.conversation, 0).await,
            _ => {}
        }
    }
}

/// Sessions that do nothing, and what the server needs for each.
async fn idle_connections(address: SocketAddr, run: u32, count: usize, pid: usize) {
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let mut clients = Vec::new();
    for number in 0..10 {
        clients.push(Client::register(address, &format!("w{run}.{number}")).await);
    }
    let before = resident();
    for number in 0..count {
        clients.push(Client::register(address, &format!("i{run}.{number}")).await);
    }
    for (client, _) in &mut clients {
        client.ping().await;
    }
    let after = resident();
    let each = (after.saturating_sub(before)) as f64 / count as f64;
    println!("{count} idle connections: {before} KiB before, {after} KiB with them, {each:.1} KiB each");
}

/// Members added in batches, then self-updates: from Handshake to Accepted.
async fn commits(address: SocketAddr, run: u32, members: usize) {
    const BATCH: usize = 250;
    const UPDATES: usize = 10;
    let (mut admin, own) = Client::register(address, &format!("g{run}")).await;
    let mut devices = Vec::new();
    for number in 1..members {
        devices.push(Client::register(address, &format!("g{run}.{number}")).await.1);
    }
    let mut group = admin.create_group(&own, "many").await;
    for batch in devices.chunks(BATCH) {
        let mut handshake = group.commit(&own, &Change { add: batch.iter().collect(), ..Change::default() });
        // The server takes anything for a Welcome; the whole one, for everybody, would be too large.
        handshake.welcomes.iter_mut().for_each(|welcome| welcome.welcome = Bytes::from(vec![0; 2_048]));
        let (bytes, began) = (handshake.message.len(), Instant::now());
        admin.commit(handshake).await;
        println!("{} added: commit of {bytes} B accepted in {:.1?}", batch.len(), began.elapsed());
        group.merge(&own);
    }
    let mut times = Vec::new();
    for _ in 0..UPDATES {
        let handshake = group.commit(&own, &Change::default());
        let (bytes, began) = (handshake.message.len(), Instant::now());
        admin.commit(handshake).await;
        times.push((began.elapsed(), bytes));
        group.merge(&own);
    }
    times.sort_unstable();
    let (median, bytes) = times[UPDATES / 2];
    println!("{members} members: a self-update of {bytes} B accepted in {median:.1?} (median of {UPDATES})");
    let began = Instant::now();
    let fetch = v1::FetchGroup { conversation: group.conversation.to_wire() };
    let Body::GroupState(state) = admin.ask(v1::client_frame::Body::FetchGroup(fetch)).await else {
        panic!("no state")
    };
    println!("state of {} B fetched in {:.1?}", state.ratchet_tree.len(), began.elapsed());
}
