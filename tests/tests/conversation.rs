//! Two people talk: online, offline, both at once, with a server and daemons that come and go.
//!
//! **Invariant**: each message shows once, in order, the same on both sides.

use anyhow::Result;
use fastchat_ipc::{
    DoNotDisturb, ErrorCode, EventKind, MarkRead, MessageState, OfAccount, OfChat, OfMessage, Send, SetAlias, Wait,
    method,
};
use fastchat_tests::{Person, Server};

async fn two(server: &Server) -> Result<(Person, Person)> {
    tokio::try_join!(Person::registered("alice", server), Person::registered("bob", server))
}

#[tokio::test]
async fn two_people_talk_and_see_the_same_safety_number() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "hello bob").await?;
    bob.deliver("alice", "hello alice").await?;
    alice.deliver("bob", "how are you?").await?;
    let all = ["hello bob", "hello alice", "how are you?"];
    assert_eq!(alice.texts("bob").await?, all);
    assert_eq!(bob.texts("alice").await?, all);
    let (number, same) = (alice.safety_number("bob").await?, bob.safety_number("alice").await?);
    assert_eq!(number, same);
    assert_eq!(number.chars().filter(char::is_ascii_digit).count(), 60, "{number}");
    Ok(())
}

#[tokio::test]
async fn what_was_written_while_all_were_away_goes_out_in_order_and_once() -> Result<()> {
    let mut server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    bob.daemon.stop().await?;
    server.stop().await?;
    let written: Vec<String> = (1..=40).map(|number| format!("message {number}")).collect();
    for text in &written {
        assert_eq!(alice.send("bob", text).await?.state, MessageState::Queued);
    }
    // Also across a restart of the daemon that holds them.
    alice.daemon.kill().await?;
    server.restart().await?;
    alice.daemon.start().await?;
    let last = alice.send_and_wait("bob", "the last one", Wait::Sent).await?;
    assert_eq!(last.state, MessageState::Sent, "{last:?}");
    bob.daemon.start().await?;
    bob.hears("alice", "the last one").await?;
    let mut expected = written;
    expected.push("the last one".to_owned());
    assert_eq!(bob.heard("alice").await?, expected);
    alice.sees("bob", &last.id, MessageState::Delivered).await?;
    assert_eq!(alice.texts("bob").await?, expected);
    Ok(())
}

#[tokio::test]
async fn two_who_start_at_once_end_up_in_one_conversation() -> Result<()> {
    let mut server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    server.stop().await?;
    alice.send("bob", "from alice").await?;
    bob.send("alice", "from bob").await?;
    server.restart().await?;
    let (first, second) = tokio::join!(bob.hears("alice", "from alice"), alice.hears("bob", "from bob"));
    first.and(second)?;
    alice.deliver("bob", "now alice").await?;
    bob.deliver("alice", "now bob").await?;
    let texts = alice.texts("bob").await?;
    assert_eq!(bob.texts("alice").await?, texts);
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert_eq!(alice.call::<method::ListChats>(&OfAccount::default()).await?.chats.len(), 1);
    assert_eq!(bob.call::<method::ListChats>(&OfAccount::default()).await?.chats.len(), 1);
    Ok(())
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_message() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    let message = Send {
        to: vec!["bob".into()],
        text: "once".into(),
        wait: Wait::Delivered,
        idempotency_key: "key 1".into(),
        ..Send::default()
    };
    let first = alice.call::<method::SendMessage>(&message).await?;
    alice.daemon.kill().await?;
    alice.daemon.start().await?;
    let again = alice.call::<method::SendMessage>(&message).await?;
    assert_eq!(first.messages[0].id, again.messages[0].id);
    let other = Send { text: "another".into(), ..message };
    assert_eq!(alice.refusal::<method::SendMessage>(&other).await?.code, ErrorCode::Conflict);
    alice.deliver("bob", "and on").await?;
    assert_eq!(bob.texts("alice").await?, ["once", "and on"]);
    Ok(())
}

