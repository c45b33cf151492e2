//! A group of two hundred: one daemon among clients in the test's own process.
//!
//! **Invariant**: however many they are, all come in, hear the same, and follow who goes.

use anyhow::{Context, Result, ensure};
use fastchat_tests::{Insider, Person, Server, agree};
use fastchat_wire::ConversationId;
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};

/// Registrations at a time: the server hashes a password for each.
const AT_ONCE: usize = 16;
/// People who are added at a time: each costs an RSA signature, and a call has its patience.
const AT_A_TIME: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long"]
async fn two_hundred_come_in_hear_the_same_and_follow_who_goes() -> Result<()> {
    whole_life(199).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_come_in_hear_the_same_and_follow_who_goes() -> Result<()> {
    whole_life(39).await
}

async fn whole_life(count: usize) -> Result<()> {
    let limits = "[limits]\nregistrations_per_ip_per_hour = 1000\nconnections_per_ip = 1000\n\
                  logins_per_ip_per_minute = 10000\nclaims_per_hour = 10000\n";
    let server = Server::start_with(limits).await?;
    let (address, identity) = (server.address(), Insider::identity().await?);
    let mut alice = Person::registered("alice", &server).await?;
    let names: Vec<String> = (0..count).map(|number| format!("m{number:03}")).collect();
    let registered = stream::iter(&names).map(|name| Insider::register(name, &address, identity.clone()));
    let mut others: Vec<Insider> = registered.buffered(AT_ONCE).try_collect().await?;
    let mut members: Vec<&str> = names.iter().map(String::as_str).collect();
    let id: ConversationId = alice.make_group("all", &[]).await?.id.parse()?;
    for (number, some) in members.chunks(AT_A_TIME).enumerate() {
        alice.add("all", some).await?;
        let so_far = members.len().min((number + 1) * AT_A_TIME);
        let so_far: Vec<&str> = members[..so_far].iter().copied().chain(["alice"]).collect();
        agree(&mut [&mut alice], "all", &so_far).await?;
    }
    members.push("alice");
    let all = members.len();
    let joined = others.iter_mut().map(|other| async move {
        other.added().await?;
        other.until(id, "all are in", |other| Ok(other.members(id).len() == all)).await
    });
    try_join_all(joined).await?;
    let group = agree(&mut [&mut alice], "all", &members).await?;
    for other in &others {
        ensure!(
            (other.epoch(id)?, other.authenticator(id)?) == (group.epoch, group.authenticator.clone()),
            "{}",
            other.name
        );
    }
    alice.say("all", "hello all").await?;
    let last = others.last_mut().context("somebody")?;
    last.say(id, "hello from the last").await?;
    alice.hears("all", "hello from the last").await?;
    let heard = others.iter_mut().map(|other| async move { other.hears(id, "hello all").await });
    try_join_all(heard).await?;
    // One is removed, one leaves: the others follow, and those two are out.
    let removed = names.first().context("a name")?;
    alice.remove("all", &[removed]).await?;
    let leaver = names.get(1).context("a name")?.clone();
    others[1].until(id, "the removal", |other| Ok(other.members(id).len() == all - 1)).await?;
    others[1].leave(id).await?;
    let left: Vec<&str> = members.iter().copied().filter(|name| *name != removed && *name != leaver).collect();
    let group = agree(&mut [&mut alice], "all", &left).await?;
    alice.say("all", "those who are left").await?;
    let rest = others.iter_mut().skip(2).map(|other| {
        let group = &group;
        async move {
            other.hears(id, "those who are left").await?;
            ensure!((other.epoch(id)?, other.authenticator(id)?) == (group.epoch, group.authenticator.clone()));
            Ok(())
        }
    });
    try_join_all(rest).await?;
    Ok(())
}
