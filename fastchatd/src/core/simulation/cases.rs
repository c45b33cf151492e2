//! Single courses of events that the simulation's dice would seldom throw, or have thrown once.
//!
//! **Invariant**: nothing breaks here but what the case breaks.

use fastchat_ipc::{MessageKind, MessageState, NewGroup, OfDevice, OfGroup, OfMembers, OfMessage, Request};
use fastchat_wire::{ConversationId, v1};
use v1::{client_frame::Body as Ask, server_frame::Body as Said};

use super::world::{ACCOUNT, Chat, NAMES, World};
use crate::{
    core::Input,
    link::{AccountKey, FromLink},
    store::rows::Standing,
};

const TO_BOB: Chat = Chat::Direct(1);
const TO_ALICE: Chat = Chat::Direct(0);

/// Alice and bob know each other, and nothing is under way.
fn settled(seed: u64) -> World {
    let mut world = World::calm(seed, 2);
    world.write(0, TO_BOB);
    world.heal();
    world
}

/// Alice has a group with all others, and nothing is under way.
pub(super) fn in_a_group(seed: u64, users: usize) -> (World, ConversationId) {
    let mut world = World::calm(seed, users);
    let members = NAMES[1..users].iter().map(ToString::to_string).collect();
    world.ask(0, Request::CreateGroup(NewGroup { name: "all".into(), members, ..NewGroup::default() }));
    world.heal();
    let group = world.groups_of(0)[0];
    (world, group)
}

fn of(group: ConversationId) -> OfGroup {
    OfGroup { group: group.to_string(), ..OfGroup::default() }
}

fn members(group: ConversationId, names: &[&str]) -> OfMembers {
    let members = names.iter().map(ToString::to_string).collect();
    OfMembers { group: group.to_string(), members, ..OfMembers::default() }
}

fn to_alice(world: &mut World, body: Said) {
    let frame = v1::ServerFrame { request: 0, body: Some(body) };
    world.step(0, Input::Link(AccountKey(ACCOUNT), FromLink::Frame(Box::new(frame))));
}

fn server_takes_all(world: &mut World, who: usize) {
    while !world.peers[who].to_server.is_empty() {
        world.server_takes(who);
    }
}

/// What alice got from the logs and has not taken.
fn delivered_to_alice(world: &mut World) -> v1::Deliver {
    let frames = std::mem::take(&mut world.peers[0].to_client);
    let deliver = frames.into_iter().find_map(|frame| match frame.body {
        Some(Said::Deliver(deliver)) => Some(deliver),
        _ => None,
    });
    deliver.unwrap()
}

fn standing(world: &World, who: usize, group: ConversationId) -> Standing {
    world.look()[who].groups[&group].standing
}

// ------------------------------------------------------------ direct chats

#[test]
fn a_refusal_does_not_fail_what_the_log_has_already() {
    let mut world = settled(1);
    world.write(0, TO_BOB);
    server_takes_all(&mut world, 0);
    // The answer is lost; then bob blocks alice.
    world.disconnect(0);
    world.server.refuses = true;
    world.write(0, TO_BOB);
    world.connect(0);
    let caught_up = std::mem::take(&mut world.peers[0].to_client);
    server_takes_all(&mut world, 0);
    world.peers[0].to_client.extend(caught_up);
    world.heal();
    let states: Vec<MessageState> = world.history(0, "bob").iter().map(|message| message.state).collect();
    assert_eq!(states, [MessageState::Delivered, MessageState::Delivered, MessageState::Failed]);
    // He thinks better of it.
    world.server.refuses = false;
    world.ask(0, Request::RetryOutbox(OfMessage::default()));
    world.heal();
    world.check().unwrap();
}

#[test]
fn a_log_beyond_all_numbers_is_ignored() {
    let mut world = settled(2);
    let conversation = world.server.conversations[0].id.to_wire();
    let entry = v1::Entry { seq: u64::MAX, ..v1::Entry::default() };
    let deliver = v1::Deliver { conversation: conversation.clone(), entries: vec![entry], expired_through: 0 };
    to_alice(&mut world, Said::Deliver(deliver));
    let deliver = v1::Deliver { conversation, entries: Vec::new(), expired_through: u64::MAX };
    to_alice(&mut world, Said::Deliver(deliver));
    world.write(1, TO_ALICE);
    world.heal();
    world.check().unwrap();
}

