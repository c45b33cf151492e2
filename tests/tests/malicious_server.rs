//! A server that lies: about keys, about who wrote what, about what was written and in which order.
//!
//! **Invariant**: a lie shows (a notice, an entry that cannot be read, a message that is held or failed), and never as
//! somebody's message; what comes after it is read.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Result;
use bytes::Bytes;
use fastchat_e2ee::{Device, Identity, StateStore, StoreError, Transaction};
use fastchat_ipc::{ErrorCode, MessageKind, MessageState, ShowKey, VerifyKey, Wait, method};
use fastchat_tests::{FalseServer, Person};
use fastchat_wire::{
    MessageId,
    v1::{Deliver, Delivered, Entry, ServerFrame, server_frame::Body},
};
use tokio::task::spawn_blocking;
use uuid::Uuid;

async fn two(server: &FalseServer) -> Result<(Person, Person)> {
    let (alice, bob) = (server.account("alice"), server.account("bob"));
    tokio::try_join!(
        Person::registered_at("alice", &alice, server.pin()),
        Person::registered_at("bob", &bob, server.pin()),
    )
}

/// Two who have talked already.
async fn friends(server: &FalseServer) -> Result<(Person, Person)> {
    let (mut alice, mut bob) = two(server).await?;
    alice.deliver("bob", "honest").await?;
    bob.deliver("alice", "honest too").await?;
    Ok((alice, bob))
}

/// Keys that the server has made for itself.
struct Own {
    identity: Identity,
}

impl Own {
    async fn make() -> Result<Self> {
        Ok(Self { identity: spawn_blocking(Identity::generate).await?? })
    }

    fn identity_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.identity.public().to_der())
    }

    /// A key package for somebody's device, certified by the server's own identity.
    fn key_package(&self, account: &str, device: &[u8]) -> Result<Bytes> {
        let device = Device::issue(&self.identity, account, Uuid::from_slice(device)?)?;
        let mut transaction = Transaction::new(&Nothing);
        Ok(transaction.key_packages(&device, 1)?.remove(0).into())
    }
}

/// A store of nothing: the server only wants to be written to.
struct Nothing;

impl StateStore for Nothing {
    fn read(&self, _key: &[u8]) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, StoreError> {
        Ok(None)
    }
}

/// What bob reads of `from` when the server does this to the entries that it delivers to him.
fn to_entries(
    mut lie: impl FnMut(Deliver) -> Vec<Deliver> + Send + 'static,
) -> impl FnMut(&str, ServerFrame) -> Vec<ServerFrame> + Send {
    move |to, frame| match frame.body {
        Some(Body::Deliver(deliver)) if to == "bob" => lie(deliver)
            .into_iter()
            .map(|deliver| ServerFrame { request: 0, body: Some(Body::Deliver(deliver)) })
            .collect(),
        body => vec![ServerFrame { request: frame.request, body }],
    }
}

/// As [`to_entries`], once: for the first entries that come.
fn once(lie: impl Fn(Deliver) -> Vec<Deliver> + Send + 'static) -> impl FnMut(Deliver) -> Vec<Deliver> + Send {
    let mut done = false;
    move |deliver| {
        if std::mem::replace(&mut done, true) { vec![deliver] } else { lie(deliver) }
    }
}

fn altered(deliver: &Deliver, change: impl FnOnce(&mut Vec<Entry>)) -> Deliver {
    let mut deliver = deliver.clone();
    change(&mut deliver.entries);
    deliver
}

/// The marks in bob's chat: what is neither text.
async fn marks(person: &mut Person, chat: &str) -> Result<Vec<(MessageKind, String)>> {
    let history = person.history(chat).await?.into_iter();
    Ok(history.filter(|m| m.kind != MessageKind::Text).map(|message| (message.kind, message.text)).collect())
}

/// Waits for a mark; gives its text.
async fn mark(person: &mut Person, kind: MessageKind) -> Result<String> {
    let found = person
        .until(&format!("a {kind:?} shows"), async |person| {
            Ok(marks(person, "alice").await?.into_iter().find(|(found, _)| *found == kind))
        })
        .await?;
    Ok(found.1)
}

