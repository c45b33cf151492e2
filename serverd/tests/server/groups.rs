//! Groups: making them, who is in them, what their devices get.

use fastchat_wire::{
    Code,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};

use crate::{
    client::{Client, Device, entry, submit},
    mls::{Change, Group},
    server::Server,
};

fn at_epoch(epoch: u64, text: &str) -> Vec<v1::NewEntry> {
    vec![v1::NewEntry { epoch, ..entry(text) }]
}

fn fetch(group: &Group) -> Ask {
    Ask::FetchGroup(v1::FetchGroup { conversation: group.conversation.to_wire() })
}

/// A person who is connected.
struct Person {
    client: Client,
    device: Device,
}

async fn person(server: &Server, name: &str) -> Person {
    let (client, device) = Client::register(server.address, name).await;
    Person { client, device }
}

impl Person {
    /// Commits a change and takes it over.
    async fn change(&mut self, group: &mut Group, change: &Change<'_>) -> u64 {
        let handshake = group.commit(&self.device, change);
        let seq = self.client.commit(handshake).await;
        group.merge(&self.device);
        seq
    }

    /// Takes the Welcome that comes.
    async fn join(&mut self) -> Group {
        let joining = self.client.joining().await;
        let group = Group::join(&self.device, &joining);
        self.client.ack(&joining.conversation, joining.start_seq).await;
        group
    }

    /// Takes the next entries, handshakes of others into the group.
    async fn follow(&mut self, group: &mut Group) -> Vec<v1::Entry> {
        let entries = self.client.entries().await;
        for entry in &entries {
            if entry.kind() != v1::EntryKind::Application && !entry.payload.is_empty() {
                group.apply(&self.device, entry);
            }
        }
        entries
    }

    async fn state(&mut self, group: &Group) -> v1::GroupState {
        match self.client.ask(fetch(group)).await {
            Body::GroupState(state) => state,
            other => panic!("no state: {other:?}"),
        }
    }

