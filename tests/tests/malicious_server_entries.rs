//! A server that lies about what was said and done in groups: altered, moved, kept back, made up.
//!
//! **Invariant**: nothing shows in somebody's name that they did not say; what is missing or odd shows, and things go on.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use fastchat_ipc::{MessageKind, MessageState, method};
use fastchat_tests::{FalseServer, agree, in_deliveries_to};
use fastchat_wire::{
    ConversationId, MessageId,
    v1::{self, Deliver, Entry, EntryKind, server_frame::Body},
};
use uuid::Uuid;

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
    let (mut alice, mut bob, _) = server.group().await?;
    for (field, change) in changes {
        let mut done = false;
        server
            .lie(in_deliveries_to("bob", move |mut deliver| {
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
            let missing = bob.marks("ops").await?.iter().any(|text| text.contains("missing here"));
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
    let (mut alice, mut bob, _) = server.group().await?;
    let other: ConversationId = alice.make_group("other", &["bob"]).await?.id.parse()?;
    agree(&mut [&mut alice, &mut bob], "other", &["alice", "bob"]).await?;
    alice.say("other", "in the other one").await?;
    bob.hears("other", "in the other one").await?;
    let mut seq = 2;
    server
        .lie(in_deliveries_to("bob", move |deliver| {
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
    bob.sees_mark("other", "could not be read").await?;
    assert_eq!(bob.texts("other").await?, ["in the other one"]);
    assert_eq!(bob.texts("ops").await?, ["for ops alone"]);
    Ok(())
}

#[tokio::test]
async fn a_commit_that_is_kept_back_is_noticed_and_made_up_for() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, _) = server.group().await?;
    server
        .lie(in_deliveries_to("bob", |mut deliver| {
            deliver.entries.retain(|entry| entry.kind() != EntryKind::Commit);
            if deliver.entries.is_empty() { Vec::new() } else { vec![deliver] }
        }))
        .await?;
    alice.set_topic("ops", "bob does not know").await?;
    server.be_honest().await?;
    alice.say("ops", "do you know?").await?;
    bob.sees_mark("ops", "lost its place").await?;
    let group = agree(&mut [&mut alice, &mut bob], "ops", &["alice", "bob"]).await?;
    assert_eq!(group.topic, "bob does not know");
    alice.say("ops", "now you do").await?;
    bob.hears("ops", "now you do").await
}

#[tokio::test]
async fn an_end_that_the_server_made_up_ends_no_conversation() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, id) = server.group().await?;
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
    let (mut alice, bob, id) = server.group().await?;
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
async fn endless_garbage_stops_nothing() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob, id) = server.group().await?;
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
