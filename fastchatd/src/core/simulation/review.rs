//! Cases of the review.

use fastchat_ipc::{MessageState, NewGroup, OfGroup, OfMembers, Request};
use fastchat_wire::ConversationId;

use super::world::{Chat, World};

fn quiet(users: usize) -> World {
    let mut world = World::new(1, users);
    world.calm = true;
    world.server.window = 64;
    world.heal();
    world
}

fn group(world: &mut World, members: &[&str]) -> ConversationId {
    let members = members.iter().map(|name| (*name).to_owned()).collect();
    world.ask(0, Request::CreateGroup(NewGroup { name: "ops".into(), members, ..NewGroup::default() }));
    world.heal();
    world.groups_of(0)[0]
}

fn members(world: &mut World, who: usize, id: ConversationId, names: &[&str], make: fn(OfMembers) -> Request) {
    let members = names.iter().map(|name| (*name).to_owned()).collect();
    world.ask(who, make(OfMembers { group: id.to_string(), members, ..OfMembers::default() }));
}

fn texts(world: &World, who: usize, chat: Chat) -> Vec<String> {
    world.look()[who]
        .chats
        .get(&chat)
        .map(|chat| chat.lines.iter().map(|line| format!("{:?} {:?} {}", line.kind, line.state, line.text)).collect())
        .unwrap_or_default()
}

fn has(world: &World, who: usize, chat: Chat, text: &str) -> bool {
    texts(world, who, chat).iter().any(|line| line.contains(text) && line.starts_with("Text"))
}

fn work(world: &World, who: usize) -> Vec<String> {
    world.look()[who].work.clone()
}

#[test]
fn r2_an_add_that_cannot_be_done_holds_no_messages_up() {
    let mut world = quiet(3);
    let id = group(&mut world, &["bob"]);
    world.server.remove(2, 0);
    world.dispatch();
    world.heal();
    members(&mut world, 0, id, &["carol"], Request::AddGroupMembers);
    world.heal();
    world.write(0, Chat::Group(id));
    world.heal();
    assert!(
        has(&world, 1, Chat::Group(id), "alice.0 says"),
        "{:?} {:?}",
        work(&world, 0),
        texts(&world, 1, Chat::Group(id))
    );
}

#[test]
fn r19_siblings_do_not_fail_each_others_messages() {
    let mut world = quiet(2);
    let phone = world.sign_in(0);
    world.heal();
    world.write(0, Chat::Direct(1));
    world.heal();
    world.disconnect(1);
    world.write(0, Chat::Direct(1));
    world.exchange();
    world.sign_in(1);
    world.heal();
    for who in [0, phone] {
        let outbox = &world.look()[who].chats[&Chat::Direct(1)].outbox;
        assert!(
            outbox.iter().all(|row| row.state != MessageState::Failed),
            "{who}: {outbox:?}\n{:#?}",
            texts(&world, who, Chat::Direct(1))
        );
    }
    for who in [0, phone] {
        let lines = texts(&world, who, Chat::Direct(1));
        for text in ["says 0", "says 1"] {
            assert_eq!(lines.iter().filter(|line| line.contains(text)).count(), 1, "{who}: {lines:#?}");
        }
    }
}

#[test]
fn m5_siblings_messages_are_not_doubled_whoever_is_first() {
    for first in [0, 1] {
        let mut world = quiet(2);
        let phone = world.sign_in(0);
        world.heal();
        world.write(0, Chat::Direct(1));
        world.heal();
        world.disconnect(1);
        world.write(0, Chat::Direct(1));
        world.exchange();
        world.disconnect(0);
        world.disconnect(phone);
        world.sign_in(1);
        world.exchange();
        let order = if first == 0 { [0, phone] } else { [phone, 0] };
        for who in order {
            world.connect(who);
            for _ in 0..20 {
                world.now += 2_500;
                for peer in 0..world.peers.len() {
                    world.step(peer, crate::core::Input::Tick);
                }
                world.exchange();
            }
        }
        world.heal();
        for who in 0..world.peers.len() {
            let other = Chat::Direct(1 - world.peers[who].user);
            let lines = texts(&world, who, other);
            let outbox = &world.look()[who].chats[&other].outbox;
            assert!(outbox.is_empty(), "{first} {who}: {outbox:?}");
            let count = lines.iter().filter(|line| line.contains("says 1")).count();
            assert_eq!(count, 1, "{first} {who}: {lines:#?}");
        }
        for who in [0, phone] {
            world.write(who, Chat::Direct(1));
            world.heal();
        }
        let lines = texts(&world, 1, Chat::Direct(0));
        assert!(lines.iter().all(|line| !line.contains("missing")), "n2 {first}: {lines:#?}");
    }
}

