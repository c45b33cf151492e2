//! Groups: commits, proposals, who gets which entries.
//!
//! **Invariant**: each check uses accounts of its own.

use fastchat_wire::{ConversationId, DeviceId, MessageId};

use super::{Person, WIDE, append, entry, leaf, log_in, login, person, seqs, welcome};
use crate::{
    AddDevice, AppendHandshake, Appended, CreateGroup, CursorMove, DeviceState, HandshakeAppended, Kind, KnownEntry,
    NewCommit, NewEntry, NewGroup, NewHandshake, NewLeaf, RotateIdentity, Store, StoreError,
};

pub(super) async fn run<S: Store>(store: &S) -> Result<(), StoreError> {
    a_group_is_made_once(store).await?;
    one_commit_per_epoch(store).await?;
    a_handshake_again_is_the_same(store).await?;
    who_is_added_reads_from_there_on(store).await?;
    who_is_removed_reads_up_to_there(store).await?;
    a_device_joins_by_itself(store).await?;
    groups_of_an_older_identity_are_not_offered(store).await?;
    leaves_must_be_known_devices(store).await?;
    a_blocked_account_adds_nobody(store).await?;
    a_tree_goes_with_the_last_welcome(store).await?;
    a_deleted_group_takes_nothing(store).await?;
    acquaintances_share_a_conversation(store).await?;
    many_accounts_are_not_told(store).await?;
    who_never_comes_for_his_end_is_forgotten_with_it(store).await
}

async fn group<S: Store>(store: &S, creator: &Person) -> Result<ConversationId, StoreError> {
    let group = new_group(creator);
    let conversation = group.conversation;
    let made = store.create_group(group).await?;
    assert!(matches!(made, CreateGroup::Created(_)), "{made:?}");
    Ok(conversation)
}

/// A group to which somebody was added.
pub(super) async fn group_with<S: Store>(
    store: &S,
    creator: &Person,
    added: &Person,
) -> Result<ConversationId, StoreError> {
    let id = group(store, creator).await?;
    accepted(store.append_handshake(commit(id, creator, 0, adding(&[added]))).await?);
    Ok(id)
}

fn new_group(creator: &Person) -> NewGroup {
    NewGroup {
        conversation: ConversationId::generate(),
        creator: leaf(creator),
        state: "state 0".into(),
        group_info: "info 0".into(),
        now_ms: 5,
    }
}

fn commit(conversation: ConversationId, by: &Person, epoch: u64, commit: NewCommit) -> AppendHandshake {
    AppendHandshake {
        conversation,
        account: by.name.clone(),
        device: by.device,
        entry: NewEntry { message_id: MessageId::generate(), epoch, kind: Kind::Commit, payload: "commit".into() },
        pending: 0,
        state: format!("state {}", epoch + 1).into(),
        commit: Some(NewCommit { group_info: format!("info {}", epoch + 1).into(), ..commit }),
        now_ms: 6,
    }
}

fn adding(people: &[&Person]) -> NewCommit {
    NewCommit {
        added: people.iter().map(|person| leaf(person)).collect(),
        welcomes: people.iter().map(|person| welcome(person)).collect(),
        joined: people.iter().map(|person| person.name.clone()).collect(),
        ratchet_tree: "tree".into(),
        ..NewCommit::default()
    }
}

fn removing(person: &Person) -> NewCommit {
    NewCommit { removed: vec![person.device], left: vec![person.name.clone()], ..NewCommit::default() }
}

fn accepted(appended: HandshakeAppended) -> (u64, NewHandshake) {
    match appended {
        HandshakeAppended::Accepted { seq, new: Some(new), .. } => (seq, *new),
        other => unreachable!("not accepted: {other:?}"),
    }
}

async fn state<S: Store>(store: &S, person: &Person) -> Result<DeviceState, StoreError> {
    Ok(store.device_state(person.device, 10).await?.unwrap_or_default())
}

