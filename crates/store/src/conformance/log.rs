//! Appending, reading, trimming, expiring.
//!
//! **Invariant**: each check uses accounts of its own.

use bytes::Bytes;
use fastchat_wire::ConversationId;

use super::{WIDE, append, entry, payloads, person, seqs, talk};
use crate::{Appended, CursorMove, Kind, NewEntry, Page, PageBounds, Store, StoreError};

pub(super) async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    seqs_are_dense_in_the_order_of_the_calls(store).await?;
    a_resend_is_the_same_entry(store).await?;
    refusals_leave_nothing_behind(store).await?;
    pages_are_bounded(store).await?;
    what_everybody_has_is_trimmed(store).await?;
    what_is_old_expires_and_is_still_known(store).await
}

async fn seqs_are_dense_in_the_order_of_the_calls<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "l.one").await?, person(store, "l.two").await?);
    let conversation = talk(store, &one, &two).await?;
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let sender = if number % 2 == 0 { &one } else { &two };
            store.append(append(conversation, sender, vec![entry(&number.to_string())], 1))
        })
        .collect();
    for (at, call) in calls.into_iter().enumerate() {
        assert_eq!(seqs(&call.await?), [at as u64 + 1]);
    }
    let read = payloads(store, conversation, &two, 0).await?;
    let expected = (0..100_u64).map(|number| {
        // Own entries come without their payload.
        let payload = if number % 2 == 0 { Bytes::from(number.to_string()) } else { Bytes::new() };
        (number + 1, payload)
    });
    assert_eq!(read, expected.collect::<Vec<_>>());
    Ok(())
}

async fn a_resend_is_the_same_entry<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "l.again").await?, person(store, "l.peer").await?);
    let conversation = talk(store, &one, &two).await?;
    let sent = entry("x");
    let first = store.append(append(conversation, &one, vec![sent.clone()], 10)).await?;
    assert!(matches!(&first, Appended::Accepted { time_ms: 10, new, .. } if new.len() == 1));
    let again = store.append(append(conversation, &one, vec![sent.clone(), entry("y")], 20)).await?;
    assert!(matches!(&again, Appended::Accepted { time_ms: 20, new, seqs } if new.len() == 1 && *seqs == [1, 2]));
    let again = store.append(append(conversation, &one, vec![sent.clone()], 30)).await?;
    assert_eq!(again, Appended::Accepted { seqs: vec![1], time_ms: 10, new: Vec::new() });
    let conflict = Appended::Conflict(sent.message_id);
    let other = NewEntry { payload: "z".into(), ..sent.clone() };
    assert_eq!(store.append(append(conversation, &one, vec![other], 30)).await?, conflict);
    assert_eq!(store.append(append(conversation, &two, vec![sent.clone()], 30)).await?, conflict);
    let twice = vec![entry("new"), sent.clone(), sent];
    assert_eq!(store.append(append(conversation, &one, twice, 30)).await?, conflict);
    assert_eq!(payloads(store, conversation, &two, 0).await?.len(), 2);
    Ok(())
}

async fn refusals_leave_nothing_behind<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "l.no").await?, person(store, "l.block").await?);
    let stranger = person(store, "l.stranger").await?;
    let conversation = talk(store, &one, &two).await?;
    let stale = NewEntry { epoch: 2, ..entry("stale") };
    let refused = store.append(append(conversation, &one, vec![entry("good"), stale], 1)).await?;
    assert_eq!(refused, Appended::StaleEpoch { current: 1 });
    let commit = NewEntry { kind: Kind::Commit, ..entry("commit") };
    let refused = store.append(append(conversation, &one, vec![commit], 1)).await?;
    assert_eq!(refused, Appended::HandshakeRefused);
    let refused = store.append(append(conversation, &stranger, vec![entry("x")], 1)).await?;
    assert!(matches!(refused, Appended::NotFound | Appended::NotAMember));
    let refused = store.append(append(ConversationId::generate(), &one, vec![entry("x")], 1)).await?;
    assert_eq!(refused, Appended::NotFound);
    assert!(store.set_blocked(two.name.clone(), one.name.clone(), true).await?);
    assert_eq!(store.append(append(conversation, &one, vec![entry("x")], 1)).await?, Appended::Refused);
    assert_eq!(seqs(&store.append(append(conversation, &two, vec![entry("x")], 1)).await?), [1]);
    assert!(store.set_blocked(two.name, one.name.clone(), false).await?);
    assert_eq!(seqs(&store.append(append(conversation, &one, vec![entry("x")], 1)).await?), [2]);
    let page = store.read_after(conversation, stranger.device, 0, WIDE).await?;
    assert_eq!(page, Page::default(), "a stranger reads nothing");
    Ok(())
}

async fn pages_are_bounded<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "l.pages").await?, person(store, "l.reader").await?);
    let conversation = talk(store, &one, &two).await?;
    let entries = (0..10).map(|_| entry(&"x".repeat(100))).collect();
    store.append(append(conversation, &one, entries, 1)).await?;
    let count = async |entries, bytes, after| {
        let page = store.read_after(conversation, two.device, after, PageBounds { entries, bytes }).await?;
        assert_eq!(page.head, 10);
        Ok::<_, StoreError>(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>())
    };
    assert_eq!(count(3, 10_000, 4).await?, [5, 6, 7]);
    assert_eq!(count(100, 250, 0).await?, [1, 2]);
    assert_eq!(count(100, 1, 0).await?, [1], "one entry always fits");
    assert_eq!(count(100, 1, 10).await?, []);
    Ok(())
}

async fn what_everybody_has_is_trimmed<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "l.trim").await?, person(store, "l.slow").await?);
    let conversation = talk(store, &one, &two).await?;
    store.append(append(conversation, &one, vec![entry("1"), entry("2"), entry("3")], 1)).await?;
    let moved = |device, seq| CursorMove { conversation, device, seq, joined: true };
    store.save_cursors(vec![moved(one.device, 3)]).await?;
    assert_eq!(payloads(store, conversation, &two, 0).await?.len(), 3, "one of them still needs it");
    store.save_cursors(vec![moved(two.device, 2)]).await?;
    assert_eq!(payloads(store, conversation, &two, 0).await?, [(3, "3".into())]);
    assert_eq!(seqs(&store.append(append(conversation, &two, vec![entry("4")], 1)).await?), [4]);
    Ok(())
}

async fn what_is_old_expires_and_is_still_known<S: Store>(store: &S) -> Result<(), StoreError> {
    // Every entry of the checks before is older than this.
    while store.expire(1_000, 10).await? == 10 {}
    let (one, two) = (person(store, "l.old").await?, person(store, "l.away").await?);
    let conversation = talk(store, &one, &two).await?;
    let sent = entry("old");
    store.append(append(conversation, &one, vec![sent.clone(), entry("old too")], 2_000)).await?;
    store.append(append(conversation, &one, vec![entry("new")], 4_000)).await?;
    assert_eq!(store.expire(3_000, 1).await?, 1);
    assert_eq!(store.expire(3_000, 10).await?, 1);
    assert_eq!(store.expire(3_000, 10).await?, 0);
    let page = store.read_after(conversation, two.device, 0, WIDE).await?;
    assert_eq!(page.expired_through, 2);
    assert_eq!(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3]);
    let page = store.read_after(conversation, two.device, 2, WIDE).await?;
    assert_eq!(page.expired_through, 0, "this reader lacks nothing");
    let again = store.append(append(conversation, &one, vec![sent], 5_000)).await?;
    assert_eq!(seqs(&again), [1], "its sender has not seen it in the log yet: a resend is known");
    Ok(())
}
