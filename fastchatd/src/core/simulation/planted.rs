//! The check itself: whatever it is there to find, it finds.
//!
//! **Invariant**: each test plants one defect and expects a finding that names it.

use fastchat_ipc::{MessageKind, MessageState, OfMembers, Request};

use super::{
    cases::in_a_group,
    look::{Line, Seen, Waiting},
    server::Bug,
    world::{Chat, World},
};
use crate::store::rows::Standing;

/// Three users in a group and in direct chats, each of whom has written; bob was removed, and carol has a second device.
fn told() -> World {
    let (mut world, group) = in_a_group(20, 3);
    let copy = world.copy_store(1);
    world.peers[1].copies.push(copy);
    world.sign_in(2);
    world.heal();
    for who in [0, 1, 2, 0] {
        world.write(who, Chat::Group(group));
        world.exchange();
    }
    world.write(0, Chat::Direct(2));
    world.heal();
    let members = vec!["bob".into()];
    let bob = OfMembers { group: group.to_string(), members, ..OfMembers::default() };
    world.ask(0, Request::RemoveGroupMembers(bob));
    world.heal();
    world.write(0, Chat::Group(group));
    world.heal();
    world
}

/// Plants a defect in what the devices show, and expects a finding.
fn finds(expected: &str, plant: impl FnOnce(&World, &mut [Seen])) {
    let world = told();
    let mut seen = world.look();
    world.judge(&seen).unwrap();
    plant(&world, &mut seen);
    let findings = world.judge(&seen).expect_err("the check finds nothing");
    assert!(findings.contains(expected), "{findings}");
}

fn lines<'a>(world: &World, seen: &'a mut [Seen], who: usize) -> &'a mut Vec<Line> {
    let group = world.groups_of(0)[0];
    &mut seen[who].chats.get_mut(&Chat::Group(group)).unwrap().lines
}

fn first_text(lines: &[Line]) -> usize {
    lines.iter().position(|line| line.kind == MessageKind::Text).unwrap()
}

#[test]
fn a_message_that_shows_twice_is_found() {
    finds("shows twice", |world, seen| {
        let lines = lines(world, seen, 2);
        let again = lines[first_text(lines)].clone();
        lines.push(again);
    });
}

#[test]
fn a_message_that_is_missing_is_found() {
    finds("does not show", |world, seen| {
        let lines = lines(world, seen, 2);
        let at = first_text(lines);
        lines.remove(at);
    });
}

#[test]
fn another_order_is_found() {
    finds("another order", |world, seen| {
        let lines = lines(world, seen, 2);
        let at = first_text(lines);
        let first = lines.remove(at);
        lines.push(first);
    });
}

#[test]
fn a_message_that_the_removed_read_is_found() {
    finds("not of its time", |world, seen| {
        let last = lines(world, seen, 0).last().unwrap().clone();
        lines(world, seen, 1).push(last);
    });
}

#[test]
fn a_message_from_before_the_joining_is_found() {
    finds("not of its time", |world, seen| {
        let early = Line {
            position: 99,
            id: fastchat_wire::MessageId::generate().to_string(),
            kind: MessageKind::Text,
            state: MessageState::Received,
            text: "early".into(),
        };
        lines(world, seen, 3).insert(0, early);
    });
}

#[test]
fn a_message_that_opens_with_a_stolen_store_is_found() {
    let mut world = told();
    world.check().unwrap();
    // As if the removal had been before what bob could read.
    let bob = world.server.conversations[0].spans.iter_mut().find(|span| span.device == 1).unwrap();
    bob.removed_at = Some(bob.after);
    assert!(world.check().unwrap_err().contains("with what it had"));
}

#[test]
fn another_epoch_roster_or_secret_is_found() {
    finds("at epoch", |world, seen| {
        seen[2].groups.get_mut(&world.groups_of(0)[0]).unwrap().epoch += 1;
    });
    finds("the server has", |world, seen| {
        seen[2].groups.get_mut(&world.groups_of(0)[0]).unwrap().members.clear();
    });
    finds("authenticators", |world, seen| {
        seen[2].groups.get_mut(&world.groups_of(0)[0]).unwrap().authenticator.push(0);
    });
}

#[test]
fn a_removed_member_who_thinks_himself_in_is_found() {
    finds("is no member", |world, seen| {
        seen[1].groups.get_mut(&world.groups_of(0)[0]).unwrap().standing = Standing::Active;
    });
}

#[test]
fn a_confirmed_message_that_is_nowhere_is_found() {
    let mut world = told();
    world.written[0].confirmed = Some(fastchat_wire::MessageId::generate().to_string());
    assert!(world.check().unwrap_err().contains("is gone"));
    // Failed for no reason that anybody could read is not better.
    let mut seen = world.look();
    let id = world.written[0].confirmed.clone().unwrap();
    let chat = seen[0].chats.get_mut(&world.written[0].chat).unwrap();
    chat.outbox.push(Waiting { id, state: MessageState::Failed, error: String::new() });
    assert!(world.judge(&seen).unwrap_err().contains("is gone"));
}

#[test]
fn a_read_mark_that_stays_away_is_found() {
    let mut world = told();
    world.everybody_writes();
    world.check().unwrap();
    let mut seen = world.look();
    seen[3].chats.values_mut().for_each(|chat| chat.read_position = 0);
    assert!(world.judge(&seen).unwrap_err().contains("has not read"));
}

#[test]
fn work_that_is_left_is_found() {
    finds("has not done", |_, seen| seen[0].work.push("a task".into()));
}

/// What becomes of a group on a server with a defect.
fn on_a_server_that(bug: Bug) -> World {
    let (mut world, group) = in_a_group(21, 3);
    world.server.bug = Some(bug);
    for who in [0, 1, 2, 0, 1, 2] {
        world.write(who, Chat::Group(group));
        world.exchange();
    }
    let members = vec!["bob".into()];
    let bob = OfMembers { group: group.to_string(), members, ..OfMembers::default() };
    world.ask(0, Request::RemoveGroupMembers(bob));
    world.heal();
    world.write(0, Chat::Group(group));
    world.heal();
    world
}

fn is_found_out(bug: Bug, expected: &str) {
    let findings = on_a_server_that(bug).check().expect_err("the check finds nothing");
    assert!(findings.contains(expected), "{findings}");
}

#[test]
fn a_server_that_withholds_is_found_out() {
    is_found_out(Bug::Withholds, "does not show");
}

#[test]
fn a_server_that_doubles_is_found_out() {
    is_found_out(Bug::Doubles, "could not be read");
}

#[test]
fn a_server_that_confirms_and_forgets_is_found_out() {
    is_found_out(Bug::Forgets, "is gone");
}

#[test]
fn a_server_that_keeps_telling_the_removed_makes_nothing_show() {
    on_a_server_that(Bug::KeepsTheRemoved).check().unwrap();
}