async fn read<S: Store>(
    store: &S,
    conversation: ConversationId,
    reader: &Person,
    after: u64,
) -> Result<Vec<u64>, StoreError> {
    let page = store.read_after(conversation, reader.device, after, WIDE).await?;
    Ok(page.entries.iter().map(|entry| entry.seq).collect())
}

fn at_epoch(epoch: u64) -> NewEntry {
    NewEntry { epoch, ..entry("text") }
}

async fn a_group_is_made_once<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "g.makes").await?, person(store, "g.takes").await?);
    let second = log_in(store, &one).await?;
    let group = new_group(&one);
    let made = store.create_group(group.clone()).await?;
    assert!(matches!(&made, CreateGroup::Created(membership) if membership.accounts == 1), "{made:?}");
    assert_eq!(store.create_group(group.clone()).await?, CreateGroup::Repeated);
    let taken = NewGroup { creator: leaf(&two), ..group.clone() };
    assert_eq!(store.create_group(taken).await?, CreateGroup::Conflict);
    let mut strange = new_group(&two);
    strange.creator.certificate = "another".into();
    assert_eq!(store.create_group(strange).await?, CreateGroup::OtherLeaf);
    assert_eq!(state(store, &second).await?.unjoined, [group.conversation], "the account is in it, this device not");
    assert_eq!(state(store, &one).await?.unjoined, []);
    assert_eq!(state(store, &two).await?.unjoined, []);
    let refused = store.append(append(group.conversation, &second, vec![at_epoch(0)], 1)).await?;
    assert_eq!(refused, Appended::NotAMember);
    assert_eq!(seqs(&store.append(append(group.conversation, &one, vec![at_epoch(0)], 1)).await?), [1]);
    Ok(())
}

async fn one_commit_per_epoch<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "g.epoch").await?;
    let id = group(store, &one).await?;
    let (first, second) = (commit(id, &one, 0, NewCommit::default()), commit(id, &one, 0, NewCommit::default()));
    let (first, second) = tokio::join!(store.append_handshake(first), store.append_handshake(second));
    assert_eq!(accepted(first?).0, 1);
    assert_eq!(second?, HandshakeAppended::StaleEpoch { current: 1 });
    let stale = store.append(append(id, &one, vec![at_epoch(0)], 1)).await?;
    assert_eq!(stale, Appended::StaleEpoch { current: 1 });
    let found = store.handshake_state(id, one.name.clone(), one.device, None).await?;
    let shown = found.map(|found| (found.epoch, found.head, found.state, found.group_info, found.member));
    assert_eq!(shown, Some((1, 1, "state 1".into(), "info 1".into(), true)));
    let head = store.handshake_head(id, one.name.clone(), one.device, at_epoch(1)).await?;
    let shown = head.map(|head| (head.epoch, head.head, head.state.len(), head.group_info.len(), head.member));
    assert_eq!(shown, Some((1, 1, 0, 0, true)), "enough to refuse, without what is large");
    // A proposal stays for the next commit, whose maker must have seen it.
    let propose = |pending| {
        let mut proposal = commit(id, &one, 1, NewCommit::default());
        proposal.entry.kind = Kind::Proposal;
        AppendHandshake { pending, commit: None, state: "state 1+".into(), ..proposal }
    };
    assert_eq!(accepted(store.append_handshake(propose(0)).await?).0, 2);
    assert_eq!(store.append_handshake(propose(0)).await?, HandshakeAppended::Raced);
    let blind = commit(id, &one, 1, NewCommit::default());
    assert_eq!(store.append_handshake(blind.clone()).await?, HandshakeAppended::Raced);
    let found = store.handshake_state(id, one.name.clone(), one.device, None).await?;
    let shown = found.map(|found| (found.epoch, found.pending, found.state, found.group_info));
    assert_eq!(shown, Some((1, 1, "state 1+".into(), "info 1".into())));
    accepted(store.append_handshake(AppendHandshake { pending: 1, ..blind }).await?);
    let found = store.handshake_state(id, one.name.clone(), one.device, None).await?;
    assert_eq!(found.map(|found| (found.epoch, found.pending)), Some((2, 0)));
    Ok(())
}