#[test]
fn m1_what_is_written_after_an_add_reaches_who_is_added() {
    let mut world = quiet(2);
    world.disconnect(0);
    let members = vec!["bob".to_owned()];
    world.ask(0, Request::CreateGroup(NewGroup { name: "ops".into(), members, ..NewGroup::default() }));
    let id = world.groups_of(0)[0];
    world.write(0, Chat::Group(id));
    world.heal();
    assert!(
        has(&world, 1, Chat::Group(id), "alice.0 says 0"),
        "{:#?} {:#?}",
        texts(&world, 0, Chat::Group(id)),
        texts(&world, 1, Chat::Group(id))
    );
}

#[test]
fn m2_claims_of_a_task_that_is_gone_hold_no_other_up() {
    let mut world = quiet(4);
    let id = group(&mut world, &["bob"]);
    members(&mut world, 0, id, &["bob"], Request::PromoteGroupMembers);
    world.heal();
    members(&mut world, 0, id, &["carol"], Request::AddGroupMembers);
    members(&mut world, 1, id, &["carol"], Request::AddGroupMembers);
    world.exchange();
    members(&mut world, 0, id, &["dave"], Request::AddGroupMembers);
    members(&mut world, 1, id, &["dave"], Request::AddGroupMembers);
    world.heal();
    let members = world.look()[0].groups[&id].members.keys().cloned().collect::<Vec<_>>();
    assert_eq!(members, ["alice", "bob", "carol", "dave"], "{:?}", work(&world, 0));
    assert!(work(&world, 0).is_empty() && work(&world, 1).is_empty(), "{:?} {:?}", work(&world, 0), work(&world, 1));
}

#[test]
fn m2b_somebody_else_adds_while_we_claim() {
    let mut world = quiet(4);
    let id = group(&mut world, &["bob"]);
    members(&mut world, 0, id, &["bob"], Request::PromoteGroupMembers);
    world.heal();
    // Alice's claim is on its way to the server while bob's whole add happens.
    members(&mut world, 0, id, &["carol"], Request::AddGroupMembers);
    world.server_takes(0);
    world.client_takes(0);
    assert_eq!(world.peers[0].to_server.len(), 1, "the claim");
    members(&mut world, 1, id, &["carol"], Request::AddGroupMembers);
    for _ in 0..20 {
        world.server_takes(1);
        world.client_takes(1);
    }
    world.client_takes(0);
    world.client_takes(0);
    world.client_takes(0);
    world.exchange();
    members(&mut world, 0, id, &["dave"], Request::AddGroupMembers);
    world.heal();
    let members = world.look()[0].groups[&id].members.keys().cloned().collect::<Vec<_>>();
    assert_eq!(members, ["alice", "bob", "carol", "dave"], "{:?}", work(&world, 0));
}

#[test]
fn r35_unjoined_with_a_direct_conversations_id_changes_nothing() {
    let mut world = quiet(2);
    world.write(0, Chat::Direct(1));
    world.heal();
    let id = world.server.conversations[0].id;
    world.server.say(
        0,
        fastchat_wire::v1::server_frame::Body::Unjoined(fastchat_wire::v1::Unjoined { conversation: id.to_wire() }),
    );
    world.dispatch();
    world.exchange();
    world.heal();
    assert!(has(&world, 0, Chat::Direct(1), "alice.0 says 0"), "{:#?}", world.look()[0].chats);
}

