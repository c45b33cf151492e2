//! A server that lies about groups: who is in them, under which keys, what was said and what was changed.
//!
//! **Invariant**: nobody gets in by the server's word, nothing shows in somebody's name that they did not say, and what
//! the server keeps back, forges or turns around shows.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fastchat_e2ee::{Device, Identity};
use fastchat_ipc::{EventKind, GroupState, Message, MessageKind, MessageState, NewGroup, OfAccount, SignIn, method};
use fastchat_tests::{FalseServer, Insider, Person, agree, external};
use fastchat_wire::{
    ConversationId, MessageId,
    v1::{self, Deliver, Entry, EntryKind, ServerFrame, server_frame::Body},
};
use uuid::Uuid;

async fn people(server: &FalseServer, names: &[&str]) -> Result<Vec<Person>> {
    futures_util::future::try_join_all(
        names.iter().map(|name| async move { Person::registered_at(name, &server.account(name), server.pin()).await }),
    )
    .await
}

/// Alice and bob in a group.
async fn group(server: &FalseServer) -> Result<(Person, Person, ConversationId)> {
    let mut two = people(server, &["alice", "bob"]).await?.into_iter();
    let (mut alice, mut bob) = (two.next().context("alice")?, two.next().context("bob")?);
    let id = alice.make_group("ops", &["bob"]).await?.id.parse()?;
    agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    Ok((alice, bob, id))
}

/// Does this with what the server delivers to an account.
fn to_entries_of(
    account: &'static str,
    mut lie: impl FnMut(Deliver) -> Vec<Deliver> + Send + 'static,
) -> impl FnMut(&str, ServerFrame) -> Vec<ServerFrame> + Send {
    move |to, frame| match frame.body {
        Some(Body::Deliver(deliver)) if to == account => {
            let frame = |deliver| ServerFrame { request: 0, body: Some(Body::Deliver(deliver)) };
            lie(deliver).into_iter().map(frame).collect()
        }
        body => vec![ServerFrame { request: frame.request, body }],
    }
}

async fn marks(person: &mut Person, chat: &str) -> Result<Vec<String>> {
    let history: Vec<Message> = person.history(chat).await?;
    Ok(history.into_iter().filter(|message| message.kind != MessageKind::Text).map(|m| m.text).collect())
}

async fn sees_mark(person: &mut Person, chat: &str, part: &str) -> Result<()> {
    let found = person
        .until(&format!("a mark with `{part}`"), async |person| {
            Ok(marks(person, chat).await?.iter().any(|text| text.contains(part)).then_some(()))
        })
        .await;
    match found {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("instead: {:#?}", marks(person, chat).await?))),
    }
}

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
    let (mut alice, mut bob, _) = group(&server).await?;
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
    let mut two = people(&server, &["alice", "bob"]).await?;
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
        let (mut alice, mut bob, id) = group(&server).await?;
        let before = alice.group("ops").await?;
        let identity = Insider::identity().await?;
        let device = Device::issue(&identity, account, Uuid::now_v7())?;
        let state = server.group_state().await?;
        let (_, _, forged) = external(&state, &device, id)?;
        let deliver = commit_entry(&state, account, &device, &forged.frame());
        server.say("bob", Body::Deliver(deliver)).await?;
        // Bob says that he does not follow, and does not.
        sees_mark(&mut bob, "ops", "refuse").await.with_context(|| format!("as {account}"))?;
        let group = bob.group("ops").await?;
        ensure!(group.members.len() == 2 && group.members.iter().all(|m| m.devices == 1), "{account}: {group:#?}");
        assert_eq!(group.epoch, before.epoch, "{account}");
        // Alice, who was told nothing, is where she was.
        assert_eq!(alice.group("ops").await?.authenticator, before.authenticator);
    }
    Ok(())
}

#[tokio::test]
async fn a_welcome_into_a_group_in_anothers_name_is_not_taken() -> Result<()> {
    let server = FalseServer::start().await?;
    let mut two = people(&server, &["alice", "bob"]).await?;
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
    // As the server has it, bob was added: he is not in it, and is told that the key is another one.
    alice.make_group("ops", &["bob"]).await?;
    bob.until("the change is said", async |bob| Ok(bob.contact("alice").await?.key_changed.then_some(()))).await?;
    ensure!(bob.seen_group("ops").await?.is_none_or(|group| group.state != GroupState::Active));
    Ok(())
}

