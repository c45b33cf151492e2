//! Groups: made, changed, left and ended by real daemons over a real server.
//!
//! **Invariant**: whoever is in a group agrees with all others in it: members, roles, epoch, authenticator, order.

use anyhow::{Context, Result};
use fastchat_ipc::{ChatKind, ErrorCode, EventKind, GroupState, History, MessageKind, MessageState, OfAccount, method};
use fastchat_tests::{Person, Server, agree, members_of, of};
use futures_util::future::try_join_all;

/// Everybody as a list of borrowed people.
fn all(people: &mut [Person]) -> Vec<&mut Person> {
    people.iter_mut().collect()
}

/// The notices in a chat, oldest first.
async fn notices(person: &mut Person, chat: &str) -> Result<Vec<String>> {
    let history = person.history(chat).await?.into_iter();
    Ok(history.filter(|message| message.kind == MessageKind::Notice).map(|message| message.text).collect())
}

#[tokio::test]
async fn three_people_talk_and_all_have_the_same_order() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    let made = alice.make_group("ops", &["bob", "carol"]).await?;
    assert!(made.pending.is_empty() && made.members.len() == 3, "{made:#?}");
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    let (one, two, three) = tokio::join!(alice.say("ops", "one"), bob.say("ops", "two"), carol.say("ops", "three"));
    one?;
    two?;
    three?;
    for person in [&mut *alice, &mut *bob, &mut *carol] {
        person.until("three texts", async |p| Ok((p.texts("ops").await?.len() == 3).then_some(()))).await?;
    }
    let order = alice.texts("ops").await?;
    assert_eq!((bob.texts("ops").await?, carol.texts("ops").await?), (order.clone(), order));
    Ok(())
}