#[test]
fn r9a_who_missed_only_a_commit_goes_on() {
    let mut world = quiet(3);
    let id = group(&mut world, &["bob", "carol"]);
    world.disconnect(2);
    // No reconnect of carol by heal: she is away.
    world.ask(
        0,
        Request::RenameGroup(fastchat_ipc::GroupName {
            account: String::new(),
            group: id.to_string(),
            name: "x".into(),
        }),
    );
    world.exchange();
    let at = world.server.conversations.iter().position(|found| found.id == id).unwrap();
    world.server.conversations[at].expired_through = world.server.conversations[at].log.len() as u64;
    world.connect(2);
    world.exchange();
    world.write(2, Chat::Group(id));
    world.heal();
    assert!(
        has(&world, 0, Chat::Group(id), "carol.2 says"),
        "{:?} {:?}",
        work(&world, 2),
        texts(&world, 2, Chat::Group(id))
    );
}

#[test]
fn r9b_who_is_removed_and_added_again_while_away_goes_on() {
    let mut world = quiet(3);
    let id = group(&mut world, &["bob", "carol"]);
    world.disconnect(2);
    members(&mut world, 0, id, &["carol"], Request::RemoveGroupMembers);
    world.exchange();
    members(&mut world, 0, id, &["carol"], Request::AddGroupMembers);
    world.exchange();
    world.connect(2);
    world.exchange();
    world.write(2, Chat::Group(id));
    world.heal();
    assert!(
        has(&world, 0, Chat::Group(id), "carol.2 says"),
        "{:?} {:?}",
        work(&world, 2),
        texts(&world, 2, Chat::Group(id))
    );
}

#[test]
fn r18_who_cannot_follow_a_commit_goes_on() {
    let mut world = quiet(3);
    let id = group(&mut world, &["bob", "carol"]);
    world.disconnect(2);
    world.ask(
        0,
        Request::RenameGroup(fastchat_ipc::GroupName {
            account: String::new(),
            group: id.to_string(),
            name: "x".into(),
        }),
    );
    world.exchange();
    let at = world.server.conversations.iter().position(|found| found.id == id).unwrap();
    let last = world.server.conversations[at].log.last_mut().unwrap();
    last.entry.payload = bytes::Bytes::from_static(b"garbage");
    world.connect(2);
    world.exchange();
    world.write(2, Chat::Group(id));
    world.heal();
    assert!(
        has(&world, 0, Chat::Group(id), "carol.2 says"),
        "{:?} {:?}",
        work(&world, 2),
        texts(&world, 2, Chat::Group(id))
    );
}

#[test]
fn r8_who_comes_back_reads_those_who_came_back_before() {
    let mut world = quiet(3);
    let id = group(&mut world, &["bob", "carol"]);
    for _ in 0..5 {
        world.write(1, Chat::Group(id));
        world.heal();
    }
    assert!(has(&world, 2, Chat::Group(id), "bob.1 says 4"));
    world.disconnect(2);
    world.wipe(1, id);
    world.connect(1);
    // Bob notices when somebody writes.
    world.write(0, Chat::Group(id));
    world.exchange();
    world.wipe(2, id);
    world.heal();
    world.write(0, Chat::Group(id));
    world.heal();
    world.write(1, Chat::Group(id));
    world.heal();
    assert!(has(&world, 0, Chat::Group(id), "bob.1 says 7"), "{:#?}", texts(&world, 0, Chat::Group(id)));
    assert!(has(&world, 2, Chat::Group(id), "bob.1 says 7"), "{:#?}", texts(&world, 2, Chat::Group(id)));
}

#[test]
fn r15_who_leaves_is_out_in_the_end() {
    let mut world = quiet(3);
    let id = group(&mut world, &["bob", "carol"]);
    let lap = world.sign_in(1);
    world.heal();
    assert!(world.groups_of(lap).contains(&id));
    // Those who would take the leave in are away, but for one who comes in anew.
    world.disconnect(0);
    world.disconnect(2);
    world.ask(1, Request::LeaveGroup(OfGroup { group: id.to_string(), ..OfGroup::default() }));
    world.exchange();
    assert!(work(&world, 1).iter().any(|line| line.contains("Leaving")), "{:?}", work(&world, 1));
    world.sign_in(2);
    world.exchange();
    world.heal();
    world.heal();
    assert!(
        !world.look()[0].groups[&id].members.contains_key("bob"),
        "{:?} {:#?}",
        work(&world, 1),
        texts(&world, 1, Chat::Group(id))
    );
}