#[tokio::test]
async fn the_made_up_server_is_honest_without_a_lie() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = friends(&server).await?;
    assert_eq!(alice.texts("bob").await?, ["honest", "honest too"]);
    assert_eq!(bob.texts("alice").await?, ["honest", "honest too"]);
    assert!(marks(&mut bob, "alice").await?.is_empty());
    assert_eq!(alice.safety_number("bob").await?, bob.safety_number("alice").await?);
    Ok(())
}

#[tokio::test]
async fn key_packages_of_the_servers_own_are_refused() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    let own = Own::make().await?;
    server
        .lie(move |_, mut frame| {
            if let Some(Body::KeyPackages(packages)) = &mut frame.body {
                let account = packages.account.clone();
                for package in &mut packages.packages {
                    if let Ok(forged) = own.key_package(&account, &package.device) {
                        package.key_package = forged;
                    }
                }
            }
            vec![frame]
        })
        .await?;
    let sent = alice.send_and_wait("bob", "for bob alone", Wait::Sent).await?;
    assert_eq!(sent.state, MessageState::Failed, "{sent:?}");
    assert!(sent.error.is_some_and(|error| error.message.contains("key packages")));
    // With the right ones the same message goes out.
    server.be_honest().await?;
    alice.call::<method::RetryOutbox>(&fastchat_ipc::OfMessage::default()).await?;
    bob.hears("alice", "for bob alone").await
}

#[tokio::test]
async fn an_identity_of_the_servers_own_shows_by_the_safety_number() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    let own = Own::make().await?;
    let key = own.identity_key();
    // From the very first contact on, in everything that it says to alice.
    server
        .lie(move |to, mut frame| {
            match &mut frame.body {
                Some(Body::AccountInfo(info)) if to == "alice" => info.identity_key = key.clone(),
                Some(Body::KeyPackages(packages)) if to == "alice" => packages.identity_key = key.clone(),
                _ => {}
            }
            vec![frame]
        })
        .await?;
    // With bob's true key packages nothing is made: the server's identity has not certified them.
    let sent = alice.send_and_wait("bob", "for bob alone", Wait::Sent).await?;
    assert_eq!(sent.state, MessageState::Failed, "{sent:?}");
    let of_bob = bob.call::<method::ShowKeys>(&ShowKey::default()).await?.own;
    let shown = alice.call::<method::ShowKeys>(&ShowKey { contact: "bob".into(), ..ShowKey::default() }).await?;
    assert_ne!(shown.fingerprint, of_bob);
    let wrong = VerifyKey { contact: "bob".into(), safety_number: "12345".repeat(12), ..VerifyKey::default() };
    assert_eq!(alice.refusal::<method::VerifyContactKey>(&wrong).await?.code, ErrorCode::IdentityChanged);
    // From when the truth comes out, the conversation is held.
    server.be_honest().await?;
    alice.call::<method::RetryOutbox>(&fastchat_ipc::OfMessage::default()).await?;
    alice.until("the change is seen", async |alice| Ok(alice.contact("bob").await?.key_changed.then_some(()))).await?;
    assert!(bob.heard("alice").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn another_identity_for_a_known_contact_holds_the_message() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, _bob) = two(&server).await?;
    let add = fastchat_ipc::OfContact { contact: "bob".into(), ..fastchat_ipc::OfContact::default() };
    alice.call::<method::AddContact>(&add).await?;
    let own = Own::make().await?;
    server
        .lie(move |_, mut frame| {
            if let Some(Body::KeyPackages(packages)) = &mut frame.body {
                packages.identity_key = own.identity_key();
                for package in &mut packages.packages {
                    if let Ok(forged) = own.key_package("bob", &package.device) {
                        package.key_package = forged;
                    }
                }
            }
            vec![frame]
        })
        .await?;
    let sent = alice.send_and_wait("bob", "for bob alone", Wait::Sent).await?;
    assert_eq!(sent.state, MessageState::Held, "{sent:?}");
    assert!(alice.contact("bob").await?.key_changed);
    Ok(())
}

