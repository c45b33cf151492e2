//! Tests of what the core gives to a backup and takes from one, without a file.
//!
//! **Invariant**: two cores stand for two devices; what goes from one to the other goes by records alone.

use tempfile::TempDir;
use uuid::Uuid;

use fastchat_e2ee::Identity;
use fastchat_ipc::MessageKind;

use super::*;
use crate::core::{
    CallId, Input,
    aside::tests::{alices, answer_of, old_identity},
};

const ACCOUNT: u32 = 1;

fn id(number: u128) -> MessageId {
    MessageId(Uuid::from_u128(number))
}

fn row(number: u128) -> MessageRow {
    MessageRow {
        id: id(number),
        mine: number.is_multiple_of(2),
        from: None,
        held: false,
        sent_at_ms: u64::try_from(number).unwrap(),
        accepted_at_ms: u64::try_from(number).unwrap(),
        kind: MessageKind::Text,
        state: if number.is_multiple_of(2) { MessageState::Sent } else { MessageState::Received },
        text: format!("message {number}"),
    }
}

/// A contact with a chat and these messages in it.
fn chat_with(core: &mut Core, name: &str, numbers: impl IntoIterator<Item = u128>) -> u32 {
    let (contact, mut contact_row) = core.contact_for(ACCOUNT, &name.parse().unwrap(), ContactState::Accepted);
    contact_row.identity = Some(old_identity().public().to_der().to_vec());
    contact_row.verified = true;
    let (chat, mut chat_row) = core.chat_for(ACCOUNT, contact, &mut contact_row);
    let mut write = Write::default();
    for number in numbers {
        write.message(ACCOUNT, chat, chat_row.next_position, &row(number)).unwrap();
        chat_row.next_position += 1;
    }
    let mut own = core.store.tables().accounts[&ACCOUNT].clone();
    own.next_contact = own.next_contact.max(contact + 1);
    own.next_chat = own.next_chat.max(chat + 1);
    write.account(ACCOUNT, own);
    write.contact(ACCOUNT, contact, Some(contact_row));
    write.chat(ACCOUNT, chat, Some(chat_row));
    core.commit(write, ACCOUNT, Vec::new()).unwrap();
    chat
}

fn group(core: &mut Core, name: &str, number: u128) -> u32 {
    let (chat, mut chat_row) = core.group_chat(ACCOUNT, ConversationId(Uuid::from_u128(77)));
    let mut write = Write::default();
    let from = Some("bob".parse().unwrap());
    write.message(ACCOUNT, chat, chat_row.next_position, &MessageRow { from, ..row(number) }).unwrap();
    chat_row.next_position += 1;
    let mut own = core.store.tables().accounts[&ACCOUNT].clone();
    own.next_chat = own.next_chat.max(chat + 1);
    write.account(ACCOUNT, own);
    write.chat(ACCOUNT, chat, Some(chat_row));
    write.group(ACCOUNT, chat, Some(GroupRow { standing: Standing::Active, ..left_group(name) }));
    core.commit(write, ACCOUNT, Vec::new()).unwrap();
    chat
}

fn left_group(name: &str) -> GroupRow {
    GroupRow {
        name: name.into(),
        topic: "topic".into(),
        standing: Standing::Left,
        members: Vec::new(),
        created_at_ms: 4,
        epoch: 0,
        authenticator: Vec::new(),
        refused: false,
    }
}

fn all(core: &Core) -> Vec<Record> {
    let (header, identity) = core.backup_header("", 7).unwrap();
    assert_eq!(header.account, "alice@h:1");
    let mut records = vec![identity];
    let mut place = Some(BackupPlace::Contacts(0));
    while let Some(here) = place {
        let (page, next) = core.backup_page(&header.account, here).unwrap();
        assert!(page.len() <= PAGE, "a page is bounded");
        records.extend(page);
        place = next;
    }
    records
}

fn none(core: &Core) -> Restored {
    let contents = fastchat_ipc::BackupInfo {
        path: String::new(),
        account: core.full_name(ACCOUNT),
        created_at_ms: 0,
        contacts: 0,
        chats: 0,
        messages: 0,
        fingerprint: String::new(),
        bytes: 0,
    };
    Restored { backup: contents, contacts: 0, chats: 0, messages: 0 }
}