#[tokio::test]
async fn a_join_key_that_the_adder_did_not_sign_lets_nobody_in_by_it() -> Result<()> {
    let server = FalseServer::start().await?;
    let mut two = people(&server, &["alice", "bob"]).await?;
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
async fn no_altered_field_of_a_groups_entry_makes_a_message_of_somebody_else() -> Result<()> {
    type Change = fn(&mut Entry);
    let changes: [(&str, Change); 8] = [
        ("sender", |entry| entry.sender = "mallory".into()),
        ("device", |entry| entry.device = Bytes::copy_from_slice(Uuid::now_v7().as_bytes())),
        ("epoch", |entry| entry.epoch += 1),
        ("seq", |entry| entry.seq += 1),
        ("message_id", |entry| entry.message_id = MessageId::generate().to_wire()),
        ("kind", |entry| entry.kind = EntryKind::Commit.into()),
        ("kind of a proposal", |entry| entry.kind = EntryKind::Proposal.into()),
        ("payload", |entry| {
            let mut payload = entry.payload.to_vec();
            let middle = payload.len() / 2;
            payload[middle] ^= 1;
            entry.payload = payload.into();
        }),
    ];
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, _) = group(&server).await?;
    for (field, change) in changes {
        let mut done = false;
        server
            .lie(to_entries_of("bob", move |mut deliver| {
                if !std::mem::replace(&mut done, true) {
                    deliver.entries.iter_mut().for_each(change);
                }
                vec![deliver]
            }))
            .await?;
        let text = format!("altered {field}");
        alice.say("ops", &text).await?;
        server.be_honest().await?;
        // The next one is heard, or said to be missing; from there on it goes on.
        let next = format!("next to {field}");
        alice.say("ops", &next).await?;
        bob.until(&format!("`{next}`, or that it is missing"), async |bob| {
            let missing = marks(bob, "ops").await?.iter().any(|text| text.contains("missing here"));
            Ok((missing || bob.heard("ops").await?.contains(&next)).then_some(()))
        })
        .await?;
        agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await.with_context(|| field.to_owned())?;
        let after = format!("after {field}");
        alice.say("ops", &after).await?;
        bob.hears("ops", &after).await.with_context(|| field.to_owned())?;
        let history = bob.history("ops").await?;
        let odd = history.iter().find(|m| m.kind == MessageKind::Text && !m.mine && m.from != "alice");
        ensure!(odd.is_none(), "{field}: {odd:?}");
        ensure!(history.iter().filter(|m| m.text == text).count() <= 1, "{field}: {history:#?}");
        bob.say("ops", &format!("bob {after}")).await?;
        alice.hears("ops", &format!("bob {after}")).await?;
    }
    Ok(())
}

#[tokio::test]
async fn entries_of_one_group_show_nothing_in_another() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, _) = group(&server).await?;
    let other: ConversationId = alice.make_group("other", &["bob"]).await?.id.parse()?;
    agree(&mut [&mut alice, &mut bob], "other", &["alice", "bob"]).await?;
    alice.say("other", "in the other one").await?;
    bob.hears("other", "in the other one").await?;
    let mut seq = 2;
    server
        .lie(to_entries_of("bob", move |deliver| {
            // What was said in one group is delivered in the other one as well.
            let mut copy = deliver.clone();
            copy.conversation = other.to_wire();
            for entry in &mut copy.entries {
                seq += 1;
                entry.seq = seq;
            }
            vec![copy, deliver]
        }))
        .await?;
    alice.say("ops", "for ops alone").await?;
    bob.hears("ops", "for ops alone").await?;
    sees_mark(&mut bob, "other", "could not be read").await?;
    assert_eq!(bob.texts("other").await?, ["in the other one"]);
    assert_eq!(bob.texts("ops").await?, ["for ops alone"]);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_is_kept_back_is_noticed_and_made_up_for() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, _) = group(&server).await?;
    server
        .lie(to_entries_of("bob", |mut deliver| {
            deliver.entries.retain(|entry| entry.kind() != EntryKind::Commit);
            if deliver.entries.is_empty() { Vec::new() } else { vec![deliver] }
        }))
        .await?;
    alice.set_topic("ops", "bob does not know").await?;
    server.be_honest().await?;
    alice.say("ops", "do you know?").await?;
    sees_mark(&mut bob, "ops", "lost its place").await?;
    let group = agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    assert_eq!(group.topic, "bob does not know");
    alice.say("ops", "now you do").await?;
    bob.hears("ops", "now you do").await
}

