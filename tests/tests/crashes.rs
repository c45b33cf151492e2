//! Daemons that end at every step of what changes a conversation.
//!
//! Each step is tried three times: the daemon ends when its records are committed and not on the disk, when they are on
//! the disk and nothing of it is said, and when it is said and nothing more is heard.
//!
//! **Invariant**: whatever the step, after a restart all devices are in one group at one epoch, with equal authenticators,
//! and a message goes through.

use anyhow::{Context, Result};
use fastchat_ipc::{ClientError, GroupState, Method, method};
use fastchat_tests::{Person, Server, agree, members_of, of};

/// When the daemon ends at a step.
const MOMENTS: [&str; 3] = ["", "@synced", "@sent"];

/// All moments of some steps.
fn moments(steps: &[&str]) -> Vec<String> {
    steps.iter().flat_map(|step| MOMENTS.map(|moment| format!("{step}{moment}"))).collect()
}

/// Restarts a person's daemon so that it ends at a point.
async fn arm(person: &mut Person, point: &str) -> Result<()> {
    person.daemon.stop().await?;
    person.daemon.crash_at(Some(point));
    person.daemon.start().await?;
    person.online().await.map(drop)
}

/// Waits until it has ended there, and starts it as usual.
async fn heal(person: &mut Person, point: &str) -> Result<()> {
    person.daemon.crashed().await.with_context(|| format!("{} at {point}", person.name))?;
    person.daemon.crash_at(None);
    person.daemon.start().await?;
    person.online().await.map(drop)
}

