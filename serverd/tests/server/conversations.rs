//! Making conversations, submitting, delivering.

use bytes::Bytes;
use fastchat_wire::{
    Code,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};
use rustix::process::Signal;

use crate::{
    client::{Client, Device, entry, login, submit},
    mls::direct,
    server::Server,
};

/// Two people with a conversation.
pub(crate) struct Pair {
    pub(crate) alice: Client,
    pub(crate) alice_device: Device,
    pub(crate) bob: Client,
    pub(crate) bob_device: Device,
    pub(crate) conversation: Bytes,
}

pub(crate) async fn pair(server: &Server) -> Pair {
    let (mut alice, alice_device) = Client::register(server.address, "alice").await;
    let (mut bob, bob_device) = Client::register(server.address, "bob").await;
    assert_eq!(alice.claim("bob").await.len(), 1);
    let Body::Direct(made) = alice.create(&alice_device, &[&bob_device], Bytes::new()).await else {
        panic!("not made")
    };
    assert!(made.created && made.member);
    let Body::Joining(joining) = bob.hear().await else { panic!("no Joining") };
    assert_eq!((joining.creator.as_str(), joining.start_seq), ("alice", 0));
    assert_eq!(joining.creator_identity_key, alice_device.identity());
    assert_eq!(joining.peer, "bob");
    assert_eq!(joining.conversation, made.conversation);
    bob.ack(&joining.conversation, 0).await;
    Pair { alice, alice_device, bob, bob_device, conversation: made.conversation }
}

