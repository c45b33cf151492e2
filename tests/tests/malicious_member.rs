//! A member of a group who ignores the rules: forged commits, roles it does not have, replays, floods, states of old.
//!
//! **Invariant**: the server refuses what the rules do not allow and says which rule; whatever gets into the log, honest
//! members stay in one group, hear each other, and see nothing in anybody's name that they did not say.

use anyhow::{Context, Result, bail, ensure};
use fastchat_e2ee::{Change, Transaction};
use fastchat_ipc::{Group, MessageKind};
use fastchat_mls::GroupProfile;
use fastchat_tests::{Builder, Forged, Forger, Insider, Person, Server, agree, within};
use fastchat_wire::{
    Code, ConversationId, MessageId,
    v1::{self, client_frame::Body as Ask, server_frame::Body as Said},
};

/// Alice (admin) and bob with daemons, mallory without, all in one group.
struct Scene {
    _server: Server,
    alice: Person,
    bob: Person,
    mallory: Insider,
    id: ConversationId,
}

impl Scene {
    async fn set() -> Result<Self> {
        let server = Server::start().await?;
        let (identity, address) = (Insider::identity().await?, server.address());
        let (alice, bob, mallory) = tokio::try_join!(
            Person::registered("alice", &server),
            Person::registered("bob", &server),
            Insider::register("mallory", &address, identity),
        )?;
        let mut scene = Self { _server: server, alice, bob, mallory, id: ConversationId::generate() };
        let group = scene.alice.make_group("ops", &["bob", "mallory"]).await?;
        scene.id = group.id.parse()?;
        within("mallory is in", async { scene.mallory.added().await }).await?;
        scene.agree(&["alice", "bob", "mallory"]).await?;
        Ok(scene)
    }

    async fn agree(&mut self, members: &[&str]) -> Result<Group> {
        agree(&mut [&mut self.alice, &mut self.bob], "ops", members).await
    }

    /// The honest ones are as they were, and hear each other.
    async fn is_well(&mut self, after: &str) -> Result<()> {
        let group = self.agree(&["alice", "bob", "mallory"]).await.with_context(|| format!("after {after}"))?;
        ensure!(group.name == "ops" && group.topic.is_empty(), "after {after}: {group:#?}");
        ensure!(group.members.iter().all(|member| member.admin == (member.name == "alice")), "after {after}");
        self.alice.say("ops", &format!("alice after {after}")).await?;
        self.bob.hears("ops", &format!("alice after {after}")).await?;
        self.bob.say("ops", &format!("bob after {after}")).await?;
        self.alice.hears("ops", &format!("bob after {after}")).await
    }

    async fn refused(&mut self, forged: v1::Handshake, what: &str, codes: &[Code]) -> Result<()> {
        refused(&self.mallory.hand_in(forged).await?, what, codes)
    }
}

/// It is refused, with one of these codes and a text.
fn refused(answer: &Said, what: &str, codes: &[Code]) -> Result<()> {
    match answer {
        Said::Failure(failure) if codes.contains(&failure.code()) && !failure.text.is_empty() => Ok(()),
        other => bail!("{what}: instead of one of {codes:?} there is {other:?}"),
    }
}

#[expect(clippy::expect_used, reason = "a builder in a test: what it is given is fixed")]
fn with_profile<'a>(builder: Builder<'a>, profile: &GroupProfile) -> Builder<'a> {
    let extensions = profile.to_extensions().expect("a profile within its bounds");
    builder.propose_group_context_extensions(extensions).expect("extensions that MLS takes")
}

#[tokio::test]
async fn commits_that_the_makers_role_does_not_allow_are_refused_with_their_code() -> Result<()> {
    let mut scene = Scene::set().await?;
    let forger = Forger::come_in(&mut scene.mallory, scene.id).await?;
    scene.is_well("coming in").await?;
    // Messages do not change the epoch: the forger is still where the group is.
    let (alice, bob) = (forger.leaves_of("alice")?, forger.leaves_of("bob")?);
    let role = [Code::NotAllowed];
    let (id, profile) = (scene.id, forger.profile()?);
    let mut admin = profile.clone();
    admin.admins.push("mallory".into());
    let mut usurped = profile.clone();
    usurped.admins = vec!["mallory".into()];
    let mut renamed = profile.clone();
    renamed.name = "mine".into();
    let mut deleted = profile.clone();
    deleted.deleted = true;
    for (what, forged) in [
        ("removing an admin", forger.commit(&scene.mallory, id, |b| b.propose_removals(alice.clone()))?),
        ("removing a member", forger.commit(&scene.mallory, id, |b| b.propose_removals(bob.clone()))?),
        ("becoming an admin", forger.commit(&scene.mallory, id, |b| with_profile(b, &admin))?),
        ("becoming the only admin", forger.commit(&scene.mallory, id, |b| with_profile(b, &usurped))?),
        ("renaming", forger.commit(&scene.mallory, id, |b| with_profile(b, &renamed))?),
        ("deleting", forger.commit(&scene.mallory, id, |b| with_profile(b, &deleted))?),
    ] {
        scene.refused(forged.frame(), what, &role).await?;
    }
    // Somebody of her own, without the right to add anybody.
    let eve = Insider::register("eve", &scene._server.address(), Insider::identity().await?).await?;
    let Said::KeyPackages(packages) = scene.mallory.claim("eve").await? else { bail!("no key packages of eve") };
    let package = forger.key_package(&packages.packages.first().context("one")?.key_package)?;
    let forged = forger.commit(&scene.mallory, id, |builder| builder.propose_adds([package]))?;
    scene.refused(forged.frame(), "adding somebody", &[Code::NotAllowed, Code::HandshakeInvalid]).await?;
    drop(eve);
    scene.is_well("all role violations").await
}