/// Calls a method that the daemon does not live to answer.
async fn last_words<M: Method>(person: &mut Person, params: &M::Params) -> Result<()> {
    match person.try_call::<M>(params).await {
        // It may end before or after it has answered.
        Ok(_) | Err(ClientError::Broken(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// All have the group, and hear each other in it.
async fn converged(people: &mut [&mut Person], group: &str, members: &[&str], text: &str) -> Result<()> {
    agree(people, group, members).await.with_context(|| format!("after {text}"))?;
    let speakers: Vec<String> = people.iter().map(|person| person.name.clone()).collect();
    for (number, speaker) in speakers.iter().enumerate() {
        let text = format!("{speaker} ({number}) after {text}");
        people[number].say(group, &text).await?;
        for (_, person) in people.iter_mut().enumerate().filter(|(other, _)| *other != number) {
            if person.name == *speaker {
                person.has_said(group, &text).await?;
            } else {
                person.hears(group, &text).await?;
            }
        }
    }
    Ok(())
}

async fn three() -> Result<(Server, Vec<Person>)> {
    // Each step is crashed at and done again: more often than a person would.
    let limits =
        "[limits]\nhandshakes_at_once = 1000\nhandshakes_per_hour = 10000\nlogins_per_account_per_minute = 1000\n";
    let server = Server::start_with(limits).await?;
    let people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    Ok((server, people))
}

#[tokio::test]
async fn a_crash_at_any_step_of_making_a_group_leaves_a_whole_group_or_none() -> Result<()> {
    let (_server, mut people) = three().await?;
    let [alice, bob, _] = people.as_mut_slice() else { unreachable!() };
    for (number, point) in moments(&["create-stored", "create-answered"]).iter().enumerate() {
        let name = format!("group {number}");
        arm(alice, point).await?;
        let params = fastchat_ipc::NewGroup { name: name.clone(), members: vec!["bob".into()], ..Default::default() };
        last_words::<method::CreateGroup>(alice, &params).await?;
        heal(alice, point).await?;
        if alice.seen_group(&name).await?.is_none() {
            assert_eq!(point, "create-stored", "only what was not on the disk may be gone");
            alice.make_group(&name, &["bob"]).await?;
        }
        converged(&mut [alice, bob], &name, &["alice", "bob"], point).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_adding_and_removing_heals() -> Result<()> {
    let (_server, mut people) = three().await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob"]).await?;
    for point in moments(&["add-claimed", "commit-stored", "commit-answered", "commit-merged"]) {
        arm(alice, &point).await?;
        last_words::<method::AddGroupMembers>(alice, &members_of("ops", &["carol"])).await?;
        heal(alice, &point).await?;
        // The wish was on the disk before anything came of it.
        converged(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"], &point).await?;
        if point.starts_with("add-claimed") {
            alice.remove("ops", &["carol"]).await?;
        } else {
            arm(alice, &point).await?;
            last_words::<method::RemoveGroupMembers>(alice, &members_of("ops", &["carol"])).await?;
            heal(alice, &point).await?;
            if point == "commit-stored" {
                // The wish itself was not on the disk yet, and nobody was told that it was.
                alice.remove("ops", &["carol"]).await?;
            }
        }
        converged(&mut [alice, bob], "ops", &["alice", "bob"], &format!("removing, {point}")).await?;
        carol.group_is("ops", GroupState::Left).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_joining_and_following_heals() -> Result<()> {
    let (_server, mut people) = three().await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    for moment in MOMENTS {
        let (joins, follows) = (format!("welcome-stored{moment}"), format!("commit-applied{moment}"));
        arm(carol, &joins).await?;
        arm(bob, &follows).await?;
        alice.add("ops", &["carol"]).await?;
        heal(carol, &joins).await?;
        heal(bob, &follows).await?;
        converged(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"], &joins).await?;
        alice.remove("ops", &["carol"]).await?;
        converged(&mut [alice, bob], "ops", &["alice", "bob"], &follows).await?;
        carol.group_is("ops", GroupState::Left).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_leaving_heals() -> Result<()> {
    let (_server, mut people) = three().await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    for point in moments(&["proposal-stored", "proposal-answered", "proposal-in-log"]) {
        let follows = format!("leaving-seen{}", point.find('@').map_or("", |at| &point[at..]));
        arm(carol, &point).await?;
        arm(alice, &follows).await?;
        last_words::<method::LeaveGroup>(carol, &of("ops")).await?;
        heal(carol, &point).await?;
        if point == "proposal-stored" {
            // The wish itself was not on the disk yet, and nobody was told that it was.
            carol.leave("ops").await?;
        }
        heal(alice, &follows).await?;
        carol.group_is("ops", GroupState::Left).await?;
        converged(&mut [alice, bob], "ops", &["alice", "bob"], &point).await?;
        alice.add("ops", &["carol"]).await?;
        converged(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"], &format!("back, {point}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_coming_back_heals() -> Result<()> {
    let (_server, mut people) = three().await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    let points = moments(&["rejoin-begun", "rejoin-fetched", "rejoin-stored", "rejoin-accepted", "rejoin-merged"]);
    for (number, point) in points.iter().enumerate() {
        // An older copy of her data takes the place of the newer one, which the server has seen acknowledge more.
        carol.daemon.stop().await?;
        let copy = carol.daemon.save()?;
        carol.daemon.start().await?;
        alice.set_topic("ops", &format!("topic {number}")).await?;
        agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
        alice.deliver("ops", &format!("text {number}")).await?;
        carol.daemon.stop().await?;
        carol.daemon.restore(&copy)?;
        carol.daemon.crash_at(Some(point));
        carol.daemon.start().await?;
        alice.say("ops", &format!("something for carol {number}")).await?;
        heal(carol, point).await?;
        let all = converged(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"], point).await;
        if let Err(error) = all {
            anyhow::bail!("{:#?} {error:#}", carol.history("ops").await?);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_first_message_loses_and_doubles_nothing() -> Result<()> {
    let server = Server::start().await?;
    let points = ["direct-claimed", "direct-stored", "direct-stored@sent", "direct-answered", "direct-answered@synced"];
    let names: Vec<String> = (0..points.len()).map(|number| format!("friend{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut friends = Person::several(&server, &names).await?;
    let mut alice = Person::registered("alice", &server).await?;
    for ((point, friend), joins) in points.iter().zip(&mut friends).zip(MOMENTS.iter().cycle()) {
        arm(&mut alice, point).await?;
        let joins = format!("direct-joined{joins}");
        arm(friend, &joins).await?;
        alice.send(&friend.name.clone(), "hello").await?;
        heal(&mut alice, point).await?;
        heal(friend, &joins).await?;
        friend.hears("alice", "hello").await?;
        friend.deliver("alice", "and back").await?;
        alice.deliver(&friend.name.clone(), "and again").await?;
        assert_eq!(friend.texts("alice").await?, ["hello", "and back", "and again"], "{point}");
        assert_eq!(alice.texts(&friend.name).await?, ["hello", "and back", "and again"], "{point}");
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_new_identity_leaves_the_old_or_the_new_one() -> Result<()> {
    let (_server, mut people) = three().await?;
    let [alice, bob, _] = people.as_mut_slice() else { unreachable!() };
    alice.deliver("bob", "hello").await?;
    bob.deliver("alice", "hello too").await?;
    alice.make_group("ops", &["bob"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    let rotation = fastchat_ipc::Rotation { password: fastchat_tests::PASSWORD.into(), ..Default::default() };
    let trust = fastchat_ipc::TrustKey { contact: "alice".into(), ..Default::default() };
    for point in
        ["rotation-prepared", "rotation-prepared@synced", "rotation-told", "rotation-stored", "rotation-stored@sent"]
    {
        let before = alice.account().await?.fingerprint;
        arm(alice, point).await?;
        last_words::<method::RotateKey>(alice, &rotation).await?;
        heal(alice, point).await?;
        if point.starts_with("rotation-prepared") {
            assert_eq!(alice.account().await?.fingerprint, before, "{point}: the server has not heard of it");
            alice.call::<method::RotateKey>(&rotation).await?;
        }
        alice
            .until("the new identity counts", async |alice| {
                Ok((alice.account().await?.fingerprint != before).then_some(()))
            })
            .await?;
        bob.until("the change is seen", async |bob| Ok(bob.contact("alice").await?.key_changed.then_some(()))).await?;
        bob.call::<method::TrustContactKey>(&trust).await?;
        converged(&mut [alice, bob], "ops", &["alice", "bob"], point).await?;
        alice.deliver("bob", &format!("alice after {point}")).await?;
        bob.deliver("alice", &format!("bob after {point}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_step_of_linking_lets_the_next_link_succeed() -> Result<()> {
    let (server, mut people) = three().await?;
    let [alice, bob, _] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob"]).await?;
    for point in ["link-offered", "link-consented", "link-granted", "link-handed-over"] {
        arm(alice, point).await?;
        assert!(alice.linked_device(&server).await.is_err(), "{point}");
        heal(alice, point).await?;
    }
    let mut phone = alice.linked_device(&server).await?;
    // A device that was handed the account before the other one ended may have come in, and is a device like any other.
    alice
        .until("the phone is in", async |alice| {
            let Some(group) = alice.seen_group("ops").await? else { return Ok(None) };
            Ok(group.members.iter().any(|m| m.name == "alice" && m.devices >= 2).then_some(()))
        })
        .await?;
    converged(&mut [alice, bob, &mut phone], "ops", &["alice", "bob"], "linking").await
}

#[tokio::test]
async fn a_crash_of_the_loser_of_a_race_heals_and_its_change_lands() -> Result<()> {
    let (_server, mut people) = three().await?;
    let [alice, bob, _] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob"]).await?;
    alice.promote("ops", &["bob"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    for moment in MOMENTS {
        let (wish, lost) = (format!("bob's topic{moment}"), format!("commit-lost{moment}"));
        // Bob's commit is on his disk when alice's takes the epoch.
        arm(bob, "commit-stored@synced").await?;
        let topic = fastchat_ipc::GroupTopic { group: "ops".into(), topic: wish.clone(), ..Default::default() };
        last_words::<method::SetGroupTopic>(bob, &topic).await?;
        bob.daemon.crashed().await?;
        alice.set_topic("ops", &format!("alice's topic{moment}")).await?;
        bob.daemon.crash_at(Some(&lost));
        bob.daemon.start().await?;
        heal(bob, &lost).await?;
        alice
            .until("bob's topic lands", async |alice| Ok((alice.group("ops").await?.topic == wish).then_some(())))
            .await?;
        converged(&mut [alice, bob], "ops", &["alice", "bob"], &lost).await?;
    }
    Ok(())
}
