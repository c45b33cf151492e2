//! A server that lies about groups: who is in them, under which keys and roles, which devices there are.
//!
//! **Invariant**: nobody gets in, and nobody gets a role, by the server's word.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fastchat_e2ee::{Device, Identity};
use fastchat_ipc::{EventKind, GroupState, NewGroup, OfAccount, SignIn, method};
use fastchat_tests::{FalseServer, Forger, Insider, Person, agree, external, within};
use fastchat_wire::{
    ConversationId,
    v1::{self, Deliver, Entry, EntryKind, server_frame::Body},
};
use tokio::sync::mpsc;
use uuid::Uuid;

/// An entry with a forged commit, right behind what the log has.
fn commit_entry(state: &v1::GroupState, sender: &str, device: &Device, message: &v1::Handshake) -> Deliver {
    let entry = Entry {
        seq: state.head + 1,
        message_id: message.message_id.clone(),
        sender: sender.to_owned(),
        device: device.id().as_bytes().to_vec().into(),
        epoch: state.epoch,
        kind: EntryKind::Commit.into(),
        payload: message.message.clone(),
        server_time_ms: 1_700_000_000_000,
    };
    Deliver { conversation: state.conversation.clone(), entries: vec![entry], expired_through: 0 }
}

#[tokio::test]
async fn the_made_up_server_keeps_groups_honestly_without_a_lie() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, _) = server.group().await?;
    alice.say("ops", "hello").await?;
    bob.hears("ops", "hello").await?;
    bob.say("ops", "hello too").await?;
    alice.hears("ops", "hello too").await?;
    alice.set_topic("ops", "honesty").await?;
    agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    assert_eq!(alice.texts("ops").await?, bob.texts("ops").await?);
    Ok(())
}

