//! Members and strangers that try to harm a group or an account: each gets a refusal that says which check failed, and
//! nothing of it is appended.

use bytes::Bytes;
use fastchat_mls::GroupProfile;
use fastchat_wire::{
    Code, MessageId,
    v1::{self, client_frame::Body as Ask, server_frame::Body},
};

use crate::{
    client::{Client, Device, entry, submit},
    mls::{Change, Group, direct},
    server::Server,
};

/// A group of alice, its admin, and mallory, who is connected as well.
struct Scene {
    server: Server,
    alice: Client,
    alice_device: Device,
    of_alice: Group,
    mallory: Client,
    device: Device,
    group: Group,
}

async fn scene(config: &str) -> Scene {
    let server = Server::start_with(config).await;
    let (mut alice, alice_device) = Client::register(server.address, "alice").await;
    let (mut mallory, device) = Client::register(server.address, "mallory").await;
    let mut of_alice = alice.create_group(&alice_device, "friends").await;
    let add = of_alice.commit(&alice_device, &Change { add: vec![&device], ..Change::default() });
    assert_eq!(alice.commit(add).await, 1);
    of_alice.merge(&alice_device);
    let joining = mallory.joining().await;
    let group = Group::join(&device, &joining);
    mallory.ack(&joining.conversation, joining.start_seq).await;
    Scene { server, alice, alice_device, of_alice, mallory, device, group }
}

impl Scene {
    /// Mallory sends this and is refused.
    async fn refused(&mut self, handshake: v1::Handshake) -> Code {
        self.mallory.refused(Ask::Handshake(handshake)).await.code()
    }

    /// A commit by mallory, forgotten at once.
    fn commit(&mut self, change: &Change<'_>) -> v1::Handshake {
        let handshake = self.group.commit(&self.device, change);
        self.group.clear(&self.device);
        handshake
    }

    /// Nothing was appended, and an honest commit is still taken.
    async fn ends_unharmed(mut self) {
        let fetch = Ask::FetchGroup(v1::FetchGroup { conversation: self.of_alice.conversation.to_wire() });
        let Body::GroupState(state) = self.alice.ask(fetch).await else { panic!("no state") };
        assert_eq!((state.epoch, state.head, state.proposals.len()), (1, 1, 0));
        let honest = self.of_alice.commit(&self.alice_device, &Change::default());
        assert_eq!(self.alice.commit(honest).await, 2);
        self.mallory.ping().await;
    }
}