#[tokio::test]
async fn a_made_up_state_of_a_group_lets_a_device_into_nothing() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, id) = group(&server).await?;
    let honest = server.group_state().await?;
    let other = {
        alice.make_group("other", &[]).await?;
        server.group_state().await?
    };
    ensure!(other.conversation != honest.conversation);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    server
        .lie(move |_, mut frame| {
            if let Some(Body::GroupState(state)) = &mut frame.body {
                // Another group's state, another one's tree, another's GroupInfo, garbage, a stale one.
                match count.fetch_add(1, Ordering::AcqRel) % 4 {
                    0 => {
                        state.group_info = other.group_info.clone();
                        state.ratchet_tree = other.ratchet_tree.clone();
                    }
                    1 => state.ratchet_tree = other.ratchet_tree.clone(),
                    2 => state.group_info = vec![7; 700].into(),
                    _ => state.ratchet_tree = vec![7; 700].into(),
                }
            }
            vec![frame]
        })
        .await?;
    server.say("bob", Body::Unjoined(v1::Unjoined { conversation: id.to_wire() })).await?;
    let seen = Arc::clone(&asked);
    bob.until("two lies were refused", async |bob| {
        let state = bob.group("ops").await?.state;
        ensure!(seen.load(Ordering::Acquire) == 0 || state == GroupState::Joining, "{state:?}");
        // Whatever else happens to bob wakes this up: another message to him in a minute is enough.
        Ok((seen.load(Ordering::Acquire) >= 1 && state == GroupState::Joining).then_some(()))
    })
    .await?;
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
    let mut three = people(&server, &["alice", "bob", "carol"]).await?;
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
async fn an_end_that_the_server_made_up_ends_no_conversation() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, id) = group(&server).await?;
    alice.deliver("bob", "before").await?;
    server.say("alice", Body::Closed(v1::Closed { conversation: id.to_wire(), by: Bytes::new() })).await?;
    agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    alice.say("ops", "not at all").await?;
    bob.hears("ops", "not at all").await?;
    let unknown = v1::Closed { conversation: ConversationId::generate().to_wire(), by: Bytes::new() };
    server.say("alice", Body::Closed(unknown)).await?;
    alice.deliver("bob", "after").await?;
    bob.hears("alice", "after").await
}

#[tokio::test]
async fn in_a_group_only_members_count_for_delivered() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, bob, id) = group(&server).await?;
    server
        .lie(|to, frame| match (&frame.body, to) {
            (Some(Body::Deliver(_)), "bob") => Vec::new(),
            _ => vec![frame],
        })
        .await?;
    let sent = alice.say("ops", "for bob").await?;
    for account in ["mallory", "alice", ""] {
        let forged = v1::Delivered { conversation: id.to_wire(), account: account.into(), seq: 100 };
        server.say("alice", Body::Delivered(forged)).await?;
    }
    let nobody = fastchat_ipc::OfContact { contact: "nobody".into(), ..Default::default() };
    alice.refusal::<method::AddContact>(&nobody).await?;
    let history = alice.history("ops").await?;
    ensure!(history.iter().any(|m| m.id == sent.id && m.state == MessageState::Sent), "{history:?}");
    drop(bob);
    Ok(())
}

#[tokio::test]
async fn a_device_that_the_server_made_up_is_said_to_the_person() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, _) = group(&server).await?;
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

#[tokio::test]
async fn endless_garbage_stops_nothing() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, id) = group(&server).await?;
    for round in 0..300_u64 {
        let conversation = if round % 2 == 0 { id } else { ConversationId::generate() };
        let junk = Bytes::from(vec![u8::try_from(round % 251)?; 2000]);
        let entry = |seq| Entry {
            seq,
            message_id: junk.slice(..if round % 3 == 0 { 16 } else { 5 }),
            sender: "\u{1b}[2J".into(),
            device: junk.slice(..16),
            epoch: u64::MAX - round,
            kind: i32::try_from(round % 7).unwrap_or_default(),
            payload: junk.clone(),
            server_time_ms: u64::MAX,
        };
        let joining = v1::Joining {
            conversation: conversation.to_wire(),
            creator: if round % 5 == 0 { "alice".into() } else { "x".repeat(3000) },
            creator_identity_key: junk.clone(),
            welcome: Some(v1::Welcome { device: junk.slice(..16), welcome: junk.clone(), join_key: junk.clone() }),
            start_seq: u64::MAX,
            ratchet_tree: junk.clone(),
            group: round % 4 == 0,
            ..v1::Joining::default()
        };
        for body in [
            Body::Deliver(Deliver { conversation: junk.slice(..3), entries: vec![entry(1)], expired_through: 0 }),
            Body::Deliver(Deliver {
                conversation: ConversationId::generate().to_wire(),
                entries: vec![entry(1), entry(u64::MAX)],
                expired_through: round,
            }),
            Body::Joining(joining),
            Body::Delivered(v1::Delivered {
                conversation: conversation.to_wire(),
                account: "alice".into(),
                seq: round << 50,
            }),
            Body::Presence(v1::Presence { account: "nobody".into(), active: true, since_ms: u64::MAX }),
        ] {
            server.say("bob", body).await?;
        }
    }
    alice.say("ops", "through it all").await?;
    bob.hears("ops", "through it all").await?;
    bob.say("ops", "as if nothing was").await?;
    alice.hears("ops", "as if nothing was").await
}
