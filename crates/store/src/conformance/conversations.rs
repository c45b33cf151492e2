//! Direct conversations, joinings, cursors.
//!
//! **Invariant**: each check uses accounts of its own.

use fastchat_wire::{ConversationId, DeviceId};

use super::{append, direct, direct_of, entry, person, seqs, talk};
use crate::{Appended, CreateDirect, CursorMove, DeviceAdded, Store, StoreError};

pub(super) async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    a_pair_has_one(store).await?;
    the_welcomes_are_those_of_the_peers_devices(store).await?;
    a_joining_stays_until_it_is_taken(store).await?;
    one_creator_does_not_fill_the_joinings(store).await?;
    changed_devices_close_direct_conversations(store).await?;
    a_device_counts_once_it_can_be_written_to(store).await?;
    replaced_conversations_do_not_add_up(store).await?;
    one_talks_with_oneself(store).await?;
    leaves_are_what_is_known_of_their_devices(store).await
}

async fn a_pair_has_one<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "c.one").await?, person(store, "c.two").await?);
    let first = direct(&one, &two);
    let (racing, repeated, id) = (direct(&two, &one), first.clone(), first.conversation);
    let (first, racing) = tokio::join!(store.create_direct(first), store.create_direct(racing));
    assert!(matches!(first?, CreateDirect::Created { closed: None, .. }));
    assert_eq!(racing?, CreateDirect::Exists { conversation: id, member: true });
    assert_eq!(store.create_direct(repeated).await?, CreateDirect::Repeated);
    let three = person(store, "c.three").await?;
    let same_id = crate::NewDirect { conversation: id, ..direct(&three, &two) };
    assert_eq!(store.create_direct(same_id).await?, CreateDirect::Conflict);
    let other = crate::NewDirect { replaces: Some(ConversationId::generate()), ..direct(&one, &two) };
    assert_eq!(store.create_direct(other).await?, CreateDirect::Exists { conversation: id, member: true });
    let next = crate::NewDirect { replaces: Some(id), ..direct(&two, &one) };
    let by = next.conversation;
    let made = store.create_direct(next).await?;
    assert!(matches!(made, CreateDirect::Created { closed, .. } if closed == Some(id)));
    let late = store.append(append(id, &one, vec![entry("late")], 1)).await?;
    assert_eq!(late, Appended::Closed { by: Some(by) });
    assert_eq!(seqs(&store.append(append(by, &one, vec![entry("new")], 1)).await?), [1]);
    Ok(())
}

async fn the_welcomes_are_those_of_the_peers_devices<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "c.from").await?, person(store, "c.to").await?);
    let mut wrong = direct(&one, &two);
    if let Some(welcome) = wrong.welcomes.first_mut() {
        welcome.device = DeviceId::generate();
    }
    assert_eq!(store.create_direct(wrong).await?, CreateDirect::OtherDevices);
    let none = crate::NewDirect { welcomes: Vec::new(), ..direct(&one, &two) };
    assert_eq!(store.create_direct(none).await?, CreateDirect::OtherDevices);
    let foreign = crate::NewDirect { device: two.device, ..direct(&one, &two) };
    assert_eq!(store.create_direct(foreign).await?, CreateDirect::NoDevice);
    assert!(store.set_blocked(two.name.clone(), one.name.clone(), true).await?);
    assert_eq!(store.create_direct(direct(&one, &two)).await?, CreateDirect::Refused);
    assert!(matches!(store.create_direct(direct(&two, &one)).await?, CreateDirect::Created { .. }));
    assert!(!store.set_blocked(two.name, super::name("c.nobody"), true).await?);
    Ok(())
}

