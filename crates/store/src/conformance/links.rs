//! Link mailboxes and login grants.
//!
//! **Invariant**: times are later than those of all other checks, so that none of their mailboxes is left over.

use fastchat_wire::DeviceId;

use super::{login, person};
use crate::{AddDevice, DeviceAdded, GrantHash, LinkMailbox, LinkPosted, Store, StoreError};

pub(super) async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    a_mailbox_carries_messages_both_ways(store).await?;
    mailboxes_are_bounded_and_end(store).await?;
    a_grant_lets_one_device_in(store).await
}

async fn a_mailbox_carries_messages_both_ways<S: Store>(store: &S) -> Result<(), StoreError> {
    let link = [1; 16];
    assert!(store.open_link(link, "hello".into(), 1_000, 10, 1).await?);
    let read = |to_new, after, now_ms| store.link_messages(link, to_new, after, now_ms);
    let mailbox = |messages: &[&'static str]| {
        Some(LinkMailbox { messages: messages.iter().map(|text| (*text).into()).collect(), expires_ms: 1_000 })
    };
    assert_eq!(read(false, 0, 1).await?, mailbox(&["hello"]));
    assert_eq!(read(true, 0, 1).await?, mailbox(&[]));
    for text in ["one", "two"] {
        assert_eq!(store.post_link(link, false, text.into(), 2, 1).await?, LinkPosted::Done);
    }
    assert_eq!(read(true, 0, 1).await?, mailbox(&["one", "two"]));
    assert_eq!(read(true, 1, 999).await?, mailbox(&["two"]));
    assert_eq!(store.post_link(link, false, "three".into(), 2, 1).await?, LinkPosted::Full);
    assert_eq!(store.post_link(link, true, "again".into(), 2, 1).await?, LinkPosted::Done, "the other side's own");
    assert_eq!(read(true, 0, 1_000).await?, None);
    assert_eq!(store.post_link(link, true, "late".into(), 9, 1_000).await?, LinkPosted::NotFound);
    assert_eq!(store.post_link([9; 16], true, "nowhere".into(), 9, 1).await?, LinkPosted::NotFound);
    Ok(())
}

async fn mailboxes_are_bounded_and_end<S: Store>(store: &S) -> Result<(), StoreError> {
    let open = |number: u8, now_ms| store.open_link([number; 16], "hello".into(), now_ms + 1_000, 2, now_ms);
    assert!(open(2, 2_000).await?);
    assert!(open(3, 2_500).await?);
    assert!(!open(4, 2_999).await?, "two there are");
    assert!(open(4, 3_000).await?, "the first one's time is over");
    Ok(())
}

async fn a_grant_lets_one_device_in<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, other) = (person(store, "k.grant").await?, person(store, "k.other").await?);
    let (first, second) = (GrantHash([1; 32]), GrantHash([2; 32]));
    let enter = |name, grant, now_ms| {
        store.add_device(AddDevice { grant: Some(grant), now_ms, ..login(name, DeviceId::generate()) })
    };
    assert_eq!(enter(&one.name, first, 10).await?, DeviceAdded::GrantRefused, "there is none");
    store.grant_login(one.name.clone(), first, 100).await?;
    assert_eq!(enter(&other.name, first, 10).await?, DeviceAdded::GrantRefused, "another account's");
    assert_eq!(enter(&one.name, first, 100).await?, DeviceAdded::GrantRefused, "too late");
    assert!(matches!(enter(&one.name, first, 99).await?, DeviceAdded::Done(_)));
    assert_eq!(enter(&one.name, first, 99).await?, DeviceAdded::GrantRefused, "used");
    store.grant_login(one.name.clone(), first, 100).await?;
    store.grant_login(one.name.clone(), second, 100).await?;
    assert_eq!(enter(&one.name, first, 10).await?, DeviceAdded::GrantRefused, "a newer one took its place");
    assert!(matches!(enter(&one.name, second, 10).await?, DeviceAdded::Done(_)));
    // A full account does not use the grant up, and tells nothing to who has none.
    super::log_in(store, &one).await?;
    store.grant_login(one.name.clone(), first, 100).await?;
    assert_eq!(enter(&one.name, second, 10).await?, DeviceAdded::GrantRefused);
    assert_eq!(enter(&one.name, first, 10).await?, DeviceAdded::TooMany);
    assert!(store.remove_device(one.name.clone(), one.device).await?.is_some());
    assert!(matches!(enter(&one.name, first, 10).await?, DeviceAdded::Done(_)));
    Ok(())
}
