//! The figures of two people and one server on this machine: how long a message takes, what an idle daemon needs.
//!
//! `cargo run --release -p fastchat-tests --example figures` (after `cargo build --release --workspace`).
//!
//! **Invariant**: what is printed was measured in this run.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use fastchat_tests::{Person, Server};

/// Messages, one after the other.
const MESSAGES: usize = 200;
/// Runs of `fastchatctl send`.
const RUNS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let server = Server::start().await?;
    let mut alice = Person::registered("alice", &server).await?;
    let mut bob = Person::registered("bob", &server).await?;
    alice.deliver("bob", "hello").await?;
    bob.deliver("alice", "hello").await?;
    let mut delivered = Vec::new();
    for number in 0..MESSAGES {
        let begun = Instant::now();
        alice.deliver("bob", &format!("message {number} of a usual length, give or take a few words")).await?;
        delivered.push(begun.elapsed());
    }
    let mut commands = Vec::new();
    for number in 0..RUNS {
        let begun = Instant::now();
        alice.daemon.ctl().ok(&["send", "bob", "-m", &format!("by command {number}")]).await?;
        commands.push(begun.elapsed());
    }
    println!("| what | p50 | p99 |\n|---|---|---|");
    row(&format!("send → delivered, {MESSAGES} messages, one after the other"), &mut delivered);
    row(&format!("`fastchatctl send`, {RUNS} runs"), &mut commands);
    println!("\n| memory, resident | MiB |\n|---|---|");
    for (what, pid) in [("fastchatd", bob.daemon.pid()), ("fastchat-server", server.pid())] {
        println!("| {what} after that | {:.1} |", resident_kib(pid)? / 1024.0);
    }
    bob.daemon.stop().await?;
    bob.daemon.start().await?;
    bob.online().await?;
    println!("| fastchatd, started anew and idle | {:.1} |", resident_kib(bob.daemon.pid())? / 1024.0);
    println!("\n{}", machine());
    Ok(())
}

fn row(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at =
        |percent: usize| times.get((times.len() * percent / 100).min(times.len() - 1)).copied().unwrap_or_default();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!("| {what} | {:.1} ms | {:.1} ms |", ms(at(50)), ms(at(99)));
}

fn resident_kib(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the resident memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn machine() -> String {
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("\t: unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let build = if cfg!(debug_assertions) { "debug build: NOT a figure to pass on" } else { "release build" };
    format!("{}, {cores} cores; {build}", model.trim_start_matches(['\t', ' ', ':']))
}