    async fn closed(&mut self) -> v1::Closed {
        loop {
            if let Body::Closed(closed) = self.client.hear().await {
                return closed;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_added_gets_tree_and_welcome_and_nothing_from_before() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (person(&server, "alice").await, person(&server, "bob").await);
    let mut of_alice = alice.client.create_group(&alice.device, "friends").await;
    let id = of_alice.conversation.to_wire();
    assert!(matches!(alice.client.ask(submit(&id, at_epoch(0, "before"))).await, Body::Accepted(_)));
    let seq = alice.change(&mut of_alice, &Change { add: vec![&bob.device], ..Change::default() }).await;
    assert_eq!(seq, 2);
    let mut of_bob = bob.join().await;
    assert_eq!((of_bob.epoch(), of_bob.authenticator()), (1, of_alice.authenticator()));
    assert_eq!(of_bob.profile().name, "friends");
    assert!(matches!(alice.client.ask(submit(&id, at_epoch(1, "after"))).await, Body::Accepted(_)));
    let got = bob.follow(&mut of_bob).await;
    assert_eq!(got.iter().map(|entry| (entry.seq, &entry.payload[..])).collect::<Vec<_>>(), [(3, &b"after"[..])]);
    let stale = bob.client.refused(submit(&id, at_epoch(0, "old"))).await;
    assert_eq!((stale.code(), stale.epoch), (Code::StaleEpoch, 1));
    // Changes of others are taken over, and lead to the same keys.
    alice.change(&mut of_alice, &Change::default()).await;
    bob.follow(&mut of_bob).await;
    assert_eq!((of_bob.epoch(), of_bob.authenticator()), (2, of_alice.authenticator()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_gets_the_commit_that_says_so_and_nothing_after() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (person(&server, "alice").await, person(&server, "bob").await);
    let mut of_alice = alice.client.create_group(&alice.device, "friends").await;
    let id = of_alice.conversation.to_wire();
    alice.change(&mut of_alice, &Change { add: vec![&bob.device], ..Change::default() }).await;
    let _of_bob = bob.join().await;
    let removing = of_alice.commit(&alice.device, &Change { remove: vec![&bob.device], ..Change::default() });
    assert_eq!(alice.client.commit(removing).await, 2);
    of_alice.merge(&alice.device);
    assert!(matches!(alice.client.ask(submit(&id, at_epoch(2, "secret"))).await, Body::Accepted(_)));
    let got = bob.client.entries().await;
    assert_eq!(got.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2]);
    let closed = bob.closed().await;
    assert_eq!((closed.conversation, closed.by.len()), (id.clone(), 0));
    let late = bob.client.refused(submit(&id, at_epoch(2, "late"))).await;
    assert_eq!(late.code(), Code::NotAMember);
    assert_eq!(bob.client.refused(fetch(&of_alice)).await.code(), Code::NotAMember);
    assert!(bob.client.is_quiet());
    drop(bob.client);
    let mut bob = Client::resume(server.address, &bob.device).await;
    bob.ping().await;
    assert!(bob.is_quiet(), "it is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_commits_is_taken_and_the_other_made_anew() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (person(&server, "alice").await, person(&server, "bob").await);
    let mut of_alice = alice.client.create_group(&alice.device, "friends").await;
    alice.change(&mut of_alice, &Change { add: vec![&bob.device], ..Change::default() }).await;
    let mut of_bob = bob.join().await;
    let (one, two) =
        (of_alice.commit(&alice.device, &Change::default()), of_bob.commit(&bob.device, &Change::default()));
    let (one, two) = (alice.client.commit(one).await, bob.client.refused(Ask::Handshake(two)).await);
    of_alice.merge(&alice.device);
    assert_eq!((one, two.code(), two.epoch), (2, Code::StaleEpoch, 2));
    of_bob.clear(&bob.device);
    bob.follow(&mut of_bob).await;
    let again = of_bob.commit(&bob.device, &Change::default());
    assert_eq!(bob.client.commit(again.clone()).await, 3);
    of_bob.merge(&bob.device);
    // A lost answer is asked for anew.
    assert_eq!(bob.client.commit(again.clone()).await, 3);
    let altered = v1::Handshake { message: "altered".into(), ..again };
    assert_eq!(bob.client.refused(Ask::Handshake(altered)).await.code(), Code::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_leaves_and_another_takes_him_out() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (person(&server, "alice").await, person(&server, "bob").await);
    let mut of_alice = alice.client.create_group(&alice.device, "friends").await;
    alice.change(&mut of_alice, &Change { add: vec![&bob.device], ..Change::default() }).await;
    let mut of_bob = bob.join().await;
    // A commit that does not know of it comes too late.
    let blind = of_alice.commit(&alice.device, &Change::default());
    of_alice.clear(&alice.device);
    let leave = of_bob.leave(&bob.device);
    assert_eq!(bob.client.commit(leave).await, 2);
    let refused = alice.client.refused(Ask::Handshake(blind)).await;
    assert_eq!(refused.code(), Code::ProposalsPending);
    assert_eq!(alice.state(&of_alice).await.proposals.len(), 1);
    // The own commit that added bob, then his leaving.
    while alice.follow(&mut of_alice).await.last().map(|entry| entry.seq) != Some(2) {}
    assert_eq!(alice.change(&mut of_alice, &Change::default()).await, 3);
    assert_eq!(of_alice.mls.members().count(), 1);
    while bob.client.entries().await.last().map(|entry| entry.seq) != Some(3) {}
    bob.closed().await;
    assert_eq!(bob.client.refused(fetch(&of_alice)).await.code(), Code::NotAMember);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_device_joins_by_itself_and_one_that_lost_its_state_joins_again() {
    let server = Server::start().await;
    let (mut alice, mut bob) = (person(&server, "alice").await, person(&server, "bob").await);
    let mut of_alice = alice.client.create_group(&alice.device, "friends").await;
    alice.change(&mut of_alice, &Change { add: vec![&bob.device], ..Change::default() }).await;
    let mut of_bob = bob.join().await;
    let (client, device) = Client::log_in(server.address, "bob").await;
    let mut second = Person { client, device };
    let Body::Unjoined(unjoined) = second.client.hear().await else { panic!("no Unjoined") };
    assert_eq!(unjoined.conversation, of_alice.conversation.to_wire());
    let early = second.client.refused(submit(&unjoined.conversation, at_epoch(1, "early"))).await;
    assert_eq!(early.code(), Code::NotAMember);
    let state = second.state(&of_alice).await;
    assert_eq!((state.epoch, state.head), (1, 1));
    let (of_second, join) = Group::rejoin(&second.device, &state);
    assert_eq!(second.client.commit(join).await, 2);
    let own = second.client.entries().await;
    assert!(own.len() == 1 && own[0].seq == 2 && own[0].payload.is_empty(), "its own commit comes first");
    bob.follow(&mut of_bob).await;
    assert_eq!(of_second.authenticator(), of_bob.authenticator());
    assert_eq!(of_bob.mls.members().count(), 3);
    // It loses everything but its key.
    alice.client.ping().await;
    let state = second.state(&of_alice).await;
    let (of_second, join) = Group::rejoin(&second.device, &state);
    assert_eq!(second.client.commit(join).await, 3);
    bob.follow(&mut of_bob).await;
    assert_eq!(of_second.authenticator(), of_bob.authenticator());
    assert_eq!(of_bob.mls.members().count(), 3, "in place of its old leaf");
    let text = second.client.ask(submit(&of_second.conversation.to_wire(), at_epoch(3, "back"))).await;
    assert!(matches!(text, Body::Accepted(_)));
    assert_eq!(bob.follow(&mut of_bob).await[0].payload, "back");
    // Revoked, it is out; its leaf goes with a commit of the other.
    let revoke = Ask::RevokeDevice(v1::RevokeDevice { device: second.device.id.to_wire() });
    assert!(matches!(bob.client.ask(revoke).await, Body::Done(_)));
    assert_eq!(second.client.ends_with().await, Some(Code::Unauthenticated));
    bob.change(&mut of_bob, &Change { remove: vec![&second.device], ..Change::default() }).await;
    assert_eq!(of_bob.mls.members().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_renamed_and_deleted_by_its_admin() {
    let server = Server::start().await;
    let mut alice = person(&server, "alice").await;
    let mut group = alice.client.create_group(&alice.device, "friends").await;
    let mut profile = group.profile();
    profile.name = "foes".into();
    alice.change(&mut group, &Change { profile: Some(profile.clone()), ..Change::default() }).await;
    assert_eq!(group.profile().name, "foes");
    profile.deleted = true;
    alice.change(&mut group, &Change { profile: Some(profile), ..Change::default() }).await;
    alice.closed().await;
    let id = group.conversation.to_wire();
    let late = alice.client.refused(submit(&id, at_epoch(2, "late"))).await;
    assert_eq!(late.code(), Code::ClosedConversation);
    assert_eq!(alice.client.refused(fetch(&group)).await.code(), Code::ClosedConversation);
    let late = group.commit(&alice.device, &Change::default());
    assert_eq!(alice.client.refused(Ask::Handshake(late)).await.code(), Code::ClosedConversation);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_while_added_and_changed_comes_to_the_same_keys() {
    let server = Server::start().await;
    let (mut alice, bob) = (person(&server, "alice").await, person(&server, "bob").await);
    let Person { client, device } = bob;
    drop(client);
    let mut of_alice = alice.client.create_group(&alice.device, "friends").await;
    alice.change(&mut of_alice, &Change { add: vec![&device], ..Change::default() }).await;
    for _ in 0..4 {
        alice.change(&mut of_alice, &Change::default()).await;
    }
    let server = server.kill_and_restart().await;
    let mut bob = Person { client: Client::resume(server.address, &device).await, device };
    let mut of_bob = bob.join().await;
    while of_bob.epoch() < 5 {
        bob.follow(&mut of_bob).await;
    }
    assert_eq!(of_bob.authenticator(), of_alice.authenticator());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_before_a_kill_is_the_state_after_it() {
    let server = Server::start().await;
    let mut alice = person(&server, "alice").await;
    let mut group = alice.client.create_group(&alice.device, "friends").await;
    let last = group.commit(&alice.device, &Change::default());
    let seq = alice.client.commit(last.clone()).await;
    group.merge(&alice.device);
    let server = server.kill_and_restart().await;
    alice.client = Client::resume(server.address, &alice.device).await;
    assert_eq!(alice.client.commit(last).await, seq, "the same again is the same");
    let state = alice.state(&group).await;
    assert_eq!((state.epoch, state.head), (1, seq));
    alice.change(&mut group, &Change::default()).await;
}