async fn a_joining_stays_until_it_is_taken<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "c.creator").await?, person(store, "c.joiner").await?);
    let conversation = talk(store, &one, &two).await?;
    store.append(append(conversation, &one, vec![entry("1"), entry("2")], 1)).await?;
    let state = |device, joinings| store.device_state(device, joinings);
    let joiner = state(two.device, 10).await?.unwrap_or_default();
    assert!(joiner.memberships.is_empty() && !joiner.more_joinings);
    let joining = joiner.joinings.first().cloned();
    let peer = joining.as_ref().and_then(|joining| joining.peer.clone());
    assert_eq!(peer.as_ref(), Some(&two.name), "with whom it was made, whoever asks");
    let shown = joining.map(|joining| (joining.start_seq, joining.membership.head, joining.creator_identity_key));
    assert_eq!(shown, Some((0, 2, "key of c.creator".into())));
    let creator = state(one.device, 10).await?.unwrap_or_default();
    assert_eq!((creator.memberships.len(), creator.joinings.len()), (1, 0));
    let moved = |seq, joined| CursorMove { conversation, device: two.device, seq, joined };
    store.save_cursors(vec![moved(0, true)]).await?;
    let joiner = state(two.device, 10).await?.unwrap_or_default();
    assert_eq!((joiner.memberships.len(), joiner.joinings.len()), (1, 0));
    for (seq, expected) in [(2, 2), (1, 2), (99, 2)] {
        store.save_cursors(vec![moved(seq, false)]).await?;
        let cursors: Vec<u64> = state(two.device, 10)
            .await?
            .into_iter()
            .flat_map(|state| state.memberships)
            .map(|membership| membership.cursor)
            .collect();
        assert_eq!(cursors, [expected], "a cursor moves neither back nor past the head");
    }
    let others = state(one.device, 10).await?.unwrap_or_default().memberships.pop().map(|membership| membership.others);
    assert_eq!(others.into_iter().flatten().map(|other| other.cursor).collect::<Vec<_>>(), [2]);
    let third = person(store, "c.third").await?;
    for creator in [&one, &third] {
        let _ = store.create_direct(direct(creator, &two)).await?;
    }
    let _ = store.create_direct(direct(&person(store, "c.fourth").await?, &two)).await?;
    let joiner = state(two.device, 1).await?.unwrap_or_default();
    assert_eq!((joiner.joinings.len(), joiner.more_joinings), (1, true));
    Ok(())
}

async fn one_creator_does_not_fill_the_joinings<S: Store>(store: &S) -> Result<(), StoreError> {
    let (many, other) = (person(store, "c.many").await?, person(store, "c.one2").await?);
    let two = person(store, "c.invited").await?;
    let mut groups = Vec::new();
    for _ in 0..crate::JOININGS_OF_ONE + 2 {
        groups.push(super::groups::group_with(store, &many, &two).await?);
    }
    let last = super::groups::group_with(store, &other, &two).await?;
    let state = async || Ok::<_, StoreError>(store.device_state(two.device, 20).await?.unwrap_or_default());
    let of = |state: &crate::DeviceState| {
        state.joinings.iter().map(|joining| joining.membership.conversation).collect::<Vec<_>>()
    };
    let first = state().await?;
    let mut expected = groups[..crate::JOININGS_OF_ONE as usize].to_vec();
    expected.push(last);
    assert_eq!((of(&first), first.more_joinings, &first.waiting[..]), (expected, false, &[many.name.clone()][..]));
    let taken = |conversation| CursorMove { conversation, device: two.device, seq: 1, joined: true };
    store.save_cursors(groups[..2].iter().copied().map(taken).collect()).await?;
    let next = state().await?;
    let mut expected = groups[2..].to_vec();
    expected.push(last);
    assert_eq!((of(&next), next.waiting.len()), (expected, 0));
    Ok(())
}

async fn changed_devices_close_direct_conversations<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "c.stays").await?, person(store, "c.changes").await?);
    let conversation = talk(store, &one, &two).await?;
    let sent = entry("before");
    store.append(append(conversation, &one, vec![sent.clone()], 1)).await?;
    let new = super::log_in(store, &two).await?;
    let resent = store.append(append(conversation, &one, vec![sent], 1)).await?;
    assert_eq!(seqs(&resent), [1], "what was accepted stays accepted");
    let after = store.append(append(conversation, &one, vec![entry("after")], 1)).await?;
    assert_eq!(after, Appended::Closed { by: None });
    let read = super::payloads(store, conversation, &two, 0).await?;
    assert_eq!(read, [(1, "before".into())], "what was there before is still delivered");
    let exists = CreateDirect::Exists { conversation, member: false };
    assert_eq!(store.create_direct(direct(&two, &one)).await?, exists);
    assert_eq!(store.create_direct(direct(&one, &two)).await?, exists);
    let without_the_new = crate::NewDirect { replaces: Some(conversation), ..direct(&one, &two) };
    assert_eq!(store.create_direct(without_the_new).await?, CreateDirect::OtherDevices);
    let third = super::log_in(store, &one).await?;
    let replacing = crate::NewDirect { replaces: Some(conversation), ..direct_of(&one, &two, &[&two, &new, &third]) };
    let made = store.create_direct(replacing).await?;
    let CreateDirect::Created { joinings, .. } = made else { unreachable!("{made:?}") };
    assert_eq!(joinings.len(), 3, "all other devices of both");
    let told = joinings.iter().filter(|(_, joining)| joining.peer.as_ref() == Some(&two.name)).count();
    assert_eq!(told, 3, "also the creator's own: with whom");
    let waiting = store.device_state(third.device, 1).await?.unwrap_or_default().joinings;
    assert_eq!(waiting.first().and_then(|joining| joining.peer.as_ref()), Some(&two.name));
    Ok(())
}