async fn a_handshake_again_is_the_same<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "g.again").await?;
    let id = group(store, &one).await?;
    let sent = commit(id, &one, 0, NewCommit::default());
    assert_eq!(accepted(store.append_handshake(sent.clone()).await?).0, 1);
    let again = store.append_handshake(sent.clone()).await?;
    assert_eq!(again, HandshakeAppended::Accepted { seq: 1, time_ms: 6, new: None });
    let ask = |entry| store.handshake_state(id, one.name.clone(), one.device, Some(entry));
    let found = ask(sent.entry.clone()).await?;
    let shown = found.map(|found| (found.known, found.state.len()));
    assert_eq!(shown, Some((Some(KnownEntry::Same { seq: 1, time_ms: 6 }), 0)));
    let other = NewEntry { payload: "other".into(), ..sent.entry.clone() };
    assert_eq!(ask(other.clone()).await?.and_then(|found| found.known), Some(KnownEntry::Other));
    let conflict = store.append_handshake(AppendHandshake { entry: other, ..sent }).await?;
    assert_eq!(conflict, HandshakeAppended::Conflict);
    let mixed = NewEntry { kind: Kind::Commit, ..at_epoch(1) };
    assert_eq!(store.append(append(id, &one, vec![mixed], 1)).await?, Appended::HandshakeRefused);
    Ok(())
}

async fn who_is_added_reads_from_there_on<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "g.adds").await?, person(store, "g.added").await?);
    let id = group(store, &one).await?;
    store.append(append(id, &one, vec![at_epoch(0), at_epoch(0)], 1)).await?;
    let (seq, new) = accepted(store.append_handshake(commit(id, &one, 0, adding(&[&two]))).await?);
    assert_eq!((seq, new.accounts, &new.joined[..]), (3, 2, std::slice::from_ref(&two.name)));
    let [(device, joining)] = &new.joinings[..] else { unreachable!("one joins: {new:?}") };
    assert_eq!((*device, joining.start_seq, joining.group), (two.device, 3, true));
    assert_eq!((joining.membership.cursor, &joining.ratchet_tree[..]), (3, &b"tree"[..]));
    assert_eq!(state(store, &two).await?.joinings.first(), Some(joining));
    store.append(append(id, &one, vec![at_epoch(1)], 1)).await?;
    assert_eq!(read(store, id, &two, 0).await?, [4], "nothing from before, whatever is asked for");
    assert_eq!(seqs(&store.append(append(id, &two, vec![at_epoch(1)], 1)).await?), [5]);
    let taken = CursorMove { conversation: id, device: two.device, seq: 3, joined: true };
    store.save_cursors(vec![taken]).await?;
    let state = state(store, &two).await?;
    assert_eq!((state.joinings.len(), state.memberships.len()), (0, 1));
    let others: Vec<_> = state.memberships.iter().flat_map(|membership| &membership.others).collect();
    assert_eq!(others.iter().map(|other| &other.account).collect::<Vec<_>>(), [&one.name]);
    Ok(())
}