#[tokio::test]
async fn key_packages_of_the_servers_own_get_nobody_into_a_group() -> Result<()> {
    let server = FalseServer::start().await?;
    let mut two = server.people(&["alice", "bob"]).await?;
    let [alice, bob] = two.as_mut_slice() else { unreachable!() };
    let own: Arc<Identity> = Insider::identity().await?;
    let forge = Arc::clone(&own);
    server
        .lie(move |_, mut frame| {
            if let Some(Body::KeyPackages(packages)) = &mut frame.body {
                for package in &mut packages.packages {
                    let device = Uuid::from_slice(&package.device).unwrap_or_default();
                    if let Ok(forged) = own_key_package(&forge, &packages.account, device) {
                        package.key_package = forged;
                    }
                }
            }
            vec![frame]
        })
        .await?;
    let params = NewGroup { name: "ops".into(), members: vec!["bob".into()], ..NewGroup::default() };
    let error = alice.refusal::<method::CreateGroup>(&params).await?;
    assert!(error.message.contains("key package"), "{error:?}");
    let group = alice.group("ops").await?;
    assert_eq!(group.members.len(), 1, "{group:#?}");
    // With an identity of its own to fit them, the one that alice knows decides.
    server.be_honest().await?;
    alice.deliver("bob", "hello").await?;
    let forge = Arc::clone(&own);
    server
        .lie(move |_, mut frame| {
            if let Some(Body::KeyPackages(packages)) = &mut frame.body {
                packages.identity_key = forge.public().to_der().to_vec().into();
                for package in &mut packages.packages {
                    let device = Uuid::from_slice(&package.device).unwrap_or_default();
                    if let Ok(forged) = own_key_package(&forge, &packages.account, device) {
                        package.key_package = forged;
                    }
                }
            }
            vec![frame]
        })
        .await?;
    let error = alice.add("ops", &["bob"]).await.err().context("bob was added under another identity")?;
    ensure!(format!("{error:#}").contains("identity key of bob"), "{error:#}");
    server.be_honest().await?;
    alice.add("ops", &["bob"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await.map(drop)
}

fn own_key_package(identity: &Identity, account: &str, device: Uuid) -> Result<Bytes> {
    struct Nothing;
    impl fastchat_e2ee::StateStore for Nothing {
        fn read(&self, _: &[u8]) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, fastchat_e2ee::StoreError> {
            Ok(None)
        }
    }
    let device = Device::issue(identity, account, device)?;
    let mut transaction = fastchat_e2ee::Transaction::new(&Nothing);
    Ok(transaction.key_packages(&device, 1)?.remove(0).into())
}

#[tokio::test]
async fn a_member_or_device_that_the_server_puts_in_itself_is_followed_by_nobody() -> Result<()> {
    // A stranger, a member's device under the server's identity, and an admin's.
    for account in ["mallory", "bob", "alice"] {
        let server = FalseServer::start().await?;
        let (mut alice, mut bob, id) = server.group().await?;
        let before = alice.group("ops").await?;
        let identity = Insider::identity().await?;
        let device = Device::issue(&identity, account, Uuid::now_v7())?;
        let state = server.group_state().await?;
        let (_, _, forged) = external(&state, &device, id)?;
        let deliver = commit_entry(&state, account, &device, &forged.frame());
        server.say("bob", Body::Deliver(deliver)).await?;
        // Bob says that he does not follow, and does not.
        bob.sees_mark("ops", "refuse").await.with_context(|| format!("as {account}"))?;
        let group = bob.group("ops").await?;
        ensure!(group.members.len() == 2 && group.members.iter().all(|m| m.devices == 1), "{account}: {group:#?}");
        assert_eq!(group.epoch, before.epoch, "{account}");
        // Alice, who was told nothing, is where she was.
        assert_eq!(alice.group("ops").await?.authenticator, before.authenticator);
    }
    Ok(())
}

#[tokio::test]
async fn a_role_that_a_member_does_not_have_is_not_given_by_the_server() -> Result<()> {
    for what in ["removing an admin", "becoming one", "renaming"] {
        let server = FalseServer::start().await?;
        let (mut alice, mut bob, id) = server.group().await?;
        let mut mallory = Insider::register("mallory", server.address(), Insider::identity().await?).await?;
        alice.add("ops", &["mallory"]).await?;
        mallory.added().await?;
        let forger = Forger::come_in(&mut mallory, id).await?;
        let epoch = forger.epoch();
        for person in [&mut alice, &mut bob] {
            let there = async |p: &mut Person| Ok((p.group("ops").await?.epoch == epoch).then_some(()));
            person.until("mallory's commit is followed", there).await?;
        }
        let before = agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob", "mallory"]).await?;
        let (leaves, mut profile) = (forger.leaves_of("alice")?, forger.profile()?);
        let forged = match what {
            "removing an admin" => forger.commit(&mallory, id, |builder| builder.propose_removals(leaves))?,
            "becoming one" => {
                profile.admins.push("mallory".into());
                let extensions = profile.to_extensions()?;
                forger.commit(&mallory, id, |b| b.propose_group_context_extensions(extensions).expect("valid ones"))?
            }
            _ => {
                profile.name = "mine".into();
                let extensions = profile.to_extensions()?;
                forger.commit(&mallory, id, |b| b.propose_group_context_extensions(extensions).expect("valid ones"))?
            }
        };
        let state = server.group_state().await?;
        let deliver = commit_entry(&state, "mallory", &mallory.device, &forged.frame());
        server.say("bob", Body::Deliver(deliver)).await?;
        bob.sees_mark("ops", "refuses to follow").await.with_context(|| what.to_owned())?;
        let group = bob.group("ops").await?;
        assert_eq!((group.epoch, group.members.len(), group.name.as_str()), (before.epoch, 3, "ops"), "{what}");
        ensure!(group.members.iter().all(|member| member.admin == (member.name == "alice")), "{what}: {group:#?}");
        // And nothing more goes to those who may have followed.
        assert_eq!(group.state, GroupState::Left, "{what}");
        assert!(bob.send("ops", "to whom?").await.is_err(), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn a_welcome_into_a_group_in_anothers_name_is_not_taken() -> Result<()> {
    let server = FalseServer::start().await?;
    let mut two = server.people(&["alice", "bob"]).await?;
    let [alice, bob] = two.as_mut_slice() else { unreachable!() };
    alice.deliver("bob", "we know each other").await?;
    bob.deliver("alice", "we do").await?;
    let own = Insider::identity().await?;
    let key: Bytes = own.public().to_der().to_vec().into();
    server
        .lie(move |_, mut frame| {
            if let Some(Body::Joining(joining)) = &mut frame.body {
                joining.creator_identity_key = key.clone();
            }
            vec![frame]
        })
        .await?;
    // The join key is not signed by the identity that the server names: the Welcome is refused, and bob comes in by a
    // commit of his own, where alice's leaf shows who she is.
    alice.make_group("ops", &["bob"]).await?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    ensure!(bob.daemon.log().contains("Welcome is refused"), "it was taken");
    ensure!(!bob.contact("alice").await?.key_changed);
    alice.say("ops", "it is me").await?;
    bob.hears("ops", "it is me").await
}

#[tokio::test]
async fn a_join_key_that_the_adder_did_not_sign_lets_nobody_in_by_it() -> Result<()> {
    let server = FalseServer::start().await?;
    let mut two = server.people(&["alice", "bob"]).await?;
    let [alice, bob] = two.as_mut_slice() else { unreachable!() };
    let lied = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lied);
    server
        .lie(move |_, mut frame| {
            if let Some(Body::Joining(joining)) = &mut frame.body
                && let Some(welcome) = &mut joining.welcome
            {
                count.fetch_add(1, Ordering::AcqRel);
                let mut join_key = welcome.join_key.to_vec();
                let middle = join_key.len() / 2;
                join_key[middle] ^= 1;
                welcome.join_key = join_key.into();
            }
            vec![frame]
        })
        .await?;
    alice.make_group("ops", &["bob"]).await?;
    // The leaf is in the group; its device comes in by a commit of its own, with keys that nobody else chose.
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    assert!(lied.load(Ordering::Acquire) > 0);
    alice.say("ops", "in after all").await?;
    bob.hears("ops", "in after all").await
}

#[tokio::test]
async fn a_made_up_state_of_a_group_lets_a_device_into_nothing() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, id) = server.group().await?;
    let honest = server.group_state().await?;
    let other = {
        alice.make_group("other", &[]).await?;
        server.group_state().await?
    };
    ensure!(other.conversation != honest.conversation);
    let (told, mut lies) = mpsc::unbounded_channel();
    let mut count = 0;
    server
        .lie(move |_, mut frame| {
            if let Some(Body::GroupState(state)) = &mut frame.body {
                // The test may be over.
                let _ = told.send(());
                count += 1;
                // Another group's state, another one's tree, another's GroupInfo, garbage, a stale one.
                match count % 4 {
                    1 => {
                        state.group_info = other.group_info.clone();
                        state.ratchet_tree = other.ratchet_tree.clone();
                    }
                    2 => state.ratchet_tree = other.ratchet_tree.clone(),
                    3 => state.group_info = vec![7; 700].into(),
                    _ => state.ratchet_tree = vec![7; 700].into(),
                }
            }
            vec![frame]
        })
        .await?;
    server.say("bob", Body::Unjoined(v1::Unjoined { conversation: id.to_wire() })).await?;
    bob.group_is("ops", GroupState::Joining).await?;
    for _ in 0..3 {
        // Each is asked for because the one before was refused.
        within("a state is fetched", async { lies.recv().await.context("no lie") }).await?;
    }
    assert_eq!(bob.group("ops").await?.state, GroupState::Joining);
    // With the truth it comes in again.
    server.be_honest().await?;
    alice.say("ops", "the truth").await?;
    agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    alice.say("ops", "together again").await?;
    bob.hears("ops", "together again").await
}

#[tokio::test]
async fn a_group_of_strangers_is_not_come_into_by_the_servers_word() -> Result<()> {
    let server = FalseServer::start().await?;
    let mut three = server.people(&["alice", "bob", "carol"]).await?;
    let [alice, bob, carol] = three.as_mut_slice() else { unreachable!() };
    let id: ConversationId = alice.make_group("ops", &["bob"]).await?.id.parse()?;
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    server.say("carol", Body::Unjoined(v1::Unjoined { conversation: id.to_wire() })).await?;
    server.say("carol", Body::Unjoined(v1::Unjoined { conversation: ConversationId::generate().to_wire() })).await?;
    // What the server says before the answer to this is taken in by then.
    carol.deliver("alice", "do you know of it?").await?;
    let groups = carol.call::<method::ListGroups>(&OfAccount::default()).await?.groups;
    ensure!(groups.iter().all(|group| group.state != GroupState::Active), "{groups:#?}");
    agree(&mut [alice, bob], "ops", &["alice", "bob"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_device_that_the_server_made_up_is_said_to_the_person() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, _) = server.group().await?;
    let made_up = Uuid::now_v7();
    server
        .lie(move |to, mut frame| {
            if let (Some(Body::Devices(devices)), "alice") = (&mut frame.body, to) {
                devices.devices.push(v1::DeviceInfo {
                    device: made_up.as_bytes().to_vec().into(),
                    name: "of the server".into(),
                    ..v1::DeviceInfo::default()
                });
            }
            vec![frame]
        })
        .await?;
    server.say("alice", Body::DevicesChanged(v1::DevicesChanged {})).await?;
    alice
        .until("the device is said", async |alice| {
            let (events, _) = alice.events("0").await?;
            let new = |kind: &EventKind| matches!(kind, EventKind::NewDevice { device, .. } if *device == made_up.to_string());
            Ok(events.iter().any(|event| new(&event.kind)).then_some(()))
        })
        .await?;
    // It has no leaf anywhere, and gets none.
    let group = agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    ensure!(group.members.iter().all(|member| member.devices == 1), "{group:#?}");
    alice.say("ops", "not for it").await?;
    bob.hears("ops", "not for it").await
}

#[tokio::test]
async fn a_password_is_not_stretched_by_parameters_that_are_too_cheap() -> Result<()> {
    let server = FalseServer::start().await?;
    Person::registered_at("alice", &server.account("alice"), server.pin()).await?;
    let mut second = Person::new("alice").await?;
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    server
        .lie(move |_, mut frame| {
            if matches!(frame.body, Some(Body::Done(_))) {
                count.fetch_add(1, Ordering::AcqRel);
                frame.body = Some(Body::PasswordKdf(v1::PasswordKdf {
                    salt: Bytes::from_static(&[7; 16]),
                    memory_kib: 8,
                    iterations: 1,
                    parallelism: 1,
                }));
            }
            vec![frame]
        })
        .await?;
    let sign_in = SignIn { pin: server.pin().to_owned(), ..Person::sign_in(&server.account("alice")) };
    let error = second.refusal::<method::Login>(&sign_in).await?;
    assert_eq!(logins.load(Ordering::Acquire), 1, "nothing derived from the password was sent: {error:?}");
    Ok(())
}