#[test]
fn a_mark_under_a_messages_id_does_not_hide_the_message() {
    let mut world = settled(3);
    world.write(1, TO_ALICE);
    server_takes_all(&mut world, 1);
    let mut late = delivered_to_alice(&mut world);
    let mut forged = late.clone();
    forged.entries[0].payload = vec![1, 2, 3].into();
    to_alice(&mut world, Said::Deliver(forged));
    late.entries[0].seq += 1;
    to_alice(&mut world, Said::Deliver(late));
    let kinds: Vec<MessageKind> = world.history(0, "bob").iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [MessageKind::Text, MessageKind::Unreadable, MessageKind::Text]);
}

#[test]
fn what_went_to_an_ended_conversation_goes_out_again_and_alarms_nobody() {
    let mut world = settled(4);
    world.write(0, TO_BOB);
    server_takes_all(&mut world, 0);
    // The end of the conversation comes before the echo of what still went into it.
    let conversation = world.server.conversations[0].id.to_wire();
    to_alice(&mut world, Said::Closed(v1::Closed { conversation, by: bytes::Bytes::new() }));
    let frames = std::mem::take(&mut world.peers[0].to_client);
    for frame in frames {
        world.step(0, Input::Link(AccountKey(ACCOUNT), FromLink::Frame(Box::new(frame))));
    }
    let history = world.history(0, "bob");
    assert!(history.iter().all(|message| message.kind == MessageKind::Text), "{history:?}");
    assert_eq!(history.last().unwrap().state, MessageState::Queued);
    let asked = world.peers[0].to_server.iter().any(|frame| matches!(frame.body, Some(Ask::ClaimKeyPackages(_))));
    assert!(asked, "another conversation is made");
    world.heal();
    world.check().unwrap();
}

#[test]
fn a_server_that_answers_no_more_is_left_and_nothing_is_lost() {
    let mut world = settled(5);
    let is_up = |world: &World| world.core(0).live[&ACCOUNT].is_up();
    world.write(0, TO_BOB);
    assert!(!std::mem::take(&mut world.peers[0].to_server).is_empty(), "a Submit that nobody answers");
    world.now += 119_000;
    world.step(0, Input::Tick);
    assert!(is_up(&world));
    world.now += 2_000;
    world.step(0, Input::Tick);
    assert!(!is_up(&world));
    world.heal();
    world.check().unwrap();
}

// ------------------------------------------------------------ groups

#[test]
fn who_leaves_follows_the_commit_that_takes_it_out() {
    let (mut world, group) = in_a_group(6, 3);
    world.ask(1, Request::LeaveGroup(of(group)));
    world.heal();
    assert_eq!(standing(&world, 1, group), Standing::Left);
    let alarms = world.history(1, &group.to_string());
    assert!(alarms.iter().all(|message| message.kind != MessageKind::Unreadable), "{alarms:?}");
    world.check().unwrap();
}

#[test]
fn what_was_wanted_of_a_group_ends_with_it() {
    let (mut world, group) = in_a_group(7, 2);
    world.ask(0, Request::PromoteGroupMembers(members(group, &["bob"])));
    world.heal();
    world.disconnect(1);
    world.ask(1, Request::DeleteGroup(of(group)));
    world.ask(0, Request::DeleteGroup(of(group)));
    world.heal();
    assert_eq!(standing(&world, 1, group), Standing::Deleted);
    world.check().unwrap();
}

#[test]
fn what_was_written_before_a_group_was_deleted_shows_on_who_was_away() {
    let (mut world, group) = in_a_group(8, 2);
    world.disconnect(1);
    world.write(0, Chat::Group(group));
    world.exchange();
    world.ask(0, Request::DeleteGroup(of(group)));
    world.exchange();
    world.heal();
    assert_eq!(standing(&world, 1, group), Standing::Deleted);
    world.check().unwrap();
}