async fn a_device_counts_once_it_can_be_written_to<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "c.writes").await?, person(store, "c.half").await?);
    let conversation = talk(store, &one, &two).await?;
    let new = super::Person { name: two.name.clone(), device: DeviceId::generate() };
    let added = store.add_device(super::login(&two.name, new.device)).await?;
    let DeviceAdded::Done(change) = added else { unreachable!("{added:?}") };
    assert_eq!((change.closed, change.removed), (Vec::new(), Vec::new()));
    assert_eq!(seqs(&store.append(append(conversation, &one, vec![entry("still")], 1)).await?), [1]);
    let claimed = async |now_ms| {
        let claim = crate::Claim { account: two.name.clone(), by: one.device, reserve: 0, now_ms };
        let packages = store.claim_key_packages(claim).await?.map(|claimed| claimed.packages).unwrap_or_default();
        Ok::<_, StoreError>(packages.into_iter().map(|(device, _)| device).collect::<Vec<_>>())
    };
    assert_eq!(claimed(2).await?, [two.device], "others are written to without it");
    let replacing = crate::NewDirect { replaces: Some(conversation), ..direct(&one, &two) };
    let conversation = replacing.conversation;
    assert!(matches!(store.create_direct(replacing).await?, CreateDirect::Created { .. }));
    assert_eq!(super::offer(store, &new, 3).await?, Some(vec![conversation]));
    assert_eq!(super::offer(store, &new, 3).await?, None, "only the first time");
    assert_eq!(claimed(3).await?.len(), 2);
    // Who has not been here for long does not count, until he comes back.
    let late = crate::OFFER_LIFE_MS + 2;
    assert_eq!(claimed(late).await?, [new.device]);
    let without = crate::NewDirect { replaces: Some(conversation), now_ms: late, ..direct_of(&one, &two, &[&new]) };
    let conversation = without.conversation;
    let made = store.create_direct(without).await?;
    assert!(matches!(made, CreateDirect::Created { .. }), "{made:?}");
    assert_eq!(super::offer(store, &one, late).await?, Some(Vec::new()), "a member of it is in it");
    assert_eq!(super::offer(store, &two, late).await?, Some(vec![conversation]));
    assert_eq!(claimed(late).await?.len(), 2);
    Ok(())
}

async fn replaced_conversations_do_not_add_up<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "c.often").await?, person(store, "c.anew").await?);
    let old = talk(store, &one, &two).await?;
    store.append(append(old, &one, vec![entry("1")], 1)).await?;
    let replacing = crate::NewDirect { replaces: Some(old), ..direct(&one, &two) };
    let new = replacing.conversation;
    store.create_direct(replacing).await?;
    let known = async |person: &super::Person| {
        let state = store.device_state(person.device, 10).await?.unwrap_or_default();
        let joining = state.joinings.iter().map(|joining| joining.membership.conversation);
        let mut known: Vec<_> = state.memberships.iter().map(|membership| membership.conversation).collect();
        known.extend(joining);
        known.sort_unstable();
        Ok::<_, StoreError>(known)
    };
    let moved = |conversation, person: &super::Person, seq| {
        store.save_cursors(vec![CursorMove { conversation, device: person.device, seq, joined: true }])
    };
    assert_eq!(known(&one).await?, [old, new], "there is an entry that it has not acknowledged");
    moved(old, &one, 1).await?;
    assert_eq!(known(&one).await?, [new]);
    // The other one comes by the new Joining, before or after the old entries.
    moved(new, &two, 0).await?;
    assert_eq!(known(&two).await?, [old, new]);
    assert_eq!(super::payloads(store, old, &two, 0).await?, [(1, "1".into())]);
    moved(old, &two, 1).await?;
    assert_eq!(known(&two).await?, [new]);
    let again = crate::NewDirect { replaces: Some(new), ..direct(&two, &one) };
    let last = again.conversation;
    store.create_direct(again).await?;
    assert_eq!(known(&two).await?, [last]);
    assert_eq!(known(&one).await?, [new, last], "it does not know yet");
    moved(last, &one, 0).await?;
    assert_eq!(known(&one).await?, [last]);
    let late = store.append(append(old, &one, vec![entry("late")], 1)).await?;
    assert_eq!(late, Appended::Closed { by: Some(new) }, "and it is still told what became of it");
    // For as long as entries are kept.
    for (before_ms, expected) in [(5, Appended::Closed { by: Some(new) }), (6, Appended::NotFound)] {
        while store.expire(before_ms, 1_000).await? == 1_000 {}
        assert_eq!(store.append(append(old, &one, vec![entry("later")], 1)).await?, expected);
    }
    assert_eq!(known(&one).await?, [last], "what is open stays");
    assert!(store.are_acquainted(one.name, two.name).await?);
    Ok(())
}

