//! Single courses of events that the simulation's dice would seldom throw.

use fastchat_ipc::OfMessage;

use super::*;

/// Both know each other, and nothing is under way.
fn settled(seed: u64) -> World {
    let mut world = World::new(seed);
    world.write(0);
    world.heal();
    world
}

fn to_alice(world: &mut World, body: Said) {
    let frame = v1::ServerFrame { request: 0, body: Some(body) };
    world.step(0, Input::Link(AccountKey(1), FromLink::Frame(Box::new(frame))));
}

#[test]
fn a_refusal_does_not_fail_what_the_log_has_already() {
    let mut world = settled(1);
    world.write(0);
    world.server_takes(0);
    // The answer is lost; then bob blocks alice.
    world.disconnect(0);
    world.server.refuses = true;
    world.write(0);
    world.connect(0);
    let caught_up = std::mem::take(&mut world.peers[0].to_client);
    world.server_takes(0);
    world.server_takes(0);
    world.peers[0].to_client.extend(caught_up);
    world.heal();
    let states: Vec<MessageState> = world.history(0).iter().map(|message| message.state).collect();
    assert_eq!(states, [MessageState::Delivered, MessageState::Delivered, MessageState::Failed]);
    // He thinks better of it.
    world.server.refuses = false;
    let call = world.call_id();
    world.step(0, Input::Call(call, Request::RetryOutbox(OfMessage::default())));
    world.heal();
    world.check();
}

#[test]
fn a_log_beyond_all_numbers_is_ignored() {
    let mut world = settled(2);
    let conversation = world.server.direct.as_ref().unwrap().id.to_wire();
    let entry = v1::Entry { seq: u64::MAX, ..v1::Entry::default() };
    let deliver = v1::Deliver { conversation: conversation.clone(), entries: vec![entry], expired_through: 0 };
    to_alice(&mut world, Said::Deliver(deliver));
    let deliver = v1::Deliver { conversation, entries: Vec::new(), expired_through: u64::MAX };
    to_alice(&mut world, Said::Deliver(deliver));
    world.write(1);
    world.heal();
    world.check();
}

#[test]
fn a_mark_under_a_messages_id_does_not_hide_the_message() {
    let mut world = settled(3);
    world.write(1);
    while world.peers[0].to_client.is_empty() {
        world.server_takes(1);
    }
    let pushed = world.peers[0].to_client.pop_front().unwrap();
    let Some(Said::Deliver(mut forged)) = pushed.body.clone() else { panic!("no delivery: {pushed:?}") };
    forged.entries[0].payload = vec![1, 2, 3].into();
    to_alice(&mut world, Said::Deliver(forged));
    let Some(Said::Deliver(mut late)) = pushed.body else { panic!("no delivery") };
    late.entries[0].seq += 1;
    to_alice(&mut world, Said::Deliver(late));
    let kinds: Vec<MessageKind> = world.history(0).iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [MessageKind::Text, MessageKind::Unreadable, MessageKind::Text]);
}

#[test]
fn what_went_to_an_ended_conversation_goes_out_again_and_alarms_nobody() {
    let mut world = settled(4);
    world.write(0);
    world.server_takes(0);
    // The end of the conversation comes before the echo of what still went into it.
    let conversation = world.server.direct.as_ref().unwrap().id.to_wire();
    to_alice(&mut world, Said::Closed(v1::Closed { conversation, by: bytes::Bytes::new() }));
    let frames = std::mem::take(&mut world.peers[0].to_client);
    for frame in frames {
        world.step(0, Input::Link(AccountKey(1), FromLink::Frame(Box::new(frame))));
    }
    let history = world.history(0);
    assert!(history.iter().all(|message| message.kind == MessageKind::Text), "{history:?}");
    assert_eq!(history.last().unwrap().state, MessageState::Queued);
    // The model keeps one conversation for good; a real server has its Exists name one that can be replaced.
    let asked = world.peers[0].to_server.iter().any(|frame| matches!(frame.body, Some(Ask::ClaimKeyPackages(_))));
    assert!(asked, "another conversation is made");
}

#[test]
fn a_server_that_answers_no_more_is_left_and_nothing_is_lost() {
    let mut world = settled(5);
    let is_up = |world: &World| world.peers[0].core.as_ref().unwrap().live[&1].is_up();
    world.write(0);
    assert!(!std::mem::take(&mut world.peers[0].to_server).is_empty(), "a Submit that nobody answers");
    world.now += 119_000;
    world.step(0, Input::Tick);
    assert!(is_up(&world));
    world.now += 2_000;
    world.step(0, Input::Tick);
    assert!(!is_up(&world));
    world.peers[0].up = None;
    world.peers[0].to_client.clear();
    world.heal();
    world.check();
}