fn step(core: &mut Core, input: Input) -> Restored {
    core.step(5, input).unwrap();
    serde_json::from_value(answer_of(core.sync().unwrap(), CallId(9)).unwrap().unwrap()).unwrap()
}

/// Brings records; gives the counts of contacts, chats and messages.
fn bring(core: &mut Core, records: &[Record]) -> (u64, u64, u64) {
    let account = core.full_name(ACCOUNT);
    let contact = |record: &Record| if let Record::Contact(contact) = record { Some(contact.clone()) } else { None };
    let contacts = records.iter().filter_map(contact).collect();
    let so_far = none(core);
    let mut restored = step(core, Input::RestoredContacts(CallId(9), account.clone(), contacts, so_far));
    let mut chats: Vec<(ChatRecord, Vec<MessageRecord>)> = Vec::new();
    for record in records {
        match (record, chats.last_mut()) {
            (Record::Chat(chat), _) => chats.push((chat.clone(), Vec::new())),
            (Record::Message(message), Some((_, messages))) => messages.push(message.clone()),
            _ => {}
        }
    }
    for (chat, messages) in chats {
        restored = step(core, Input::RestoredChat(CallId(9), account.clone(), Box::new(chat), messages, restored));
    }
    (restored.contacts, restored.chats, restored.messages)
}

fn texts(core: &Core, chat: u32) -> Vec<String> {
    let rows = core.store.history_from(ACCOUNT, chat, 0, 10_000).unwrap();
    rows.into_iter().map(|(_, row)| row.text).collect()
}

fn expected(numbers: impl IntoIterator<Item = u128>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("message {number}")).collect()
}

fn direct(core: &Core, name: &str) -> (u32, ChatRow) {
    let (_, contact) = core.contact_named(ACCOUNT, &name.parse().unwrap()).unwrap();
    let chat = contact.chat.unwrap();
    (chat, core.chat_row(ACCOUNT, chat).unwrap())
}

#[test]
fn what_one_device_gives_another_one_takes() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut here = alices(&one);
    chat_with(&mut here, "bob", 1..=150);
    chat_with(&mut here, "carol", []);
    group(&mut here, "crew", 500);
    let records = all(&here);
    assert!(matches!(records[0], Record::Identity(_)));
    let mut there = alices(&two);
    assert_eq!(bring(&mut there, &records), (2, 3, 151));
    let (chat, row) = direct(&there, "bob");
    assert_eq!(texts(&there, chat), expected(1..=150));
    assert_eq!((row.unread, row.read_position), (0, row.next_position));
    let (_, bob) = there.contact_named(ACCOUNT, &"bob".parse().unwrap()).unwrap();
    assert!(bob.verified && bob.identity.as_deref() == Some(old_identity().public().to_der()));
    let (chat, _) = there.group_chat(ACCOUNT, ConversationId(Uuid::from_u128(77)));
    let crew = there.group_row(ACCOUNT, chat).unwrap();
    assert_eq!((crew.name.as_str(), crew.standing), ("crew", Standing::Left));
    assert_eq!(texts(&there, chat), expected([500]));
}

#[test]
fn what_is_brought_twice_is_there_once() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut here = alices(&one);
    chat_with(&mut here, "bob", 1..=20);
    let records = all(&here);
    let mut there = alices(&two);
    bring(&mut there, &records);
    assert_eq!(bring(&mut there, &records), (0, 0, 0));
    assert_eq!(bring(&mut here, &records), (0, 0, 0));
    assert_eq!(texts(&there, direct(&there, "bob").0), expected(1..=20));
}

#[test]
fn older_history_stands_before_what_is_here_and_leaves_it_unread() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut here = alices(&one);
    chat_with(&mut here, "bob", 1..=100);
    let mut there = alices(&two);
    let chat = chat_with(&mut there, "bob", [201, 203]);
    let mut write = Write::default();
    write.chat(ACCOUNT, chat, Some(ChatRow { unread: 2, ..there.chat_row(ACCOUNT, chat).unwrap() }));
    there.commit(write, ACCOUNT, Vec::new()).unwrap();
    assert_eq!(bring(&mut there, &all(&here)), (0, 0, 100));
    assert_eq!(texts(&there, chat), expected((1..=100).chain([201, 203])));
    let row = there.chat_row(ACCOUNT, chat).unwrap();
    assert_eq!((row.unread, row.read_position, row.next_position), (2, 101, 103));
}

