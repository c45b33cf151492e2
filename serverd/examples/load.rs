//! Load on a server over the raw protocol, with opaque payloads: durable messages per second with their latencies,
//! and with `--idle N` the server's memory per idle connection.
//!
//! Usage: `load ADDRESS [--pairs 50] [--messages 200] [--idle N --pid PID]`, against a server whose limits allow it:
//! `bcrypt_cost = 4`, and `connections_per_ip`, `logins_per_ip_per_minute`, `registrations_per_ip_per_hour` and
//! `entries_per_second` high.
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

use crate::client::{Client, entry, submit};

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
