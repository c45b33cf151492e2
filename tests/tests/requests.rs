//! Strangers: a message of somebody who is no contact yet is a request, and can be accepted, declined or blocked.
//!
//! **Invariant**: nobody is reached who does not want to be, and the sender is told so.

use anyhow::Result;
use fastchat_ipc::{
    Chat, ContactState, ErrorCode, EventKind, MessageState, OfAccount, OfContact, OfMessage, Unread, Wait, method,
};
use fastchat_tests::{Person, Server};

async fn two(server: &Server) -> Result<(Person, Person)> {
    tokio::try_join!(Person::registered("alice", server), Person::registered("bob", server))
}

fn alice() -> OfContact {
    OfContact { contact: "alice".into(), ..OfContact::default() }
}

async fn chats(person: &mut Person) -> Result<Vec<Chat>> {
    Ok(person.call::<method::ListChats>(&OfAccount::default()).await?.chats)
}

async fn unread(person: &mut Person) -> Result<Unread> {
    person.call::<method::CountUnread>(&OfAccount::default()).await
}

#[tokio::test]
async fn a_strangers_message_is_a_request_without_its_text_until_it_is_accepted() -> Result<()> {
    let server = Server::start().await?;
    let (mut from, mut bob) = two(&server).await?;
    from.deliver("bob", "let me in").await?;
    let chat = &chats(&mut bob).await?[0];
    assert!(chat.request, "{chat:?}");
    assert_eq!(chat.last.as_ref().map(|message| message.text.as_str()), Some(""));
    assert_eq!(bob.contact("alice").await?.state, ContactState::Request);
    assert_eq!(unread(&mut bob).await?, Unread { direct: 0, group: 0, requests: 1 });
    let (events, _) = bob.events("0").await?;
    assert!(events.iter().any(|event| matches!(event.kind, EventKind::MessageReceived { request: true, .. })));
    let accepted = bob.call::<method::AcceptContact>(&alice()).await?;
    assert_eq!(accepted.state, ContactState::Accepted);
    assert_eq!(unread(&mut bob).await?, Unread { direct: 1, group: 0, requests: 0 });
    assert_eq!(bob.heard("alice").await?, ["let me in"]);
    bob.deliver("alice", "come in").await?;
    from.deliver("bob", "thank you").await?;
    assert!(!chats(&mut bob).await?[0].request);
    Ok(())
}

#[tokio::test]
async fn an_answer_accepts_a_request() -> Result<()> {
    let server = Server::start().await?;
    let (mut from, mut bob) = two(&server).await?;
    from.deliver("bob", "let me in").await?;
    bob.deliver("alice", "who are you?").await?;
    assert_eq!(bob.contact("alice").await?.state, ContactState::Accepted);
    Ok(())
}

#[tokio::test]
async fn a_declined_sender_shows_nowhere_until_accepted_after_all() -> Result<()> {
    let server = Server::start().await?;
    let (mut from, mut bob) = two(&server).await?;
    from.deliver("bob", "let me in").await?;
    assert_eq!(bob.call::<method::DeclineContact>(&alice()).await?.state, ContactState::Declined);
    from.deliver("bob", "please").await?;
    assert_eq!(unread(&mut bob).await?, Unread { direct: 0, group: 0, requests: 0 });
    assert!(chats(&mut bob).await?.is_empty());
    bob.call::<method::AcceptContact>(&alice()).await?;
    assert_eq!(bob.heard("alice").await?, ["let me in", "please"]);
    Ok(())
}

#[tokio::test]
async fn a_blocked_senders_message_is_refused_kept_and_goes_out_after_the_block() -> Result<()> {
    let server = Server::start().await?;
    let (mut from, mut bob) = two(&server).await?;
    from.deliver("bob", "hello").await?;
    assert_eq!(bob.call::<method::BlockContact>(&alice()).await?.state, ContactState::Blocked);
    // The server knows of it as soon as it has answered something that came later.
    bob.refusal::<method::AddContact>(&OfContact { contact: "nobody".into(), ..OfContact::default() }).await?;
    let refused = from.send_and_wait("bob", "are you there?", Wait::Sent).await?;
    assert_eq!(refused.state, MessageState::Failed, "{refused:?}");
    assert_eq!(refused.error.map(|error| error.code), Some(ErrorCode::Refused));
    let ended = from.daemon.ctl().run(&["send", "bob", "-m", "hello?", "--wait", "sent"]).await?.expect(7)?;
    assert!(ended.stderr.contains("does not accept messages from you"), "{}", ended.stderr);
    assert_eq!(bob.heard("alice").await?, ["hello"]);
    bob.call::<method::UnblockContact>(&alice()).await?;
    bob.refusal::<method::AddContact>(&OfContact { contact: "nobody2".into(), ..OfContact::default() }).await?;
    assert_eq!(from.call::<method::RetryOutbox>(&OfMessage::default()).await?.changed, 2);
    from.deliver("bob", "back again").await?;
    assert_eq!(bob.heard("alice").await?, ["hello", "are you there?", "hello?", "back again"]);
    Ok(())
}

#[tokio::test]
async fn a_blocked_stranger_cannot_begin_a_conversation() -> Result<()> {
    let server = Server::start().await?;
    let (mut from, mut bob) = two(&server).await?;
    bob.call::<method::BlockContact>(&alice()).await?;
    bob.refusal::<method::AddContact>(&OfContact { contact: "nobody".into(), ..OfContact::default() }).await?;
    let refused = from.send_and_wait("bob", "hello", Wait::Sent).await?;
    assert_eq!(refused.error.map(|error| error.code), Some(ErrorCode::Refused));
    assert!(chats(&mut bob).await?.is_empty());
    // Nor is the one who blocks left to write by accident.
    let params = fastchat_ipc::Send { to: vec!["alice".into()], text: "hm".into(), ..fastchat_ipc::Send::default() };
    assert_eq!(bob.refusal::<method::SendMessage>(&params).await?.code, ErrorCode::Refused);
    Ok(())
}