fn seqs(body: Body) -> Vec<u64> {
    match body {
        Body::Accepted(accepted) => accepted.seqs,
        other => panic!("not accepted: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_from_one_to_the_other_and_back_comes_how_far() {
    let server = Server::start().await;
    let Pair { mut alice, mut bob, conversation, alice_device, .. } = pair(&server).await;
    assert_eq!(seqs(alice.ask(submit(&conversation, vec![entry("one"), entry("two")])).await), [1, 2]);
    let got = bob.entries().await;
    let shown: Vec<_> = got.iter().map(|entry| (entry.seq, &entry.payload[..], entry.sender.as_str())).collect();
    assert_eq!(shown, [(1, &b"one"[..], "alice"), (2, &b"two"[..], "alice")]);
    assert_eq!(got[0].device, alice_device.id.to_wire());
    // Her own come back without their payload.
    let own = alice.entries().await;
    assert!(own.len() == 2 && own.iter().all(|entry| entry.payload.is_empty()));
    let Body::Delivered(delivered) = alice.hear().await else { panic!("no Delivered") };
    assert_eq!((delivered.account.as_str(), delivered.seq), ("bob", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_gets_joining_and_entries_on_return_once() {
    let server = Server::start().await;
    let (mut alice, alice_device) = Client::register(server.address, "alice").await;
    let (bob, bob_device) = Client::register(server.address, "bob").await;
    drop(bob);
    let Body::Direct(made) = alice.create(&alice_device, &[&bob_device], Bytes::new()).await else {
        panic!("not made")
    };
    for number in 1..=5 {
        let seqs = seqs(alice.ask(submit(&made.conversation, vec![entry(&number.to_string())])).await);
        assert_eq!(seqs, [number]);
    }
    let mut bob = Client::resume(server.address, &bob_device).await;
    assert!(matches!(bob.hear().await, Body::Joining(_)));
    let mut got = Vec::new();
    while got.len() < 5 {
        got.extend(bob.entries().await.into_iter().map(|entry| entry.seq));
    }
    assert_eq!(got, [1, 2, 3, 4, 5]);
    bob.ping().await;
    // Cursors are written in batches, so one may be told again; a stop writes all.
    server.signal(Signal::TERM);
    let server = server.restart_when_stopped().await;
    let mut alice = Client::resume(server.address, &alice_device).await;
    let mut bob = Client::resume(server.address, &bob_device).await;
    assert_eq!(seqs(alice.ask(submit(&made.conversation, vec![entry("6")])).await), [6]);
    loop {
        match bob.hear().await {
            Body::Deliver(deliver) => break assert_eq!(deliver.entries[0].seq, 6),
            Body::Joining(joining) => panic!("{joining:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_start_at_once_end_up_in_the_same_conversation() {
    let server = Server::start().await;
    let (mut alice, alice_device) = Client::register(server.address, "alice").await;
    let (mut bob, bob_device) = Client::register(server.address, "bob").await;
    let (to_bob, to_alice) = ([&bob_device], [&alice_device]);
    let (one, two) = tokio::join!(
        alice.create(&alice_device, &to_bob, Bytes::new()),
        bob.create(&bob_device, &to_alice, Bytes::new())
    );
    let (Body::Direct(one), Body::Direct(two)) = (one, two) else { panic!("not made") };
    assert_eq!(one.conversation, two.conversation);
    assert!(one.created != two.created && one.member && two.member);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_gets_the_same_answer_and_is_delivered_once() {
    let server = Server::start().await;
    let Pair { mut alice, mut bob, conversation, .. } = pair(&server).await;
    let sent = entry("once");
    let first = alice.ask(submit(&conversation, vec![sent.clone()])).await;
    assert_eq!(first, alice.ask(submit(&conversation, vec![sent.clone()])).await);
    let changed = v1::NewEntry { payload: "other".into(), ..sent };
    assert_eq!(alice.refused(submit(&conversation, vec![changed])).await.code(), Code::Conflict);
    assert_eq!(seqs(alice.ask(submit(&conversation, vec![entry("next")])).await), [2]);
    let mut got = bob.entries().await;
    got.extend(bob.entries().await);
    assert_eq!(got.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submit_is_all_or_nothing() {
    let server = Server::start().await;
    let Pair { mut alice, conversation, .. } = pair(&server).await;
    let stale = v1::NewEntry { epoch: 0, ..entry("old") };
    let failure = alice.refused(submit(&conversation, vec![entry("good"), stale])).await;
    assert_eq!((failure.code(), failure.epoch), (Code::StaleEpoch, 1));
    let commit = v1::NewEntry { kind: v1::EntryKind::Commit.into(), ..entry("commit") };
    assert_eq!(alice.refused(submit(&conversation, vec![commit])).await.code(), Code::Invalid);
    assert_eq!(seqs(alice.ask(submit(&conversation, vec![entry("first")])).await), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_blocked_cannot_append() {
    let server = Server::start().await;
    let Pair { mut alice, mut bob, conversation, bob_device, .. } = pair(&server).await;
    let (mut carol, carol_device) = Client::register(server.address, "carol").await;
    assert_eq!(carol.refused(submit(&conversation, vec![entry("x")])).await.code(), Code::NotAMember);
    for (account, blocked) in [("alice", true), ("carol", true)] {
        let block = v1::SetBlocked { account: account.into(), blocked };
        assert!(matches!(bob.ask(Ask::SetBlocked(block)).await, Body::Done(_)));
    }
    assert_eq!(alice.refused(submit(&conversation, vec![entry("x")])).await.code(), Code::Refused);
    let Body::Failure(failure) = carol.create(&carol_device, &[&bob_device], Bytes::new()).await else {
        panic!("made")
    };
    assert_eq!(failure.code(), Code::Refused);
    let unblock = v1::SetBlocked { account: "alice".into(), blocked: false };
    assert!(matches!(bob.ask(Ask::SetBlocked(unblock)).await, Body::Done(_)));
    assert_eq!(seqs(alice.ask(submit(&conversation, vec![entry("x")])).await), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_device_gets_no_more_than_its_window() {
    let server = Server::start_with("[limits]\nwindow_entries = 4").await;
    let Pair { mut alice, mut bob, conversation, .. } = pair(&server).await;
    for number in 1..=20 {
        let accepted = alice.ask(submit(&conversation, vec![entry(&number.to_string())])).await;
        assert_eq!(seqs(accepted), [number]);
    }
    let mut got = Vec::new();
    while got.len() < 4 {
        got.extend(bob.deliver().await.entries.into_iter().map(|entry| entry.seq));
    }
    assert_eq!(got, [1, 2, 3, 4]);
    // The answer comes after whatever else was on its way: nothing was.
    let request = bob.send(Ask::Ping(v1::Ping {})).await;
    assert_eq!(bob.read().await.unwrap().request, request);
    bob.ack(&conversation, 4).await;
    while got.len() < 20 {
        got.extend(bob.entries().await.into_iter().map(|entry| entry.seq));
    }
    assert_eq!(got, (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_closes_direct_conversations_until_they_are_made_anew() {
    let server = Server::start().await;
    let Pair { mut alice, mut bob, conversation, alice_device, bob_device } = pair(&server).await;
    // A device that nobody can write to yet stops nobody.
    let second_device = Device::new("bob");
    let mut second = Client::greet(server.address).await;
    assert!(matches!(second.ask(Ask::Login(login("0a", &second_device))).await, Body::Session(_)));
    assert_eq!(seqs(alice.ask(submit(&conversation, vec![entry("meanwhile")])).await), [1]);
    assert_eq!(alice.claim("bob").await.len(), 1);
    assert_eq!(alice.entries().await.len() + bob.entries().await.len(), 2);
    let Body::Delivered(_) = alice.hear().await else { panic!("no Delivered") };
    second.publish("bob").await;
    assert_eq!(alice.claim("bob").await.len(), 2);
    for client in [&mut alice, &mut bob] {
        let closed = client.closed().await;
        assert_eq!((&closed.conversation, closed.by.len()), (&conversation, 0));
    }
    assert!(matches!(bob.hear().await, Body::DevicesChanged(_)));
    let failure = alice.refused(submit(&conversation, vec![entry("lost?")])).await;
    assert_eq!((failure.code(), failure.conversation.len()), (Code::ClosedConversation, 0));
    let all = [&bob_device, &second_device];
    let Body::Direct(there) = alice.create(&alice_device, &all, Bytes::new()).await else { panic!("refused") };
    assert!(!there.created && !there.member && there.conversation == conversation);
    let fewer = alice.create(&alice_device, &all[..1], conversation.clone()).await;
    assert!(matches!(fewer, Body::Failure(failure) if failure.code() == Code::NoKeyPackages));
    let Body::Direct(made) = alice.create(&alice_device, &all, conversation.clone()).await else { panic!("refused") };
    assert!(made.created && made.member);
    for (client, device) in [(&mut bob, &bob_device), (&mut second, &second_device)] {
        let joining = client.joining().await;
        assert_eq!((&joining.conversation, &joining.replaces), (&made.conversation, &conversation));
        let group = crate::mls::Group::join(device, &joining);
        assert_eq!(group.epoch(), 1, "the Welcome opens with the tree beside it");
        client.ack(&joining.conversation, 0).await;
    }
    let Body::Closed(closed) = alice.hear().await else { panic!("no Closed") };
    assert_eq!(closed.by, made.conversation);
    let failure = alice.refused(submit(&conversation, vec![entry("late")])).await;
    assert_eq!((failure.code(), failure.conversation), (Code::ClosedConversation, made.conversation.clone()));
    assert_eq!(seqs(alice.ask(submit(&made.conversation, vec![entry("found")])).await), [1]);
    assert_eq!(bob.entries().await[0].payload, "found");
    assert_eq!(second.entries().await[0].payload, "found");
    // The furthest of bob's devices is told, and once.
    let Body::Deliver(_) = alice.hear().await else { panic!("no own entry") };
    let Body::Delivered(delivered) = alice.hear().await else { panic!("no Delivered") };
    assert_eq!((delivered.account.as_str(), delivered.seq), ("bob", 1));
    alice.ping().await;
    assert!(alice.is_quiet());
}

#[tokio::test(flavor = "multi_thread")]
async fn own_devices_have_a_conversation_with_each_other() {
    let server = Server::start().await;
    let (mut one, one_device) = Client::register(server.address, "alice").await;
    let (mut two, two_device) = Client::log_in(server.address, "alice").await;
    let Body::Direct(made) = one.create(&one_device, &[&two_device], Bytes::new()).await else { panic!("refused") };
    assert!(made.created);
    let joining = two.joining().await;
    assert_eq!((joining.creator.as_str(), joining.peer.as_str()), ("alice", "alice"));
    two.ack(&joining.conversation, 0).await;
    assert_eq!(seqs(one.ask(submit(&made.conversation, vec![entry("read up to")])).await), [1]);
    assert_eq!(two.entries().await[0].payload, "read up to");
    let mut again = Vec::new();
    for _ in 0..2 {
        again.extend(one.claim("alice").await.into_iter().map(|package| package.device));
    }
    assert_eq!(again, [two_device.id.to_wire(), two_device.id.to_wire()], "one's other devices alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_create_again_is_the_same_conversation() {
    let server = Server::start().await;
    let (mut alice, alice_device) = Client::register(server.address, "alice").await;
    let (_bob, bob_device) = Client::register(server.address, "bob").await;
    let create = direct(&alice_device, &[&bob_device], Bytes::new());
    let first = alice.ask(Ask::CreateDirect(create.clone())).await;
    assert_eq!(first, alice.ask(Ask::CreateDirect(create)).await);
    let nobody = Device::new("nobody");
    let Body::Failure(failure) = alice.create(&alice_device, &[&nobody], Bytes::new()).await else { panic!("made") };
    assert_eq!(failure.code(), Code::NotFound);
    let (_carol, carol_device) = Client::register(server.address, "carol").await;
    let mut other = direct(&alice_device, &[&bob_device], Bytes::new());
    other.peer = "carol".into();
    let failure = alice.refused(Ask::CreateDirect(other)).await;
    assert_eq!(failure.code(), Code::NoKeyPackages);
    let made = alice.create(&alice_device, &[&carol_device], Bytes::new()).await;
    assert!(matches!(made, Body::Direct(_)), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_packages_are_handed_out_once_and_the_last_resort_for_ever() {
    let server = Server::start().await;
    let Pair { mut alice, mut bob, .. } = pair(&server).await;
    let mut claimed = Vec::new();
    for _ in 0..5 {
        claimed.extend(alice.claim("bob").await.into_iter().map(|package| package.key_package));
    }
    // The pair has claimed one already, as strangers: they got the last one.
    assert_eq!(claimed, ["bob 0", "bob 1", "bob 2", "last", "last"]);
    bob.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_is_shared_only_both_ways() {
    let server = Server::start().await;
    let (mut alice, _) = Client::register(server.address, "alice").await;
    let (mut bob, _) = Client::register(server.address, "bob").await;
    let share = |account: &str| Ask::SharePresence(v1::SharePresence { accounts: vec![account.into()] });
    assert!(matches!(alice.ask(share("bob")).await, Body::Done(_)));
    bob.ping().await;
    assert!(matches!(bob.ask(share("alice")).await, Body::Done(_)));
    for (client, other) in [(&mut alice, "bob"), (&mut bob, "alice")] {
        let Body::Presence(presence) = client.hear().await else { panic!("no Presence") };
        assert_eq!((presence.account.as_str(), presence.active), (other, true));
    }
    drop(bob);
    let Body::Presence(presence) = alice.hear().await else { panic!("no Presence") };
    assert_eq!((presence.account.as_str(), presence.active), ("bob", false));
}