#[tokio::test]
async fn bad_commits_are_refused_with_a_code_that_says_which_check_failed() -> Result<()> {
    let mut scene = Scene::set().await?;
    let forger = Forger::come_in(&mut scene.mallory, scene.id).await?;
    let id = scene.id;
    let plain = |scene: &Scene, aad| forger.commit(&scene.mallory, aad, |builder| builder);
    let good: Forged = plain(&scene, id)?;
    let other: Forged = plain(&scene, id)?;

    let elsewhere = plain(&scene, ConversationId::generate())?;
    let invalid = [Code::HandshakeInvalid, Code::HandshakeMalformed, Code::NotAllowed];
    scene.refused(elsewhere.frame(), "made for another conversation", &invalid).await?;

    let frame = v1::Handshake { message_id: MessageId::generate().to_wire(), ..good.frame() };
    scene.refused(frame, "under another id", &invalid).await?;

    let mut message = good.message.clone();
    let middle = message.len() / 2;
    message[middle] ^= 1;
    let frame = v1::Handshake { message: message.into(), ..good.frame() };
    scene.refused(frame, "altered in its middle", &invalid).await?;

    let frame = v1::Handshake { message: vec![7; 500].into(), ..good.frame() };
    scene.refused(frame, "garbage", &[Code::HandshakeMalformed]).await?;

    let frame = v1::Handshake { group_info: other.group_info.clone().into(), ..good.frame() };
    scene.refused(frame, "another commit's GroupInfo", &[Code::GroupInfoMismatch]).await?;

    let frame = v1::Handshake { group_info: vec![7; 500].into(), ..good.frame() };
    scene.refused(frame, "a GroupInfo of garbage", &[Code::GroupInfoMismatch, Code::HandshakeMalformed]).await?;

    let frame = v1::Handshake { epoch: forger.epoch() - 1, ..good.frame() };
    scene.refused(frame, "of an epoch that is over", &[Code::StaleEpoch]).await?;

    let frame = v1::Handshake { epoch: forger.epoch() + 5, ..good.frame() };
    scene.refused(frame, "of an epoch to come", &[Code::StaleEpoch]).await?;

    let welcome = v1::Welcome {
        device: scene.bob.device().await?.parse::<uuid::Uuid>()?.as_bytes().to_vec().into(),
        welcome: vec![7; 100].into(),
        join_key: vec![7; 100].into(),
    };
    let frame = v1::Handshake { welcomes: vec![welcome], ..good.frame() };
    scene.refused(frame, "with a Welcome for nobody whom it adds", &[Code::RosterMismatch, Code::Invalid]).await?;

    let proposal = v1::EntryKind::Proposal.into();
    let frame = v1::Handshake { kind: proposal, group_info: bytes::Bytes::new(), ..good.frame() };
    scene.refused(frame, "a commit as a proposal", &invalid).await?;
    scene.is_well("all bad commits").await?;

    // The good one is taken once, and its repetition is answered the same, and not taken again.
    let first = scene.mallory.hand_in(good.frame()).await?;
    let again = scene.mallory.hand_in(good.frame()).await?;
    let (Said::Accepted(first), Said::Accepted(again)) = (&first, &again) else { bail!("{first:?} {again:?}") };
    ensure!(first.seqs == again.seqs, "{first:?} {again:?}");
    scene.is_well("a commit twice").await
}

#[tokio::test]
async fn a_commit_that_the_server_cannot_see_through_shuts_nobody_out() -> Result<()> {
    let mut scene = Scene::set().await?;
    let forger = Forger::come_in(&mut scene.mallory, scene.id).await?;
    scene.is_well("coming in").await?;
    // The membership tag at its end is made with a key that the server does not have (RFC 9420, section 6.2).
    let good = forger.commit(&scene.mallory, scene.id, |builder| builder)?;
    let mut message = good.message.clone();
    let last = message.len() - 1;
    message[last] ^= 1;
    let answer = scene.mallory.hand_in(v1::Handshake { message: message.into(), ..good.frame() }).await?;
    ensure!(matches!(answer, Said::Accepted(_)), "{answer:?}");
    scene.is_well("a commit that only members see through").await
}