#[tokio::test]
async fn a_wrong_friend_key_or_welcome_is_refused_and_said() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    server
        .lie(|_, mut frame| {
            if let Some(Body::Joining(joining)) = &mut frame.body
                && let Some(welcome) = &mut joining.welcome
            {
                let mut friend_key = welcome.join_key.to_vec();
                let last = friend_key.len() - 1;
                friend_key[last] ^= 1;
                welcome.join_key = friend_key.into();
            }
            vec![frame]
        })
        .await?;
    alice.send_and_wait("bob", "for bob alone", Wait::Sent).await?;
    let notice = mark(&mut bob, MessageKind::Notice).await?;
    assert!(notice.contains("refused"), "{notice}");
    assert!(bob.heard("alice").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_welcome_in_anothers_name_is_refused_and_said() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = two(&server).await?;
    let own = Own::make().await?;
    let key = own.identity_key();
    server
        .lie(move |_, mut frame| {
            if let Some(Body::Joining(joining)) = &mut frame.body {
                joining.creator = "carol".into();
                joining.creator_identity_key = key.clone();
            }
            vec![frame]
        })
        .await?;
    alice.send_and_wait("bob", "i am not carol", Wait::Sent).await?;
    bob.until("a refusal shows", async |bob| {
        Ok(marks(bob, "carol").await?.into_iter().find(|(_, text)| text.contains("refused")))
    })
    .await?;
    assert!(bob.heard("carol").await?.is_empty());
    assert!(bob.heard("alice").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn an_altered_entry_shows_as_unreadable_and_stops_nothing() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = friends(&server).await?;
    server
        .lie(to_entries(once(|deliver| {
            vec![altered(&deliver, |entries| {
                let mut payload = entries[0].payload.to_vec();
                let middle = payload.len() / 2;
                payload[middle] ^= 1;
                entries[0].payload = payload.into();
            })]
        })))
        .await?;
    alice.deliver("bob", "altered").await?;
    mark(&mut bob, MessageKind::Unreadable).await?;
    alice.deliver("bob", "after it").await?;
    assert_eq!(bob.heard("alice").await?, ["honest", "after it"]);
    // That one is missing is said as well, once the next one tells its number.
    assert!(marks(&mut bob, "alice").await?.iter().any(|(kind, _)| *kind == MessageKind::Notice));
    Ok(())
}

#[tokio::test]
async fn a_dropped_entry_is_noticed_by_its_gap_and_by_the_senders_count() -> Result<()> {
    for renumber in [false, true] {
        let server = FalseServer::start().await?;
        let (mut alice, mut bob) = friends(&server).await?;
        let mut dropped = false;
        server
            .lie(to_entries(move |deliver| {
                if !std::mem::replace(&mut dropped, true) {
                    return Vec::new();
                }
                vec![altered(&deliver, |entries| {
                    entries.iter_mut().for_each(|entry| entry.seq -= u64::from(renumber));
                })]
            }))
            .await?;
        alice.send_and_wait("bob", "dropped", Wait::Sent).await?;
        alice.send_and_wait("bob", "after it", Wait::Sent).await?;
        bob.hears("alice", "after it").await?;
        assert_eq!(bob.heard("alice").await?, ["honest", "after it"]);
        let marks = marks(&mut bob, "alice").await?;
        let words = if renumber { "are missing here" } else { "left out 1 entries" };
        assert!(marks.iter().any(|(_, text)| text.contains(words)), "renumbered: {renumber}: {marks:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_replayed_entry_shows_once() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = friends(&server).await?;
    server
        .lie(to_entries(once(|deliver| {
            let as_it_was = deliver.clone();
            let under_the_same_id = altered(&deliver, |entries| entries[0].seq += 1);
            let under_another_id = altered(&deliver, |entries| {
                entries[0].seq += 2;
                entries[0].message_id = MessageId::generate().to_wire();
            });
            vec![deliver, as_it_was, under_the_same_id, under_another_id]
        })))
        .await?;
    alice.send_and_wait("bob", "only once", Wait::Sent).await?;
    mark(&mut bob, MessageKind::Unreadable).await?;
    mark(&mut bob, MessageKind::Notice).await?;
    assert_eq!(bob.heard("alice").await?, ["honest", "only once"]);
    Ok(())
}

#[tokio::test]
async fn entries_in_another_order_do_not_pass_for_the_right_one() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = friends(&server).await?;
    let mut kept: Vec<Entry> = Vec::new();
    server
        .lie(to_entries(move |deliver| {
            kept.extend(deliver.entries.clone());
            if kept.len() < 2 {
                return Vec::new();
            }
            let (first, second) = (kept[0].seq, kept[1].seq);
            kept.swap(0, 1);
            (kept[0].seq, kept[1].seq) = (first, second);
            vec![Deliver { entries: std::mem::take(&mut kept), ..deliver }]
        }))
        .await?;
    alice.send_and_wait("bob", "first", Wait::Sent).await?;
    alice.send_and_wait("bob", "second", Wait::Sent).await?;
    mark(&mut bob, MessageKind::Unreadable).await?;
    mark(&mut bob, MessageKind::Notice).await?;
    assert_eq!(bob.heard("alice").await?, ["honest", "second"], "the first one came too late and says so");
    Ok(())
}

#[tokio::test]
async fn who_wrote_an_entry_is_not_the_servers_to_say() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = friends(&server).await?;
    server
        .lie(to_entries(once(|deliver| vec![altered(&deliver, |entries| entries[0].sender = "mallory".into())])))
        .await?;
    alice.deliver("bob", "by alice").await?;
    let history = bob.history("alice").await?;
    assert!(history.iter().any(|message| message.text == "by alice" && message.from == "alice"), "{history:?}");
    // Bob's own device named as the sender: he does not see words of his that he did not write.
    let own: Bytes = bob.account().await?.device.parse::<Uuid>()?.as_bytes().to_vec().into();
    server
        .lie(to_entries(once(move |deliver| vec![altered(&deliver, |entries| entries[0].device = own.clone())])))
        .await?;
    alice.deliver("bob", "by alice again").await?;
    let unreadable = mark(&mut bob, MessageKind::Unreadable).await?;
    assert!(unreadable.contains("did not send"), "{unreadable}");
    assert!(!bob.texts("alice").await?.iter().any(|text| text == "by alice again"));
    Ok(())
}

#[tokio::test]
async fn an_entry_that_nobody_wrote_shows_as_unreadable() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, mut bob) = friends(&server).await?;
    server
        .lie(to_entries(once(|deliver| {
            let forged = altered(&deliver, |entries| {
                entries.truncate(1);
                entries[0].message_id = MessageId::generate().to_wire();
                entries[0].payload = Bytes::from_static(&[7; 200]);
            });
            let true_one = altered(&deliver, |entries| entries.iter_mut().for_each(|entry| entry.seq += 1));
            vec![forged, true_one]
        })))
        .await?;
    alice.send_and_wait("bob", "the true one", Wait::Sent).await?;
    bob.hears("alice", "the true one").await?;
    mark(&mut bob, MessageKind::Unreadable).await?;
    assert_eq!(bob.heard("alice").await?, ["honest", "the true one"]);
    Ok(())
}