async fn who_is_removed_reads_up_to_there<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "g.removes").await?, person(store, "g.removed").await?);
    let id = group(store, &one).await?;
    accepted(store.append_handshake(commit(id, &one, 0, adding(&[&two]))).await?);
    store.append(append(id, &one, vec![at_epoch(1)], 1)).await?;
    let (seq, new) = accepted(store.append_handshake(commit(id, &one, 1, removing(&two))).await?);
    assert_eq!((seq, &new.removed[..], new.accounts), (3, &[two.device][..], 1));
    store.append(append(id, &one, vec![at_epoch(2)], 1)).await?;
    assert_eq!(read(store, id, &two, 0).await?, [2, 3], "up to the commit that removed it");
    assert_eq!(store.append(append(id, &two, vec![at_epoch(2)], 1)).await?, Appended::NotAMember);
    let late = store.append_handshake(commit(id, &two, 2, NewCommit::default())).await?;
    assert_eq!(late, HandshakeAppended::NotAMember);
    let joining = state(store, &two).await?.joinings.pop().map(|joining| joining.membership);
    let shown = joining.map(|membership| (membership.ends_at, membership.closed));
    assert_eq!(shown, Some((Some(3), true)), "it learns of both, in order");
    let moved = |seq| CursorMove { conversation: id, device: two.device, seq, joined: true };
    store.save_cursors(vec![moved(4)]).await?;
    assert_eq!(read(store, id, &two, 1).await?, [2, 3], "an Ack of what it never gets moves nothing");
    store.save_cursors(vec![moved(3)]).await?;
    let state = state(store, &two).await?;
    assert!(state.memberships.is_empty() && state.joinings.is_empty() && state.unjoined.is_empty(), "{state:?}");
    // And comes again, as if for the first time.
    accepted(store.append_handshake(commit(id, &one, 2, adding(&[&two]))).await?);
    store.append(append(id, &one, vec![at_epoch(3)], 1)).await?;
    assert_eq!(read(store, id, &two, 0).await?, [6]);
    Ok(())
}

async fn a_device_joins_by_itself<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "g.external").await?;
    let id = group(store, &one).await?;
    store.append(append(id, &one, vec![at_epoch(0)], 1)).await?;
    let (second, stranger) = (log_in(store, &one).await?, person(store, "g.stranger").await?);
    let joins = |person: &Person| NewCommit { added: vec![leaf(person)], external: true, ..NewCommit::default() };
    let refused = store.append_handshake(commit(id, &stranger, 0, joins(&stranger))).await?;
    assert_eq!(refused, HandshakeAppended::NotAMember, "only devices of accounts that are in it");
    let (seq, new) = accepted(store.append_handshake(commit(id, &second, 0, joins(&second))).await?);
    let own = new.own.map(|membership| (membership.cursor, membership.head));
    assert_eq!((seq, own), (2, Some((1, 2))), "its own commit is the first entry that it gets");
    assert_eq!(read(store, id, &second, 0).await?, [2]);
    assert_eq!(state(store, &second).await?.unjoined, []);
    // Again, having lost its state: what lies between is nothing that it could open.
    store.append(append(id, &one, vec![at_epoch(1)], 1)).await?;
    let (seq, new) = accepted(store.append_handshake(commit(id, &second, 1, joins(&second))).await?);
    assert_eq!((seq, new.own.map(|membership| membership.cursor)), (4, Some(3)));
    // A revoked device is no member, and its account is one still.
    store.remove_device(one.name.clone(), one.device).await?;
    assert_eq!(seqs(&store.append(append(id, &second, vec![at_epoch(2)], 1)).await?), [5]);
    Ok(())
}

async fn groups_of_an_older_identity_are_not_offered<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "g.rotates").await?;
    let id = group(store, &one).await?;
    assert_eq!(state(store, &log_in(store, &one).await?).await?.unjoined, [id]);
    let rotation = RotateIdentity {
        account: one.name.clone(),
        identity_key: "fresh key".into(),
        identity_backup: "fresh backup".into(),
        device: one.device,
        certificate: "fresh certificate".into(),
    };
    store.rotate_identity(rotation).await?;
    let second = log_in(store, &one).await?;
    assert_eq!(state(store, &second).await?.unjoined, [], "it could not come in");
    let fresh = NewLeaf { identity_key: "fresh key".into(), certificate: "fresh certificate".into(), ..leaf(&one) };
    let reidentified = NewCommit { reidentified: Some(fresh), ..NewCommit::default() };
    accepted(store.append_handshake(commit(id, &one, 0, reidentified)).await?);
    assert_eq!(state(store, &second).await?.unjoined, [id]);
    let alone = AddDevice {
        identity: Some(("another key".into(), "another backup".into())),
        ..login(&one.name, DeviceId::generate())
    };
    let new = Person { name: one.name.clone(), device: alone.device.device };
    store.add_device(alone).await?;
    assert_eq!(state(store, &new).await?.unjoined, []);
    Ok(())
}

