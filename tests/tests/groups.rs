//! Groups: made, changed, left and ended by real daemons over a real server.
//!
//! **Invariant**: whoever is in a group agrees with all others in it: members, roles, epoch, authenticator, order.

use anyhow::{Context, Result, ensure};
use fastchat_ipc::{Group, GroupState, NewGroup, OfGroup, OfMembers, method};
use fastchat_tests::{Person, Server};

async fn people(server: &Server, names: &[&str]) -> Result<Vec<Person>> {
    let mut people = Vec::new();
    for name in names {
        people.push(Person::registered(name, server).await?);
    }
    Ok(people)
}

async fn group(person: &mut Person, name: &str) -> Result<Group> {
    person.call::<method::ShowGroup>(&OfGroup { group: name.into(), ..OfGroup::default() }).await
}

/// Waits until all of these have the group at one epoch, with these members.
async fn agree(people: &mut [&mut Person], name: &str, members: &[&str]) -> Result<Group> {
    let mut first: Option<Group> = None;
    for _ in 0..40 {
        let mut same = true;
        first = None;
        for person in people.iter_mut() {
            let wanted = |group: &Group| {
                let names: Vec<&str> = group.members.iter().map(|member| member.name.as_str()).collect();
                names == members && group.state == GroupState::Active && group.pending.is_empty()
            };
            let seen = person
                .until("the group is as wanted", async |person| match group(person, name).await {
                    Ok(group) => Ok(wanted(&group).then_some(group)),
                    Err(_) => Ok(None),
                })
                .await?;
            match &first {
                None => first = Some(seen),
                Some(one) => same &= (one.epoch, &one.authenticator) == (seen.epoch, &seen.authenticator),
            }
        }
        if same {
            return first.context("nobody was asked");
        }
    }
    anyhow::bail!("they do not agree: {first:#?}")
}

#[tokio::test]
async fn three_people_talk_in_a_group() -> Result<()> {
    let server = Server::start().await?;
    let mut all = people(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = all.as_mut_slice() else { unreachable!() };
    let made = alice
        .call::<method::CreateGroup>(&NewGroup {
            name: "ops".into(),
            members: vec!["bob".into(), "carol".into()],
            ..NewGroup::default()
        })
        .await?;
    ensure!(made.pending.is_empty() && made.members.len() == 3, "{made:#?}");
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    alice.send("ops", "hello all").await?;
    bob.hears("ops", "hello all").await?;
    carol.hears("ops", "hello all").await?;
    bob.deliver("ops", "hello from bob").await?;
    carol.hears("ops", "hello from bob").await?;
    alice.hears("ops", "hello from bob").await?;
    alice
        .call::<method::RemoveGroupMembers>(&OfMembers {
            group: "ops".into(),
            members: vec!["carol".into()],
            ..OfMembers::default()
        })
        .await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    carol
        .until("carol is out", async |carol| Ok((group(carol, "ops").await?.state == GroupState::Left).then_some(())))
        .await?;
    bob.deliver("ops", "without carol").await?;
    ensure!(!carol.texts("ops").await?.contains(&"without carol".to_owned()));
    Ok(())
}