#[tokio::test]
async fn delivered_in_anothers_name_is_not_taken() -> Result<()> {
    let server = FalseServer::start().await?;
    let (mut alice, bob) = friends(&server).await?;
    let (held, conversation) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::OnceLock::new()));
    let (seen, id) = (Arc::clone(&held), Arc::clone(&conversation));
    server
        .lie(move |to, frame| match &frame.body {
            // Bob gets nothing of it, so he acknowledges nothing.
            Some(Body::Deliver(deliver)) if to == "bob" => {
                let _ = id.set(deliver.conversation.clone());
                seen.store(true, Ordering::Release);
                Vec::new()
            }
            _ => vec![frame],
        })
        .await?;
    let sent = alice.send_and_wait("bob", "not delivered", Wait::Sent).await?;
    assert!(held.load(Ordering::Acquire));
    let conversation = conversation.get().cloned().unwrap_or_default();
    for account in ["mallory", "alice", ""] {
        let forged = Delivered { conversation: conversation.clone(), account: account.into(), seq: 100 };
        server.say("alice", Body::Delivered(forged)).await?;
    }
    // What was said before the answer to this is taken in by then.
    let nobody = fastchat_ipc::OfContact { contact: "nobody".into(), ..fastchat_ipc::OfContact::default() };
    assert_eq!(alice.refusal::<method::AddContact>(&nobody).await?.code, ErrorCode::NotFound);
    let history = alice.history("bob").await?;
    assert!(history.iter().any(|m| m.id == sent.id && m.state == MessageState::Sent), "{history:?}");
    drop(bob);
    Ok(())
}