async fn one_talks_with_oneself<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "c.self").await?;
    let other = super::log_in(store, &one).await?;
    let own = direct_of(&one, &one, &[&other]);
    let id = own.conversation;
    let made = store.create_direct(own).await?;
    let CreateDirect::Created { membership, joinings, .. } = made else { unreachable!("{made:?}") };
    assert_eq!((membership.accounts, membership.others.len(), joinings.len()), (1, 0, 1));
    assert_eq!(joinings.first().and_then(|(_, joining)| joining.peer.clone()).as_ref(), Some(&one.name));
    let waiting = store.device_state(other.device, 1).await?.unwrap_or_default().joinings;
    assert_eq!(waiting, joinings.into_iter().map(|(_, joining)| joining).collect::<Vec<_>>());
    assert_eq!(seqs(&store.append(append(id, &one, vec![entry("read")], 1)).await?), [1]);
    assert_eq!(super::payloads(store, id, &other, 0).await?, [(1, "read".into())]);
    let racing = store.create_direct(direct_of(&other, &one, &[&one])).await?;
    assert_eq!(racing, CreateDirect::Exists { conversation: id, member: true });
    // What is said among them waits for one that is being set up, but not for ever.
    let new = super::Person { name: one.name.clone(), device: DeviceId::generate() };
    let added = store.add_device(super::login(&one.name, new.device)).await?;
    assert!(matches!(&added, DeviceAdded::Done(change) if change.closed == [id]), "{added:?}");
    let late = store.append(append(id, &one, vec![entry("read")], 1)).await?;
    assert_eq!(late, Appended::Closed { by: None });
    let claimed = async |now_ms| {
        let claim = crate::Claim { account: one.name.clone(), by: one.device, reserve: 0, now_ms };
        let claimed = store.claim_key_packages(claim).await?;
        Ok::<_, StoreError>(claimed.map(|claimed| (claimed.packages.len(), claimed.is_setting_up)))
    };
    assert_eq!(claimed(3).await?, Some((0, true)));
    let replacing = crate::NewDirect { replaces: Some(id), ..direct_of(&one, &one, &[&other]) };
    assert_eq!(store.create_direct(replacing.clone()).await?, CreateDirect::OtherDevices);
    let later = 2 + crate::SETTING_UP_MS;
    assert_eq!(claimed(later).await?, Some((1, false)));
    let made = store.create_direct(crate::NewDirect { now_ms: later, ..replacing }).await?;
    let CreateDirect::Created { membership, .. } = made else { unreachable!("{made:?}") };
    assert_eq!(super::offer(store, &new, later).await?, Some(vec![membership.conversation]));
    assert_eq!(claimed(later).await?, Some((2, false)));
    Ok(())
}

async fn leaves_are_what_is_known_of_their_devices<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "c.leaf").await?, person(store, "c.leaves").await?);
    let alter: [fn(&mut crate::NewLeaf); 4] = [
        |leaf| leaf.certificate = "another".into(),
        |leaf| leaf.signature_key = bytes::Bytes::from_static(&[8; 32]),
        |leaf| leaf.identity_key = "another".into(),
        |leaf| leaf.account = super::name("c.one"),
    ];
    for (at, alter) in alter.into_iter().enumerate() {
        let mut wrong = direct(&one, &two);
        wrong.leaves.last_mut().map(alter);
        assert_eq!(store.create_direct(wrong).await?, CreateDirect::OtherLeaf(two.device), "alteration {at}");
    }
    let mut fewer = direct(&one, &two);
    fewer.leaves.pop();
    assert!(matches!(store.create_direct(fewer).await?, CreateDirect::OtherLeaf(_)));
    assert!(matches!(store.create_direct(direct(&one, &two)).await?, CreateDirect::Created { .. }));
    Ok(())
}