#[tokio::test]
async fn an_unknown_recipient_is_said_and_nothing_is_queued() -> Result<()> {
    let server = Server::start().await?;
    let mut alice = Person::registered("alice", &server).await?;
    let to = |name: &str| Send { to: vec![name.into()], text: "hello".into(), ..Send::default() };
    for name in ["nobody", "Not A Name", "bob@elsewhere.example.org"] {
        let error = alice.refusal::<method::SendMessage>(&to(name)).await?;
        assert_eq!(error.code, ErrorCode::NotFound, "{error:?}");
        assert!(error.hint.is_some() || error.message.contains("name"), "{error:?}");
    }
    assert!(alice.call::<method::ListOutbox>(&OfAccount::default()).await?.messages.is_empty());
    assert!(alice.call::<method::ListChats>(&OfAccount::default()).await?.chats.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_unknown_recipient_named_offline_fails_visibly_later() -> Result<()> {
    let mut server = Server::start().await?;
    let mut alice = Person::registered("alice", &server).await?;
    server.stop().await?;
    let sent = alice.send("nobody", "hello").await?;
    assert_eq!(sent.state, MessageState::Queued);
    server.restart().await?;
    alice
        .until("the message has failed", async |alice| {
            let outbox = alice.call::<method::ListOutbox>(&OfAccount::default()).await?.messages;
            let failed = outbox.iter().find(|message| message.id == sent.id && message.state == MessageState::Failed);
            Ok(failed.filter(|message| message.error.contains("nobody")).map(|_| ()))
        })
        .await
}

#[tokio::test]
async fn a_watch_misses_nothing_and_repeats_nothing_across_restarts() -> Result<()> {
    let mut server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    let (_, mut cursor) = bob.events("0").await?;
    let start = cursor.clone();
    let mut watched = Vec::new();
    for round in 0..3 {
        let text = format!("message {round}");
        alice.deliver("bob", &text).await?;
        let (events, next) = bob.events(&cursor).await?;
        watched.extend(events);
        cursor = next;
        alice.send("bob", &format!("between {round}")).await?;
        match round {
            0 => bob.daemon.kill().await?,
            1 => server.kill().await?,
            _ => bob.daemon.stop().await?,
        }
        bob.daemon.start().await?;
        server.restart().await?;
        alice.call::<method::RetryOutbox>(&OfMessage::default()).await?;
        bob.hears("alice", &format!("between {round}")).await?;
    }
    watched.extend(bob.events(&cursor).await?.0);
    let (anew, _) = bob.events(&start).await?;
    let cursors = |events: &[fastchat_ipc::Event]| events.iter().map(|event| event.cursor.clone()).collect::<Vec<_>>();
    assert_eq!(cursors(&watched), cursors(&anew));
    let received: Vec<String> = watched
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::MessageReceived { message, .. } => message.as_ref().map(|message| message.text.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(received, bob.heard("alice").await?);
    assert_eq!(received.len(), 6, "{received:?}");
    Ok(())
}

#[tokio::test]
async fn contacts_of_each_other_see_who_is_active() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    alice.deliver("bob", "hello").await?;
    assert!(!alice.contact("bob").await?.active, "bob has not answered: he shows himself to contacts only");
    bob.deliver("alice", "hello").await?;
    let bob_is = async |alice: &mut Person, active: bool| {
        alice
            .until("bob's presence changes", async |alice| {
                Ok((alice.contact("bob").await?.active == active).then_some(()))
            })
            .await
    };
    bob_is(&mut alice, true).await?;
    bob.daemon.stop().await?;
    bob_is(&mut alice, false).await?;
    bob.daemon.start().await?;
    bob_is(&mut alice, true).await
}

#[tokio::test]
async fn chats_can_be_counted_read_named_and_muted() -> Result<()> {
    let server = Server::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    bob.deliver("alice", "hello").await?;
    alice.deliver("bob", "one").await?;
    alice.deliver("bob", "two").await?;
    let alias = SetAlias { contact: "alice".into(), alias: "Alicia".into(), ..SetAlias::default() };
    assert_eq!(bob.call::<method::SetContactAlias>(&alias).await?.alias, "Alicia");
    let unread = bob.call::<method::CountUnread>(&OfAccount::default()).await?;
    assert_eq!((unread.direct, unread.group, unread.requests), (2, 0, 0));
    let muted = bob.call::<method::MuteChat>(&OfChat { chat: "Alicia".into(), ..OfChat::default() }).await?;
    assert!(muted.muted && muted.title == "Alicia" && muted.contact == "alice", "{muted:?}");
    let quiet = bob.call::<method::SetDoNotDisturb>(&DoNotDisturb { on: true, for_ms: 0 }).await?;
    assert!(quiet.dnd && quiet.muted.len() == 1, "{quiet:?}");
    // Settings and counts are still there after a restart.
    bob.daemon.kill().await?;
    bob.daemon.start().await?;
    let chats = bob.call::<method::ListChats>(&OfAccount::default()).await?.chats;
    assert!(chats.len() == 1 && chats[0].muted && chats[0].unread == 2, "{chats:?}");
    let read = bob.call::<method::MarkChatRead>(&MarkRead { chat: "alice".into(), ..MarkRead::default() }).await?;
    assert_eq!(read.direct, 0);
    let loud = bob.call::<method::UnmuteChat>(&OfChat { chat: "alice".into(), ..OfChat::default() }).await?;
    assert!(!loud.muted);
    bob.deliver("Alicia", "by your other name").await?;
    alice.hears("bob", "by your other name").await
}