#[tokio::test]
async fn who_is_removed_hears_nothing_more_and_knows_it() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    alice.remove("ops", &["carol"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    carol.group_is("ops", GroupState::Left).await?;
    bob.deliver("ops", "without carol").await?;
    assert!(carol.texts("ops").await?.is_empty());
    assert!(notices(carol, "ops").await?.iter().any(|text| text == "alice removed you from the group"));
    let error = carol.send("ops", "am i still here?").await.err().context("it was taken")?;
    assert!(format!("{error:#}").contains("member"), "{error:#}");
    // Brought back, she reads on from there and not what was written meanwhile.
    alice.add("ops", &["carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    bob.say("ops", "welcome back").await?;
    carol.hears("ops", "welcome back").await?;
    assert_eq!(carol.texts("ops").await?, ["welcome back"]);
    Ok(())
}

#[tokio::test]
async fn who_is_added_sees_nothing_from_before() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    alice.deliver("ops", "before carol").await?;
    alice.add("ops", &["carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    alice.deliver("ops", "with carol").await?;
    assert_eq!(carol.texts("ops").await?, ["with carol"]);
    assert_eq!(bob.texts("ops").await?, ["before carol", "with carol"]);
    let from = carol.history("ops").await?.into_iter().find(|message| message.text == "with carol");
    assert_eq!(from.context("the message")?.from, "alice");
    Ok(())
}

#[tokio::test]
async fn ten_people_talk_in_a_group() -> Result<()> {
    many_talk(10).await
}

#[tokio::test]
#[ignore = "long"]
async fn fifty_people_talk_in_a_group() -> Result<()> {
    many_talk(50).await
}

async fn many_talk(count: usize) -> Result<()> {
    let server = Server::start_with("[limits]\nlogins_per_ip_per_minute = 1000\nclaims_per_hour = 1000\n").await?;
    let names: Vec<String> = (0..count).map(|number| format!("p{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut people = Person::several(&server, &names).await?;
    people[0].make_group("all", &names[1..]).await?;
    agree(&mut all(&mut people), "all", &names).await?;
    let texts: Vec<String> = names.iter().map(|name| format!("from {name}")).collect();
    try_join_all(people.iter_mut().zip(&texts).map(|(person, text)| person.send("all", text))).await?;
    for person in &mut people {
        person.until("all texts", async |p| Ok((p.texts("all").await?.len() == count).then_some(()))).await?;
    }
    let order = people[0].texts("all").await?;
    for person in &mut people {
        assert_eq!(person.texts("all").await?, order, "{}", person.name);
    }
    people[0].remove("all", &[names[count - 1]]).await?;
    agree(&mut all(&mut people[..count - 1]), "all", &names[..count - 1]).await?;
    Ok(())
}

#[tokio::test]
async fn three_admins_add_at_the_same_time_and_all_get_in() -> Result<()> {
    let server = Server::start().await?;
    let names = ["alice", "bob", "carol", "dave", "erin", "frank"];
    let mut people = Person::several(&server, &names).await?;
    let [alice, bob, carol, dave, erin, frank] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    alice.promote("ops", &["bob", "carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    let added = tokio::join!(alice.add("ops", &["dave"]), bob.add("ops", &["erin"]), carol.add("ops", &["frank"]));
    added.0?;
    added.1?;
    added.2?;
    agree(&mut [alice, bob, carol, dave, erin, frank], "ops", &names).await?;
    frank.say("ops", "all in").await?;
    for person in [alice, bob, carol, dave, erin] {
        person.hears("ops", "all in").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_member_who_was_away_for_ten_epochs_comes_back_into_the_same_group() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    let before = agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?.epoch;
    carol.daemon.stop().await?;
    for round in 0..10 {
        alice.set_topic("ops", &format!("topic {round}")).await?;
        bob.until("the topic comes", async |bob| {
            Ok((bob.group("ops").await?.topic == format!("topic {round}")).then_some(()))
        })
        .await?;
        bob.say("ops", &format!("text {round}")).await?;
    }
    carol.daemon.start().await?;
    let after = agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    assert!(after.epoch >= before + 10, "{before} {after:?}");
    let texts: Vec<String> = (0..10).map(|round| format!("text {round}")).collect();
    carol.until("all texts", async |p| Ok((p.texts("ops").await?.len() == 10).then_some(()))).await?;
    assert_eq!(carol.texts("ops").await?, texts);
    carol.say("ops", "back again").await?;
    bob.hears("ops", "back again").await
}

#[tokio::test]
async fn roles_are_kept_by_the_daemon_and_said_to_the_person() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol", "dave"]).await?;
    let [alice, bob, carol, dave] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    // A plain member may do none of it.
    let error = bob.refusal::<method::AddGroupMembers>(&members_of("ops", &["dave"])).await?;
    assert_eq!(error.code, ErrorCode::NotAllowed, "{error:?}");
    assert!(error.hint.is_some_and(|hint| hint.contains("alice")));
    for refused in [
        bob.refusal::<method::RemoveGroupMembers>(&members_of("ops", &["carol"])).await?,
        bob.refusal::<method::PromoteGroupMembers>(&members_of("ops", &["bob"])).await?,
        bob.refusal::<method::DeleteGroup>(&of("ops")).await?,
    ] {
        assert_eq!(refused.code, ErrorCode::NotAllowed, "{refused:?}");
    }
    // The last admin stays until there is another one.
    for refused in [
        alice.refusal::<method::LeaveGroup>(&of("ops")).await?,
        alice.refusal::<method::DemoteGroupMembers>(&members_of("ops", &["alice"])).await?,
    ] {
        assert_eq!(refused.code, ErrorCode::NotAllowed, "{refused:?}");
        assert!(refused.hint.is_some_and(|hint| hint.contains("promote")));
    }
    alice.promote("ops", &["bob"]).await?;
    bob.until("bob is admin", async |bob| Ok(bob.group("ops").await?.admin.then_some(()))).await?;
    bob.add("ops", &["dave"]).await?;
    bob.demote("ops", &["alice"]).await?;
    let group = agree(&mut [alice, bob, carol, dave], "ops", &["alice", "bob", "carol", "dave"]).await?;
    assert!(group.members.iter().all(|member| member.admin == (member.name == "bob")), "{group:#?}");
    assert!(!alice.group("ops").await?.admin);
    assert_eq!(alice.refusal::<method::DeleteGroup>(&of("ops")).await?.code, ErrorCode::NotAllowed);
    Ok(())
}

#[tokio::test]
async fn a_groups_name_and_topic_are_the_same_for_all() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob"]).await?;
    let [alice, bob] = people.as_mut_slice() else { unreachable!() };
    let id = alice.make_group("ops", &["bob"]).await?.id;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    alice.set_topic("ops", "what burns").await?;
    alice.rename("ops", "fire brigade").await?;
    let group = agree(&mut [alice, bob], "fire brigade", &["alice", "bob"]).await?;
    assert_eq!((group.id.as_str(), group.topic.as_str()), (id.as_str(), "what burns"));
    assert_eq!(bob.group(&id).await?.name, "fire brigade");
    let chats = bob.call::<method::ListChats>(&OfAccount::default()).await?.chats;
    let chat = chats.iter().find(|chat| chat.id == id).context("the group's chat")?;
    assert_eq!((chat.kind, chat.title.as_str()), (ChatKind::Group, "fire brigade"));
    for bad in ["", "a\nb", &"x".repeat(65)] {
        let params = fastchat_ipc::GroupName { group: id.clone(), name: bad.into(), ..Default::default() };
        assert_eq!(alice.refusal::<method::RenameGroup>(&params).await?.code, ErrorCode::InvalidParams);
    }
    Ok(())
}

#[tokio::test]
async fn groups_of_one_name_are_told_apart_by_their_ids() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob"]).await?;
    let [alice, bob] = people.as_mut_slice() else { unreachable!() };
    let first = alice.make_group("twins", &["bob"]).await?.id;
    let second = alice.make_group("twins", &["bob"]).await?.id;
    assert_ne!(first, second);
    agree(&mut [alice, bob], &first, &["alice", "bob"]).await?;
    agree(&mut [alice, bob], &second, &["alice", "bob"]).await?;
    let error = alice.refusal::<method::ShowGroup>(&of("twins")).await?;
    assert_ne!(error.code, ErrorCode::Internal, "{error:?}");
    assert!(error.hint.is_some() || error.message.contains("several"), "{error:?}");
    let error = alice.refusal::<method::ReadHistory>(&History { chat: "twins".into(), ..History::default() }).await?;
    assert_ne!(error.code, ErrorCode::Internal, "{error:?}");
    assert!(alice.send("twins", "to whom?").await.is_err());
    alice.say(&first, "to the first").await?;
    alice.say(&second, "to the second").await?;
    bob.hears(&first, "to the first").await?;
    bob.hears(&second, "to the second").await?;
    assert_eq!(bob.texts(&first).await?, ["to the first"]);
    assert_eq!(bob.texts(&second).await?, ["to the second"]);
    Ok(())
}

#[tokio::test]
async fn a_leavers_removal_is_committed_by_whoever_comes_online() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    alice.daemon.stop().await?;
    bob.daemon.stop().await?;
    // Nobody is there who could take her out: she is leaving until somebody comes.
    let mut client = carol.daemon.client().await?;
    let left = tokio::spawn(async move { client.call::<method::LeaveGroup>(&of("ops")).await });
    carol.group_is("ops", GroupState::Leaving).await?;
    bob.daemon.start().await?;
    left.await??;
    carol.group_is("ops", GroupState::Left).await?;
    alice.daemon.start().await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    alice.say("ops", "without carol").await?;
    bob.hears("ops", "without carol").await?;
    assert!(notices(bob, "ops").await?.iter().any(|text| text == "carol left"));
    assert!(carol.texts("ops").await?.is_empty(), "what she had stays, and nothing comes to it");
    Ok(())
}

#[tokio::test]
async fn a_deleted_group_takes_nothing_more_and_keeps_its_history() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob"]).await?;
    let [alice, bob] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    alice.deliver("ops", "the last words").await?;
    alice.call::<method::DeleteGroup>(&of("ops")).await?;
    alice.group_is("ops", GroupState::Deleted).await?;
    bob.group_is("ops", GroupState::Deleted).await?;
    assert_eq!(bob.texts("ops").await?, ["the last words"]);
    assert!(bob.send("ops", "anybody?").await.is_err());
    assert!(alice.refusal::<method::AddGroupMembers>(&members_of("ops", &["bob"])).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_group_of_one_ends_when_its_last_member_leaves() -> Result<()> {
    let server = Server::start().await?;
    let mut alice = Person::registered("alice", &server).await?;
    alice.make_group("mine", &[]).await?;
    alice.leave("mine").await?;
    let state = alice.group("mine").await?.state;
    assert!(matches!(state, GroupState::Deleted | GroupState::Left), "{state:?}");
    Ok(())
}

#[tokio::test]
async fn a_group_message_is_delivered_when_every_other_member_has_it() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["bob", "carol"]).await?;
    agree(&mut [alice, bob, carol], "ops", &["alice", "bob", "carol"]).await?;
    carol.daemon.stop().await?;
    let sent = alice.say("ops", "for both").await?;
    bob.hears("ops", "for both").await?;
    let state = |history: Vec<fastchat_ipc::Message>| {
        history.into_iter().find(|message| message.id == sent.id).map(|message| message.state)
    };
    assert_eq!(state(alice.history("ops").await?), Some(MessageState::Sent), "carol does not have it yet");
    carol.daemon.start().await?;
    alice.sees("ops", &sent.id, MessageState::Delivered).await
}

#[tokio::test]
async fn a_watch_and_the_unread_count_know_groups() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob"]).await?;
    let [alice, bob] = people.as_mut_slice() else { unreachable!() };
    let id = alice.make_group("ops", &["bob"]).await?.id;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    let (_, cursor) = bob.events("0").await?;
    let before = bob.call::<method::CountUnread>(&OfAccount::default()).await?;
    alice.deliver("ops", "for the watch").await?;
    let (events, _) = bob.events(&cursor).await?;
    let seen = events.iter().find_map(|event| match &event.kind {
        EventKind::MessageReceived { chat, message: Some(message), .. } if message.text == "for the watch" => {
            Some((chat.clone(), message.from.clone()))
        }
        _ => None,
    });
    assert_eq!(seen, Some((id, "alice".into())));
    let after = bob.call::<method::CountUnread>(&OfAccount::default()).await?;
    assert_eq!((after.group, after.direct), (before.group + 1, before.direct));
    Ok(())
}

#[tokio::test]
async fn nobody_is_put_into_a_group_by_somebody_they_block() -> Result<()> {
    let server = Server::start().await?;
    let mut people = Person::several(&server, &["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = people.as_mut_slice() else { unreachable!() };
    alice.make_group("ops", &["carol"]).await?;
    agree(&mut [alice, carol], "ops", &["alice", "carol"]).await?;
    let of_alice = fastchat_ipc::OfContact { contact: "alice".into(), ..Default::default() };
    bob.call::<method::AddContact>(&of_alice).await?;
    bob.call::<method::BlockContact>(&of_alice).await?;
    // What the server was told before the answer to this counts by then.
    bob.call::<method::AddContact>(&fastchat_ipc::OfContact { contact: "carol".into(), ..Default::default() }).await?;
    let error = alice.refusal::<method::AddGroupMembers>(&members_of("ops", &["bob"])).await?;
    assert_eq!(error.code, ErrorCode::Refused, "{error:?}");
    agree(&mut [alice, carol], "ops", &["alice", "carol"]).await?;
    assert!(bob.seen_group("ops").await?.is_none());
    Ok(())
}