#[tokio::test]
async fn a_commit_that_leaves_a_leaver_in_is_refused() -> Result<()> {
    let mut scene = Scene::set().await?;
    let forger = Forger::come_in(&mut scene.mallory, scene.id).await?;
    scene.is_well("coming in").await?;
    // Nobody honest is there to take the leaver out.
    scene.alice.daemon.stop().await?;
    let mut client = scene.bob.daemon.client().await?;
    let leaving =
        tokio::spawn(async move { client.call::<fastchat_ipc::method::LeaveGroup>(&fastchat_tests::of("ops")).await });
    scene.bob.group_is("ops", fastchat_ipc::GroupState::Leaving).await?;
    let forged = forger.commit(&scene.mallory, scene.id, |builder| builder)?;
    scene.refused(forged.frame(), "ignoring who leaves", &[Code::ProposalsPending]).await?;
    scene.alice.daemon.start().await?;
    scene.bob.group_is("ops", fastchat_ipc::GroupState::Left).await?;
    leaving.await??;
    agree(&mut [&mut scene.alice], "ops", &["alice", "mallory"]).await.map(drop)
}

#[tokio::test]
async fn a_flood_of_commits_is_slowed_down_and_honest_changes_land() -> Result<()> {
    let mut scene = Scene::set().await?;
    let alice = &mut scene.alice;
    let mut client = alice.daemon.client().await?;
    let (mut accepted, mut limited, mut stale) = (0, 0, 0);
    let (mallory, id) = (&mut scene.mallory, scene.id);
    let flood = async {
        while limited < 3 {
            let handshake = mallory.prepare(id, &Change::default())?;
            let epoch = handshake.epoch;
            match mallory.hand_in(handshake).await? {
                Said::Accepted(_) => {
                    accepted += 1;
                    mallory.until(id, "the commit", |m| Ok(m.epoch(id)? > epoch)).await?;
                }
                Said::Failure(failure) if failure.code() == Code::RateLimited => {
                    ensure!(failure.retry_after_ms > 0, "{failure:?}");
                    mallory.give_up(id)?;
                    limited += 1;
                }
                Said::Failure(failure) if failure.code() == Code::StaleEpoch => {
                    stale += 1;
                    mallory.until(id, "the winner", |m| Ok(m.epoch(id)? > epoch)).await?;
                }
                other => bail!("{other:?}"),
            }
        }
        Ok(())
    };
    let topic = fastchat_ipc::GroupTopic { group: "ops".into(), topic: "in spite of it".into(), ..Default::default() };
    let honest = async { Ok(client.call::<fastchat_ipc::method::SetGroupTopic>(&topic).await?) };
    let (flooded, set) = tokio::join!(within("the flood ends", flood), within("an honest commit", honest));
    flooded?;
    let set = set?;
    ensure!(set.topic == "in spite of it" && set.pending.is_empty(), "{set:#?}");
    ensure!((10..=80).contains(&accepted), "{accepted} commits at once, {stale} stale");
    let mut people = [&mut scene.alice, &mut scene.bob];
    agree(&mut people, "ops", &["alice", "bob", "mallory"]).await?;
    scene.bob.say("ops", "still here").await?;
    scene.alice.hears("ops", "still here").await
}

#[tokio::test]
async fn entries_that_nobody_can_open_stop_nothing_and_replays_show_no_message_twice() -> Result<()> {
    let mut scene = Scene::set().await?;
    let id = scene.id;
    scene.alice.say("ops", "said once").await?;
    scene.mallory.hears(id, "said once").await?;
    scene.bob.hears("ops", "said once").await?;
    let room = scene.mallory.rooms.get(&id).context("the room")?;
    let said = room.entries.iter().rev().find(|entry| entry.sender == "alice").context("alice's entry")?.clone();
    let (epoch, application) = (scene.mallory.epoch(id)?, v1::EntryKind::Application.into());
    let entry = |payload: bytes::Bytes, message: MessageId| v1::NewEntry {
        message_id: message.to_wire(),
        epoch,
        kind: application,
        payload,
    };
    let fresh = MessageId::generate;
    let mut altered = scene.mallory.seal(id, "altered on its way")?;
    let mut bytes = altered.payload.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    altered.payload = bytes.into();
    let true_one = scene.mallory.seal(id, "mallory's own words")?;
    let moved = entry(scene.mallory.seal(id, "under another id")?.payload, fresh());
    for entry in [
        entry(said.payload.clone(), fresh()),
        entry(said.payload.clone(), MessageId::from_wire(&said.message_id)?),
        entry(vec![7; 300].into(), fresh()),
        altered,
        moved,
        true_one,
    ] {
        // Some of it the server knows to refuse; what it cannot know gets into the log.
        scene.mallory.submit(id, vec![entry]).await?;
    }
    scene.alice.say("ops", "the end").await?;
    scene.bob.hears("ops", "the end").await?;
    scene.alice.hears("ops", "mallory's own words").await?;
    for person in [&mut scene.alice, &mut scene.bob] {
        assert_eq!(person.texts("ops").await?, ["said once", "mallory's own words", "the end"], "{}", person.name);
        let history = person.history("ops").await?;
        ensure!(history.iter().any(|message| message.kind == MessageKind::Unreadable), "{history:#?}");
        let own = history.iter().find(|message| message.text == "mallory's own words").context("her words")?;
        assert_eq!(own.from, "mallory");
    }
    scene.is_well("replays and garbage").await
}