#[test]
fn a_restoring_that_was_broken_off_goes_on_in_the_right_order() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut here = alices(&one);
    chat_with(&mut here, "bob", 1..=60);
    let records = all(&here);
    let mut there = alices(&two);
    let chat = chat_with(&mut there, "bob", [201]);
    bring(&mut there, &records[..30]);
    bring(&mut there, &records);
    assert_eq!(texts(&there, chat), expected((1..=60).chain([201])));
}

#[test]
fn a_key_that_is_known_here_is_not_replaced_by_a_backups() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut here = alices(&one);
    chat_with(&mut here, "bob", []);
    let mut there = alices(&two);
    let (number, mut bob) = there.contact_for(ACCOUNT, &"bob".parse().unwrap(), ContactState::Blocked);
    let known = Identity::generate().unwrap().public().to_der().to_vec();
    bob.identity = Some(known.clone());
    let mut write = Write::default();
    write.contact(ACCOUNT, number, Some(bob));
    there.commit(write, ACCOUNT, Vec::new()).unwrap();
    bring(&mut there, &all(&here));
    let (_, bob) = there.contact_named(ACCOUNT, &"bob".parse().unwrap()).unwrap();
    assert_eq!((bob.identity.as_ref(), bob.verified, bob.state), (Some(&known), false, ContactState::Blocked));
}

#[test]
fn a_gap_in_the_history_leaves_no_message_twice() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut here = alices(&one);
    chat_with(&mut here, "bob", [1]);
    let mut there = alices(&two);
    let chat = chat_with(&mut there, "bob", 200..=209);
    let mut write = Write::default();
    for (position, row) in there.store.history_from(ACCOUNT, chat, 2, 7).unwrap() {
        write.remove_message(ACCOUNT, chat, position, row.id);
    }
    there.commit(write, ACCOUNT, Vec::new()).unwrap();
    assert_eq!(texts(&there, chat), expected([200, 208, 209]));
    bring(&mut there, &all(&here));
    assert_eq!(texts(&there, chat), expected([1, 200, 208, 209]));
    let next = there.chat_row(ACCOUNT, chat).unwrap().next_position;
    for (position, row) in there.store.history_from(ACCOUNT, chat, 0, 100).unwrap() {
        assert!(position < next);
        assert_eq!(there.store.position_of(ACCOUNT, chat, row.id).unwrap(), Some(position));
    }
}

#[test]
fn a_message_that_stands_in_a_backup_twice_is_there_once() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut here = alices(&one);
    chat_with(&mut here, "bob", [1, 2]);
    let mut records = all(&here);
    let again = records.last().unwrap().clone();
    records.push(again);
    let mut there = alices(&two);
    assert_eq!(bring(&mut there, &records), (1, 1, 2));
    assert_eq!(texts(&there, direct(&there, "bob").0), expected([1, 2]));
}

#[test]
fn a_backup_of_another_account_is_refused_and_records_that_make_no_sense_are_passed_over() {
    let directory = TempDir::new().unwrap();
    let mut core = alices(&directory);
    assert!(core.may_restore("alice", "alice@h:1").is_ok());
    assert_eq!(core.may_restore("alice", "bob@h:1").unwrap_err().code, ErrorCode::Refused);
    assert_eq!(core.may_restore("bob", "bob@h:1").unwrap_err().code, ErrorCode::NoAccount);
    let chat = |with| Record::Chat(ChatRecord { id: "?".into(), with, muted: false, last_at_ms: 0 });
    let group = ChatWith::Group { conversation: "?".into(), name: "x".into(), topic: String::new(), created_at_ms: 0 };
    let stray = Record::Message(message_record(row(1)));
    let direct = ChatWith::Direct { contact: "NO BODY".into() };
    let records = [stray.clone(), chat(group), stray.clone(), chat(direct), stray];
    assert_eq!(bring(&mut core, &records), (0, 0, 0));
}