#[test]
fn m8_a_group_under_the_id_of_a_direct_conversation_gets_no_messages_of_that() {
    use fastchat_e2ee::{Change, GroupProfile, IdentityKey, PeerPackages, Transaction};
    use fastchat_mls::PublicConversation;
    use fastchat_wire::v1::{self, client_frame::Body as Ask, server_frame::Body as Said};
    let mut world = quiet(3);
    world.write(0, Chat::Direct(1));
    world.heal();
    let id = world.server.conversations[0].id;
    let claim = Ask::ClaimKeyPackages(v1::ClaimKeyPackages { account: "alice".into() });
    world.server.take(2, v1::ClientFrame { request: 9_999, body: Some(claim) });
    let claimed = world.server.out.pop().unwrap().1.body.unwrap();
    let Said::KeyPackages(claimed) = claimed else { panic!() };
    let device = uuid::Uuid::from_slice(&claimed.packages[0].device).unwrap();
    let packages = [(device, claimed.packages[0].key_package.as_ref())];
    let identity = IdentityKey::from_der(&claimed.identity_key).unwrap();
    let message = uuid::Uuid::now_v7();
    let core = world.peers[2].core.take().unwrap();
    let live = &core.live[&super::world::ACCOUNT];
    let state = core.store.state(super::world::ACCOUNT);
    let mut thief = Transaction::new(&state);
    let created = thief.create_group(&live.device, id.0, &GroupProfile::new("ops", "", "carol")).unwrap();
    let add = vec![PeerPackages { account: "alice", identity: &identity, packages: &packages }];
    let change = Change { add, ..Change::default() };
    let prepared = thief.commit(&live.identity, &live.device, id.0, message, &change).unwrap();
    thief.merge_pending(id.0).unwrap();
    let mut public = PublicConversation::open(id.0, &created.group_info).unwrap();
    public.commit(message, &prepared.message, &prepared.group_info).unwrap();
    let welcome = prepared.welcomes[0].clone();
    let joining = v1::Joining {
        conversation: id.to_wire(),
        creator: "carol".into(),
        creator_identity_key: live.identity.public().to_der().to_vec().into(),
        welcome: Some(v1::Welcome {
            device: claimed.packages[0].device.clone(),
            welcome: welcome.welcome.into(),
            join_key: welcome.join_key.into(),
        }),
        start_seq: 1_000,
        ratchet_tree: public.ratchet_tree().unwrap().into(),
        group: true,
        ..v1::Joining::default()
    };
    world.server.say(0, Said::Joining(joining));
    world.dispatch();
    world.client_takes(0);
    world.peers[0].to_server.clear();
    world.write(0, Chat::Direct(1));
    for frame in &world.peers[0].to_server {
        let Some(Ask::Submit(submit)) = &frame.body else { continue };
        for entry in &submit.entries {
            let sent = uuid::Uuid::from_slice(&entry.message_id).unwrap();
            let opened = thief.open(id.0, sent, &entry.payload);
            assert!(
                opened.is_err(),
                "the thief reads what is for bob: {:?}",
                opened.map(|opened| opened.content.body.map(|body| match body {
                    fastchat_e2ee::Body::Text(text) => text.text,
                    _ => String::new(),
                }))
            );
        }
    }
    drop(thief);
    world.peers[2].core = Some(core);
}

#[test]
fn n1_who_was_away_comes_back_though_somebody_new_was_last() {
    let mut world = quiet(4);
    let id = group(&mut world, &["bob", "carol"]);
    // Everybody's first update is done; the next ones are due in a week.
    world.now += 20 * 60_000;
    world.heal();
    world.heal();
    world.disconnect(2);
    members(&mut world, 0, id, &["dave"], Request::AddGroupMembers);
    world.exchange();
    world.now += 20 * 60_000;
    world.step(3, crate::core::Input::Tick);
    world.exchange();
    let at = world.server.conversations.iter().position(|found| found.id == id).unwrap();
    assert_eq!(world.server.conversations[at].log.last().unwrap().by, 3, "dave's first update");
    world.server.conversations[at].expired_through = world.server.conversations[at].log.len() as u64;
    world.heal();
    world.write(2, Chat::Group(id));
    world.heal();
    assert!(
        has(&world, 0, Chat::Group(id), "carol.2 says"),
        "{:?} {:#?}",
        work(&world, 2),
        texts(&world, 2, Chat::Group(id))
    );
}