#[tokio::test]
async fn a_removed_member_has_nothing_more_with_all_its_saved_state() -> Result<()> {
    let mut scene = Scene::set().await?;
    let id = scene.id;
    let mut carol = Insider::register("carol", &scene._server.address(), Insider::identity().await?).await?;
    scene.alice.add("ops", &["carol"]).await?;
    within("carol is in", async { carol.added().await }).await?;
    scene.mallory.until(id, "carol is in", |m| Ok(m.members(id).contains(&"carol"))).await?;
    scene.mallory.say(id, "while i am in").await?;
    scene.alice.hears("ops", "while i am in").await?;
    let saved = scene.mallory.state.clone();
    let late = scene.mallory.seal(id, "one more thing")?;
    let commit = scene.mallory.prepare(id, &Change::default())?;
    scene.mallory.state = saved.clone();
    scene.alice.remove("ops", &["mallory"]).await?;
    scene.agree(&["alice", "bob", "carol"]).await?;
    let out = [Code::NotAMember, Code::StaleEpoch, Code::NotFound];
    refused(&scene.mallory.submit(id, vec![late.clone()]).await?, "a message", &out)?;
    let after = v1::NewEntry { epoch: late.epoch + 1, ..late };
    refused(&scene.mallory.submit(id, vec![after]).await?, "a message at the new epoch", &out)?;
    scene.refused(commit, "a commit", &out).await?;
    let fetch = scene.mallory.wire.ask(Ask::FetchGroup(v1::FetchGroup { conversation: id.to_wire() })).await?;
    refused(&fetch, "the group's state", &out)?;
    // What is said from then on does not open with anything that she ever had, were it handed to her.
    scene.bob.say("ops", "without mallory").await?;
    carol.hears(id, "without mallory").await?;
    let entries = &carol.rooms.get(&id).context("carol's room")?.entries;
    let commits = entries.iter().filter(|entry| entry.kind() == v1::EntryKind::Commit);
    let said = entries.iter().rev().find(|entry| entry.sender == "bob").context("bob's entry")?;
    let message = MessageId::from_wire(&said.message_id)?.0;
    for follow in [false, true] {
        let mut transaction = Transaction::new(&saved);
        if follow {
            for commit in commits.clone() {
                // Whatever it makes of them.
                let _ = transaction.process(id.0, MessageId::from_wire(&commit.message_id)?.0, &commit.payload);
            }
        }
        ensure!(transaction.open(id.0, message, &said.payload).is_err(), "a removed member opened what came later");
    }
    Ok(())
}

#[tokio::test]
async fn strangers_learn_and_change_nothing() -> Result<()> {
    let mut scene = Scene::set().await?;
    let id = scene.id;
    let mut eve = Insider::register("eve", &scene._server.address(), Insider::identity().await?).await?;
    let out = [Code::NotAMember, Code::NotFound];
    let fetch = eve.wire.ask(Ask::FetchGroup(v1::FetchGroup { conversation: id.to_wire() })).await?;
    refused(&fetch, "the group's state", &out)?;
    let commit = scene.mallory.prepare(id, &Change::default())?;
    refused(&eve.hand_in(commit.clone()).await?, "a member's commit", &out)?;
    let entry = scene.mallory.seal(id, "by mallory").err();
    ensure!(entry.is_some(), "nothing is sealed while a commit is under way");
    scene.mallory.give_up(id)?;
    let entry = scene.mallory.seal(id, "by mallory")?;
    refused(&eve.submit(id, vec![entry.clone()]).await?, "a member's message", &out)?;
    let own = eve.make_group("hers").await?;
    let moved = v1::Handshake { conversation: own.to_wire(), ..commit };
    let invalid = [Code::HandshakeInvalid, Code::HandshakeMalformed, Code::StaleEpoch];
    refused(&eve.hand_in(moved).await?, "a commit of another group", &invalid)?;
    scene.is_well("a stranger").await
}