fn flipped(bytes: &Bytes, at_from_end: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = bytes.len() - at_from_end;
    bytes[at] ^= 1;
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_of_this_conversation_is_malformed() {
    let mut scene = scene("").await;
    let good = scene.commit(&Change::default());
    let mut other = scene.mallory.create_group(&scene.device, "other").await;
    let elsewhere = other.commit(&scene.device, &Change::default());
    let kind = v1::EntryKind::Proposal.into();
    let bad = [
        v1::Handshake { message: "garbage".into(), ..good.clone() },
        v1::Handshake { message: good.group_info.clone(), ..good.clone() },
        v1::Handshake { message: [&good.message[..], b"more"].concat().into(), ..good.clone() },
        v1::Handshake { message: good.message.slice(..good.message.len() - 1), ..good.clone() },
        v1::Handshake { epoch: 1, message: elsewhere.message.clone(), ..good.clone() },
        v1::Handshake { kind, group_info: Bytes::new(), ..good.clone() },
    ];
    for (at, bad) in bad.into_iter().enumerate() {
        assert_eq!(scene.refused(bad).await, Code::HandshakeMalformed, "{at}");
    }
    let unspecified = v1::Handshake { kind: 0, ..good.clone() };
    assert_eq!(scene.refused(unspecified).await, Code::Invalid);
    let no_info = v1::Handshake { group_info: Bytes::new(), ..good.clone() };
    assert_eq!(scene.refused(no_info).await, Code::Invalid);
    // As an entry of a Submit it does not get in either.
    let id = good.conversation.clone();
    let sneaked = v1::NewEntry { kind: v1::EntryKind::Commit.into(), payload: good.message, ..entry("") };
    assert_eq!(scene.mallory.refused(submit(&id, vec![sneaked])).await.code(), Code::Invalid);
    scene.ends_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_handshakes_come_up_to_the_bound_and_not_beyond() {
    let mut scene = scene("").await;
    let good = scene.commit(&Change::default());
    let most = 8 << 20;
    let sized = |length: usize| v1::Handshake { message: Bytes::from(vec![7; length]), ..good.clone() };
    let rest = good.group_info.len();
    assert_eq!(scene.refused(sized(most - rest)).await, Code::HandshakeMalformed);
    assert_eq!(scene.refused(sized(most - rest + 1)).await, Code::TooLarge);
    let mut cut = Client::resume(scene.server.address, &scene.alice_device).await;
    cut.write(&(6_u32 << 20).to_be_bytes()).await;
    cut.write(&[0; 100]).await;
    scene.alice = Client::resume(scene.server.address, &scene.alice_device).await;
    drop(cut);
    let beyond = (9_u32 << 20).to_be_bytes();
    scene.mallory.write(&beyond).await;
    assert_eq!(scene.mallory.ends_with().await, Some(Code::TooLarge));
    scene.mallory = Client::resume(scene.server.address, &scene.device).await;
    scene.ends_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_direct_conversation_there_are_self_updates_and_nothing_else() {
    let server = Server::start().await;
    let (mut alice, alice_device) = Client::register(server.address, "alice").await;
    let (mut bob, bob_device) = Client::register(server.address, "bob").await;
    let (_carol, carol_device) = Client::register(server.address, "carol").await;
    assert!(matches!(alice.create(&alice_device, &[&bob_device], Bytes::new()).await, Body::Direct(_)));
    let joining = bob.joining().await;
    let mut group = Group::join(&bob_device, &joining);
    bob.ack(&joining.conversation, 0).await;
    let adding = Change { add: vec![&carol_device], no_join_key: true, ..Change::default() };
    let removing = Change { remove: vec![&alice_device], ..Change::default() };
    for change in [&adding, &removing] {
        let handshake = group.commit(&bob_device, change);
        group.clear(&bob_device);
        assert_eq!(bob.refused(Ask::Handshake(handshake)).await.code(), Code::NotAllowed);
    }
    let leave = group.leave(&bob_device);
    assert_eq!(bob.refused(Ask::Handshake(leave)).await.code(), Code::NotAllowed);
    // The refused proposal is of no account.
    let update = group.commit(&bob_device, &Change { ignore_proposals: true, ..Change::default() });
    assert_eq!(bob.commit(update).await, 1);
    let text = v1::NewEntry { epoch: 2, ..entry("after") };
    assert!(matches!(bob.ask(submit(&joining.conversation, vec![text])).await, Body::Accepted(_)));
    let stale = alice.refused(submit(&joining.conversation, vec![entry("before")])).await;
    assert_eq!((stale.code(), stale.epoch), (Code::StaleEpoch, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_mls_does_not_accept_is_invalid() {
    let mut scene = scene("").await;
    let good = scene.commit(&Change::default());
    // Anywhere in the path or the signature; the tags at the end are for members to verify.
    for at in [200, 500, 900] {
        let bad = v1::Handshake { message: flipped(&good.message, at), ..good.clone() };
        let code = scene.refused(bad).await;
        assert!(matches!(code, Code::HandshakeInvalid | Code::HandshakeMalformed), "{at}: {code:?}");
    }
    let replayed = v1::Handshake { message_id: MessageId::generate().to_wire(), ..good.clone() };
    assert_eq!(scene.refused(replayed).await, Code::HandshakeInvalid, "made for another id");
    let infos = [flipped(&good.group_info, 1), Bytes::from_static(b"garbage")];
    for group_info in infos {
        let bad = v1::Handshake { group_info, ..good.clone() };
        assert_eq!(scene.refused(bad).await, Code::GroupInfoMismatch);
    }
    let second = scene.commit(&Change::default());
    let bad = v1::Handshake { group_info: second.group_info, ..good.clone() };
    assert_eq!(scene.refused(bad).await, Code::GroupInfoMismatch, "another commit's");
    let future = v1::Handshake { epoch: 7, ..good };
    assert_eq!(scene.refused(future).await, Code::StaleEpoch);
    scene.ends_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_does_not_allow_is_refused() {
    let mut scene = scene("").await;
    let (_carol, carol_device) = Client::register(scene.server.address, "carol").await;
    let alice_device = &scene.alice_device;
    let mut renamed = scene.group.profile();
    renamed.name = "mine".into();
    let mut promoted = scene.group.profile();
    promoted.admins = vec!["alice".into(), "mallory".into()];
    let mut deleted = scene.group.profile();
    deleted.deleted = true;
    let profile = |profile: GroupProfile| Change { profile: Some(profile), ..Change::default() };
    let changes = [
        Change { add: vec![&carol_device], ..Change::default() },
        Change { remove: vec![alice_device], ..Change::default() },
        profile(renamed),
        profile(promoted),
        profile(deleted),
    ];
    for (at, change) in changes.iter().enumerate() {
        let handshake = scene.group.commit(&scene.device, change);
        scene.group.clear(&scene.device);
        let failure = scene.mallory.refused(Ask::Handshake(handshake)).await;
        assert_eq!(failure.code(), Code::NotAllowed, "{at}");
        assert!(failure.text.len() > 20, "it says why: {}", failure.text);
    }
    scene.ends_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_does_not_leave_and_names_no_stranger() {
    let mut scene = scene("").await;
    let leave = scene.of_alice.leave(&scene.alice_device);
    let failure = scene.alice.refused(Ask::Handshake(leave)).await;
    assert_eq!(failure.code(), Code::NotAllowed);
    assert!(failure.text.contains("promote"), "{}", failure.text);
    let mut stranger = scene.of_alice.profile();
    stranger.admins = vec!["stranger".into()];
    let mut group = scene.alice.create_group(&scene.alice_device, "mine").await;
    let change = Change { profile: Some(stranger), ..Change::default() };
    let handshake = group.commit(&scene.alice_device, &change);
    assert_eq!(scene.alice.refused(Ask::Handshake(handshake)).await.code(), Code::NotAllowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_and_welcomes_are_those_of_known_devices() {
    let mut scene = scene("").await;
    let (_carol, carol_device) = Client::register(scene.server.address, "carol").await;
    let (alice, of_alice, own) = (&mut scene.alice, &mut scene.of_alice, &scene.alice_device);
    // Nobody knows this device; this one is carol's under an identity of alice's making.
    let (unknown, forged) = (Device::new("carol"), carol_device.certified_as("mine"));
    for device in [&unknown, &forged, &Device::new("no such account")] {
        let handshake = of_alice.commit(own, &Change { add: vec![device], ..Change::default() });
        of_alice.clear(own);
        assert_eq!(alice.refused(Ask::Handshake(handshake)).await.code(), Code::RosterMismatch);
    }
    let good = of_alice.commit(own, &Change { add: vec![&carol_device], ..Change::default() });
    of_alice.clear(own);
    let welcome = good.welcomes[0].clone();
    let for_another = v1::Welcome { device: unknown.id.to_wire(), ..welcome.clone() };
    for welcomes in
        [vec![], vec![welcome.clone(), welcome.clone()], vec![for_another.clone()], vec![welcome, for_another]]
    {
        let handshake = v1::Handshake { welcomes, ..good.clone() };
        assert_eq!(alice.refused(Ask::Handshake(handshake)).await.code(), Code::RosterMismatch);
    }
    let keyless = Change { add: vec![&carol_device], no_join_key: true, ..Change::default() };
    let handshake = of_alice.commit(own, &keyless);
    of_alice.clear(own);
    assert_eq!(alice.refused(Ask::Handshake(handshake)).await.code(), Code::NotAllowed);
    // What another device made is not one's own.
    let of_mallory = scene.group.commit(&scene.device, &Change::default());
    scene.group.clear(&scene.device);
    assert_eq!(alice.refused(Ask::Handshake(of_mallory)).await.code(), Code::RosterMismatch);
    scene.ends_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_neither_see_nor_enter_a_group() {
    let mut scene = scene("").await;
    let (mut eve, eve_device) = Client::register(scene.server.address, "eve").await;
    let fetch = Ask::FetchGroup(v1::FetchGroup { conversation: scene.group.conversation.to_wire() });
    assert_eq!(eve.refused(fetch.clone()).await.code(), Code::NotAMember);
    // Mallory tells her everything.
    let Body::GroupState(state) = scene.mallory.ask(fetch).await else { panic!("no state") };
    let (_, join) = Group::rejoin(&eve_device, &state);
    assert_eq!(eve.refused(Ask::Handshake(join.clone())).await.code(), Code::NotAMember);
    assert_eq!(scene.refused(join).await, Code::NotAllowed, "sent by a member it is no better");
    // A device of mallory's that claims to be alice's is not one.
    let posing = Device::new("alice");
    let (_, join) = Group::rejoin(&posing, &state);
    let code = scene.refused(join).await;
    assert!(matches!(code, Code::RosterMismatch | Code::NotAllowed), "{code:?}");
    scene.ends_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_begins_as_it_must_or_not_at_all() {
    let server = Server::start().await;
    let (mut alice, alice_device) = Client::register(server.address, "alice").await;
    let (_bob, bob_device) = Client::register(server.address, "bob").await;
    let (group, good) = Group::create(&alice_device, "friends");
    let garbage = v1::CreateGroup { group_info: "garbage".into(), ..good.clone() };
    assert_eq!(alice.refused(Ask::CreateGroup(garbage)).await.code(), Code::GroupInfoMismatch);
    let other_id = v1::CreateGroup { conversation: MessageId::generate().to_wire(), ..good.clone() };
    assert_eq!(alice.refused(Ask::CreateGroup(other_id)).await.code(), Code::GroupInfoMismatch);
    let of_bob = Group::create(&bob_device, "his").1;
    assert_eq!(alice.refused(Ask::CreateGroup(of_bob)).await.code(), Code::NotAllowed);
    let mut two_admins = group.profile();
    two_admins.admins = vec!["alice".into(), "bob".into()];
    let early = Group::create_with(&alice_device, &two_admins).1;
    assert_eq!(alice.refused(Ask::CreateGroup(early)).await.code(), Code::NotAllowed);
    let unknown = Device::new("alice");
    let foreign = Group::create(&unknown, "friends").1;
    assert_eq!(alice.refused(Ask::CreateGroup(foreign)).await.code(), Code::RosterMismatch);
    // A group is no direct conversation, nor the other way round.
    let pair = direct(&alice_device, &[&bob_device], Bytes::new());
    let as_group = v1::CreateGroup { conversation: pair.conversation.clone(), group_info: pair.group_info.clone() };
    let code = alice.refused(Ask::CreateGroup(as_group)).await.code();
    assert!(matches!(code, Code::GroupInfoMismatch | Code::NotAllowed), "{code:?}");
    let as_pair = v1::CreateDirect {
        conversation: good.conversation.clone(),
        group_info: good.group_info.clone(),
        epoch: 0,
        ..pair.clone()
    };
    assert_eq!(alice.refused(Ask::CreateDirect(as_pair)).await.code(), Code::NotAllowed);
    let other_epoch = v1::CreateDirect { epoch: 2, ..pair.clone() };
    assert_eq!(alice.refused(Ask::CreateDirect(other_epoch)).await.code(), Code::GroupInfoMismatch);
    let forged = bob_device.certified_as("mine");
    let in_his_name = direct(&alice_device, &[&forged], Bytes::new());
    assert_eq!(alice.refused(Ask::CreateDirect(in_his_name)).await.code(), Code::RosterMismatch);
    assert!(matches!(alice.ask(Ask::CreateDirect(pair)).await, Body::Direct(_)));
    assert!(matches!(alice.ask(Ask::CreateGroup(good)).await, Body::Done(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_spams_commits_is_slowed_down_and_others_get_theirs_in() {
    let mut scene = scene("[limits]\nhandshakes_at_once = 5\nhandshakes_per_hour = 10").await;
    let mut taken = 0;
    let refused = loop {
        let handshake = scene.group.commit(&scene.device, &Change::default());
        match scene.mallory.ask(Ask::Handshake(handshake)).await {
            Body::Accepted(_) => {
                scene.group.merge(&scene.device);
                taken += 1;
            }
            Body::Failure(failure) => break failure,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((refused.code(), taken), (Code::RateLimited, 5));
    assert!((1..=3_600_000).contains(&refused.retry_after_ms));
    // Alice takes what there is and commits, though she had one of hers before.
    while scene.of_alice.epoch() < 6 {
        for entry in scene.alice.entries().await {
            if !entry.payload.is_empty() {
                scene.of_alice.apply(&scene.alice_device, &entry);
            }
        }
    }
    let honest = scene.of_alice.commit(&scene.alice_device, &Change::default());
    assert_eq!(scene.alice.commit(honest).await, 7);
    // Who is merely late does not pay for it, and messages go on.
    scene.group.clear(&scene.device);
    let late = scene.commit(&Change::default());
    assert_eq!(scene.refused(late).await, Code::StaleEpoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_claims_100_000_times_leaves_a_friend_his_one_time_package() {
    let server = Server::start().await;
    let (mut bob, bob_device) = Client::register(server.address, "bob").await;
    let (mut friend, friend_device) = Client::register(server.address, "friend").await;
    let (mut stranger, _) = Client::register(server.address, "stranger").await;
    let made = friend.create(&friend_device, &[&bob_device], Bytes::new()).await;
    assert!(matches!(made, Body::Direct(_)), "{made:?}");
    let one_time = (0..60).map(|number| Bytes::from(format!("fresh {number}"))).collect();
    let publish = v1::PublishKeyPackages { one_time, last_resort: Bytes::new() };
    assert!(matches!(bob.ask(Ask::PublishKeyPackages(publish)).await, Body::KeyPackageCount(_)));
    let claim = || Ask::ClaimKeyPackages(v1::ClaimKeyPackages { account: "bob".into() });
    let (mut given, mut last_resort, mut limited) = (0, 0, 0);
    for _ in 0..200 {
        let asks = (0..500).map(|_| claim()).collect();
        for body in stranger.ask_all(asks).await {
            match body {
                Body::KeyPackages(packages) if packages.packages[0].key_package == "last" => last_resort += 1,
                Body::KeyPackages(_) => given += 1,
                Body::Failure(failure) => {
                    assert_eq!(failure.code(), Code::RateLimited);
                    limited += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(given <= 31 && given + last_resort <= 2_002, "{given} one-time, {last_resort} last ones");
    assert_eq!(given + last_resort + limited, 100_000);
    // An honest stranger is served still, a friend is served well.
    let (mut other, _) = Client::register(server.address, "other").await;
    assert_eq!(other.claim("bob").await[0].key_package, "last");
    assert!(friend.claim("bob").await[0].key_package.starts_with(b"fresh"));
}