async fn leaves_must_be_known_devices<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "g.known").await?, person(store, "g.unknown").await?);
    let id = group(store, &one).await?;
    let mut wrong = adding(&[&two]);
    wrong.added.iter_mut().for_each(|leaf| leaf.certificate = "another".into());
    let refused = store.append_handshake(commit(id, &one, 0, wrong)).await?;
    assert_eq!(refused, HandshakeAppended::OtherLeaf(two.device));
    let mut other = leaf(&one);
    other.identity_key = "another".into();
    let rotated = NewCommit { reidentified: Some(other), ..NewCommit::default() };
    let refused = store.append_handshake(commit(id, &one, 0, rotated)).await?;
    assert_eq!(refused, HandshakeAppended::OtherLeaf(one.device));
    let found = store.handshake_state(id, one.name.clone(), one.device, None).await?;
    assert_eq!(found.map(|found| (found.epoch, found.head)), Some((0, 0)), "nothing was appended");
    assert_eq!(state(store, &two).await?, DeviceState::default());
    Ok(())
}

async fn a_blocked_account_adds_nobody<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "g.blocked").await?, person(store, "g.blocks").await?);
    let id = group(store, &one).await?;
    assert!(store.set_blocked(two.name.clone(), one.name.clone(), true).await?);
    let refused = store.append_handshake(commit(id, &one, 0, adding(&[&two]))).await?;
    assert_eq!(refused, HandshakeAppended::Refused(two.name.clone()));
    assert!(store.set_blocked(two.name.clone(), one.name.clone(), false).await?);
    accepted(store.append_handshake(commit(id, &one, 0, adding(&[&two]))).await?);
    // In a group one does not silence the other.
    assert!(store.set_blocked(two.name.clone(), one.name.clone(), true).await?);
    assert_eq!(seqs(&store.append(append(id, &one, vec![at_epoch(1)], 1)).await?), [2]);
    // In a direct conversation neither text nor handshake passes.
    assert!(store.set_blocked(two.name.clone(), one.name.clone(), false).await?);
    let direct = super::talk(store, &one, &two).await?;
    assert!(store.set_blocked(two.name.clone(), one.name.clone(), true).await?);
    let refused = store.append_handshake(commit(direct, &one, 1, NewCommit::default())).await?;
    assert_eq!(refused, HandshakeAppended::Refused(one.name.clone()));
    accepted(store.append_handshake(commit(direct, &two, 1, NewCommit::default())).await?);
    Ok(())
}

async fn a_tree_goes_with_the_last_welcome<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two, three) =
        (person(store, "g.tree").await?, person(store, "g.tree2").await?, person(store, "g.tree3").await?);
    let id = group(store, &one).await?;
    accepted(store.append_handshake(commit(id, &one, 0, adding(&[&two, &three]))).await?);
    let take = |person: &Person| CursorMove { conversation: id, device: person.device, seq: 1, joined: true };
    store.save_cursors(vec![take(&two)]).await?;
    let left = state(store, &three).await?.joinings.pop().map(|joining| joining.ratchet_tree);
    assert_eq!(left, Some("tree".into()));
    // An Ack of an earlier Joining does not take the later one.
    accepted(store.append_handshake(commit(id, &one, 1, removing(&two))).await?);
    accepted(store.append_handshake(commit(id, &one, 2, adding(&[&two]))).await?);
    store.save_cursors(vec![take(&two)]).await?;
    let again = state(store, &two).await?.joinings.pop().map(|joining| joining.membership);
    let shown = again.map(|membership| (membership.ends_at, membership.closed, membership.cursor));
    assert_eq!(shown, Some((None, false, 3)), "a member anew, though it never took its end");
    assert_eq!(seqs(&store.append(append(id, &two, vec![at_epoch(3)], 1)).await?), [4]);
    Ok(())
}