#[test]
fn what_was_written_before_a_removal_shows_on_who_writes_after_it() {
    let (mut world, group) = in_a_group(9, 3);
    world.write(0, Chat::Group(group));
    world.ask(0, Request::RemoveGroupMembers(members(group, &["bob"])));
    for _ in 0..20 {
        world.server_takes(0);
        world.client_takes(0);
    }
    // Bob has got nothing of it, and hears first that he is no member.
    let entries = std::mem::take(&mut world.peers[1].to_client);
    world.write(1, Chat::Group(group));
    server_takes_all(&mut world, 1);
    while !world.peers[1].to_client.is_empty() {
        world.client_takes(1);
    }
    world.peers[1].to_client.extend(entries);
    world.heal();
    assert_eq!(standing(&world, 1, group), Standing::Left);
    world.check().unwrap();
}

#[test]
fn a_device_whose_external_commit_was_not_answered_misses_nothing_after_it() {
    let (mut world, group) = in_a_group(10, 2);
    let phone = world.sign_in(1);
    let is_in = |world: &World| world.server.conversations[0].members.contains_key(&phone);
    for _ in 0..100 {
        world.server_takes(phone);
        if is_in(&world) {
            break;
        }
        world.client_takes(phone);
    }
    assert!(is_in(&world));
    // The answer is lost, and the log goes on.
    world.disconnect(phone);
    world.write(0, Chat::Group(group));
    world.exchange();
    world.ask(0, Request::PromoteGroupMembers(members(group, &["bob"])));
    world.exchange();
    world.heal();
    world.everybody_writes();
    world.check().unwrap();
}

#[test]
fn a_device_that_is_gone_loses_its_leaf_also_in_a_group_that_one_joins_later() {
    let (mut world, group) = in_a_group(11, 2);
    let phone = world.sign_in(1);
    world.heal();
    // Bob's first device is on its way in again when the second one goes.
    world.wipe(1, group);
    let device = world.server.devices[phone].id.to_string();
    world.connect(1);
    world.exchange();
    world.write(0, Chat::Group(group));
    world.ask(1, Request::RevokeDevice(OfDevice { device, ..OfDevice::default() }));
    world.exchange();
    world.heal();
    assert!(world.server.devices[phone].gone);
    world.check().unwrap();
}

#[test]
fn who_is_added_again_is_not_told_that_something_is_missing() {
    let (mut world, group) = in_a_group(12, 3);
    world.write(2, Chat::Group(group));
    world.heal();
    world.ask(0, Request::RemoveGroupMembers(members(group, &["bob"])));
    world.heal();
    world.write(2, Chat::Group(group));
    world.heal();
    world.ask(0, Request::AddGroupMembers(members(group, &["bob"])));
    world.heal();
    world.write(2, Chat::Group(group));
    world.heal();
    world.check().unwrap();
}

#[test]
fn a_device_that_lost_its_place_finds_its_own_message_in_the_log() {
    let (mut world, group) = in_a_group(13, 2);
    world.write(1, Chat::Group(group));
    server_takes_all(&mut world, 1);
    // The log has it; the device has neither the answer nor its place in the group.
    world.wipe(1, group);
    world.connect(1);
    world.write(0, Chat::Group(group));
    world.heal();
    assert!(world.look()[1].chats[&Chat::Group(group)].outbox.is_empty());
    world.check().unwrap();
}

#[test]
fn a_conversation_that_the_other_side_made_first_leaves_nothing_of_ours_behind() {
    let mut world = World::calm(14, 2);
    world.exchange();
    for who in [0, 1] {
        world.write(who, Chat::Direct(1 - who));
    }
    let creates = |world: &World, who: usize| {
        world.peers[who].to_server.iter().any(|frame| matches!(frame.body, Some(Ask::CreateDirect(_))))
    };
    for _ in 0..50 {
        if !creates(&world, 1) {
            world.server_takes(1);
            world.client_takes(1);
        }
    }
    assert!(creates(&world, 1));
    // Bob's does not arrive; alice's does.
    world.peers[1].to_server.clear();
    world.disconnect(1);
    world.heal();
    world.check().unwrap();
}