async fn a_deleted_group_takes_nothing<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "g.deletes").await?;
    let id = group(store, &one).await?;
    let end = NewCommit { deleted: true, ..NewCommit::default() };
    let (_, new) = accepted(store.append_handshake(commit(id, &one, 0, end)).await?);
    assert!(new.deleted);
    assert_eq!(store.append(append(id, &one, vec![at_epoch(1)], 1)).await?, Appended::Closed { by: None });
    let late = store.append_handshake(commit(id, &one, 1, NewCommit::default())).await?;
    assert_eq!(late, HandshakeAppended::Closed { by: None });
    let second = log_in(store, &one).await?;
    assert_eq!(state(store, &second).await?.unjoined, []);
    assert_eq!(state(store, &one).await?.memberships.first().map(|membership| membership.closed), Some(true));
    store.save_cursors(vec![CursorMove { conversation: id, device: one.device, seq: 1, joined: false }]).await?;
    assert_eq!(state(store, &one).await?, DeviceState::default(), "it has what says so");
    store.expire(0, 1_000).await?;
    assert!(store.handshake_state(id, one.name.clone(), one.device, None).await?.is_none(), "nobody needs it");
    Ok(())
}

async fn acquaintances_share_a_conversation<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two, three) =
        (person(store, "g.knows").await?, person(store, "g.friend").await?, person(store, "g.member").await?);
    let known = |a: &Person, b: &Person| store.are_acquainted(a.name.clone(), b.name.clone());
    assert!(!known(&one, &two).await? && !known(&one, &three).await?);
    super::talk(store, &two, &one).await?;
    assert!(known(&one, &two).await? && known(&two, &one).await?);
    let id = group(store, &one).await?;
    accepted(store.append_handshake(commit(id, &one, 0, adding(&[&three]))).await?);
    assert!(known(&one, &three).await? && !known(&two, &three).await?);
    Ok(())
}

async fn many_accounts_are_not_told<S: Store>(store: &S) -> Result<(), StoreError> {
    let one = person(store, "g.many").await?;
    let id = group(store, &one).await?;
    let mut people = Vec::new();
    for number in 0..crate::TELLING_ACCOUNTS {
        people.push(person(store, &format!("g.many{number}")).await?);
    }
    let (last, first) = people.split_last().into_iter().next().map_or((&one, &[][..]), |split| split);
    accepted(store.append_handshake(commit(id, &one, 0, adding(&first.iter().collect::<Vec<_>>()))).await?);
    let told = async || {
        let state = state(store, &one).await?;
        Ok::<_, StoreError>(state.memberships.first().map(|membership| (membership.accounts, membership.others.len())))
    };
    assert_eq!(told().await?, Some((50, 49)));
    accepted(store.append_handshake(commit(id, &one, 1, adding(&[last]))).await?);
    assert_eq!(told().await?, Some((51, 0)));
    Ok(())
}

async fn who_never_comes_for_his_end_is_forgotten_with_it<S: Store>(store: &S) -> Result<(), StoreError> {
    let (one, two) = (person(store, "g.stays").await?, person(store, "g.away").await?);
    let id = group(store, &one).await?;
    accepted(store.append_handshake(commit(id, &one, 0, adding(&[&two]))).await?);
    accepted(store.append_handshake(commit(id, &one, 1, removing(&two))).await?);
    assert_eq!(state(store, &two).await?.joinings.len(), 1);
    // Every entry of the checks before is as old as these.
    while store.expire(1_000, 10).await? == 10 {}
    let left = state(store, &two).await?;
    assert!(left.joinings.is_empty() && left.memberships.is_empty(), "{left:?}");
    assert_eq!(read(store, id, &two, 0).await?, []);
    let page = store.read_after(id, one.device, 0, WIDE).await?;
    assert_eq!(page.expired_through, 2, "a member learns what it missed, and joins again");
    Ok(())
}
